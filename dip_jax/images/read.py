"""Reading images and masks.

Everywhere else in the package an image is upright float32 `[H, W, C]` in [0, 1], with one or three
channels. `StoredImage` keeps the depth, range, alpha and color profile of its file.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from dip_jax.errors import InputError
from dip_jax.images.decode import decode, peek
from dip_jax.images.decoded import ZERO_IS_WHITE, Tags
from dip_jax.images.value_range import (
    AUTO,
    choose_range,
    have_unlike_ranges,
    is_outlier,
    repeated_outlier,
)
from dip_jax.storage.paths import AnyPath, to_path

MIN_SIDE = 33
"""The smallest height and width of an image to restore; the networks halve it five times."""
MAX_PIXELS = 100_000_000
"""The most pixels of an image, unless the user raises the limit."""
_MAX_OUTLIERS = 0.6  # of the values; a larger fraction means that the range is wrong
MAX_GRAY = 0.05
"""The largest fraction of pixels of a mask that may lie between black and white."""


class StoredImage(NamedTuple):
    """An image and the way its file stores it; `StoredImage(pixels)` is an 8-bit PNG."""

    pixels: np.ndarray
    """float32 `[H, W, C]` in [0, 1], upright: gray, RGB, or C bands."""
    alpha: np.ndarray | None = None
    """`[H, W]` in `dtype`; None if the file has none."""
    dtype: np.dtype = np.dtype(np.uint8)
    """Type of the stored values: an integer or float type."""
    low: float | np.ndarray = 0.0
    """The stored value of a pixel of 0; for bands that are neither gray nor RGB, one per band."""
    high: float | np.ndarray = 255.0
    """The stored value of a pixel of 1."""
    suffix: str = ".png"
    """The format to write: `.png`, `.tif`, `.bmp`, `.fits` or `.npy`. It is `.png` for JPEG, WebP, AVIF and HEIC files,
    because lossy compression would degrade a restored image again."""
    tags: Tags = Tags()
    """Further information of the file, written as far as the format can hold it."""
    notes: tuple[str, ...] = ()
    """Sentences for the user about conversions."""
    is_known: np.ndarray | None = None
    """Boolean `[H, W, C]`, False where the file has no number or an outlier; None for all known. Unknown pixels have
    the median of the known ones."""
    outliers: np.ndarray | None = None
    """Stored values `[H, W, C]` of outliers, which are written unchanged, and NaN elsewhere; None if there are none."""


def read_image(
    path: str | Path,
    *,
    max_pixels: int = MAX_PIXELS,
    min_side: int = MIN_SIDE,
    value_range: str = AUTO,
    page: int | None = None,
    used: np.ndarray | None = None,
) -> StoredImage:
    """Reads an image file at its full depth.

    Args:
      path: A PNG, JPEG, TIFF, WebP, AVIF, HEIC, BMP, FITS, .npy or .npz file.
      max_pixels: An image with more pixels is refused from its header, before it is decoded.
      min_side: An image with fewer pixels in width or height is refused.
      value_range: The stored values of the pixels 0 and 1; see `choose_range`.
      page: The page or frame, from 0; None for the first image.
      used: Boolean, broadcasts to `[H, W, C]`: the values that determine the range; None for those that are not transparent.

    Returns:
      The image, turned upright, with a palette expanded to colors.

    Raises:
      InputError: If the file is missing, damaged, too small, too large or of an unsupported kind, or has no number.

    Example:
      >>> import imageio.v3 as iio
      >>> iio.imwrite("photo.png", np.full((40, 50, 3), 51, np.uint8))
      >>> image = read_image("photo.png")
      >>> image.pixels.shape, f"{image.pixels.max():.1f}"
      ((40, 50, 3), '0.2')
    """
    decoded = decode(Path(path), max_pixels, page)
    colors, alpha = decoded.split_alpha()
    height, width, channels = colors.shape
    if min(height, width) < min_side:
        raise InputError(
            f"{path}: expected at least {min_side} pixels in width and in height, got "
            f"{width} x {height}; enlarge or pad the image first"
        )
    has_number = np.isfinite(colors) & (colors != decoded.nodata)
    empty = np.flatnonzero(~has_number.any(axis=(0, 1)))
    if empty.size:
        subject = "no value" if empty.size == channels else f"no value of band {empty[0] + 1}"
        raise InputError(f"{path}: expected an image, but {subject} is a finite number")
    if used is None:
        used = np.ones((1, 1, 1), bool) if alpha is None else (alpha > 0)[..., np.newaxis]
    is_far = _far_values(colors, has_number & used)
    low, high, note = _choose_ranges(colors, has_number & used & ~is_far, value_range)
    with np.errstate(invalid="ignore"):
        pixels = (colors.astype(np.float64) - low) / (high - low)
    is_known = has_number & ~is_outlier(pixels) & ~is_far
    outliers = has_number & used & ~is_known  # whatever is not used may be filled in
    fraction = outliers.sum() / has_number.sum()
    if fraction > _MAX_OUTLIERS:
        raise InputError(
            f"{path}: expected values from {low} to {high}, but {fraction:.0%} are farther outside; set another --range"
        )
    pixels = np.where(is_known, pixels, np.median(pixels[is_known])).astype(np.float32)
    # Few programs read alpha from a BMP file.
    suffix = ".png" if decoded.suffix == ".bmp" and alpha is not None else decoded.suffix
    return StoredImage(
        pixels,
        alpha,
        colors.dtype,
        low,
        high,
        suffix,
        decoded.tags,
        (*decoded.notes, *_value_notes(note, np.sum(~has_number), np.sum(outliers))),
        is_known=None if is_known.all() else is_known,
        outliers=np.where(outliers, colors, np.nan) if outliers.any() else None,
    )


def _far_values(colors: np.ndarray, is_used: np.ndarray) -> np.ndarray:
    """Boolean `[H, W, C]`: the used values that are repeated outliers of their channel."""
    is_far = np.zeros(colors.shape, bool)
    if colors.dtype == np.uint8:  # spares photos the selections
        return is_far
    for c in range(colors.shape[-1]):
        values = colors[..., c][is_used[..., c]]
        if values.size:
            is_far[..., c][is_used[..., c]] = repeated_outlier(values)
    return is_far


def _choose_ranges(
    colors: np.ndarray, is_used: np.ndarray, setting: str
) -> tuple[float | np.ndarray, float | np.ndarray, str]:
    """The values of black and white, for gray and RGB in common and otherwise of each band, and a note."""
    if not is_used.any():  # a fully transparent image
        is_used = np.isfinite(colors)
    common, channels = choose_range(colors[is_used], setting), colors.shape[-1]
    is_common = channels in (1, 3)
    if channels == 3 and common.is_measured:
        is_common = not have_unlike_ranges(colors[is_used.all(axis=-1)], common)
    if is_common:
        return common.low, common.high, common.note
    bands = [colors[..., c][is_used[..., c]] for c in range(channels)]
    ranges = [choose_range(v if v.size else colors[is_used], setting) for v in bands]
    low, high = (np.array([r[k] for r in ranges]) for k in (0, 1))
    return low, high, next((r.note for r in ranges if r.note), "") and "each band has its own range"


def _value_notes(range_note: str, num_missing: int, num_outliers: int) -> list[str]:
    notes = [range_note] if range_note else []
    if num_missing:
        notes.append(
            f"{num_missing:,} values are missing (NaN, infinite or no data); they are filled in"
        )
    if num_outliers:
        notes.append(f"{num_outliers:,} values lie far outside the range; they are kept unchanged")
    return notes


def read_values(
    path: str | Path, *, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Reads the stored colors of an image file of any size.

    Args:
      path: The file.
      max_pixels: As in `read_image`.

    Returns:
      The stored values `[H, W, C]` without alpha, and notes for the user.

    Raises:
      InputError: If the file is missing, damaged, too large or of an unsupported kind.
    """
    decoded = decode(Path(path), max_pixels)
    values, _ = decoded.split_alpha()
    _require_finite(path, values)
    return values, decoded.notes


