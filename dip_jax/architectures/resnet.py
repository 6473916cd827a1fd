"""The residual network of the 2018 code, with one scale: code and image have equal sizes.

In the 2018 code `get_net('ResNet')` fails, because its arguments do not match the constructor. This
network follows the class itself, except that `net.sigmoid` can remove the sigmoid.

References:
  He et al., Deep Residual Learning, 2016; Ulyanov et al., Deep Image Prior, 2018 (its code).
"""

import dataclasses
from collections.abc import Iterator

import flax.linen as nn

from dip_jax.architectures.blocks import Architecture, Conv, Norm, to_image
from dip_jax.base import Array
from dip_jax.config import NetConfig
from dip_jax.layers.normalization import ACTIVATIONS


class ResNet(nn.Module):
    """`depth` blocks of two convolutions, each added to its input (with `residual`)."""

    config: NetConfig
    num_channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Code `[H, W, C_in]` -> image `[H, W, C]`."""
        c = self.config
        # As in 2018, `padding` applies to the first and last convolution; blocks have no biases.
        zero = dataclasses.replace(c, padding="zero")
        inner = dataclasses.replace(zero, bias=False)
        x = Conv(c.width, 3, c, normalized=False, name="first_conv")(x)
        x = ACTIVATIONS[c.activation](x)
        for i in range(c.depth):
            y = Conv(c.width, 3, inner, name=f"block_{i}_first_conv")(x)
            y = Norm(c, c.activation, name=f"block_{i}_first_norm")(y)
            y = Conv(c.width, 3, inner, name=f"block_{i}_second_conv")(y)
            y = Norm(c, "none", name=f"block_{i}_second_norm")(y)
            x = x + y if c.residual else y
        x = Conv(c.width, 3, zero, name="last_conv")(x)
        x = Norm(c, "none", name="last_norm")(x)
        return to_image(Conv(self.num_channels, 3, c, normalized=False, name="head_conv")(x), c)


def _module_order(config: NetConfig) -> Iterator[str]:
    """Names of the modules in the order of the 2018 definition and of the computation."""
    yield "first_conv"
    for i in range(config.depth):
        for part in ("first", "second"):
            yield from (f"block_{i}_{part}_conv", f"block_{i}_{part}_norm")
    yield from ("last_conv", "last_norm", "head_conv")


def _code_size(config: NetConfig, size: int) -> int:
    del config
    return max(2, size)  # reflection needs two pixels


RESNET = Architecture(ResNet, _module_order, _code_size)
