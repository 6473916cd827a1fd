"""The content of an image file, and the checks that all kinds of files share."""

import math
from typing import NamedTuple

import numpy as np

from dip_jax.errors import InputError
from dip_jax.images.value_range import full_scale

ZERO_IS_WHITE = "0 is white in the file"


class Tags(NamedTuple):
    """What a file says about its image besides the values; copied to the restored image."""

    icc_profile: bytes | None = None
    """Color profile."""
    dpi: tuple[float, float] | None = None
    """Pixels per inch, horizontal and vertical."""
    gamma: float | None = None
    """Exponent of the encoding, of PNG files."""
    pixels_per_unit: tuple[float, float] | None = None
    """As `dpi`, but in a unit that the description names, of TIFF files."""
    description: str | None = None
    """Text of a TIFF file with one page; ImageJ and OME store pixel sizes there."""
    texts: tuple[tuple[int, str], ...] = ()
    """Codes and texts of the tags of a TIFF file about camera, date, artist and copyright."""
    bayer_pattern: str | None = None
    """Colors of the 2 x 2 pixels of a raw mosaic, such as `RGGB`; not written."""
    exif: bytes | None = None
    """Exif data of the other formats, as `exif.clean` returns them."""
    fits_header: str | None = None
    """The cards of a FITS header without those that describe the array."""
    layout: str = ""
    """The axes of the array in a FITS or numpy file, such as `HW`, `CHW`, or `1HW` with an axis of length 1."""


class Decoded(NamedTuple):
    """The content of an image file."""

    values: np.ndarray
    """Stored values `[H, W, channels]`; integers or floats of any size."""
    suffix: str
    """`.png`, `.tif`, `.bmp`, `.fits` or `.npy`: the format in which to write a similar image."""
    orientation: int = 1
    """Exif orientation of `values`; 1 is upright."""
    num_pages: int = 1
    """Number of pages or frames in the file that could be taken instead of this one; counts this one."""
    tags: Tags = Tags()
    """Further information of the file."""
    notes: tuple[str, ...] = ()
    """Sentences for the user about conversions."""
    has_alpha: bool = False
    """Whether the last channel is alpha."""
    nodata: float | None = None
    """The stored value that means "no data", or None."""

    def split_alpha(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the colors `[H, W, C]` and alpha `[H, W]`, or None if there is none, without copying."""
        return split_alpha(self.values, self.has_alpha)


class Header(NamedTuple):
    """What the header of an image file tells, before its values are decoded."""

    shape: tuple[int, int, int]
    """`(height, width, channels)` of the upright image, without alpha."""
    num_pages: int = 1
    """Number of pages or frames in the file."""


def split_alpha(values: np.ndarray, has_alpha: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Splits stored values into colors and alpha, without copying.

    Args:
      values: `[H, W, channels]`.
      has_alpha: Whether the last channel is alpha.

    Returns:
      The colors `[H, W, C]` and alpha `[H, W]`, or None if there is none.
    """
    return (values[..., :-1], values[..., -1]) if has_alpha else (values, None)


def upright_shape(height: int, width: int, channels: int, orientation: int) -> tuple[int, int, int]:
    """Returns the shape of an image after it is turned upright from an Exif orientation."""
    return (width, height, channels) if orientation in (5, 6, 7, 8) else (height, width, channels)


def upright_resolution(
    resolution: tuple[float, float] | None, orientation: int
) -> tuple[float, float] | None:
    """Returns a resolution, horizontal and vertical, after the image is turned upright; None if it is not positive."""
    if resolution is None or not min(resolution) > 0:
        return None
    x, y = (float(value) for value in resolution)
    return (y, x) if orientation in (5, 6, 7, 8) else (x, y)


def check_page(page: int | None, num_pages: int) -> int:
    """Returns the index of a page, by default the first.

    Raises:
      InputError: If the file has no such page.
    """
    if page is not None and page >= num_pages:
        raise InputError(
            f"expected a page from 1 to {num_pages}, which is the number of pages or frames, got {page + 1}; "
            "change --page"
        )
    return page or 0


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises an `InputError` for an image of more than `max_pixels` pixels."""
    if width * height > max_pixels:
        fault = f"got {width * height:,}; reduce the image, or raise the limit with --max_pixels"
        raise InputError(f"expected at most {max_pixels:,} pixels, {fault}")


def check_dtype(dtype: np.dtype) -> None:
    """Raises an `InputError` for numbers of a type that no image is read from."""
    if dtype.kind not in "buif" or dtype.itemsize > (8 if dtype.kind == "f" else 4):
        fault = f"got {dtype}; convert it to uint16 or float32 first"
        raise InputError(f"expected integers of up to 32 bits, or floats of up to 64, {fault}")


def check_data(num_bytes: int, shape: tuple[int, ...], itemsize: int) -> None:
    """Raises a `ValueError` if a file has fewer bytes of data than its array needs."""
    if num_bytes < math.prod(shape) * itemsize:
        raise ValueError("the file ends before its data")


def unknown_colors(kind: str) -> InputError:
    """Returns the error for an image that is neither gray nor RGB."""
    expected = "expected gray or RGB, with or without alpha"
    return InputError(f"{expected}, got {kind}; convert it to RGB first")


def widen(values: np.ndarray, num_bits: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """Scales values of an unusual number of bits to the full range of 8 or 16 bits.

    Args:
      values: Booleans, or unsigned integers from 0 to `2**num_bits - 1`.
      num_bits: 1 to 16.

    Returns:
      uint8 or uint16, and a note for the user.

    Example:
      >>> widen(np.array([0, 1023], np.uint16), 10)[0].tolist()
      [0, 65535]
    """
    dtype = np.dtype(np.uint8 if num_bits <= 8 else np.uint16)
    widened = np.rint(values * (full_scale(dtype)[1] / (2**num_bits - 1))).astype(dtype)
    return widened, (f"{num_bits}-bit values widened to {8 * dtype.itemsize} bits",)


def band_notes(num_bands: int) -> tuple[str, ...]:
    """Returns the note for an image of bands that are neither gray nor RGB; nothing for one band."""
    if num_bands == 1:
        return ()
    return (f"{num_bands} bands, each mapped and restored as a channel",)
