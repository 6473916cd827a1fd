"""A measurement without noise, and its statistics: weights, noise variance, and number of values."""

from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp

from dip_jax.base import Array, Operator, Problem

MIN_NOISE_STD = 1 / 255
"""Least noise level that a sampler assumes; without noise there is nothing to sample."""


def full_precision() -> AbstractContextManager[Any]:
    """Returns a context in which products are float32, unless they state another precision.

    JAX's default is TF32 on a GPU and bfloat16 on a TPU. A linear operator that does not state its
    precision would not be linear to the tolerance of `check_operator`, and would differ from that
    of a CPU.
    """
    return jax.default_matmul_precision("highest")


def measure(operator: Operator, image: Array) -> Array:
    """Returns A x in full precision, see `full_precision`.

    So are the products of its gradient, unless a custom gradient (`jax.custom_vjp`) makes them.

    Args:
      operator: The operator A.
      image: The image x, `[H, W, C]`.

    Example:
      >>> from dip_jax.operators import Gray
      >>> measure(Gray(), jnp.ones((4, 6, 3))).shape
      (4, 6, 1)
    """
    with full_precision():
        return operator(image)


def visible_weights(problem: Problem) -> Array:
    """Returns the weights of all measured values, same shape as the measurement.

    Without `weights` they are 1, but 0 on the margin of a canvas.
    """
    shape = problem.measurement.shape
    if problem.weights is not None:
        return jnp.broadcast_to(problem.weights, shape)
    if problem.region is not None:
        return jnp.broadcast_to(problem.region, shape)
    return jnp.ones(shape, jnp.float32)


def informative_mask(key: Array, problem: Problem, shape: tuple[int, ...]) -> Array:
    """Returns which measured values depend on the image.

    A value is not informative if its weight is 0, if it lies on the margin of a canvas, or if a
    linear operator makes it 0 for any image (a missing pixel, a frequency that was not measured).
    The operator is tested with one random image.

    Args:
      key: Random key, consumed.
      problem: The problem.
      shape: `(H, W, C)` of the image.

    Returns:
      float32, same shape as the measurement: 1 = informative, 0 = not.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from dip_jax.operators import Mask
      >>> known = jnp.array([1.0, 0.0, 1.0]).reshape(1, 3, 1)
      >>> problem = Problem(Mask(known), measurement=0.5 * known, noise_std=0.1)
      >>> informative_mask(jax.random.key(0), problem, (1, 3, 1)).ravel().tolist()
      [1.0, 0.0, 1.0]
    """
    is_informative = visible_weights(problem) > 0
    if problem.operator.is_linear:
        image = jax.random.uniform(key, shape, minval=0.5, maxval=1.5)
        if problem.region is not None:
            image = image * problem.region
        is_informative = is_informative & (measure(problem.operator, image) != 0)
    return is_informative.astype(jnp.float32)


def num_measurements(problem: Problem) -> Array | float:
    """Returns the number n of measured values with weight 1, without the margin of a canvas."""
    y = problem.measurement
    if problem.weights is not None:
        return jnp.sum(jnp.broadcast_to(problem.weights, y.shape))
    fraction = 1.0 if problem.region is None else jnp.mean(problem.region)
    return y.size * fraction


def noise_variance(problem: Problem, values: Array) -> Array:
    """Returns the noise variance at each value: noise_std^2, plus max(value, 0) / peak for photons.

    For complex values it is the mean of |noise|^2. An unknown `noise_std` gives NaN; for photons it
    counts as no read-out noise, as in `losses.poisson_gauss`.

    Args:
      problem: The problem, with `noise_std` and `peak`.
      values: Values without noise, of any shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from dip_jax.operators import Identity
      >>> problem = Problem(Identity(), jnp.zeros((1, 1, 1)), noise_std=0.0, peak=4.0)
      >>> noise_variance(problem, jnp.array([0.0, 1.0])).tolist()
      [0.0, 0.25]
    """
    noise_std = jnp.asarray(problem.noise_std)
    if problem.peak is None:
        return jnp.broadcast_to(noise_std**2, values.shape)
    photons = jnp.maximum(jnp.real(values), 0) / jnp.asarray(problem.peak)
    return photons + jnp.nan_to_num(noise_std) ** 2


def assumed_variance(problem: Problem) -> Array:
    """Returns the noise variance that a sampler assumes, one scalar for all values.

    It is max(noise_std^2 + mean(max(y, 0)) / peak, MIN_NOISE_STD^2), where the second term is for
    photons only.
    """
    variance = jnp.asarray(problem.noise_std) ** 2
    if problem.peak is not None:
        mean_value = jnp.mean(jnp.maximum(jnp.real(problem.measurement), 0))
        variance = jnp.nan_to_num(variance) + mean_value / jnp.asarray(problem.peak)
    return jnp.maximum(variance, MIN_NOISE_STD**2)
