"""The U-Net of the 2018 code.

The encoder has max pooling and pairs of normalized convolutions; the decoder has no normalization.
`extra_scales` adds any number of scales of the coarsest width. In the 2018 code, a second extra
scale raises an error (a misspelled attribute).

References:
  Ronneberger, Fischer and Brox, U-Net, 2015; Ulyanov et al., Deep Image Prior, 2018 (its code).
"""

from collections.abc import Iterator

import flax.linen as nn
import jax.numpy as jnp

from dip_jax.architectures.blocks import (
    Architecture,
    Conv,
    Deconv,
    Norm,
    double,
    halve,
    round_up_side,
    to_image,
)
from dip_jax.base import Array
from dip_jax.config import NetConfig
from dip_jax.errors import InputError
from dip_jax.layers.normalization import ACTIVATIONS, normalize


class UNet(nn.Module):
    """An encoder and a decoder, joined at every scale; `concat_input` also joins the code."""

    config: NetConfig
    num_channels: int

    @nn.compact
    def __call__(self, code: Array) -> Array:
        """Code `[Hc, Wc, C_in]` -> image `[Hc, Wc, C]`; sides are multiples of `2^(scales - 1)`."""
        c = self.config

        def pair(x: Array, name: str, features: int, normalization: str) -> Array:
            for part in ("first", "second"):
                normalized = normalization != "none"
                x = Conv(features, 3, c, None, normalized, name=f"{name}_{part}_conv")(x)
                if normalization == "batch":
                    x = Norm(c, c.activation, name=f"{name}_{part}_norm")(x)
                elif normalization == "instance":
                    one = jnp.ones(features)  # no weights
                    x = normalize(x, one, 0 * one, c.activation)
                else:
                    x = ACTIVATIONS[c.activation](x)
            return x

        widths, num_added = _widths(c), code.shape[-1] if c.concat_input else 0
        x, small_code, scales = code, code, []
        for i, width in enumerate(widths):
            if i:
                x, small_code = halve(x, "max"), halve(small_code, "avg")
            x = pair(x, f"encode_{i}", width - num_added, c.normalization)
            x = jnp.concatenate([x, small_code], axis=-1) if num_added else x
            scales.append(x)
        for i in reversed(range(len(widths) - 1)):
            if c.upsample[0] == "deconv":
                x = Deconv(widths[i], c, name=f"up_{i}_deconv")(x)
            else:
                x = double(x, c.upsample[0])
                x = Conv(widths[i], 3, c, normalized=False, name=f"up_{i}_conv")(x)
            x = pair(jnp.concatenate([x, scales[i]], axis=-1), f"decode_{i}", widths[i], "none")
        return to_image(Conv(self.num_channels, 1, c, normalized=False, name="head_conv")(x), c)


def _widths(config: NetConfig) -> tuple[int, ...]:
    """Channels of all scales, from fine to coarse."""
    widths = config.channels_down + config.channels_down[-1:] * config.extra_scales
    if config.concat_input and min(widths) <= config.input_depth:
        raise InputError(
            "net.concat_input needs more channels in each of net.channels_down than the code has "
            f"(net.input_depth={config.input_depth}), got {min(widths)}; lower net.input_depth."
        )
    return widths


def _module_order(config: NetConfig) -> Iterator[str]:
    """Names of the modules in the order of the 2018 definition: the extra scales decode first."""
    for i in range(len(_widths(config))):
        for part in ("first", "second"):
            yield f"encode_{i}_{part}_conv"
            if config.normalization == "batch":
                yield f"encode_{i}_{part}_norm"
    last = len(config.channels_down) - 1
    for i in (*range(last, last + config.extra_scales), *reversed(range(last))):
        yield f"up_{i}_deconv" if config.upsample[0] == "deconv" else f"up_{i}_conv"
        yield from (f"decode_{i}_first_conv", f"decode_{i}_second_conv")
    yield "head_conv"


def _code_size(config: NetConfig, size: int) -> int:
    """A side from which pooling drops no pixel (the 2018 code made the image smaller instead)."""
    return round_up_side(size, len(_widths(config)) - 1)


UNET = Architecture(UNet, _module_order, _code_size)
