"""JPEG as a measurement: the cosine coefficients of an image, and the whole compression.

`Coefficients` is the linear map from an image to its coefficients c, of which a file holds the rounded multiples
k = round(c / q) of steps q (see `jpeg_intervals`). `Jpeg` also rounds and decodes, with a gradient.

References:
  ITU-T T.81, 1992; Wallace, The JPEG still picture compression standard, 1992.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array
from dip_jax.errors import InputError
from dip_jax.images.jpeg_file import to_file_orientation
from dip_jax.operators.jpeg_transform import (
    LEVEL_SHIFT,
    chroma_ratio,
    from_coefficients,
    from_planes,
    to_coefficients,
    to_planes,
    upsample_chroma,
)

# T.81, Annex K.1, for luma and chroma, in row-major order.
_LUMA = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
_CHROMA = """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Coefficients:
    """A x = all cosine coefficients of an image, before quantization and without level shift.

    `[H, W, C]` in [0, 1] -> float32 `[n]` in the same unit: component by component and block by block, 64 values
    each, in the order of `JpegFile.coefficients`. Chroma is the mean over the pixels that share a value. Blocks
    that extend beyond the image repeat its margin, as libjpeg does; another encoder may fill them differently.

    Example:
      >>> import jax.numpy as jnp
      >>> c = Coefficients()(jnp.full((8, 16, 1), 0.5))  # two blocks; the mean of each is c / 8
      >>> c.shape, c[::64].round(3).tolist()
      ((128,), [4.0, 4.0])
    """

    subsampling: str = dataclasses.field(default="4:4:4", metadata={"static": True})
    """One of `SUBSAMPLINGS`."""
    orientation: int = dataclasses.field(default=1, metadata={"static": True})
    """Exif orientation of the stored image; 1 is upright."""
    is_linear: ClassVar[bool] = True

    def __call__(self, image: Array) -> Array:
        """Measures an upright `image`."""
        planes = to_planes(
            to_file_orientation(image, self.orientation), chroma_ratio(self.subsampling)
        )
        return jnp.concatenate([to_coefficients(plane).ravel() for plane in planes])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Jpeg:
    """A x = the image `[H, W, C]` after it is saved as a JPEG file and decoded.

    The steps are color transform, mean of chroma, cosine transform, rounding to multiples of the quantization
    steps, and back; chroma is interpolated by libjpeg's triangle filter. Encoders and decoders also round to gray
    levels in between, which this operator does not. On average it is within 1.2 gray levels of Pillow (0.5 for
    gray images), and within 3 everywhere unless a coefficient is so near to the border of two intervals that the
    rounding decides.

    References:
      Shin and Song, JPEG-resistant Adversarial Images, 2017 (the soft rounding).

    Example:
      >>> import jax.numpy as jnp
      >>> operator = Jpeg(jnp.asarray(standard_tables(50, 1), jnp.float32))
      >>> operator(jnp.full((8, 8, 1), 128 / 255)).shape
      (8, 8, 1)
    """

    tables: Array
    """q, float32 `[C, 8, 8]` in gray levels; see `standard_tables`."""
    subsampling: str = dataclasses.field(default="4:2:0", metadata={"static": True})
    """One of `SUBSAMPLINGS`."""
    soft: bool = dataclasses.field(default=False, metadata={"static": True})
    """False: exact rounding with the gradient of the identity (straight through). True: the differentiable
    round(c) + (c - round(c))^3."""
    is_linear: ClassVar[bool] = False

    def __call__(self, image: Array) -> Array:
        """Compresses and decodes `image`."""
        rows, columns, _ = image.shape
        ratio = chroma_ratio(self.subsampling)
        planes = []
        for k, plane in enumerate(to_planes(image, ratio)):
            v, h = (1, 1) if k == 0 else ratio
            shift = LEVEL_SHIFT if k == 0 else 0.0
            step = self.tables[k][None, None] / 255
            plane = (
                from_coefficients(step * self._round(to_coefficients(plane - shift) / step)) + shift
            )
            plane = plane[: -(-rows // v), : -(-columns // h)]
            # Decoders hold each component in 8 bits.
            low = shift - LEVEL_SHIFT
            plane = jnp.clip(plane, low, low + 1)
            for axis, factor in enumerate((v, h)):
                plane = upsample_chroma(plane, axis) if factor == 2 else plane
            planes.append(plane[:rows, :columns])
        return jnp.clip(from_planes(planes), 0, 1)

    def _round(self, values: Array) -> Array:
        whole = jax.lax.stop_gradient(jnp.round(values))
        if self.soft:
            return whole + (values - whole) ** 3
        return whole + (values - jax.lax.stop_gradient(values))


def standard_tables(quality: int, channels: int = 3) -> np.ndarray:
    """The tables of T.81, Annex K.1, scaled to a quality: q = clip((table s + 50) // 100, 1, 255).

    Args:
      quality: libjpeg's quality Q, 1 to 100; s = 5000 // Q below 50, 200 - 2 Q from 50 on.
      channels: 1 for gray, 3 for color.

    Returns:
      q, int `[channels, 8, 8]` in gray levels.

    Raises:
      InputError: If the quality is not 1 to 100.

    Example:
      >>> standard_tables(50)[0, 0].tolist()
      [16, 11, 10, 16, 24, 40, 51, 61]
    """
    if not 1 <= quality <= 100:
        raise InputError(f"JPEG quality must be 1 to 100, got {quality}.")
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    tables = [np.array(text.split(), int).reshape(8, 8) for text in (_LUMA, _CHROMA, _CHROMA)]
    return np.clip((np.stack(tables[:channels]) * scale + 50) // 100, 1, 255)
