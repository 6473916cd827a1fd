"""Pictures on disk: how they come in; `writing` has how they go out.

`read_picture` and `read_mask` read PNG, JPEG, TIFF, WebP and BMP; `list_pictures` finds files.

The one convention to know: everywhere else a picture is float32 `[H, W, C]` in [0, 1], upright,
with one or three channels. Depth, range, alpha and colour profile live only here, in `Picture`.
"""

import glob
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import imagecodecs
import numpy as np
import tifffile
from PIL import ExifTags, Image, UnidentifiedImageError

from dip_jax.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
MIN_SIDE = 33  # the network halves a picture five times
MAX_PIXELS = 100_000_000
MAX_GREY = 0.05  # a mask with a larger share of pixels between black and white is none

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
PNG_HEADER_END = 33  # signature, then the IHDR chunk; the PNG standard puts it first
_PNG_BIT_DEPTH = 24  # where that chunk holds the bits per sample
_pillow_limit_lock = threading.Lock()


class Picture(NamedTuple):
    """A picture, and how to store another one in the same way; `Picture(pixels)` is an 8-bit PNG.

    Attributes:
        pixels: float32 `[H, W, C]` in [0, 1], C in {1, 3}, upright.
        alpha: `[H, W]` in `dtype`, carried over untouched; None if the file has none.
        dtype: uint8, uint16 or float32: what is stored.
        low: The stored value that became 0.
        high: The stored value that became 1.
        suffix: `.png`, `.tif` or `.bmp`: the form to write in. JPEG and WebP files give `.png`,
            because compressing a restored picture would damage it again.
        icc_profile: The colour profile, written where the form can hold one.
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


def read_picture(
    path: str | Path, *, max_pixels: int = MAX_PIXELS, min_side: int = MIN_SIDE
) -> Picture:
    """Read a picture file without losing depth.

    Args:
        path: The file. Of an animation or a stack the first page is taken.
        max_pixels: A picture of more pixels is refused from its header, before it is decoded.
        min_side: One with fewer pixels in width or height is refused.

    Returns:
        The picture, turned upright, a palette expanded to colours.

    Raises:
        InputError: If the file is missing, damaged, too small, too large or of an unknown kind.
    """
    stored = _read(Path(path), max_pixels)
    colours, alpha = _split_alpha(stored.values)
    height, width, _ = colours.shape
    if min(height, width) < min_side:
        raise InputError(
            f"{path}: expected at least {min_side} pixels in width and in height, it has "
            f"{width} x {height}; enlarge or pad it first"
        )
    notes = stored.notes
    low, high = 0.0, _full_scale(colours.dtype)
    if colours.min() < low or colours.max() > high:  # only floats can be
        low, high = float(colours.min()), float(colours.max())
        notes += (f"values span [{low:g}, {high:g}]; mapped to [0, 1] and back on writing",)
    pixels = ((colours - np.float64(low)) / (high - low or 1.0)).astype(np.float32)
    # Few programs see alpha in a BMP file.
    suffix = ".png" if stored.suffix == ".bmp" and alpha is not None else stored.suffix
    return Picture(pixels, alpha, colours.dtype, low, high, suffix, stored.icc_profile, notes)


def read_values(
    path: str | Path, *, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read the stored colours of a file of any size, `[H, W, C]`, without alpha, and notes."""
    stored = _read(Path(path), max_pixels)
    return _split_alpha(stored.values)[0], stored.notes


