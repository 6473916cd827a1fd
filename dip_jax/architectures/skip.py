"""The hourglass with skip connections: the network of most results of 2018.

References:
  Ulyanov, Vedaldi and Lempitsky, Deep Image Prior, 2018, supplementary material, figure 21.
"""

from collections.abc import Iterator

import flax.linen as nn

from dip_jax.architectures.blocks import (
    Architecture,
    Conv,
    Norm,
    crop_to_smallest,
    double,
    to_image,
)
from dip_jax.base import Array
from dip_jax.config import NetConfig


class Skip(nn.Module):
    """An encoder that halves the code at each scale, a decoder, and skip connections."""

    config: NetConfig
    num_channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Code `[Hc, Wc, C_in]` -> image, of `_output_size` of the sides of the code."""
        c = self.config

        # Statistics of single channels cancel the biases before them; those of groups do not.
        alone = c.normalization == "batch"
        groups = None if alone else c.num_groups

        def block(x, name, features, side, downsample=None):
            def compute(module, x):
                del module
                x = Conv(features, side, c, downsample, normalized=alone, name=f"{name}_conv")(x)
                return Norm(c, c.activation, groups, name=f"{name}_norm")(x)

            # One checkpoint per block, so that only one block at a time is recomputed.
            return (nn.remat(compute) if c.remat == "on" else compute)(self, x)

        skips: list[Array | None] = []
        for i in range(c.num_scales):
            features = c.channels_skip[i]
            skips.append(block(x, f"skip_{i}", features, c.kernel_skip) if features else None)
            down, side = c.channels_down[i], c.per_scale("kernel_down")[i]
            x = block(x, f"halve_{i}", down, side, c.per_scale("downsample")[i])
            x = block(x, f"down_{i}", down, side)
        for i in reversed(range(c.num_scales)):
            x = double(x, c.per_scale("upsample")[i])
            skip = skips[i]
            branches = [x] if skip is None else crop_to_smallest(skip, x)
            x = Norm(c, "none", groups, name=f"merge_{i}_norm")(*branches)
            x = block(x, f"up_{i}", c.channels_up[i], c.per_scale("kernel_up")[i])
            if c.conv1x1_up:
                x = block(x, f"mix_{i}", c.channels_up[i], 1)
        return to_image(Conv(self.num_channels, 1, c, normalized=False, name="head_conv")(x), c)


def _module_order(config: NetConfig, scale: int = 0) -> Iterator[str]:
    """Names of the modules in the order of the 2018 definition: deeper scales in the middle."""
    if config.channels_skip[scale]:
        yield from (f"skip_{scale}_conv", f"skip_{scale}_norm")
    yield from (f"halve_{scale}_conv", f"halve_{scale}_norm")
    yield from (f"down_{scale}_conv", f"down_{scale}_norm")
    if scale + 1 < config.num_scales:
        yield from _module_order(config, scale + 1)
    yield f"merge_{scale}_norm"
    yield from (f"up_{scale}_conv", f"up_{scale}_norm")
    if config.conv1x1_up:
        yield from (f"mix_{scale}_conv", f"mix_{scale}_norm")
    if scale == 0:
        yield "head_conv"


def _sizes(config: NetConfig, size: int) -> list[int]:
    """The sides of the code and of the encoder's scales, for a code of side `size`."""
    sizes = [size]
    for mode in config.per_scale("downsample"):
        sizes.append(-(-sizes[-1] // 2) if mode == "stride" else sizes[-1] // 2)
    return sizes


def _output_size(config: NetConfig, size: int) -> int:
    """The side of the image for a code of side `size`."""
    sizes = _sizes(config, size)
    current = sizes[-1]
    for i in reversed(range(config.num_scales)):
        current = min(2 * current, sizes[i]) if config.channels_skip[i] else 2 * current
    return current


def _code_size(config: NetConfig, size: int) -> int:
    """The smallest side from `size` on for which code and image have equal sizes.

    Equal sizes keep the pixels of code and image aligned, because the code may be an image. The
    coarsest scale needs two pixels a side for the variance of the normalization, and more than half
    a kernel for the reflection. With strides and a skip connection at the finest scale, the result
    is usually `size` itself.
    """
    kernel_sides = (*config.kernel_down, *config.kernel_up, config.kernel_skip)
    min_side = max(2, max(kernel_sides) // 2 + 1) if config.padding == "reflect" else 2
    candidate = size
    while _sizes(config, candidate)[-1] < min_side or _output_size(config, candidate) != candidate:
        candidate += 1
    return candidate


SKIP = Architecture(Skip, _module_order, _code_size)
