"""Decoding: an image file becomes an upright array of its stored values, at full depth.

The content of a file decides which decoder reads it, not its name.
"""

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import UnidentifiedImageError

from dip_jax.errors import InputError
from dip_jax.images import array_file, decode_heif, decode_pillow, decode_tiff, fits_file
from dip_jax.images.decoded import Decoded, Header
from dip_jax.images.open_pillow import is_avif
from dip_jax.storage.paths import AnyPath

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".avif", ".heic", ".heif"),
    *(".fits", ".fit", ".fts", *array_file.SUFFIXES),
)
"""Suffixes of the files that are read as images."""


class _Decoder(NamedTuple):
    """The functions that read a kind of file; they get it at its start."""

    decode: Callable[[BinaryIO, int, int | None], Decoded]
    peek: Callable[[BinaryIO, int | None], Header]


_PILLOW = _Decoder(decode_pillow.decode_pillow, decode_pillow.peek_pillow)
_TIFF = _Decoder(decode_tiff.decode_tiff, decode_tiff.peek_tiff)
_HEIF = _Decoder(decode_heif.decode_heif, decode_heif.peek_heif)
_FITS = _Decoder(fits_file.decode_fits, fits_file.peek_fits)
_ARRAY = _Decoder(array_file.decode_array, array_file.peek_array)


def decode(path: Path, max_pixels: int, page: int | None = None) -> Decoded:
    """Decodes an image file and turns the image upright.

    Args:
      path: The file.
      max_pixels: A larger image is refused from its header, before it is decoded.
      page: The page or frame, from 0; None for the first image, with a note if there are others.

    Returns:
      The upright image, with a palette expanded to colors.

    Raises:
      InputError: If the file is missing, damaged, too large or of an unsupported kind, or has no such page.
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
        start = _read_start(file)
        try:
            decoded = _choose_decoder(start, path).decode(file, max_pixels, page)
        except MemoryError:
            raise
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except UnidentifiedImageError:
            kind = _recognize(start)
            fault = (
                f"its content is {kind}" if kind else "its content is not an image, or is damaged"
            )
            raise InputError(
                f"{path}: expected an image ({kinds}), but {fault}; export it again from its source"
            ) from None
        except Exception as error:  # a decoder may raise anything on a damaged file
            reason = " ".join(str(error).split())  # some libraries write several lines
            fault = f"it cannot be decoded ({reason}); it may be cut short: copy or export it again"
            raise InputError(f"{path}: expected an undamaged image, but {fault}") from None
    return _turn_upright(decoded if page is None else decoded._replace(num_pages=1))


def peek(path: AnyPath, page: int | None = None) -> Header | None:
    """Reads the header of an image file, without decoding or checking it; None if it cannot be read.

    Args:
      path: The file.
      page: As in `decode`.
    """
    try:
        with path.open("rb") as file:
            return _choose_decoder(_read_start(file), path).peek(file, page)
    except Exception:  # `decode` reports the error
        return None


def stack_pages(path: AnyPath) -> tuple[int, ...]:
    """Returns the pages of a TIFF file that are restored one by one, because they have the same shape and type.

    Previews and smaller copies do not count. A file of other pages or of another kind has the single page 0.
    """
    try:
        with path.open("rb") as file:
            if _read_start(file).startswith(decode_tiff.MAGIC):
                return decode_tiff.stack_pages(file)
    except Exception:  # `decode` reports the error
        pass
    return (0,)


def _read_start(file: BinaryIO) -> bytes:
    """The first bytes of a file, which is rewound."""
    start = file.read(32)
    file.seek(0)
    return start


def _choose_decoder(start: bytes, path: AnyPath) -> _Decoder:
    if start.startswith(decode_tiff.MAGIC):
        return _TIFF
    if start.startswith(fits_file.MAGIC):
        return _FITS
    is_npz = start.startswith(array_file.ZIP_MAGIC) and path.suffix.lower() == ".npz"
    if start.startswith(array_file.MAGIC) or is_npz:
        return _ARRAY
    if decode_heif.is_heif(start) and not is_avif(start):
        return _HEIF
    return _PILLOW  # which also recognizes a file of no kind


def _recognize(start: bytes) -> str | None:
    """The name of another kind of file by its first bytes; None if it is unknown."""
    if start[4:8] == b"ftyp":
        return "a video"
    kinds = {
        b"GIF8": "GIF",
        b"%PDF": "PDF",
        b"PK\x03\x04": "a ZIP archive",
        b"\x89HDF": "HDF5",
        b"8BPS": "a Photoshop document",
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
