"""Colour that was not recorded: grey pictures and colour filter arrays."""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import ndimage

from dip_jax.base import Array, InputError

Pattern = Literal["RGGB", "BGGR", "GRBG", "GBRG"]

PATTERNS = ("RGGB", "BGGR", "GRBG", "GBRG")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Grey:
    """A x = 0.299 R + 0.587 G + 0.114 B, the luma of Rec. ITU-R BT.601: `[H, W, 3] -> [H, W, 1]`."""

    is_linear: ClassVar[bool] = True

    def __call__(self, image: Array) -> Array:
        """Returns the luma of `image`; InputError if it has not three channels."""
        red, green, blue = _channels(image)
        return 0.299 * red + 0.587 * green + 0.114 * blue

    def pad(self, height: int, width: int) -> "Grey":
        """What it is on a canvas `[height, width]`: the same, it acts on each pixel alone."""
        del height, width
        return self


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bayer:
    """A x = at each pixel the one channel that its colour filter lets through: `[H, W, 3] -> [H, W, 1]`.

    References:
      Bayer, Color Imaging Array, US patent 3971065, 1976.
    """

    pattern: Pattern = dataclasses.field(default="RGGB", metadata={"static": True})
    """The filters of the first two rows, row by row, from the top left."""
    is_linear: ClassVar[bool] = True

    def __call__(self, image: Array) -> Array:
        """Returns the mosaic of `image`; InputError if it has not three channels."""
        _check_pattern(self.pattern)
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


def demosaic_bilinear(mosaic: np.ndarray, pattern: str) -> np.ndarray:
    """Fills in the channels of a Bayer mosaic by the mean of their nearest neighbours.

    Args:
      mosaic: `[H, W, 1]`, at least 2 x 2.
      pattern: As for `Bayer`.

    Returns:
      `[H, W, 3]` float32; what was measured is kept.

    Raises:
      InputError: On another shape or an unknown pattern.
    """
    _check_pattern(pattern)
    mosaic = np.asarray(mosaic, np.float32)
    if mosaic.ndim != 3 or mosaic.shape[2] != 1 or min(mosaic.shape[:2]) < 2:
        raise InputError(
            f"A mosaic must be [H, W, 1] and at least 2 x 2, came {list(mosaic.shape)}."
        )
    height, width, _ = mosaic.shape
    filters = np.array(list(pattern)).reshape(2, 2)
    filters = np.tile(filters, (-(-height // 2), -(-width // 2)))[:height, :width]
    cross = np.array([[0, 1, 0], [1, 4, 1], [0, 1, 0]], np.float32)
    square = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32)

    def spread(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return ndimage.convolve(values, weights, mode="constant")

    channels = []
    for name in "RGB":
        seen = (filters == name).astype(np.float32)
        weights = cross if name == "G" else square
        # Dividing by the weights that met a measured pixel makes it a mean, also at the border.
        channels.append(spread(mosaic[..., 0] * seen, weights) / spread(seen, weights))
    return np.stack(channels, axis=-1)


def _channels(image: Array) -> tuple[Array, Array, Array]:
    """Red, green and blue, each `[H, W, 1]`."""
    if image.ndim != 3 or image.shape[2] != 3:
        raise InputError(
            f"A colour picture [H, W, 3] is needed, came {list(image.shape)}; give an RGB picture."
        )
    return image[..., 0:1], image[..., 1:2], image[..., 2:3]


def _check_pattern(pattern: str) -> None:
    if pattern not in PATTERNS:
        raise InputError(f"pattern must be one of {', '.join(PATTERNS)}, came {pattern!r}.")
