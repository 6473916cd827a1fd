"""Normalization of each channel by its own statistics, followed by the activation.

The 2018 networks use batch normalization with a batch of one image and never switch to running
statistics, so each image is normalized by its own mean and variance and there is no state. The
statistics take one pass over the image and the gradient is written in closed form, because memory
traffic determines the time of these layers.
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
    """Widens bfloat16 to float32; other types are unchanged."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize(x: Array, scale: Array, bias: Array, activation: str) -> Array:
    """Normalizes each channel over the image, then scales, shifts and activates it.

    y = f(scale (x - mean) / sqrt(var + 1e-5) + bias), mean and (biased) variance over the pixels.

    Args:
      x: `[H, W, C]`, float32 or bfloat16; statistics and sums are float32 for both.
      scale: `[C]`.
      bias: `[C]`.
      activation: A name in `ACTIVATIONS`.

    Returns:
      `[H, W, C]` of the type of `x`.

    References:
      Ioffe and Szegedy, Batch Normalization, 2015; Ulyanov et al., Instance Normalization, 2016.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.array([[[1.0], [3.0]], [[1.0], [3.0]]])
      >>> print(normalize(x, jnp.ones(1), jnp.zeros(1), "relu")[..., 0].round(2))
      [[0. 1.]
       [0. 1.]]
    """
    return _normalize_forward(x, scale, bias, activation)[0]


def normalize_groups(
    x: Array, scale: Array, bias: Array, activation: str, *, num_groups: int
) -> Array:
    """Normalizes like `normalize`, with common statistics for the channels of a group.

    Args:
      x: `[H, W, C]`.
      scale: `[C]`.
      bias: `[C]`.
      activation: A name in `ACTIVATIONS`.
      num_groups: The channels are split into gcd(C, num_groups) groups of consecutive channels.

    Returns:
      `[H, W, C]` of the type of `x`.

    References:
      Wu and He, Group Normalization, 2018.
    """
    height, width, channels = x.shape
    groups = at_least_float32(x).reshape(height, width, math.gcd(channels, num_groups), -1)
    mean = groups.mean(axis=(0, 1, 3), keepdims=True)
    var = groups.var(axis=(0, 1, 3), keepdims=True)
    whitened = ((groups - mean) * jax.lax.rsqrt(var + EPSILON)).reshape(x.shape)
    y = ACTIVATIONS[activation](whitened * scale[None, None] + bias[None, None])
    return y.astype(x.dtype)


def _normalize_forward(x: Array, scale: Array, bias: Array, activation: str):
    narrow, x = x, at_least_float32(x)
    mean = x.mean(axis=(0, 1), keepdims=True)
    # E[x^2] - E[x]^2 takes one pass; rounding can make it negative for a constant channel.
    var = jnp.maximum((x * x).mean(axis=(0, 1), keepdims=True) - mean * mean, 0)
    rstd = jax.lax.rsqrt(var + EPSILON)
    coefficients = (scale[None, None], bias[None, None], mean, rstd)
    y = ACTIVATIONS[activation](_affine(x, *coefficients)).astype(narrow.dtype)
    return y, (narrow, *coefficients)


def _affine(x: Array, scale: Array, bias: Array, mean: Array, rstd: Array) -> Array:
    return (x - mean) * (scale * rstd) + bias


def _normalize_backward(activation: str, residuals: tuple[Array, ...], dy: Array):
    narrow, *coefficients = residuals
    scale, _, mean, rstd = coefficients
    x = at_least_float32(narrow)
    pre_activation = _affine(x, *coefficients)
    (dpre,) = jax.vjp(ACTIVATIONS[activation], pre_activation)[1](at_least_float32(dy))
    dbias = dpre.sum(axis=(0, 1), keepdims=True)
    # sum(dpre (x - mean)) rstd, without writing x - mean to memory.
    dscale = ((dpre * x).sum(axis=(0, 1), keepdims=True) - mean * dbias) * rstd
    # dx = scale rstd (dpre - mean(dpre) - xhat mean(dpre xhat)), xhat = (x - mean) rstd
    count = x.shape[0] * x.shape[1]
    dx = scale * rstd * (dpre - dbias / count - (x - mean) * (rstd * dscale / count))
    return dx.astype(narrow.dtype), dscale[0, 0], dbias[0, 0]


normalize.defvjp(_normalize_forward, _normalize_backward)
