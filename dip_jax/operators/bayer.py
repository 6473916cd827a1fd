"""Color that was not recorded: gray pictures and color filter arrays."""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import lax

from dip_jax.base import Array, InputError

Pattern = Literal["RGGB", "BGGR", "GRBG", "GBRG"]

PATTERNS = ("RGGB", "BGGR", "GRBG", "GBRG")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Gray:
    """A x = 0.299 R + 0.587 G + 0.114 B, the luma of Rec. ITU-R BT.601: `[H, W, 3] -> [H, W, 1]`."""

    is_linear: ClassVar[bool] = True

    def __call__(self, image: Array) -> Array:
        """Returns the luma of `image`; InputError if it has not three channels."""
        red, green, blue = _channels(image)
        return 0.299 * red + 0.587 * green + 0.114 * blue

    def pad(self, height: int, width: int) -> "Gray":
        """What it is on a canvas `[height, width]`: the same, it acts on each pixel alone."""
        del height, width
        return self


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bayer:
    """A x = at each pixel the one channel that its color filter lets through: `[H, W, 3] -> [H, W, 1]`.

    References:
      Bayer, Color Imaging Array, US patent 3971065, 1976.
    """

    pattern: Pattern = dataclasses.field(default="RGGB", metadata={"static": True})
    """The filters of the first two rows, row by row, from the top left."""
    is_linear: ClassVar[bool] = True

    def __call__(self, image: Array) -> Array:
        """Returns the mosaic of `image`; InputError if it has not three channels."""
        require_pattern(self.pattern)
        channels = dict(zip("RGB", _channels(image), strict=True))
        top_left, top_right, low_left, low_right = (channels[name] for name in self.pattern)
        shape = (*image.shape[:2], 1)
        top = lax.broadcasted_iota(jnp.int32, shape, 0) % 2 == 0
        left = lax.broadcasted_iota(jnp.int32, shape, 1) % 2 == 0
        upper = jnp.where(left, top_left, top_right)
        return jnp.where(top, upper, jnp.where(left, low_left, low_right))

    def pad(self, height: int, width: int) -> "Bayer":
        """What it is on a canvas `[height, width]`: the same, as a canvas grows at the bottom and right."""
        del height, width
        return self


def _channels(image: Array) -> tuple[Array, Array, Array]:
    """Red, green and blue, each `[H, W, 1]`."""
    if image.ndim != 3 or image.shape[2] != 3:
        raise InputError(
            f"A color picture [H, W, 3] is needed, came {list(image.shape)}; give an RGB picture."
        )
    return image[..., 0:1], image[..., 1:2], image[..., 2:3]


def require_pattern(pattern: str) -> None:
    if pattern not in PATTERNS:
        raise InputError(f"pattern must be one of {', '.join(PATTERNS)}, came {pattern!r}.")