def read_mask(
    path: str | Path, shape: tuple[int, int], *, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read which pixels of a picture are known.

    Args:
        path: The file: white is known, black is missing.
        shape: `(H, W)` of the picture it belongs to.
        max_pixels: As in `read_picture`.

    Returns:
        float32 `[H, W]`, 1 where known and 0 where missing, and notes for the user.

    Raises:
        InputError: If the file cannot be read, has another size, or is no mask.
    """
    stored = _read(Path(path), max_pixels)
    colours, alpha = _split_alpha(stored.values)
    if colours.shape[:2] != tuple(shape):
        raise InputError(
            f"{path}: expected a mask of the picture's size, {shape[1]} x {shape[0]} (width x "
            f"height), it has {colours.shape[1]} x {colours.shape[0]}; draw it on the picture"
        )
    # White is the file's own maximum, so that masks of 0 and 1 work like those of 0 and 255.
    white = float(colours.max())
    channels = colours / white if white > 0 else np.zeros(colours.shape)
    levels = channels.mean(axis=-1)
    known = levels >= 0.5
    grey = np.count_nonzero((levels > 0) & (levels < 1))
    share = ((levels > 0.1) & (levels < 0.9)).mean()
    fault = None
    if (np.ptp(channels, axis=-1) > 0.1).any():  # lossy compression may set them a little apart
        fault = "its colour channels differ; is this a mask? If so, save it as grey"
    elif share > MAX_GREY:
        fault = f"{share:.0%} of its pixels are neither; is this a mask?"
    elif not known.any():
        fault = "it is all black: nothing would be known; is it the wrong way round?"
    elif known.all():
        fault = "it is all white: there is nothing to fill in; paint what is missing black"
    if fault:
        raise InputError(f"{path}: expected a mask, white = known and black = missing, but {fault}")
    notes = stored.notes
    if alpha is not None:
        notes += ("alpha of the mask ignored",)
    if grey:
        notes += (f"{grey:,} grey pixels of the mask thresholded at one half",)
    return known.astype(np.float32), notes


def peek_shape(path: str | Path) -> tuple[int, int, int] | None:
    """Height, width and channels `[H, W, C]` of a picture as its header says, None if it says nothing.

    Nothing is decoded and nothing checked; `read_picture` has the last word.
    """
    try:
        with Path(path).open("rb") as file:
            is_tiff = file.read(4) in _TIFF_MAGIC
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
                image = _open_with_pillow(file)
                width, height = image.size
                channels = 1 if image.mode in ("1", "L", "LA", "I;16") else 3
                orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return None
    return (width, height, channels) if orientation in (5, 6, 7, 8) else (height, width, channels)


def list_pictures(
    paths: Sequence[str | Path], *, suffixes: tuple[str, ...] = SUFFIXES
) -> list[Path]:
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


class _Stored(NamedTuple):
    """What a file holds, whatever its form."""

    values: np.ndarray  # [H, W, 1..4], uint8, uint16 or float32
    orientation: int  # as Exif numbers them; 1 is upright
    num_pages: int
    suffix: str
    icc_profile: bytes | None
    notes: tuple[str, ...]


def _read(path: Path, max_pixels: int) -> _Stored:
    """Read a file of any form, and turn it upright."""
    kinds = ", ".join(SUFFIXES)
    try:
        file = path.open("rb")
    except OSError as error:
        fault = f"it cannot be opened ({error.strerror}); check the path"
        raise InputError(f"{path}: expected a picture file, {fault}") from None
    with file:
        if path.suffix.lower() not in SUFFIXES:
            fault = f"it ends in {path.suffix or 'none'}; convert it to PNG or TIFF first"
            raise InputError(f"{path}: expected a name ending in one of {kinds}, {fault}")
        read = _read_tiff if file.read(4) in _TIFF_MAGIC else _read_with_pillow
        file.seek(0)
        try:
            stored = read(file, max_pixels)
        except MemoryError:
            raise
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except UnidentifiedImageError:
            fault = "its content is none, or damaged; export it again from its source"
            raise InputError(f"{path}: expected a picture ({kinds}), {fault}") from None
        except Exception as error:  # given a damaged file, a decoder may raise anything
            fault = f"it cannot be decoded ({error}); it may be cut short: copy or export it again"
            raise InputError(f"{path}: expected an undamaged picture, {fault}") from None

    values, orientation, notes = stored.values, stored.orientation, stored.notes
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in range(2, 9):
        notes += ("turned upright as its orientation tag says",)
    if stored.num_pages > 1:
        notes += (f"first of {stored.num_pages} pages taken",)
    return stored._replace(values=np.ascontiguousarray(values), orientation=1, notes=notes)


def _open_with_pillow(file: BinaryIO) -> Image.Image:
    with _pillow_limit_lock:  # `max_pixels` replaces Pillow's own limit, which is a global
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=("PNG", "JPEG", "WEBP", "BMP"))
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _read_with_pillow(file: BinaryIO, max_pixels: int) -> _Stored:
    header = file.read(PNG_HEADER_END)
    image = _open_with_pillow(file)
    _check_size(*image.size, max_pixels)
    notes: tuple[str, ...] = ()
    mode = {"1": "L", "I;16": "L", "P": "RGB", "PA": "RGBA"}.get(image.mode, image.mode)
    if image.has_transparency_data:
        mode = {"L": "LA", "RGB": "RGBA"}.get(mode, mode)
    if mode not in ("L", "LA", "RGB", "RGBA"):
        raise _unknown_colours(image.mode)
    if image.mode == "1":
        notes += ("1-bit values widened to 8 bits",)
    if image.mode in ("P", "PA"):
        notes += (f"palette expanded to {mode}",)
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    num_pages = getattr(image, "n_frames", 1)
    if image.format == "PNG" and header[_PNG_BIT_DEPTH] == 16:
        # Pillow, and what rests on it, cuts 16-bit colour down to 8 bits without a word.
        file.seek(0)
        values = imagecodecs.png_decode(file.read())
    else:
        values = np.asarray(image.convert(mode))
    values = values.reshape(*values.shape[:2], -1)
    suffix = ".bmp" if image.format == "BMP" else ".png"
    icc_profile = image.info.get("icc_profile")
    return _Stored(values, orientation, num_pages, suffix, icc_profile, notes)


def _read_tiff(file: BinaryIO, max_pixels: int) -> _Stored:
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages.first
        num_pages = len(tiff.pages)
        _check_size(page.imagewidth, page.imagelength, max_pixels)
        _check_tiff(page)
        # Some decoders fill in what a short file lacks, so look before they do.
        ends = map(sum, zip(page.dataoffsets, page.databytecounts, strict=False))
        if max(ends) > tiff.filehandle.size:
            raise ValueError("the file ends before its data")
        planes = page.asarray(squeeze=False)[:, 0]  # [planes, H, W, samples of a plane]

    values = np.moveaxis(planes, 0, -2).reshape(page.imagelength, page.imagewidth, -1)
    bits = page.bitspersample
    notes: tuple[str, ...] = ()
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
        # The palette has 16 bits, of which by custom the upper 8 count.
        palette = (np.asarray(page.colormap) >> 8).astype(np.uint8)  # [3, colours]
        values = np.moveaxis(palette[:, values[..., 0].astype(int)], 0, -1)
        notes += ("palette expanded to RGB",)
    elif values.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            values = values.astype(np.float32)
        bad = np.count_nonzero(~np.isfinite(_split_alpha(values)[0]))
        if bad:
            fault = f"{bad:,} are NaN or infinite; replace them first"
            raise InputError(f"expected finite float32 values, {fault}")
        if bits != 32:
            notes += (f"{bits}-bit floats are written as 32-bit floats",)
    else:
        dtype = np.dtype(np.uint8 if bits <= 8 else np.uint16)
        if bits != 8 * dtype.itemsize:
            values = np.rint(values * (_full_scale(dtype) / (2**bits - 1)))
            notes += (f"{bits}-bit values widened to {8 * dtype.itemsize} bits",)
        values = values.astype(dtype)
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        colours, _ = _split_alpha(values)
        colours[...] = _full_scale(values.dtype) - colours
        notes += ("0 is white in the file; written with 0 as black",)
    orientation = page.tags.valueof("Orientation", 1)
    icc_profile = page.tags.valueof("InterColorProfile")
    return _Stored(values, orientation, num_pages, ".tif", icc_profile, notes)


def _check_tiff(page: tifffile.TiffPage) -> None:
    """Refuse, before decoding, what is no plain grey or RGB picture."""
    kinds = tifffile.PHOTOMETRIC
    known = page.photometric in (kinds.MINISBLACK, kinds.MINISWHITE, kinds.RGB)
    known |= page.photometric == kinds.PALETTE and page.samplesperpixel == 1
    # The decoder of JPEG data makes RGB of it; in any other case YCbCr would come out.
    known |= page.photometric == kinds.YCBCR and page.compression == tifffile.COMPRESSION.JPEG
    if not known:
        raise _unknown_colours(getattr(page.photometric, "name", str(page.photometric)))
    if page.samplesperpixel > 4 or page.imagedepth > 1:
        raise _unknown_colours(f"{page.samplesperpixel} channels, {page.imagedepth} deep")
    if tifffile.EXTRASAMPLE.ASSOCALPHA in page.extrasamples:
        fault = "colours multiplied by alpha came; save it with unassociated alpha, or without"
        raise InputError(f"expected straight alpha, {fault}")
    dtype = np.dtype(page.dtype or object)
    if dtype.kind not in "buf" or (dtype.kind == "u" and dtype.itemsize > 2):
        fault = f"it holds {page.dtype}; convert it to uint16 or float32 first"
        raise InputError(f"expected unsigned integers of up to 16 bits, or floats, {fault}")


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        fault = f"it has {width * height:,}; reduce it, or raise the limit with --max_pixels"
        raise InputError(f"expected at most {max_pixels:,} pixels, {fault}")


def _unknown_colours(came: str) -> InputError:
    expected = "expected grey or RGB, with or without alpha"
    return InputError(f"{expected}, it has {came}; convert it to RGB first")


def _split_alpha(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return views of the colours `[H, W, 1 or 3]` and, of an even number of channels, alpha."""
    if values.shape[-1] % 2:
        return values, None
    return values[..., :-1], values[..., -1]


def _full_scale(dtype: np.dtype) -> float:
    return float(np.iinfo(dtype).max) if dtype.kind == "u" else 1.0
