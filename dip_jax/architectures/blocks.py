"""Building blocks of the networks: convolutions, normalizations, resizing and cropping.

A signal is an image of one row. Its kernels are `[1, k, ...]`, and only its columns are halved and
doubled. Inside a network an array of height 1 is a signal, because maps of images have at least two
rows.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dip_jax.base import Array
from dip_jax.config import NetConfig
from dip_jax.layers.conv import conv2d, conv2d_transposed
from dip_jax.layers.normalization import at_least_float32, normalize, normalize_groups
from dip_jax.layers.resize import downsample_lanczos, pool, upsample


class Architecture(NamedTuple):
    """A kind of network, as `nets` builds it."""

    module: Callable[[NetConfig, int], nn.Module]
    """`module(config, num_channels)`: code `[Hc, Wc, C_in]` -> image of at least the requested
    size."""
    module_order: Callable[[NetConfig], Iterator[str]]
    """Names of all convolutions (`..._conv`), transposed convolutions (`..._deconv`) and
    normalizations with weights (`..._norm`), in the order of the weights of a PyTorch module."""
    code_size: Callable[[NetConfig, int], int]
    """`code_size(config, size)`: side of the code for an image of side at least `size`."""


def torch_uniform(fan_in: int) -> nn.initializers.Initializer:
    """Returns the default initializer of PyTorch's convolutions: U(-b, b) with b = 1 / sqrt(fan_in).

    Args:
      fan_in: Number of inputs of an output, the same for the kernel and the bias.
    """
    bound = float(fan_in) ** -0.5

    def initialize(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initialize


class Conv(nn.Module):
    """A convolution, optionally followed by downsampling."""

    features: int
    side: int
    config: NetConfig
    downsample: str | None = None
    normalized: bool = True
    """Whether a normalization follows. It cancels the bias, which is then a parameter without
    effect, kept so that weights can be exchanged with PyTorch."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[H, W, C] -> [H, W, features]`, with half the sides if `downsample` is set."""
        shape = (1 if is_signal(x) else self.side, self.side, x.shape[-1], self.features)
        init = torch_uniform(math.prod(shape[:3]))
        kernel = self.param("kernel", init, shape)
        bias = self.param("bias", init, (self.features,)) if self.config.bias else None
        y = conv2d(
            x,
            kernel,
            stride=2 if self.downsample == "stride" else 1,
            padding=self.config.padding,
            lowering=self.config.lowering,
            precision=self.config.precision,
            batching=self.config.batching,
        )
        if bias is not None and not self.normalized:
            y = y + bias[None, None]
        if self.downsample in ("avg", "max"):
            y = halve(y, self.downsample)
        elif self.downsample in ("lanczos2", "lanczos3"):
            y = downsample_lanczos(y, 2, int(self.downsample[-1]), _axes(y))
        return y


class Deconv(nn.Module):
    """A transposed convolution that doubles the image: side 4, stride 2, padding 1."""

    features: int
    config: NetConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[H, W, C] -> [2 H, 2 W, features]`."""
        shape = (1 if is_signal(x) else 4, 4, x.shape[-1], self.features)
        # PyTorch takes the outputs of a transposed kernel for its fan in.
        init = torch_uniform(math.prod(shape[:2]) * self.features)
        kernel = self.param("kernel", init, shape)
        y = conv2d_transposed(
            x,
            kernel,
            lowering=self.config.lowering,
            precision=self.config.precision,
            batching=self.config.batching,
        )
        if self.config.bias:
            y = y + self.param("bias", init, (self.features,))[None, None]
        return y


class Norm(nn.Module):
    """Normalization and activation of the concatenated channels of its arguments."""

    config: NetConfig
    activation: str
    num_groups: int | None = None
    """Number of groups of channels with common statistics; None to normalize each channel alone."""

    @nn.compact
    def __call__(self, *xs: Array) -> Array:
        """`[H, W, C], ... -> [H, W, sum of C]`."""
        features = sum(x.shape[-1] for x in xs)
        is_one = self.config.scale_init == "one"
        init = nn.initializers.ones if is_one else nn.initializers.uniform(1.0)
        scale = self.param("scale", init, (features,))
        bias = self.param("bias", nn.initializers.zeros, (features,))
        if self.num_groups is not None:
            x = jnp.concatenate(xs, axis=-1)
            return normalize_groups(x, scale, bias, self.activation, num_groups=self.num_groups)
        # Each channel is normalized alone, so the arrays can be normalized before they are joined.
        normalized, first = [], 0
        for x in xs:
            part = slice(first, first + x.shape[-1])
            normalized.append(normalize(x, scale[part], bias[part], self.activation))
            first += x.shape[-1]
        return normalized[0] if len(normalized) == 1 else jnp.concatenate(normalized, axis=-1)


def to_image(x: Array, config: NetConfig) -> Array:
    """Converts the last map of a network to an image: float32, by a sigmoid if `config` has one."""
    x = at_least_float32(x)
    return jax.nn.sigmoid(x) if config.sigmoid else x


def is_signal(x: Array) -> bool:
    """Whether `x` is one row."""
    return x.shape[0] == 1


def _axes(x: Array) -> tuple[int, ...]:
    """The axes to halve and double."""
    return (1,) if is_signal(x) else (0, 1)


def double(x: Array, mode: str) -> Array:
    """`[H, W, C] -> [2 H, 2 W, C]` by `nearest` or `bilinear`; only the columns of a signal."""
    return upsample(x, mode, _axes(x))


def halve(x: Array, mode: str) -> Array:
    """`[H, W, C] -> [H // 2, W // 2, C]` by `avg` or `max`; only the columns of a signal."""
    return pool(x, mode, _axes(x))


def center_crop(x: Array, height: int, width: int) -> Array:
    """The center of `x`; an odd excess pixel is dropped at the end.

    Args:
      x: `[H, W, C]`.
      height: Rows of the result, at most H.
      width: Columns of the result, at most W.

    Returns:
      `[height, width, C]`.

    Example:
      >>> import numpy as np
      >>> center_crop(np.arange(6)[:, None, None], 3, 1).ravel().tolist()
      [1, 2, 3]
    """
    top, left = (x.shape[0] - height) // 2, (x.shape[1] - width) // 2
    return x[top : top + height, left : left + width]


def crop_to_smallest(*xs: Array) -> list[Array]:
    """Crops all arrays at their centers to the smallest height and the smallest width."""
    height, width = (min(x.shape[axis] for x in xs) for axis in (0, 1))
    return [center_crop(x, height, width) for x in xs]


def round_up_side(size: int, num_halvings: int) -> int:
    """The smallest multiple of `2^num_halvings` from `size` on that halves to at least two pixels.

    A single pixel has no variance for the normalization and no neighbor for the reflection.

    Example:
      >>> round_up_side(100, 5), round_up_side(33, 6)
      (128, 128)
    """
    step = 2**num_halvings
    return step * max(2, -(-size // step))
