"""Networks without an encoder: they double a small code `depth` times, to the size of the image.

References:
  Heckel and Hand, Deep Decoder, 2019; Darestani and Heckel, Accelerated MRI with Un-trained Neural
  Networks, 2021, section III (ConvDecoder).
"""

import dataclasses
from collections.abc import Iterator

import flax.linen as nn

from dip_jax.architectures.blocks import Architecture, Conv, Norm, double, to_image
from dip_jax.base import Array
from dip_jax.config import NetConfig
from dip_jax.layers.normalization import ACTIVATIONS


class ConvDecoder(nn.Module):
    """Layers of doubling, 3x3 convolution, activation and normalization; the last does not double.

    The paper doubles by repetition (`upsample=nearest`) with `relu`. For sizes that are not a power
    of two times the code it uses factors other than 2; here the image is cropped.
    """

    config: NetConfig
    num_channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Code `[Hc, Wc, C_in]` -> image `[2^depth Hc, 2^depth Wc, C]`."""
        c = self.config
        for i in range(c.depth + 1):
            x = double(x, c.upsample[0]) if i < c.depth else x
            x = Conv(c.width, 3, c, normalized=False, name=f"layer_{i}_conv")(x)
            # The normalization comes after the activation, so the bias before it has an effect.
            x = Norm(c, "none", name=f"layer_{i}_norm")(ACTIVATIONS[c.activation](x))
        return to_image(Conv(self.num_channels, 1, c, normalized=False, name="head_conv")(x), c)


class DeepDecoder(nn.Module):
    """Layers of 1x1 convolution, doubling, activation and normalization; the last does not double.

    The paper doubles bilinearly (`upsample=bilinear`) with `relu` and has no biases. Only the
    doubling mixes neighboring pixels.
    """

    config: NetConfig
    num_channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Code `[Hc, Wc, C_in]` -> image `[2^depth Hc, 2^depth Wc, C]`."""
        c = dataclasses.replace(self.config, bias=False)
        for i in range(c.depth + 1):
            x = Conv(c.width, 1, c, name=f"layer_{i}_conv")(x)
            x = double(x, c.upsample[0]) if i < c.depth else x
            x = Norm(c, "none", name=f"layer_{i}_norm")(ACTIVATIONS[c.activation](x))
        return to_image(Conv(self.num_channels, 1, c, name="head_conv")(x), c)


def _module_order(config: NetConfig) -> Iterator[str]:
    """Names of the modules in the order of the computation."""
    for i in range(config.depth + 1):
        yield from (f"layer_{i}_conv", f"layer_{i}_norm")
    yield "head_conv"


def _code_size(config: NetConfig, size: int) -> int:
    """At least two pixels: a single one gives constant maps, which normalization makes zero."""
    return max(2, -(-size // 2**config.depth))


CONV_DECODER = Architecture(ConvDecoder, _module_order, _code_size)
DEEP_DECODER = Architecture(DeepDecoder, _module_order, _code_size)
