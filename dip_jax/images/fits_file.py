"""FITS files: images of astronomy, with their header. The library astropy is an optional dependency.

The order of the array is kept: the first row of the file is the first row of the image, although astronomers draw it at
the bottom.

References:
  Pence et al., Definition of the Flexible Image Transport System (FITS), version 3.0, A&A 524, A42, 2010.
  Greisen and Calabretta, Representations of world coordinates in FITS, A&A 395, 1061, 2002.
"""

import io
import re
from typing import Any, BinaryIO

import numpy as np

from dip_jax.errors import InputError
from dip_jax.images.array_file import arrange
from dip_jax.images.decoded import (
    Decoded,
    Header,
    Tags,
    band_notes,
    check_data,
    check_dtype,
    check_page,
    check_size,
)

MAGIC = b"SIMPLE  ="

# They describe the stored numbers, which change.
_OF_NUMBERS = ("BLANK", "BSCALE", "BZERO", "DATAMIN", "DATAMAX", "CHECKSUM", "DATASUM")
# World coordinates; the letter names one of several systems.
_REFERENCE = re.compile(r"CRPIX([12])[A-Z]?")
_PIXEL_SIZE = re.compile(r"(?:CDELT|CD\d+_)([12])[A-Z]?")
_DISTORTION = re.compile(r"(?:A|B|AP|BP)_(?:ORDER|DMAX|\d_\d)|(?:CPDIS|CPERR|DP|CQDIS|DQ|D2IM).*")
_COORDINATES = re.compile(
    r"(?:CRPIX|CRVAL|CDELT|CTYPE|CUNIT|CROTA)\d+[A-Z]?|(?:CD|PC|PV|PS)\d+_\d+[A-Z]?|"
    r"WCSAXES[A-Z]?|WCSNAME[A-Z]?|LONPOLE[A-Z]?|LATPOLE[A-Z]?"
)


def peek_fits(file: BinaryIO, page: int | None) -> Header:
    """Reads the header of a file; the errors are those of astropy."""
    with _astropy_fits().open(file, memmap=False) as units:
        images = _images(units)
        axes = _long_axes(images[page or 0].shape)
        return Header((axes[-2], axes[-1], axes[0] if len(axes) == 3 else 1), len(images))


def decode_fits(file: BinaryIO, max_pixels: int, page: int | None) -> Decoded:
    """Decodes an image of a file, by default the first; the arguments and errors are those of `decode.decode`."""
    with _astropy_fits().open(file, memmap=False) as units:
        images = _images(units)
        if not images:
            shapes = ", ".join(str(unit.shape) for unit in units if unit.is_image and unit.shape)
            raise InputError(
                f"expected an image of 2 axes, or of 3 with the bands first, got {shapes or 'no image'}; save one "
                "image by itself"
            )
        unit = images[check_page(page, len(images))]
        shape, stored_bits = unit.shape, unit.header["BITPIX"]
        axes = _long_axes(shape)
        check_size(axes[-1], axes[-2], max_pixels)
        if not _is_compressed(unit):  # otherwise the decoder checks it
            num_bytes = file.seek(0, io.SEEK_END) - unit.fileinfo()["datLoc"]
            check_data(num_bytes, shape, abs(stored_bits) // 8)
        values = np.asarray(unit.data)
        header = unit.header.copy(strip=True)
    check_dtype(values.dtype)
    notes: tuple[str, ...] = ()
    if stored_bits > 0 and values.dtype.kind == "f":
        kind = values.dtype.newbyteorder("=")
        notes += (f"integers with a scale or with blank values; read and written as {kind}",)
    values = values.reshape(axes)
    values = np.moveaxis(values, 0, -1) if len(axes) == 3 else values[..., np.newaxis]
    values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    if values.shape[-1] != 3:
        notes += band_notes(values.shape[-1])
    for keyword in _OF_NUMBERS:
        header.remove(keyword, ignore_missing=True, remove_all=True)
    names = iter("CHW"[-len(axes) :])
    layout = "".join("1" if length == 1 else next(names) for length in shape)
    tags = Tags(fits_header=header.tostring(sep="", padding=False), layout=layout)
    return Decoded(values, ".fits", num_pages=len(images), tags=tags, notes=notes)


def encode_fits(values: np.ndarray, layout: str, header: str | None) -> bytes:
    """Returns the content of a FITS file with one image.

    Args:
      values: `[H, W, C]`.
      layout: The axes of the array in the file; see `Tags.layout`.
      header: The cards of the header; see `Tags.fits_header`.
    """
    fits = _astropy_fits()
    cards = fits.Header.fromstring(header or "")
    buffer = io.BytesIO()
    unit = fits.PrimaryHDU(arrange(values, layout), header=cards)
    # Many archives have cards that break the standard; a run must not fail at its end.
    unit.writeto(buffer, output_verify="silentfix+ignore")
    return buffer.getvalue()


def scale_header(header: str, scale: tuple[float, float]) -> tuple[str, tuple[str, ...]]:
    """Adapts the world coordinates of a header to an image of another size.

    Args:
      header: The cards of the header.
      scale: New pixels per old pixel, horizontal and vertical.

    Returns:
      The new header, and notes for the user.
    """
    cards = _astropy_fits().Header.fromstring(header)
    if scale[0] != scale[1]:
        removed = _remove(cards, _COORDINATES) + _remove(cards, _DISTORTION)
        reason = "do not fit the new shape and are left out of the header"
        notes = (f"the world coordinates {reason}",) if removed else ()
        return cards.tostring(sep="", padding=False), notes
    removed = _remove(cards, _DISTORTION)
    for keyword in set(cards):
        if match := _REFERENCE.fullmatch(keyword):
            # The center of the first pixel is 1, so its border is 0.5.
            cards[keyword] = (cards[keyword] - 0.5) * scale[int(match[1]) - 1] + 0.5
        elif match := _PIXEL_SIZE.fullmatch(keyword):
            cards[keyword] = cards[keyword] / scale[int(match[1]) - 1]
        elif removed and keyword.startswith("CTYPE"):
            cards[keyword] = cards[keyword].removesuffix("-SIP")
    notes = ("the distortion terms of the world coordinates are left out",) if removed else ()
    return cards.tostring(sep="", padding=False), notes


def _remove(cards: Any, pattern: re.Pattern) -> int:
    """Removes the cards whose keyword matches; returns their number."""
    found = {keyword for keyword in cards if pattern.fullmatch(keyword)}
    for keyword in found:
        cards.remove(keyword, remove_all=True)
    return len(found)


def _images(units: Any) -> list[Any]:
    """The header-data units with an image of 2 or 3 axes that are longer than 1."""
    return [unit for unit in units if unit.is_image and len(_long_axes(unit.shape)) in (2, 3)]


def _long_axes(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(length for length in shape if length != 1)


def _is_compressed(unit: Any) -> bool:
    return isinstance(unit, _astropy_fits().CompImageHDU)


def _astropy_fits() -> Any:
    try:
        from astropy.io import fits
    except ModuleNotFoundError:
        raise InputError(
            "expected an image of another format, got FITS, which needs the library astropy; install it with "
            "`pip install astropy`"
        ) from None
    return fits
