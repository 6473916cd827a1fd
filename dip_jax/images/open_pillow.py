"""Opening PNG, JPEG, WebP, AVIF and BMP files by the Pillow plugin of imageio."""

import threading
from typing import Any, BinaryIO

import imageio.v3 as iio
from imageio.core.request import InitializationError
from PIL import Image, UnidentifiedImageError

PNG_MAGIC, JPEG_MAGIC, BMP_MAGIC = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM"
_pillow_limit_lock = threading.Lock()


def open_image(file: BinaryIO) -> Any:
    """Opens a file of any size; the pixels are decoded later.

    Returns:
      The Pillow plugin of imageio.

    Raises:
      UnidentifiedImageError: If the file is of another kind, or its header is damaged.
    """
    start = read_start(file)
    is_webp = start.startswith(b"RIFF") and start[8:12] == b"WEBP"
    if not (start.startswith((PNG_MAGIC, JPEG_MAGIC, BMP_MAGIC)) or is_webp or is_avif(start)):
        raise UnidentifiedImageError  # imageio opens every format that Pillow has
    with _pillow_limit_lock:  # `max_pixels` replaces Pillow's limit, which is a global variable
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return iio.imopen(file, "r", plugin="pillow")
        except OSError as error:  # imageio hides the error of Pillow
            if isinstance(error.__cause__, InitializationError):
                raise UnidentifiedImageError from None
            raise error.__cause__ or error from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def is_avif(start: bytes) -> bool:
    """Whether a file that starts with these bytes is an AVIF file."""
    return start[4:8] == b"ftyp" and any(brand in start[8:] for brand in (b"avif", b"avis"))


def read_start(file: BinaryIO) -> bytes:
    """Returns the first bytes of a file, which is rewound."""
    file.seek(0)
    start = file.read(4096)
    file.seek(0)
    return start
