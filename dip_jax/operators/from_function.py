"""An operator from a function of the user."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dip_jax.base import Array, Operator, Shape
from dip_jax.errors import InputError
from dip_jax.operators.from_file import CustomOperator, seems_linear


def from_function(
    function: Callable[[Array], Array],
    *,
    shape: Shape,
    is_linear: bool | None = None,
    is_pixelwise: bool = False,
) -> CustomOperator:
    """Returns a function of an image as an operator.

    Args:
      function: Any JAX function image `[H, W, C]` -> measurement.
      shape: `(H, W, C)` of the images of the trial.
      is_linear: Whether A(x + x') = A x + A x'; None to decide by a trial.
      is_pixelwise: Whether the function maps each pixel by itself, in images of any size.

    Example:
      >>> operator = from_function(lambda image: 0.5 * image, shape=(4, 4, 1))
      >>> operator.is_linear
      True
    """
    operator = CustomOperator(function, bool(is_linear), is_pixelwise=is_pixelwise)
    if is_linear is None:
        operator = dataclasses.replace(operator, is_linear=seems_linear(operator, shape))
    return operator


def as_operator(operator: Any, shape: Shape) -> Operator:
    """Returns an operator as it is, and any other function by `from_function`, with its attributes.

    Args:
      operator: An operator, or a function of an image. An object that is no pytree of arrays is a function.
      shape: `(H, W, C)` of the image.

    Raises:
      InputError: If it cannot be called.
    """
    leaves = jax.tree.leaves(operator)
    is_tree = all(
        isinstance(leaf, jax.Array | np.ndarray | np.generic | float | int) for leaf in leaves
    )
    if is_tree and hasattr(operator, "is_linear"):
        return operator
    if not callable(operator):
        raise InputError(
            f"An operator expects a function of an image, got {type(operator).__name__}."
        )
    return from_function(
        operator,
        shape=shape,
        is_linear=getattr(operator, "is_linear", None),
        is_pixelwise=getattr(operator, "is_pixelwise", False),
    )
