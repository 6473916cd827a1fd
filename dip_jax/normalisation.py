"""Normalisation of each channel by its own statistics, with the activation behind it.

The 2018 networks use batch normalisation with a batch of one image and never switch it to running
statistics, so it is a normalisation by the current image's own mean and variance: there is no state.
Statistics are made in one pass and the gradient is written in closed form, which spares the
memory traffic that these layers consist of.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from dip_jax.base import Array

EPSILON = 1e-5

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "leaky_relu": lambda x: x * jnp.where(x > 0, 1.0, 0.2),
    "swish": jax.nn.swish,
    "elu": jax.nn.elu,
    "relu": jax.nn.relu,
    "none": lambda x: x,
}


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalise(x: Array, scale: Array, bias: Array, activation: str) -> Array:
    """Normalises each channel over the image, then scales, shifts and activates.

    y = f(scale (x - mean) / sqrt(var + 1e-5) + bias), mean and (biased) variance over the pixels.

    Args:
      x: `[H, W, C]`.
      scale: `[C]`.
      bias: `[C]`.
      activation: A name in `ACTIVATIONS`.

    Returns:
      `[H, W, C]`.

    References:
      Ioffe and Szegedy, Batch Normalization, 2015; Ulyanov et al., Instance Normalization, 2016.
    """
    return _normalise_forward(x, scale, bias, activation)[0]


def normalise_groups(
    x: Array, scale: Array, bias: Array, activation: str, *, num_groups: int
) -> Array:
    """As `normalise`, with the statistics of channels together, in gcd(C, num_groups) groups.

    References:
      Wu and He, Group Normalization, 2018.
    """
    height, width, channels = x.shape
    together = x.reshape(height, width, math.gcd(channels, num_groups), -1)
    mean = together.mean(axis=(0, 1, 3), keepdims=True)
    var = together.var(axis=(0, 1, 3), keepdims=True)
    whitened = ((together - mean) * jax.lax.rsqrt(var + EPSILON)).reshape(x.shape)
    return ACTIVATIONS[activation](whitened * scale[None, None] + bias[None, None])


def _normalise_forward(x: Array, scale: Array, bias: Array, activation: str):
    mean = x.mean(axis=(0, 1), keepdims=True)
    # E[x^2] - E[x]^2 in one pass; rounding can make it negative where a channel is constant.
    var = jnp.maximum((x * x).mean(axis=(0, 1), keepdims=True) - mean * mean, 0)
    rstd = jax.lax.rsqrt(var + EPSILON)
    residuals = (x, scale[None, None], bias[None, None], mean, rstd)
    return ACTIVATIONS[activation](_affine(*residuals)), residuals


def _affine(x: Array, scale: Array, bias: Array, mean: Array, rstd: Array) -> Array:
    return (x - mean) * (scale * rstd) + bias


def _normalise_backward(activation: str, residuals: tuple[Array, ...], dy: Array):
    x, scale, _, mean, rstd = residuals
    (dpre,) = jax.vjp(ACTIVATIONS[activation], _affine(*residuals))[1](dy)
    dbias = dpre.sum(axis=(0, 1), keepdims=True)
    dscale = (dpre * (x - mean)).sum(axis=(0, 1), keepdims=True) * rstd
    # dx = scale rstd (dpre - mean(dpre) - xhat mean(dpre xhat)), xhat = (x - mean) rstd
    count = x.shape[0] * x.shape[1]
    dx = scale * rstd * (dpre - dbias / count - (x - mean) * (rstd * dscale / count))
    return dx, dscale[0, 0], dbias[0, 0]


normalise.defvjp(_normalise_forward, _normalise_backward)
