"""PNG, JPEG, WebP, AVIF and BMP files, decoded by Pillow; imagecodecs decodes those of more than 8 bits."""

import io
import threading
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError, features

from dip_jax.errors import InputError
from dip_jax.images import exif
from dip_jax.images.decoded import (
    Decoded,
    Header,
    Tags,
    check_page,
    check_size,
    unknown_colors,
    upright_resolution,
    upright_shape,
    widen,
)
from dip_jax.images.jpeg_end import complete_jpeg
from dip_jax.images.png16 import decode_png16, has_16_bits

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_pillow_limit_lock = threading.Lock()


def open_with_pillow(file: BinaryIO) -> Image.Image:
    """Opens a PNG, JPEG, WebP, AVIF or BMP file of any size; the pixels are decoded later."""
    formats = (*_FORMATS, "AVIF") if is_avif(_start(file)) else _FORMATS
    with _pillow_limit_lock:  # `max_pixels` replaces Pillow's limit, which is a global variable
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def is_avif(start: bytes) -> bool:
    """Whether a file that starts with these bytes is an AVIF file."""
    return start[4:8] == b"ftyp" and any(brand in start[8:] for brand in (b"avif", b"avis"))


def peek_pillow(file: BinaryIO, page: int | None) -> Header:
    """Reads the header of a file; the errors are those of Pillow."""
    image = open_with_pillow(file)
    channels = 1 if image.mode in ("1", "L", "LA", "I;16") else 3
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    width, height = image.size
    num_pages = getattr(image, "n_frames", 1)
    return Header(upright_shape(height, width, channels, orientation), num_pages)


def decode_pillow(file: BinaryIO, max_pixels: int, page: int | None) -> Decoded:
    """Decodes a frame of a file; the arguments and errors are those of `decode.decode`."""
    start = _start(file)
    _require_avif_decoder(start)
    try:
        image = open_with_pillow(file)
    except UnidentifiedImageError:
        if is_avif(start):
            raise ValueError("its header is damaged") from None
        raise
    check_size(*image.size, max_pixels)
    num_pages = getattr(image, "n_frames", 1)
    index = check_page(page, num_pages)
    image.seek(index)
    mode, notes = _converted_mode(image)
    if has_16_bits(start):
        if index > 0:
            raise InputError("expected 8 bits in an animated PNG, got 16; take its first frame")
        file.seek(0)
        values = decode_png16(file.read())
    elif (num_bits := _avif_bits(start)) > 8:
        file.seek(0)
        values, widening = widen(imagecodecs.avif_decode(file.read(), index=index), num_bits)
        notes += widening
    else:
        image, mending = _load(image, file)
        notes += mending
        values = np.asarray(image.convert(mode))
    values = values.reshape(*values.shape[:2], -1)
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    tags = Tags(
        image.info.get("icc_profile"),
        upright_resolution(image.info.get("dpi"), orientation),
        image.info.get("gamma"),
        exif=exif.clean(image.info.get("exif")),
    )
    # JPEG, WebP and AVIF would compress a restored image with losses again.
    suffix = ".bmp" if image.format == "BMP" else ".png"
    has_alpha = values.shape[-1] in (2, 4)
    return Decoded(values, suffix, orientation, num_pages, tags, notes, has_alpha)


def _start(file: BinaryIO) -> bytes:
    """The first bytes of a file, which is rewound."""
    file.seek(0)
    start = file.read(4096)
    file.seek(0)
    return start


def _require_avif_decoder(start: bytes) -> None:
    if is_avif(start) and not features.check("avif"):
        raise InputError(
            "expected an image that Pillow decodes, got AVIF, for which this Pillow has no decoder; "
            "run `pip install --upgrade pillow`"
        )


def _converted_mode(image: Image.Image) -> tuple[str, tuple[str, ...]]:
    """The mode of the values, gray or RGB with or without alpha, and notes about the conversion."""
    mode = {"1": "L", "I;16": "L", "P": "RGB", "PA": "RGBA"}.get(image.mode, image.mode)
    if image.has_transparency_data:
        mode = {"L": "LA", "RGB": "RGBA"}.get(mode, mode)
    if mode not in ("L", "LA", "RGB", "RGBA"):
        raise unknown_colors(image.mode)
    if image.mode == "1":
        return mode, ("1-bit values widened to 8 bits",)
    if image.mode in ("P", "PA"):
        return mode, (f"palette expanded to {mode}",)
    return mode, ()


def _avif_bits(start: bytes) -> int:
    """The bits per sample of an AVIF file by its first configuration record; 8 for other files."""
    position = start.find(b"av1C")
    if not is_avif(start) or not 0 <= position < len(start) - 6:
        return 8
    flags = start[position + 6]
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8


def _load(image: Any, file: BinaryIO) -> tuple[Image.Image, tuple[str, ...]]:
    """Decodes the pixels; a JPEG file may lack its end marker."""
    try:
        image.load()
        return image, ()
    except OSError:
        if image.format != "JPEG":
            raise
        file.seek(0)
        data = complete_jpeg(file.read())
        if data is None:
            raise
    image = open_with_pillow(io.BytesIO(data))
    image.load()
    return image, ("the JPEG file lacks its end marker, but its image is complete",)
