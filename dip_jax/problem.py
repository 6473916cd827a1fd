"""The meaning of the numbers of a measurement: their weights, their variance, how many there are."""

import jax
import jax.numpy as jnp

from dip_jax.base import Array, Problem


def informative_mask(key: Array, problem: Problem, shape: tuple[int, ...]) -> Array:
    """Which measured values say something of the picture.

    Not those of weight 0, nor of the margin of a padded picture, nor those that a linear operator makes 0
    of whatever picture (missing pixels, frequencies that were not measured): a random one tells.

    Args:
      key: Random key.
      problem: The measurement.
      shape: `(H, W, C)` of the image.

    Returns:
      Of the measurement's shape, 1 where a value counts and 0 where it does not.
    """
    counts = visible_weights(problem) > 0
    if problem.operator.is_linear:
        image = jax.random.uniform(key, shape, minval=0.5, maxval=1.5)
        if problem.region is not None:
            image = image * problem.region
        counts = counts & (problem.operator(image) != 0)
    return counts.astype(jnp.float32)


def visible_weights(problem: Problem) -> Array:
    """The weight of each measured value, of the measurement's shape, where none may be given."""
    shape = problem.measurement.shape
    if problem.weights is not None:
        return jnp.broadcast_to(problem.weights, shape)
    if problem.region is not None:
        return jnp.broadcast_to(problem.region, shape)
    return jnp.ones(shape, jnp.float32)


def noise_variance(problem: Problem, values: Array) -> Array:
    """The noise's variance at each of `values`: noise_std^2, and with photons max(value, 0) / peak more.

    NaN where `noise_std` is unknown; beside photons an unknown read-out noise is none, as in
    `losses.poisson_gauss`. Of complex numbers it is the mean of |noise|^2.
    """
    noise_std = jnp.asarray(problem.noise_std)
    if problem.peak is None:
        return jnp.broadcast_to(noise_std**2, values.shape)
    photons = jnp.maximum(jnp.real(values), 0) / jnp.asarray(problem.peak)
    return photons + jnp.nan_to_num(noise_std) ** 2


MIN_NOISE_STD = 1 / 255
"""Samples of a measurement with less noise are drawn as if it had so much."""


def num_measurements(problem: Problem) -> Array | float:
    """How many measured values count."""
    y = problem.measurement
    if problem.weights is not None:
        return jnp.sum(jnp.broadcast_to(problem.weights, y.shape))
    fraction = 1.0 if problem.region is None else jnp.mean(problem.region)
    return y.size * fraction


def assumed_variance(problem: Problem) -> Array:
    """The noise's variance that `nll_scale` supposes, the same for all values.

    At least that of one gray level: an exact measurement would leave nothing to sample. Photons count by their mean.
    """
    variance = jnp.asarray(problem.noise_std) ** 2
    if problem.peak is not None:
        light = jnp.mean(jnp.maximum(jnp.real(problem.measurement), 0))
        variance = jnp.nan_to_num(variance) + light / jnp.asarray(problem.peak)
    return jnp.maximum(variance, MIN_NOISE_STD**2)
