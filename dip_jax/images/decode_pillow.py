"""PNG, JPEG, WebP, AVIF and BMP files, decoded by Pillow through imageio; imagecodecs decodes those of more than 8 bits."""

import io
from collections.abc import Mapping
from typing import Any, BinaryIO

import imagecodecs
from PIL import UnidentifiedImageError, features

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
from dip_jax.images.open_pillow import (
    BMP_MAGIC,
    JPEG_MAGIC,
    PNG_MAGIC,
    is_avif,
    open_image,
    read_start,
)
from dip_jax.images.png16 import decode_png16, has_16_bits
from dip_jax.images.png_header import exif_before_pixels


def peek_pillow(file: BinaryIO, page: int | None) -> Header:
    """Reads the header of a file; the errors are those of Pillow."""
    image = open_image(file)
    height, width, *samples = image.properties(index=0).shape
    channels = 1 if samples in ([], [2]) else 3
    num_pages = image.properties(index=...).n_images
    if read_start(file).startswith(PNG_MAGIC):  # for its metadata, Pillow would decode the pixels
        orientation = exif.orientation(exif_before_pixels(file))
    else:
        orientation = image.metadata(index=0, exclude_applied=False).get("Orientation", 1)
    return Header(upright_shape(height, width, channels, orientation), num_pages)


def decode_pillow(file: BinaryIO, max_pixels: int, page: int | None) -> Decoded:
    """Decodes a frame of a file; the arguments and errors are those of `decode.decode`."""
    start = read_start(file)
    _require_avif_decoder(start)
    try:
        image = open_image(file)
    except UnidentifiedImageError:
        if is_avif(start):
            raise ValueError("its header is damaged") from None
        raise
    try:
        height, width = image.properties(index=0).shape[:2]
    except AttributeError:  # imageio looks at a palette that is not there
        raise ValueError("it lacks its palette") from None
    check_size(width, height, max_pixels)
    num_pages = image.properties(index=...).n_images
    index = check_page(page, num_pages)
    notes: tuple[str, ...] = ()
    if has_16_bits(start):
        if index > 0:
            raise InputError("expected 8 bits in an animated PNG, got 16; take its first frame")
        file.seek(0)
        values = decode_png16(file.read())
        image.metadata(index=0)  # Pillow finds Exif data behind the pixels while it reads the tags
    elif (num_bits := _avif_bits(start)) > 8:
        file.seek(0)
        values, notes = widen(imagecodecs.avif_decode(file.read(), index=index), num_bits)
    else:
        mode, notes = _converted_mode(image.metadata(index=index))
        try:
            values = image.read(index=index, mode=mode, writeable_output=False)
        except OSError:
            file.seek(0)
            is_jpeg = start.startswith(JPEG_MAGIC) and num_pages == 1
            data = complete_jpeg(file.read()) if is_jpeg else None
            if data is None:
                raise
            values = open_image(io.BytesIO(data)).read(index=0, mode=mode)
            notes += ("the JPEG file lacks its end marker, but its image is complete",)
    values = values.reshape(*values.shape[:2], -1)
    metadata = image.metadata(index=index, exclude_applied=False)
    orientation = metadata.get("Orientation", 1)
    tags = Tags(
        metadata.get("icc_profile"),
        upright_resolution(metadata.get("dpi"), orientation),
        metadata.get("gamma"),
        exif=exif.clean(metadata.get("exif")),
    )
    # JPEG, WebP and AVIF would compress a restored image with losses again.
    suffix = ".bmp" if start.startswith(BMP_MAGIC) else ".png"
    has_alpha = values.shape[-1] in (2, 4)
    return Decoded(values, suffix, orientation, num_pages, tags, notes, has_alpha)


def _require_avif_decoder(start: bytes) -> None:
    if is_avif(start) and not features.check("avif"):
        raise InputError(
            "expected an image that Pillow decodes, got AVIF, for which this Pillow has no decoder; "
            "run `pip install --upgrade pillow`"
        )


def _converted_mode(metadata: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The mode of the values, gray or RGB with or without alpha, and notes about the conversion."""
    stored = metadata["mode"]
    mode = {"1": "L", "P": "RGB"}.get(stored, stored)
    if "transparency" in metadata:
        mode = {"L": "LA", "RGB": "RGBA"}.get(mode, mode)
    if mode not in ("L", "LA", "RGB", "RGBA"):
        raise unknown_colors(stored)
    if stored == "1":
        return mode, ("1-bit values widened to 8 bits",)
    if stored == "P":
        return mode, (f"palette expanded to {mode}",)
    return mode, ()


def _avif_bits(start: bytes) -> int:
    """The bits per sample of an AVIF file by its first configuration record; 8 for other files."""
    position = start.find(b"av1C")
    if not is_avif(start) or not 0 <= position < len(start) - 6:
        return 8
    flags = start[position + 6]
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8
