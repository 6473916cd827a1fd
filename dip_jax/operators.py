"""Measurement operators: what was done to the picture, y = A x.

An operator is a callable pytree `image [H, W, C] -> measurement` (see `base.Operator`); its adjoint
comes from JAX. `check_operator` refuses one that breaks the contract, with the measured number.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array, InputError, Operator


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Identity:
    """A x = x: the picture itself, noisy or compressed."""

    is_linear: ClassVar[bool] = True

    def __call__(self, image: Array) -> Array:
        """Returns `image`."""
        return image

    def pad(self, height: int, width: int) -> "Identity":
        """What it is on a canvas `[height, width]`; see `padding`."""
        del height, width
        return self


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mask:
    """A x = m x: only the known pixels are seen."""

    mask: Array
    """`[H, W, 1]`, 1 where known and 0 where missing."""
    is_linear: ClassVar[bool] = True

    def __call__(self, image: Array) -> Array:
        """Returns `image` with its missing pixels at zero."""
        return image * self.mask

    def pad(self, height: int, width: int) -> "Mask":
        """What it is on a canvas `[height, width]`: the margin is missing too."""
        rows, columns, _ = self.mask.shape
        margins = [(0, height - rows), (0, width - columns), (0, 0)]
        return Mask(jnp.pad(self.mask, margins))


def adjoint(operator: Operator, shape: tuple[int, int, int]) -> Callable[[Array], Array]:
    """The adjoint A^T of a linear operator, from its own definition.

    Args:
      operator: A linear operator.
      shape: `(H, W, C)` of its images.

    Returns:
      A function measurement -> image with <A x, y> = <x, A^T y>, for complex y with
      <a, b> = Re sum a conj(b).

    Raises:
      InputError: If the operator says it is not linear, or JAX finds that it is not.
    """
    if not operator.is_linear:
        raise InputError(f"{type(operator).__name__} is not linear, so it has no adjoint.")
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    try:
        transposed = jax.linear_transpose(operator, image)
    except Exception as error:
        raise InputError(
            f"{type(operator).__name__} says that it is linear, but JAX cannot transpose it "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); set is_linear = False or mend it."
        ) from None
    return lambda measurement: jnp.real(transposed(jnp.conj(measurement))[0])


def check_operator(
    operator: Operator, shape: tuple[int, int, int], *, tolerance: float = 1e-4, seed: int = 0
) -> None:
    """Refuses an operator that does not keep its contract.

    It must map a float32 image of `shape` to one finite array of a floating or complex type and be
    differentiable; if it says that it is linear, then A(x + 2 x') = A x + 2 A x' and
    <A x, y> = <x, A^T y> must hold to `tolerance`, relative.

    Args:
      operator: The operator.
      shape: `(H, W, C)` of its images.
      tolerance: Greatest relative error that rounding may explain.
      seed: For the random images.

    Raises:
      InputError: Naming what is broken, with the measured number.
    """
    name = type(operator).__name__
    rng = np.random.default_rng(seed)
    x, other = (jnp.asarray(rng.random(shape), jnp.float32) for _ in range(2))
    try:
        y = operator(x)
    except Exception as error:
        raise InputError(
            f"{name} failed on an image of shape {shape}: {type(error).__name__}: "
            f"{str(error).splitlines()[0]}"
        ) from None
    if not isinstance(y, jax.Array | np.ndarray) or not jnp.issubdtype(y.dtype, jnp.inexact):
        kind = getattr(y, "dtype", type(y).__name__)
        raise InputError(f"{name} must return one array of floats (or complex), came {kind}.")
    bad = int(jnp.sum(~jnp.isfinite(y)))
    if bad:
        raise InputError(f"{name} made {bad} values of {y.size} that are not finite.")
    if not operator.is_linear:
        gradient = jax.grad(lambda v: jnp.sum(jnp.abs(operator(v)) ** 2))(x)
        if not bool(jnp.all(jnp.isfinite(gradient))):
            raise InputError(f"{name} has a gradient that is not finite.")
        return
    expected = y + 2 * operator(other)
    gap = _relative(operator(x + 2 * other) - expected, expected)
    if not gap <= tolerance:
        raise InputError(
            f"{name} says that it is linear, but A(x + 2 x') differs from A x + 2 A x' by {gap:.2g} "
            f"relative (at most {tolerance:g}); set is_linear = False or mend it."
        )
    v = rng.standard_normal(y.shape)
    if jnp.iscomplexobj(y):
        v = v + 1j * rng.standard_normal(y.shape)
    w = jnp.asarray(v, y.dtype)
    # By the gradient that a fit would use: a custom derivative can be wrong where the operator is right.
    # JAX's gradients pair without conjugation.
    left = jnp.real(jnp.sum(y * w))
    right = jnp.sum(x * jax.vjp(operator, x)[1](w)[0])
    scale = float(jnp.linalg.norm(y) * jnp.linalg.norm(w))
    gap = abs(float(left - right)) / max(scale, 1e-30)
    if not gap <= tolerance:
        raise InputError(
            f"{name}: <A x, y> and <x, A^T y> differ by {gap:.2g} of |A x| |y| (at most {tolerance:g}); "
            "its gradient is wrong. Mend its custom derivative."
        )


def _relative(difference: Array, reference: Array) -> float:
    return float(jnp.linalg.norm(difference) / jnp.maximum(jnp.linalg.norm(reference), 1e-30))
