"""The hourglass with skip connections, the network of most of the 2018 results.

References:
  Ulyanov, Vedaldi and Lempitsky, Deep Image Prior, 2018, supplementary material, figure 21.
"""

from collections.abc import Iterator

import flax.linen as nn

from dip_jax.architectures.blocks import Architecture, Conv, Norm, crop_alike, double, image
from dip_jax.base import Array
from dip_jax.config import NetConfig


class Skip(nn.Module):
    """Halves the code again and again, doubles it back, and joins a few channels at each scale."""

    config: NetConfig
    num_channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Code `[Hc, Wc, C_in]` -> image; its size is `output_size` of the code's."""
        c = self.config

        # A group's mean does not take a channel's bias away.
        alone = c.normalization == "batch"
        groups = None if alone else c.num_groups

        def block(x, name, features, side, downsample=None):
            def compute(module, x):
                del module
                x = Conv(features, side, c, downsample, normalized=alone, name=f"{name}_conv")(x)
                return Norm(c.activation, groups, name=f"{name}_norm")(x)

            # A block for itself, so that no more than one is computed again at a time.
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
            branches = [x] if skip is None else crop_alike(skip, x)
            x = Norm("none", groups, name=f"merge_{i}_norm")(*branches)
            x = block(x, f"up_{i}", c.channels_up[i], c.per_scale("kernel_up")[i])
            if c.conv1x1_up:
                x = block(x, f"mix_{i}", c.channels_up[i], 1)
        return image(Conv(self.num_channels, 1, c, normalized=False, name="head_conv")(x), c)


def _module_order(config: NetConfig, scale: int = 0) -> Iterator[str]:
    """The 2018 network's order of definition: the deeper scales in the middle of each."""
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
    """The sides of the encoder's scales for a code of side `size`, the code's own first."""
    sizes = [size]
    for mode in config.per_scale("downsample"):
        sizes.append(-(-sizes[-1] // 2) if mode == "stride" else sizes[-1] // 2)
    return sizes


def _output_size(config: NetConfig, size: int) -> int:
    """The side that the network makes of a code of side `size`."""
    sizes = _sizes(config, size)
    current = sizes[-1]
    for i in reversed(range(config.num_scales)):
        current = min(2 * current, sizes[i]) if config.channels_skip[i] else 2 * current
    return current


def _code_size(config: NetConfig, size: int) -> int:
    """The least side of the code, at least `size`, of which the network makes as large an image.

    As large, so that place by place the code lies under the image: it may be a picture.
    The coarsest scale must have two pixels a side (one has no variance to normalize by), and more
    than half a kernel where it is reflected. Most pictures need nothing: with strides and a skip at
    the finest scale the code has the picture's own size.
    """
    sides = (*config.kernel_down, *config.kernel_up, config.kernel_skip)
    least = max(2, max(sides) // 2 + 1) if config.padding == "reflect" else 2
    candidate = size
    while _sizes(config, candidate)[-1] < least or _output_size(config, candidate) != candidate:
        candidate += 1
    return candidate


SKIP = Architecture(Skip, _module_order, _code_size)
