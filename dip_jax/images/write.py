"""How pictures go out: a restored image in the depth, range and form of the file that it came from.

Each file appears whole or not at all: it is written under a name of its own and then renamed.
"""

import io
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, PngImagePlugin

from dip_jax.images import atomic
from dip_jax.images.decode import PNG_HEADER_END
from dip_jax.images.read import StoredImage


def stored_like(picture: StoredImage, shape: tuple[int, int, int]) -> StoredImage:
    """How to store an image of another size or number of channels as `picture` was stored.

    Alpha is resized with it (bicubic).
    """
    if picture.pixels.shape == shape:
        return picture
    alpha = picture.alpha
    if alpha is not None and alpha.shape != shape[:2]:
        plane = Image.fromarray(alpha.astype(np.float32))
        resized = np.asarray(plane.resize((shape[1], shape[0]), Image.Resampling.BICUBIC))
        clipped = np.clip(resized, alpha.min(), alpha.max())
        alpha = (np.rint(clipped) if alpha.dtype.kind == "u" else clipped).astype(alpha.dtype)
    icc_profile = picture.icc_profile if picture.pixels.shape[-1] == shape[-1] else None
    pixels = np.zeros(shape, np.float32)
    return picture._replace(pixels=pixels, alpha=alpha, icc_profile=icc_profile)


def to_stored(pixels: np.ndarray, like: StoredImage) -> np.ndarray:
    """Turn pixels into the values a file holds.

    Args:
        pixels: `[H, W, C]`; clipped to [0, 1].
        like: The picture whose depth, range and alpha to take.

    Returns:
        `[H, W, C]`, or `[H, W, C + 1]` with alpha, in `like.dtype`; integers are rounded.

    Raises:
        ValueError: If the channels are not those of `like`, or the size not that of its alpha.
    """
    values = like.low + np.clip(np.asarray(pixels, np.float64), 0, 1) * (like.high - like.low)
    if values.shape[2:] != like.pixels.shape[2:]:
        raise ValueError(f"expected channels as in {like.pixels.shape}, got {values.shape}")
    if like.dtype.kind == "u":
        values = np.rint(values)
    values = values.astype(like.dtype)
    if like.alpha is None:
        return values
    if values.shape[:2] != like.alpha.shape:
        raise ValueError(f"expected the size of alpha, {like.alpha.shape}, got {values.shape}")
    return np.concatenate([values, like.alpha[..., np.newaxis]], axis=-1)


def write_image(path: str | Path, pixels: np.ndarray, like: StoredImage) -> None:
    """Write a picture as another one was stored, whole or not at all.

    Args:
        path: Where to; ends in `like.suffix`.
        pixels: `[H, W, C]`; clipped to [0, 1].
        like: The picture whose form, depth, range, alpha and color profile to take.

    Raises:
        OSError: If the file cannot be written. No part of it is left behind.
        ValueError: If `path` ends otherwise, or `pixels` does not fit `like` (see `to_stored`).
    """
    path = Path(path)
    if path.suffix != like.suffix:
        raise ValueError(f"expected a name ending in {like.suffix}, got {path}")
    data = _encode(to_stored(pixels, like), like)
    atomic.write(path, lambda file: file.write(data), durable=True)


def _encode(values: np.ndarray, like: StoredImage) -> bytes:
    channels = values.shape[-1]
    values = values[..., 0] if channels == 1 else values
    buffer = io.BytesIO()
    if like.suffix == ".png":
        data = imagecodecs.png_encode(values)  # Pillow cannot write 16-bit color
        buffer.write(data[:PNG_HEADER_END])
        if like.icc_profile:
            profile = zlib.compress(like.icc_profile)
            PngImagePlugin.putchunk(buffer, b"iCCP", b"ICC profile\0\0", profile)
        buffer.write(data[PNG_HEADER_END:])
    elif like.suffix == ".bmp":
        Image.fromarray(values).save(buffer, "BMP")
    else:
        tifffile.imwrite(
            buffer,
            values,
            photometric="rgb" if channels > 2 else "minisblack",
            planarconfig="contig" if channels > 1 else None,
            extrasamples=("unassalpha",) if channels in (2, 4) else None,
            iccprofile=like.icc_profile,
            metadata=None,  # else tifffile adds a description in its own dialect
        )
    return buffer.getvalue()
