"""HEIC and HEIF files, decoded by pillow-heif, which is an optional dependency."""

from typing import Any, BinaryIO

import numpy as np

from dip_jax.errors import InputError
from dip_jax.images import exif
from dip_jax.images.decoded import Decoded, Header, Tags, check_page, check_size, widen

_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def is_heif(start: bytes) -> bool:
    """Whether a file that starts with these bytes is HEIC or HEIF; an AVIF file has some of its brands too."""
    return start[4:8] == b"ftyp" and start[8:12] in _BRANDS


def peek_heif(file: BinaryIO, page: int | None) -> Header:
    """Reads the header of a file."""
    images = _open(file)
    image = images[images.primary_index if page is None else page]
    width, height = image.size
    return Header((height, width, 1 if image.mode.startswith("L") else 3), len(images))


def decode_heif(file: BinaryIO, max_pixels: int, page: int | None) -> Decoded:
    """Decodes an image of a file, by default the primary one; the arguments and errors are those of `decode.decode`."""
    images = _open(file)
    check_page(page, len(images))
    image = images[images.primary_index if page is None else page]
    width, height = image.size
    check_size(width, height, max_pixels)
    if image.premultiplied_alpha:
        fault = "got colors multiplied by alpha; save it with unassociated alpha, or without"
        raise InputError(f"expected straight alpha, {fault}")
    values, notes, num_bits = np.array(image), tuple[str, ...](), image.info["bit_depth"]
    if values.dtype != np.uint8:
        values, notes = widen(values, num_bits)
    tags = Tags(image.info.get("icc_profile"), exif=exif.clean(image.info.get("exif")))
    # The decoder has turned the image by the transformations of the file. The format defines that the orientation in
    # the Exif data, which repeats them, is ignored.
    return Decoded(
        values.reshape(*values.shape[:2], -1),
        ".png",
        num_pages=len(images),
        tags=tags,
        notes=notes,
        has_alpha=image.has_alpha,
    )


def _open(file: BinaryIO) -> Any:
    try:
        import pillow_heif
    except ModuleNotFoundError:
        raise InputError(
            "expected an image of another format, got HEIC, which needs the library pillow-heif; install it with "
            "`pip install pillow-heif`"
        ) from None
    file.seek(0)
    return pillow_heif.open_heif(file, convert_hdr_to_8bit=False, hdr_to_16bit=False)
