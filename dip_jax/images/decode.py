"""From an image file of any kind to its stored values: PNG, JPEG, TIFF, WebP and BMP."""

import threading
from pathlib import Path
from typing import BinaryIO, NamedTuple

import imagecodecs
import numpy as np
import tifffile
from PIL import ExifTags, Image, UnidentifiedImageError

from dip_jax.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")


TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF


PNG_HEADER_END = 33  # signature, then the IHDR chunk; the PNG standard puts it first


_PNG_BIT_DEPTH = 24  # where that chunk holds the bits per sample


_pillow_limit_lock = threading.Lock()


class Decoded(NamedTuple):
    """What a file holds, whatever its form."""

    values: np.ndarray  # [H, W, 1..4], uint8, uint16 or float32
    orientation: int  # as Exif numbers them; 1 is upright
    num_pages: int
    suffix: str
    icc_profile: bytes | None
    notes: tuple[str, ...]


def decode(path: Path, max_pixels: int) -> Decoded:
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
        read = _read_tiff if file.read(4) in TIFF_MAGIC else _read_with_pillow
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


def open_with_pillow(file: BinaryIO) -> Image.Image:
    with _pillow_limit_lock:  # `max_pixels` replaces Pillow's own limit, which is a global
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=("PNG", "JPEG", "WEBP", "BMP"))
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _read_with_pillow(file: BinaryIO, max_pixels: int) -> Decoded:
    header = file.read(PNG_HEADER_END)
    image = open_with_pillow(file)
    _check_size(*image.size, max_pixels)
    notes: tuple[str, ...] = ()
    mode = {"1": "L", "I;16": "L", "P": "RGB", "PA": "RGBA"}.get(image.mode, image.mode)
    if image.has_transparency_data:
        mode = {"L": "LA", "RGB": "RGBA"}.get(mode, mode)
    if mode not in ("L", "LA", "RGB", "RGBA"):
        raise _unknown_colors(image.mode)
    if image.mode == "1":
        notes += ("1-bit values widened to 8 bits",)
    if image.mode in ("P", "PA"):
        notes += (f"palette expanded to {mode}",)
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    num_pages = getattr(image, "n_frames", 1)
    if image.format == "PNG" and header[_PNG_BIT_DEPTH] == 16:
        # Pillow, and what rests on it, cuts 16-bit color down to 8 bits without a word.
        file.seek(0)
        values = imagecodecs.png_decode(file.read())
    else:
        values = np.asarray(image.convert(mode))
    values = values.reshape(*values.shape[:2], -1)
    suffix = ".bmp" if image.format == "BMP" else ".png"
    icc_profile = image.info.get("icc_profile")
    return Decoded(values, orientation, num_pages, suffix, icc_profile, notes)


def _read_tiff(file: BinaryIO, max_pixels: int) -> Decoded:
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
        palette = (np.asarray(page.colormap) >> 8).astype(np.uint8)  # [3, colors]
        values = np.moveaxis(palette[:, values[..., 0].astype(int)], 0, -1)
        notes += ("palette expanded to RGB",)
    elif values.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
            values = values.astype(np.float32)
        bad = np.count_nonzero(~np.isfinite(split_alpha(values)[0]))
        if bad:
            fault = f"{bad:,} are NaN or infinite; replace them first"
            raise InputError(f"expected finite float32 values, {fault}")
        if bits != 32:
            notes += (f"{bits}-bit floats are written as 32-bit floats",)
    else:
        dtype = np.dtype(np.uint8 if bits <= 8 else np.uint16)
        if bits != 8 * dtype.itemsize:
            values = np.rint(values * (full_scale(dtype) / (2**bits - 1)))
            notes += (f"{bits}-bit values widened to {8 * dtype.itemsize} bits",)
        values = values.astype(dtype)
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        colors, _ = split_alpha(values)
        colors[...] = full_scale(values.dtype) - colors
        notes += ("0 is white in the file; written with 0 as black",)
    orientation = page.tags.valueof("Orientation", 1)
    icc_profile = page.tags.valueof("InterColorProfile")
    return Decoded(values, orientation, num_pages, ".tif", icc_profile, notes)


def _check_tiff(page: tifffile.TiffPage) -> None:
    """Refuse, before decoding, what is no plain gray or RGB picture."""
    kinds = tifffile.PHOTOMETRIC
    known = page.photometric in (kinds.MINISBLACK, kinds.MINISWHITE, kinds.RGB)
    known |= page.photometric == kinds.PALETTE and page.samplesperpixel == 1
    # The decoder of JPEG data makes RGB of it; in any other case YCbCr would come out.
    known |= page.photometric == kinds.YCBCR and page.compression == tifffile.COMPRESSION.JPEG
    if not known:
        raise _unknown_colors(getattr(page.photometric, "name", str(page.photometric)))
    if page.samplesperpixel > 4 or page.imagedepth > 1:
        raise _unknown_colors(f"{page.samplesperpixel} channels, {page.imagedepth} deep")
    if tifffile.EXTRASAMPLE.ASSOCALPHA in page.extrasamples:
        fault = "colors multiplied by alpha came; save it with unassociated alpha, or without"
        raise InputError(f"expected straight alpha, {fault}")
    dtype = np.dtype(page.dtype or object)
    if dtype.kind not in "buf" or (dtype.kind == "u" and dtype.itemsize > 2):
        fault = f"it holds {page.dtype}; convert it to uint16 or float32 first"
        raise InputError(f"expected unsigned integers of up to 16 bits, or floats, {fault}")


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        fault = f"it has {width * height:,}; reduce it, or raise the limit with --max_pixels"
        raise InputError(f"expected at most {max_pixels:,} pixels, {fault}")


def _unknown_colors(came: str) -> InputError:
    expected = "expected gray or RGB, with or without alpha"
    return InputError(f"{expected}, it has {came}; convert it to RGB first")


def split_alpha(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return views of the colors `[H, W, 1 or 3]` and, of an even number of channels, alpha."""
    if values.shape[-1] % 2:
        return values, None
    return values[..., :-1], values[..., -1]


def full_scale(dtype: np.dtype) -> float:
    return float(np.iinfo(dtype).max) if dtype.kind == "u" else 1.0
