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
      weights: Weights that broadcast to the measurement: 1 = used, 0 = ignored; ignored values may be NaN. None means
        all ones.
      peak: Mean number of photons at a value of 1, for Poisson noise. None means no Poisson noise.

    Raises:
      InputError: If the operator fails its checks, or an array has another shape, values that are not finite, or the
        values 0 to 255 of an image file.

    Example:
      >>> image = np.random.default_rng(0).random((8, 8, 1), np.float32)
      >>> case = case_from_operator("a", image[::2], lambda x: x[::2], (8, 8, 1), noise_std=0.0)
      >>> case.problem.operator.is_linear, case.preview_name
      (True, 'adjoint')
    """
    shape = (int(shape[0]), int(shape[1]), int(shape[2]))
    operator = as_operator(operator, shape)
    check_operator(operator, shape)
    predicted = jax.eval_shape(operator, jax.ShapeDtypeStruct(shape, jnp.float32))
    y = np.asarray(measurement)
    used = None if weights is None else _weights(name, weights, y.shape)
    problem = Problem(
        operator,
        jnp.asarray(_checked(name, y, used, predicted), predicted.dtype),
        jnp.float32(noise_std),
        weights=None if used is None else jnp.asarray(used),
        peak=None if peak is None else jnp.float32(peak),
    )
    if reference is not None and np.shape(reference) != shape:
        raise InputError(
            f"{name}: expected a reference of shape {shape}, got {np.shape(reference)}."
        )
    preview, preview_name = default_preview(problem, shape)
    return Case(
        name,
        problem,
        shape,
        reference=None if reference is None else np.asarray(reference, np.float32),
        preview=preview,
        preview_name=preview_name,
    )


def _weights(name: str, weights: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The weights of a measurement, float32 of its shape."""
    try:
        return np.broadcast_to(np.asarray(weights, np.float32), shape)
    except ValueError:
        raise InputError(
            f"{name}: expected weights that broadcast to the measurement {shape}, got {np.shape(weights)}."
        ) from None


def _checked(
    name: str, y: np.ndarray, weights: np.ndarray | None, predicted: jax.ShapeDtypeStruct
) -> np.ndarray:
    """A measurement that agrees with the result of the operator; ignored values become 0."""
    if y.shape != predicted.shape:
        raise InputError(
            f"{name}: the operator makes a measurement of shape {predicted.shape}, got {y.shape}."
        )
    if np.iscomplexobj(y) and not jnp.issubdtype(predicted.dtype, jnp.complexfloating):
        raise InputError(f"{name}: the operator makes real numbers, got a complex measurement.")
    if y.dtype.kind in "ui":
        raise InputError(
            f"{name}: expected floats for an image in [0, 1], got {y.dtype}; divide by the white, e.g. 255."
        )
    y = y if weights is None else np.where(weights > 0, y, 0)
    if not np.isfinite(y).all():
        raise InputError(
            f"{name}: expected finite numbers where the weights are not 0, got NaN or infinity."
        )
    return y


def default_preview(problem: Problem, shape: Shape) -> tuple[np.ndarray | None, str]:
    """Returns the preview of a problem, and its label.

    Args:
      problem: The problem.
      shape: Height, width and channels of the image.

    Returns:
      The adjoint, scaled to at most 1; gray for an operator that is not linear; None if the measurement itself is an
      image that can be shown.
    """
    y = problem.measurement
    if y.shape == shape and not jnp.iscomplexobj(y):
        return None, "degraded"
    if problem.operator.is_linear:
        image = np.asarray(adjoint(problem.operator, shape)(y))
        return image / max(float(np.abs(image).max()), 1e-12), "adjoint"
    return np.full(shape, 0.5, np.float32), "no preview"
