"""The texture network of the 2018 code: it joins the code at several scales, from coarse to fine.

The 2018 option to replace the reduced codes by fresh noise in every call is omitted, because the
image is a pure function of params and code. The fit perturbs the code.

References:
  Ulyanov, Lebedev, Vedaldi and Lempitsky, Texture Networks, 2016; Ulyanov et al., Deep Image Prior,
  2018 (its code).
"""

from collections.abc import Iterator

import flax.linen as nn
import jax.numpy as jnp

from dip_jax.architectures.blocks import (
    Architecture,
    Conv,
    Norm,
    double,
    halve,
    round_up_side,
    to_image,
)
from dip_jax.base import Array
from dip_jax.config import NetConfig


class Texture(nn.Module):
    """A network of `depth` scales; the j-th from the coarsest has `j * width` channels."""

    config: NetConfig
    num_channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Code `[Hc, Wc, C_in]` -> image `[Hc, Wc, C]`; sides are multiples of `2^(depth - 1)`."""
        c = self.config

        def blocks(x: Array, name: str, features: int) -> Array:
            for part, side in _PARTS:
                x = Conv(features, side, c, name=f"{name}_{part}_conv")(x)
                x = Norm(c, c.activation, name=f"{name}_{part}_norm")(x)
            return x

        codes = [x]
        for _ in range(c.depth - 1):
            codes.append(halve(codes[-1], "avg"))
        x = blocks(codes.pop(), "branch_0", c.width)
        for j in range(1, c.depth):
            branch = blocks(codes.pop(), f"branch_{j}", c.width)
            trunk = Norm(c, "none", name=f"trunk_{j}_norm")(double(x, c.upsample[0]))
            branch = Norm(c, "none", name=f"branch_{j}_norm")(branch)
            x = blocks(jnp.concatenate([trunk, branch], axis=-1), f"merge_{j}", (j + 1) * c.width)
        return to_image(Conv(self.num_channels, 1, c, normalized=False, name="head_conv")(x), c)


_PARTS = (("first", 3), ("second", 3), ("mix", 1))


def _module_order(config: NetConfig) -> Iterator[str]:
    """Names of the modules in the order of the 2018 definition: coarser scales, branch, merge."""

    def blocks(name: str) -> Iterator[str]:
        for part, _ in _PARTS:
            yield from (f"{name}_{part}_conv", f"{name}_{part}_norm")

    yield from blocks("branch_0")
    for j in range(1, config.depth):
        yield f"trunk_{j}_norm"
        yield from blocks(f"branch_{j}")
        yield f"branch_{j}_norm"
        yield from blocks(f"merge_{j}")
    yield "head_conv"


def _code_size(config: NetConfig, size: int) -> int:
    return round_up_side(size, config.depth - 1)


TEXTURE = Architecture(Texture, _module_order, _code_size)
