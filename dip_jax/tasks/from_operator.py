"""Cases of a measurement whose operator is an object or a function, without the settings of a task."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array, Case, Operator, Problem, Shape
from dip_jax.errors import InputError
from dip_jax.operators.checks import adjoint, check_operator
from dip_jax.operators.from_function import as_operator


def case_from_operator(
    name: str,
    measurement: np.ndarray | Array,
    operator: Operator | Callable[[Array], Array],
    shape: Shape,
    *,
    noise_std: float = math.nan,
    reference: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    peak: float | None = None,
) -> Case:
    """Returns the case of a measurement y = A x + noise.

    Args:
      name: Name of the image; its random numbers follow from the name.
      measurement: The data y.
      operator: A: an operator, or any JAX function of an image `[H, W, C]`.
      shape: Height, width and channels of the image x.
      noise_std: Standard deviation of the noise; 0 for no noise, NaN for an unknown level.
      reference: Ground truth `[H, W, C]`, for reports only.
      weights: Weights, same shape as the measurement: 1 = used, 0 = ignored. None means all ones.
      peak: Mean number of photons at a value of 1, for Poisson noise. None means no Poisson noise.

    Raises:
      InputError: If the operator fails its checks, or makes a measurement of another shape.

    Example:
      >>> image = np.random.default_rng(0).random((8, 8, 1), np.float32)
      >>> case = case_from_operator("a", image[::2], lambda x: x[::2], (8, 8, 1), noise_std=0.0)
      >>> case.problem.operator.is_linear, case.preview_name
      (True, 'adjoint')
    """
    operator = as_operator(operator, shape)
    check_operator(operator, shape)
    predicted = jax.eval_shape(operator, jax.ShapeDtypeStruct(shape, jnp.float32))
    if np.shape(measurement) != predicted.shape:
        raise InputError(
            f"{name}: the operator makes a measurement of shape {predicted.shape} from an image {tuple(shape)}, got "
            f"{np.shape(measurement)}."
        )
    y = jnp.asarray(measurement, predicted.dtype)
    problem = Problem(
        operator,
        y,
        jnp.float32(noise_std),
        weights=None if weights is None else jnp.asarray(weights, jnp.float32),
        peak=None if peak is None else jnp.float32(peak),
    )
    preview, preview_name = _preview(problem, shape)
    return Case(
        name,
        problem,
        shape,
        reference=None if reference is None else np.asarray(reference, np.float32),
        preview=preview,
        preview_name=preview_name,
    )


def _preview(problem: Problem, shape: Shape) -> tuple[np.ndarray | None, str]:
    """The preview `[H, W, C]`, or None if the measurement itself is shown; and its label."""
    y = problem.measurement
    if y.shape == shape and not jnp.iscomplexobj(y):
        return None, "degraded"
    if problem.operator.is_linear:
        image = np.asarray(adjoint(problem.operator, shape)(y))
        return image / max(float(np.abs(image).max()), 1e-12), "adjoint"
    return np.full(shape, 0.5, np.float32), "no preview"
