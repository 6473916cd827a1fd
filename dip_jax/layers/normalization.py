"""Normalization of each channel by its own statistics, with the activation behind it.

The 2018 networks use batch normalization with a batch of one image and never switch it to running
statistics, so it is a normalization by the current image's own mean and variance: there is no state.
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


def at_least_float32(x: Array) -> Array:
    """What is kept in bfloat16, widened; sums of it would lose too much."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize(x: Array, scale: Array, bias: Array, activation: str) -> Array:
    """Normalizes each channel over the image, then scales, shifts and activates.

    y = f(scale (x - mean) / sqrt(var + 1e-5) + bias), mean and (biased) variance over the pixels.

    Args:
      x: `[H, W, C]`, float32 or bfloat16; statistics and what is added up are float32 in any case.
      scale: `[C]`.
      bias: `[C]`.
      activation: A name in `ACTIVATIONS`.

    Returns:
      `[H, W, C]` of the type of `x`.

    References:
      Ioffe and Szegedy, Batch Normalization, 2015; Ulyanov et al., Instance Normalization, 2016.
    """
    return _normalize_forward(x, scale, bias, activation)[0]


def normalize_groups(
    x: Array, scale: Array, bias: Array, activation: str, *, num_groups: int
) -> Array:
    """As `normalize`, with the statistics of channels together, in gcd(C, num_groups) groups.

    References:
      Wu and He, Group Normalization, 2018.
    """
    height, width, channels = x.shape
    together = at_least_float32(x).reshape(height, width, math.gcd(channels, num_groups), -1)
    mean = together.mean(axis=(0, 1, 3), keepdims=True)
    var = together.var(axis=(0, 1, 3), keepdims=True)
    whitened = ((together - mean) * jax.lax.rsqrt(var + EPSILON)).reshape(x.shape)
    y = ACTIVATIONS[activation](whitened * scale[None, None] + bias[None, None])
    return y.astype(x.dtype)


def _normalize_forward(x: Array, scale: Array, bias: Array, activation: str):
    kept, x = x, at_least_float32(x)
    mean = x.mean(axis=(0, 1), keepdims=True)
    # E[x^2] - E[x]^2 in one pass; rounding can make it negative where a channel is constant.
    var = jnp.maximum((x * x).mean(axis=(0, 1), keepdims=True) - mean * mean, 0)
    rstd = jax.lax.rsqrt(var + EPSILON)
    rest = (scale[None, None], bias[None, None], mean, rstd)
    return ACTIVATIONS[activation](_affine(x, *rest)).astype(kept.dtype), (kept, *rest)


def _affine(x: Array, scale: Array, bias: Array, mean: Array, rstd: Array) -> Array:
    return (x - mean) * (scale * rstd) + bias


def _normalize_backward(activation: str, residuals: tuple[Array, ...], dy: Array):
    kept, *rest = residuals
    scale, _, mean, rstd = rest
    x = at_least_float32(kept)
    (dpre,) = jax.vjp(ACTIVATIONS[activation], _affine(x, *rest))[1](at_least_float32(dy))
    dbias = dpre.sum(axis=(0, 1), keepdims=True)
    # sum(dpre (x - mean)) rstd; the difference would be written to memory for it.
    dscale = ((dpre * x).sum(axis=(0, 1), keepdims=True) - mean * dbias) * rstd
    # dx = scale rstd (dpre - mean(dpre) - xhat mean(dpre xhat)), xhat = (x - mean) rstd
    count = x.shape[0] * x.shape[1]
    dx = scale * rstd * (dpre - dbias / count - (x - mean) * (rstd * dscale / count))
    return dx.astype(kept.dtype), dscale[0, 0], dbias[0, 0]


normalize.defvjp(_normalize_forward, _normalize_backward)
