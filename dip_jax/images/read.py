"""Pictures on disk: how they come in; `writing` has how they go out.

`read_image` and `read_mask` read PNG, JPEG, TIFF, WebP and BMP; `list_images` finds files.

The one convention to know: everywhere else a picture is float32 `[H, W, C]` in [0, 1], upright,
with one or three channels. Depth, range, alpha and color profile live only here, in `StoredImage`.
"""

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from PIL import ExifTags

from dip_jax.errors import InputError
from dip_jax.images.decode import (
    SUFFIXES,
    TIFF_MAGIC,
    decode,
    full_scale,
    open_with_pillow,
    split_alpha,
)

MIN_SIDE = 33  # the network halves a picture five times
MAX_PIXELS = 100_000_000
MAX_GRAY = 0.05  # a mask with a larger share of pixels between black and white is none


class StoredImage(NamedTuple):
    """A picture, and how to store another one in the same way; `StoredImage(pixels)` is an 8-bit PNG.

    Attributes:
        pixels: float32 `[H, W, C]` in [0, 1], C in {1, 3}, upright.
        alpha: `[H, W]` in `dtype`, carried over untouched; None if the file has none.
        dtype: uint8, uint16 or float32: what is stored.
        low: The stored value that became 0.
        high: The stored value that became 1.
        suffix: `.png`, `.tif` or `.bmp`: the form to write in. JPEG and WebP files give `.png`,
            because compressing a restored picture would damage it again.
        icc_profile: The color profile, written where the form can hold one.
        notes: Plain sentences the user should be told.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    dtype: np.dtype = np.dtype(np.uint8)
    low: float = 0.0
    high: float = 255.0
    suffix: str = ".png"
    icc_profile: bytes | None = None
    notes: tuple[str, ...] = ()


def read_image(
    path: str | Path, *, max_pixels: int = MAX_PIXELS, min_side: int = MIN_SIDE
) -> StoredImage:
    """Read a picture file without losing depth.

    Args:
        path: The file. Of an animation or a stack the first page is taken.
        max_pixels: A picture of more pixels is refused from its header, before it is decoded.
        min_side: One with fewer pixels in width or height is refused.

    Returns:
        The picture, turned upright, a palette expanded to colors.

    Raises:
        InputError: If the file is missing, damaged, too small, too large or of an unknown kind.
    """
    stored = decode(Path(path), max_pixels)
    colors, alpha = split_alpha(stored.values)
    height, width, _ = colors.shape
    if min(height, width) < min_side:
        raise InputError(
            f"{path}: expected at least {min_side} pixels in width and in height, it has "
            f"{width} x {height}; enlarge or pad it first"
        )
    notes = stored.notes
    low, high = 0.0, full_scale(colors.dtype)
    if colors.min() < low or colors.max() > high:  # only floats can be
        low, high = float(colors.min()), float(colors.max())
        notes += (f"values span [{low:g}, {high:g}]; mapped to [0, 1] and back on writing",)
    pixels = ((colors - np.float64(low)) / (high - low or 1.0)).astype(np.float32)
    # Few programs see alpha in a BMP file.
    suffix = ".png" if stored.suffix == ".bmp" and alpha is not None else stored.suffix
    return StoredImage(pixels, alpha, colors.dtype, low, high, suffix, stored.icc_profile, notes)


def read_values(
    path: str | Path, *, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read the stored colors of a file of any size, `[H, W, C]`, without alpha, and notes."""
    stored = decode(Path(path), max_pixels)
    return split_alpha(stored.values)[0], stored.notes


def read_mask(
    path: str | Path, shape: tuple[int, int], *, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read which pixels of a picture are known.

    Args:
        path: The file: white is known, black is missing.
        shape: `(H, W)` of the picture it belongs to.
        max_pixels: As in `read_image`.

    Returns:
        float32 `[H, W]`, 1 where known and 0 where missing, and notes for the user.

    Raises:
        InputError: If the file cannot be read, has another size, or is no mask.
    """
    stored = decode(Path(path), max_pixels)
    colors, alpha = split_alpha(stored.values)
    if colors.shape[:2] != tuple(shape):
        raise InputError(
            f"{path}: expected a mask of the picture's size, {shape[1]} x {shape[0]} (width x "
            f"height), it has {colors.shape[1]} x {colors.shape[0]}; draw it on the picture"
        )
    # White is the file's own maximum, so that masks of 0 and 1 work like those of 0 and 255.
    white = float(colors.max())
    channels = colors / white if white > 0 else np.zeros(colors.shape)
    levels = channels.mean(axis=-1)
    known = levels >= 0.5
    gray = np.count_nonzero((levels > 0) & (levels < 1))
    fraction = ((levels > 0.1) & (levels < 0.9)).mean()
    fault = None
    if (np.ptp(channels, axis=-1) > 0.1).any():  # lossy compression may set them a little apart
        fault = "its color channels differ; is this a mask? If so, save it as gray"
    elif fraction > MAX_GRAY:
        fault = f"{fraction:.0%} of its pixels are neither; is this a mask?"
    elif not known.any():
        fault = "it is all black: nothing would be known; is it the wrong way round?"
    elif known.all():
        fault = "it is all white: there is nothing to fill in; paint what is missing black"
    if fault:
        raise InputError(f"{path}: expected a mask, white = known and black = missing, but {fault}")
    notes = stored.notes
    if alpha is not None:
        notes += ("alpha of the mask ignored",)
    if gray:
        notes += (f"{gray:,} gray pixels of the mask thresholded at one half",)
    return known.astype(np.float32), notes


def peek_shape(path: str | Path) -> tuple[int, int, int] | None:
    """Height, width and channels `[H, W, C]` of a picture as its header says, None if it says nothing.

    Nothing is decoded and nothing checked; `read_image` has the last word.
    """
    try:
        with Path(path).open("rb") as file:
            is_tiff = file.read(4) in TIFF_MAGIC
            file.seek(0)
            if is_tiff:
                with tifffile.TiffFile(file) as tiff:
                    page = tiff.pages.first
                    width, height = page.imagewidth, page.imagelength
                    is_palette = page.photometric == tifffile.PHOTOMETRIC.PALETTE
                    channels = 3 if page.samplesperpixel > 2 or is_palette else 1
                    tag = page.tags.get("Orientation")
                    orientation = tag.value if tag else 1
            else:
                image = open_with_pillow(file)
                width, height = image.size
                channels = 1 if image.mode in ("1", "L", "LA", "I;16") else 3
                orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return None
    return (width, height, channels) if orientation in (5, 6, 7, 8) else (height, width, channels)


def list_images(paths: Sequence[str | Path], *, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """Find the picture files that paths stand for.

    Args:
        paths: Files, globs or folders. A folder stands for the pictures directly in it.
        suffixes: What counts as a picture in a folder or a glob.

    Returns:
        The files in the order of `paths`, those of a glob or a folder sorted, none twice.

    Raises:
        InputError: If a path stands for no picture.
    """
    found: dict[str, Path] = {}
    for path in map(Path, paths):
        matches = [path]
        if not path.is_file():  # asked first, as a file's name may look like a pattern
            pattern = f"{glob.escape(str(path))}/*" if path.is_dir() else str(path)
            names = map(Path, sorted(glob.glob(pattern, recursive=True)))
            matches = [name for name in names if name.suffix.lower() in suffixes and name.is_file()]
        if not matches:
            raise InputError(
                f"{path}: expected a picture, a folder or a pattern, but no picture matches "
                f"({', '.join(suffixes)}); check the path"
            )
        for match in matches:
            found.setdefault(os.path.abspath(match), match)
    return list(found.values())
