"""Decoding: an image file becomes an upright array of its stored values, at full depth.

Pillow decodes PNG, JPEG, WebP and BMP files, tifffile decodes TIFF files, and imagecodecs decodes
16-bit PNG files, which Pillow would reduce to 8 bits.
"""

import threading
from pathlib import Path
from typing import BinaryIO, NamedTuple

import imagecodecs
import numpy as np
import tifffile
from PIL import ExifTags, Image, UnidentifiedImageError

from dip_jax.errors import InputError
from dip_jax.images.value_range import full_scale

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
PNG_HEADER_END = 33  # the signature and the IHDR chunk, which the PNG standard puts first

_GDAL_NODATA = 42113  # the TIFF tag
_PNG_BIT_DEPTH = 24  # offset of the bits per sample in the IHDR chunk
_pillow_limit_lock = threading.Lock()


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


class Decoded(NamedTuple):
    """The content of an image file."""

    values: np.ndarray
    """Stored values `[H, W, channels]`; integers or floats of any size."""
    orientation: int
    """Exif orientation of `values`; 1 is upright."""
    num_pages: int
    """Number of pages or frames in the file; `values` is the first."""
    suffix: str
    """`.png`, `.tif` or `.bmp`: the format in which to write a similar image."""
    tags: Tags
    """Further information of the file."""
    notes: tuple[str, ...]
    """Sentences for the user about conversions."""
    has_alpha: bool
    """Whether the last channel is alpha."""
    nodata: float | None = None
    """The stored value that means "no data", or None."""

    def split_alpha(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the colors `[H, W, C]` and alpha `[H, W]`, or None if there is none, without copying."""
        return split_alpha(self.values, self.has_alpha)


def decode(path: Path, max_pixels: int, page: int | None = None) -> Decoded:
    """Decodes an image file and turns the image upright.

    Args:
      path: The file.
      max_pixels: A larger image is refused from its header, before it is decoded.
      page: The page of a TIFF file; None for the first page or frame, with a note if there are others.

    Returns:
      The upright image, with a palette expanded to colors.

    Raises:
      InputError: If the file is missing, damaged, too large or of an unsupported kind.
    """
    kinds = ", ".join(SUFFIXES)
    try:
        file = path.open("rb")
    except OSError as error:
        fault = f"it cannot be opened ({error.strerror}); check the path"
        raise InputError(f"{path}: expected an image file, but {fault}") from None
    with file:
        if path.suffix.lower() not in SUFFIXES:
            fault = f"got {path.suffix or 'none'}; convert it to PNG or TIFF first"
            raise InputError(f"{path}: expected a name ending in one of {kinds}, {fault}")
        is_tiff = file.read(4) in TIFF_MAGIC
        file.seek(0)
        try:
            if is_tiff:
                decoded = _read_tiff(file, max_pixels, page or 0)
            else:
                decoded = _read_with_pillow(file, max_pixels)
        except MemoryError:
            raise
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except UnidentifiedImageError:
            file.seek(0)
            kind = _recognize(file.read(16))
            fault = (
                f"its content is {kind}" if kind else "its content is not an image, or is damaged"
            )
            raise InputError(
                f"{path}: expected an image ({kinds}), but {fault}; export it again from its source"
            ) from None
        except Exception as error:  # a decoder may raise anything on a damaged file
            fault = f"it cannot be decoded ({error}); it may be cut short: copy or export it again"
            raise InputError(f"{path}: expected an undamaged image, but {fault}") from None
    return _turn_upright(decoded if page is None else decoded._replace(num_pages=1))


def open_with_pillow(file: BinaryIO) -> Image.Image:
    """Opens a PNG, JPEG, WebP or BMP file of any size; the pixels are decoded later."""
    with _pillow_limit_lock:  # `max_pixels` replaces Pillow's limit, which is a global variable
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=("PNG", "JPEG", "WEBP", "BMP"))
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def split_alpha(values: np.ndarray, has_alpha: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Splits stored values into colors and alpha, without copying.

    Args:
      values: `[H, W, channels]`.
      has_alpha: Whether the last channel is alpha.

    Returns:
      The colors `[H, W, C]` and alpha `[H, W]`, or None if there is none.
    """
    return (values[..., :-1], values[..., -1]) if has_alpha else (values, None)


def _recognize(start: bytes) -> str | None:
    """The name of another kind of file by its first bytes; None if it is unknown."""
    if start[4:8] == b"ftyp":
        return "HEIC or AVIF" if start[8:12] in (b"heic", b"heix", b"mif1", b"avif") else "a video"
    kinds = {
        b"GIF8": "GIF",
        b"%PDF": "PDF",
        b"PK\x03\x04": "a ZIP archive",
        b"\x89HDF": "HDF5",
        b"SIMPLE  =": "FITS",
        b"8BPS": "a Photoshop document",
        b"\x93NUMPY": "an array of numpy",
        b"<": "a web page or XML",
    }
    return next((name for magic, name in kinds.items() if start.lstrip().startswith(magic)), None)


def _turn_upright(decoded: Decoded) -> Decoded:
    values, orientation, notes = decoded.values, decoded.orientation, decoded.notes
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in range(2, 9):
        notes += ("turned upright according to its orientation tag",)
    if decoded.num_pages > 1:
        notes += (f"first of {decoded.num_pages} pages taken",)
    return decoded._replace(values=np.ascontiguousarray(values), orientation=1, notes=notes)


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
        # Pillow silently reduces 16-bit color to 8 bits.
        file.seek(0)
        values = imagecodecs.png_decode(file.read())
    else:
        values = np.asarray(image.convert(mode))
    values = values.reshape(*values.shape[:2], -1)
    # JPEG and WebP would compress a restored image with losses again.
    suffix = ".bmp" if image.format == "BMP" else ".png"
    dpi = image.info.get("dpi")
    is_turned = orientation in (5, 6, 7, 8)
    tags = Tags(
        image.info.get("icc_profile"),
        None if dpi is None else _positive(*(dpi[::-1] if is_turned else dpi)),
        image.info.get("gamma"),
    )
    has_alpha = values.shape[-1] in (2, 4)
    return Decoded(values, orientation, num_pages, suffix, tags, notes, has_alpha)


def num_pages(path: Path) -> int:
    """Returns the number of pages of a TIFF file if all have the same shape and type; 1 for every other file."""
    try:
        with path.open("rb") as file:
            if file.read(4) not in TIFF_MAGIC:
                return 1
            file.seek(0)
            with tifffile.TiffFile(file) as tiff:
                pages = [page.aspage() for page in tiff.pages]
                kinds = {(page.shape, page.dtype, page.photometric) for page in pages}
                return len(pages) if len(kinds) == 1 else 1
    except Exception:  # `decode` reports the error
        return 1


def _read_tiff(file: BinaryIO, max_pixels: int, number: int) -> Decoded:
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages[number].aspage()
        num_pages = len(tiff.pages)
        _check_size(page.imagewidth, page.imagelength, max_pixels)
        _check_tiff(page)
        # Some decoders silently fill in the missing end of a file.
        ends = map(sum, zip(page.dataoffsets, page.databytecounts, strict=False))
        if max(ends) > tiff.filehandle.size:
            raise ValueError("the file ends before its data")
        planes = page.asarray(squeeze=False)[:, 0]  # [planes, H, W, samples of a plane]

    values = np.moveaxis(planes, 0, -2).reshape(page.imagelength, page.imagewidth, -1)
    bits = page.bitspersample
    notes: tuple[str, ...] = ()
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
        # A palette has 16 bits per color; by convention only the upper 8 are used.
        palette = (np.asarray(page.colormap) >> 8).astype(np.uint8)  # [3, colors]
        values = np.moveaxis(palette[:, values[..., 0].astype(int)], 0, -1)
        notes += ("palette expanded to RGB",)
    elif values.dtype.kind == "b" or (values.dtype.kind == "u" and bits < 8 * values.itemsize):
        dtype = np.dtype(np.uint8 if bits <= 8 else np.uint16)
        values = np.rint(values * (full_scale(dtype)[1] / (2**bits - 1))).astype(dtype)
        notes += (f"{bits}-bit values widened to {8 * dtype.itemsize} bits",)
    has_alpha = _has_alpha(page)
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        colors, _ = split_alpha(values, has_alpha)
        colors[...] = sum(full_scale(values.dtype)) - colors
        notes += ("0 is white in the file; written with 0 as black",)
    orientation = page.tags.valueof("Orientation", 1)
    nodata = _nodata(page)
    resolution, per_inch = _tiff_resolution(page, orientation)
    tags = Tags(
        page.tags.valueof("InterColorProfile"),
        dpi=resolution if per_inch else None,
        pixels_per_unit=None if per_inch else resolution,
        # The text of ImageJ and OME counts the pages, and one page is written.
        description=page.description or None if num_pages == 1 else None,
    )
    if len(page.extrasamples) - has_alpha > 0:
        notes += (f"{values.shape[-1] - has_alpha} bands, each mapped and restored as a channel",)
    return Decoded(values, orientation, num_pages, ".tif", tags, notes, has_alpha, nodata)


def _tiff_resolution(
    page: tifffile.TiffPage, orientation: int
) -> tuple[tuple[float, float] | None, bool]:
    """Pixels per inch or per another unit, horizontal and vertical, and whether the unit is the inch."""
    x, y = (page.tags.valueof(name) for name in ("XResolution", "YResolution"))
    factor = {2: 1.0, 3: 2.54}.get(page.tags.valueof("ResolutionUnit", 2))
    if not x or not y or not x[1] or not y[1]:
        return None, True
    values = tuple((factor or 1.0) * numerator / denominator for numerator, denominator in (x, y))
    turned = values[::-1] if orientation in (5, 6, 7, 8) else values
    return _positive(*turned), factor is not None


def _positive(x: float, y: float) -> tuple[float, float] | None:
    return (float(x), float(y)) if x > 0 and y > 0 else None


def _has_alpha(page: tifffile.TiffPage) -> bool:
    """Whether the file says that its last sample is alpha; samples of unknown meaning are bands."""
    extra = tuple(page.extrasamples)
    return bool(extra) and extra[-1] == tifffile.EXTRASAMPLE.UNASSALPHA


def _nodata(page: tifffile.TiffPage) -> float | None:
    """The value of the tag by which GDAL marks pixels without data."""
    try:
        return float(page.tags.valueof(_GDAL_NODATA))
    except (TypeError, ValueError):  # no tag, or no number
        return None


def _check_tiff(page: tifffile.TiffPage) -> None:
    """Refuses a page that is not a plain gray or RGB image, before it is decoded."""
    kinds = tifffile.PHOTOMETRIC
    known = page.photometric in (kinds.MINISBLACK, kinds.MINISWHITE, kinds.RGB)
    # A raw mosaic (CFA) is gray until it is demosaiced.
    known |= page.photometric in (kinds.PALETTE, kinds.CFA) and page.samplesperpixel == 1
    # Only the JPEG decoder converts YCbCr to RGB.
    known |= page.photometric == kinds.YCBCR and page.compression == tifffile.COMPRESSION.JPEG
    if not known:
        raise _unknown_colors(getattr(page.photometric, "name", str(page.photometric)))
    if page.imagedepth > 1:
        raise _unknown_colors(f"{page.imagedepth} planes deep")
    if tifffile.EXTRASAMPLE.ASSOCALPHA in page.extrasamples:
        fault = "got colors multiplied by alpha; save it with unassociated alpha, or without"
        raise InputError(f"expected straight alpha, {fault}")
    dtype = np.dtype(page.dtype or object)
    if dtype.kind not in "buif" or dtype.itemsize > (8 if dtype.kind == "f" else 4):
        fault = f"got {page.dtype}; convert it to uint16 or float32 first"
        raise InputError(f"expected integers of up to 32 bits, or floats of up to 64, {fault}")


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        fault = f"got {width * height:,}; reduce the image, or raise the limit with --max_pixels"
        raise InputError(f"expected at most {max_pixels:,} pixels, {fault}")


def _unknown_colors(kind: str) -> InputError:
    expected = "expected gray or RGB, with or without alpha"
    return InputError(f"{expected}, got {kind}; convert it to RGB first")
