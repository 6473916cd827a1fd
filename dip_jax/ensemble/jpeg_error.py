"""The error of a decoded JPEG image, estimated by compressing it again.

Compression with the same tables and blocks hardly changes a decoded image, so the tables can be found
(`standard_quality`). Compression with other blocks changes it about as much as the first one did (`error_of_decoded`).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array
from dip_jax.operators.jpeg import Jpeg, standard_tables

_SHIFT = 4
"""Half of a JPEG block."""
_MAX_CHANGE = 1.5 / 255
"""Root mean squared change below which the tables count as the same: decoded values are rounded to gray levels. Of six
photos saved at the qualities 5, 10, 30, 60, 75 and 90, 35 of 36 were found within 5 (one at 5 was not found)."""
_SAMPLE_SIDE = 256
"""Height and width of the part whose tables are searched; a multiple of 16, the blocks of reduced chroma."""


def error_of_decoded(decoded: np.ndarray, tables: np.ndarray, subsampling: str) -> float:
    """Estimates the root mean squared error of a decoded JPEG image, in the unit of the image.

    The image is moved by half a block, so that its blocks are others, and compressed again.

    Args:
      decoded: `[H, W, C]` in [0, 1], at least 24 x 24.
      tables: Quantization steps in gray levels, `[C, 8, 8]`.
      subsampling: Subsampling of the chroma, one of `SUBSAMPLINGS`.

    References:
      Nosratinia, Enhancement of JPEG-Compressed Images by Re-application of JPEG, 2001 (shifted compressions).
    """
    moved = np.roll(decoded, (_SHIFT, _SHIFT), axis=(0, 1))
    change = np.asarray(_compressed(tables, moved, subsampling)) - moved
    # The border consists of pixels that were not neighbors.
    inside = np.s_[2 * _SHIFT : -2 * _SHIFT, 2 * _SHIFT : -2 * _SHIFT]
    return float(np.sqrt(np.square(change[inside]).mean()))


def standard_quality(decoded: np.ndarray) -> tuple[int, str]:
    """Finds the quality and the subsampling at which an image was saved, with the standard tables of libjpeg.

    It is the lowest quality at which compression hardly changes the image. An image that was never saved as JPEG, or
    whose blocks do not begin at its corner, gets a high quality.

    Args:
      decoded: `[H, W, C]` in [0, 1].

    Returns:
      The quality, 1 to 100, and `4:2:0` or `4:4:4`.
    """
    part = decoded[:_SAMPLE_SIDE, :_SAMPLE_SIDE]
    names = ("4:2:0", "4:4:4") if decoded.shape[-1] > 1 else ("4:4:4",)
    for quality in range(1, 100):
        tables = standard_tables(quality, decoded.shape[-1])
        for name in names:
            change = np.asarray(_compressed(tables, part, name)) - part
            if np.sqrt(np.square(change).mean()) < _MAX_CHANGE:
                return quality, name
    return 100, names[-1]


@functools.partial(jax.jit, static_argnames="subsampling")
def _compressed(tables: np.ndarray, image: np.ndarray, subsampling: str) -> Array:
    return Jpeg(jnp.asarray(tables, jnp.float32), subsampling)(jnp.asarray(image))
