"""What the networks are made of: convolutions, normalizations, crops, and how a kind is described.

A signal is a picture of one row: kernels are then `[1, k, ...]`, and only columns are halved and
doubled. Inside a network a height of 1 says so, for the maps of pictures never get that small.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dip_jax.base import Array
from dip_jax.config import NetConfig
from dip_jax.layers.conv import conv2d, conv2d_transposed
from dip_jax.layers.normalization import at_least_float32, normalize, normalize_groups
from dip_jax.layers.resize import downsample_lanczos, pool, upsample


class Architecture(NamedTuple):
    """A kind of network, as `nets` needs it."""

    module: Callable[[NetConfig, int], nn.Module]
    """`module(config, num_channels)`: code `[Hc, Wc, C_in]` -> image at least as large as asked for."""
    module_order: Callable[[NetConfig], Iterator[str]]
    """Names of all convolutions (`..._conv`), transposed ones (`..._deconv`) and normalizations that
    learn (`..._norm`), in the order in which a PyTorch module lists their weights."""
    code_size: Callable[[NetConfig, int], int]
    """The side of the code for which the network makes at least so many pixels."""


def declared(key: Array, shape: tuple[int, ...]) -> Array:
    """Modules only say the shapes of their params; `nets` draws the values."""
    del key
    return jnp.zeros(shape, jnp.float32)


class Conv(nn.Module):
    """A convolution. Before a normalization its bias is kept for interchange but not computed."""

    features: int
    side: int
    config: NetConfig
    downsample: str | None = None
    normalized: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[H, W, C] -> [H, W, features]`, or half of that with `downsample`."""
        shape = (1 if is_signal(x) else self.side, self.side, x.shape[-1], self.features)
        kernel = self.param("kernel", declared, shape)
        bias = self.param("bias", declared, (self.features,)) if self.config.bias else None
        y = conv2d(
            x,
            kernel,
            stride=2 if self.downsample == "stride" else 1,
            padding=self.config.padding,  # type: ignore[arg-type]
            lowering=self.config.lowering,  # type: ignore[arg-type]
            precision=self.config.precision,  # type: ignore[arg-type]
            batching=self.config.batching,  # type: ignore[arg-type]
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
        kernel = self.param("kernel", declared, shape)
        y = conv2d_transposed(
            x,
            kernel,
            lowering=self.config.lowering,  # type: ignore[arg-type]
            precision=self.config.precision,  # type: ignore[arg-type]
        )
        if self.config.bias:
            y = y + self.param("bias", declared, (self.features,))[None, None]
        return y


class Norm(nn.Module):
    """Normalization and activation of the channels of `x`, or of several arrays beside each other."""

    activation: str
    num_groups: int | None = None
    """Of channels that are normalized together; None for each alone."""

    @nn.compact
    def __call__(self, *xs: Array) -> Array:
        """`[H, W, C], ... -> [H, W, sum of C]`."""
        features = sum(x.shape[-1] for x in xs)
        scale = self.param("scale", declared, (features,))
        bias = self.param("bias", declared, (features,))
        if self.num_groups is not None:
            x = jnp.concatenate(xs, axis=-1)
            return normalize_groups(x, scale, bias, self.activation, num_groups=self.num_groups)
        # Each channel is normalized alone, so arrays need not lie beside each other for it.
        done, first = [], 0
        for x in xs:
            part = slice(first, first + x.shape[-1])
            done.append(normalize(x, scale[part], bias[part], self.activation))
            first += x.shape[-1]
        return done[0] if len(done) == 1 else jnp.concatenate(done, axis=-1)


def image(x: Array, config: NetConfig) -> Array:
    """The last thing that a network does: a sigmoid, unless the config has none."""
    x = at_least_float32(x)
    return jax.nn.sigmoid(x) if config.sigmoid else x


def is_signal(x: Array) -> bool:
    """Whether `x` is one row."""
    return x.shape[0] == 1


def _axes(x: Array) -> tuple[int, ...]:
    """The axes that are halved and doubled."""
    return (1,) if is_signal(x) else (0, 1)


def double(x: Array, mode: str) -> Array:
    """`[H, W, C] -> [2 H, 2 W, C]` by `nearest` or `bilinear`; a signal's columns only."""
    return upsample(x, mode, _axes(x))


def halve(x: Array, mode: str) -> Array:
    """`[H, W, C] -> [H // 2, W // 2, C]` by `avg` or `max`; a signal's columns only."""
    return pool(x, mode, _axes(x))


def crop(x: Array, height: int, width: int) -> Array:
    """The center of `x`; an odd pixel too many is dropped at the end."""
    top, left = (x.shape[0] - height) // 2, (x.shape[1] - width) // 2
    return x[top : top + height, left : left + width]


def crop_alike(*xs: Array) -> list[Array]:
    """All arrays at the least height and width among them."""
    height, width = (min(x.shape[axis] for x in xs) for axis in (0, 1))
    return [crop(x, height, width) for x in xs]


def multiple(size: int, halvings: int) -> int:
    """The least multiple of `2^halvings` that is at least `size` and leaves two pixels when halved.

    One pixel has no variance to normalize by and nothing to reflect.
    """
    step = 2**halvings
    return step * max(2, -(-size // step))
