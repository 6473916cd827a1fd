"""The convolution of this package in the form of `lax.conv_general_dilated`, which flax modules call."""

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax

from dip_jax.base import Array
from dip_jax.layers.conv import conv2d

_PAIRS = Sequence[tuple[int, int]]


def conv_general_dilated(
    lhs: Array, rhs: Array, window_strides: Sequence[int], padding: str | _PAIRS, **options: Any
) -> Array:
    """Returns `lax.conv_general_dilated`, by `conv2d` where both compute the same.

    These are square kernels of odd side and stride 1 with `SAME` padding, the most frequent ones. On CPU, XLA computes
    convolutions inside a compiled loop by slow scalar loops.

    Args:
      lhs: Images `[N, H, W, C_in]`.
      rhs: Kernel `[k, k, C_in, C_out]`.
      window_strides: See `lax.conv_general_dilated`.
      padding: See `lax.conv_general_dilated`.
      **options: The other arguments of `lax.conv_general_dilated`.

    Example:
      >>> import jax.numpy as jnp
      >>> images, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 1))
      >>> numbers = lax.conv_dimension_numbers(images.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
      >>> y = conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=numbers)
      >>> float(y[0, 1, 1, 0])
      18.0
    """
    if _is_plain(lhs, rhs, window_strides, padding, options):
        return jax.vmap(lambda x: conv2d(x, rhs, padding="zero"))(lhs)
    return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)


def _is_plain(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | _PAIRS,
    options: dict[str, Any],
) -> bool:
    """Whether `conv2d` computes the convolution."""
    if lhs.ndim != 4 or rhs.ndim != 4 or rhs.shape[0] != rhs.shape[1] or rhs.shape[0] % 2 == 0:
        return False
    margin = rhs.shape[0] // 2
    is_same = (
        padding == "SAME" or padding == ((margin, margin),) * 2 or padding == [(margin,) * 2] * 2
    )
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, ("NHWC", "HWIO", "NHWC"))
    is_image = lhs.shape[1] > 1 and min(lhs.shape[1:3]) > margin
    return (
        is_same
        and is_image
        and lhs.dtype == rhs.dtype == "float32"
        and tuple(window_strides) == (1, 1)
        and tuple(options.get("lhs_dilation") or (1, 1)) == (1, 1)
        and tuple(options.get("rhs_dilation") or (1, 1)) == (1, 1)
        and options.get("feature_group_count", 1) == 1
        and options.get("precision") is None
        and options.get("dimension_numbers") == numbers
    )