def read_mask(
    path: str | Path, shape: tuple[int, int], *, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Reads the mask of the known pixels of an image.

    Args:
      path: The file: white is known, black is missing. In a file of one color with alpha, opaque is known.
      shape: `(H, W)` of the image that the mask belongs to.
      max_pixels: As in `read_image`.

    Returns:
      float32 `[H, W]`, 1 for known and 0 for missing pixels, and notes for the user.

    Raises:
      InputError: If the file cannot be read, has another size, or is not a mask.

    Example:
      >>> import imageio.v3 as iio
      >>> iio.imwrite("mask.png", np.uint8([[0, 255], [255, 255]]))
      >>> mask, notes = read_mask("mask.png", (2, 2))
      >>> mask.tolist()
      [[0.0, 1.0], [1.0, 1.0]]
    """
    decoded = decode(Path(path), max_pixels)
    if any(ZERO_IS_WHITE in note for note in decoded.notes) and set(np.unique(decoded.values)) <= {
        0,
        255,
    }:
        raise InputError(
            f"{path}: expected a mask, but its tag says that 0 is white, as tifffile writes arrays of truth values; save "
            "it with photometric='minisblack', or as PNG"
        )
    colors, alpha = decoded.split_alpha()
    _require_finite(path, colors)
    if alpha is not None and np.ptp(colors) == 0 and np.ptp(alpha) > 0:  # drawn with the eraser
        colors, alpha = alpha[..., np.newaxis], None
    if colors.shape[:2] != tuple(shape):
        is_turned = colors.shape[1::-1] == tuple(shape)
        advice = (
            "turn it upright, as the image is by its orientation tag"
            if is_turned
            else "draw it on the image"
        )
        raise InputError(
            f"{path}: expected a mask of the image's size, {shape[1]} x {shape[0]} (width x "
            f"height), got {colors.shape[1]} x {colors.shape[0]}; {advice}"
        )
    # White is the maximum of the file, so that masks of 0 and 1 work like masks of 0 and 255.
    white = float(colors.max())
    channels = colors / white if white > 0 else np.zeros(colors.shape)
    levels = channels.mean(axis=-1)
    known = levels >= 0.5
    num_gray = np.count_nonzero((levels > 0) & (levels < 1))
    gray_fraction = ((levels > 0.1) & (levels < 0.9)).mean()
    fault = None
    if (np.ptp(channels, axis=-1) > 0.1).any():  # lossy compression makes small differences
        fault = "its color channels differ; is this a mask? If so, save it as gray"
    elif gray_fraction > MAX_GRAY:
        fault = f"{gray_fraction:.0%} of its pixels are neither; is this a mask?"
    elif not known.any():
        fault = "it is all black: no pixel would be known; is it inverted?"
    elif known.all():
        fault = "it is all white: there is nothing to fill in; paint the missing pixels black"
    if fault:
        raise InputError(f"{path}: expected a mask, white = known and black = missing, but {fault}")
    notes = decoded.notes
    if alpha is not None:
        notes += ("alpha of the mask ignored",)
    if num_gray:
        notes += (f"{num_gray:,} gray pixels of the mask thresholded at one half",)
    return known.astype(np.float32), notes


def _require_finite(path: str | Path, values: np.ndarray) -> None:
    num_bad = np.count_nonzero(~np.isfinite(values))
    if num_bad:
        raise InputError(f"{path}: expected finite numbers, but {num_bad:,} are NaN or infinite")


def peek_shape(path: str | AnyPath, *, page: int | None = None) -> tuple[int, int, int] | None:
    """Reads the shape of an image from the header of its file, without decoding or checking it.

    Args:
      path: The file.
      page: The page or frame, from 0; None for the first image.

    Returns:
      `(height, width, channels)` of the upright image; None if the header cannot be read.
    """
    header = peek(to_path(path), page)
    return None if header is None else header.shape
