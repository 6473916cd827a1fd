"""Writing images: a restored image takes the format, depth and range of its input file."""

import io
import struct
from typing import Any

import imagecodecs
import imageio.v3 as iio
import numpy as np
from PIL import Image, PngImagePlugin

from dip_jax.images import array_file, fits_file
from dip_jax.images.decoded import Decoded, Tags
from dip_jax.images.encode_tiff import write_pages
from dip_jax.images.png16 import HEADER_END
from dip_jax.images.read import StoredImage
from dip_jax.images.value_range import full_scale
from dip_jax.storage import atomic
from dip_jax.storage.paths import AnyPath, to_path


def stored_like(template: StoredImage, shape: tuple[int, int, int]) -> StoredImage:
    """Adapts a stored image as the template for an image of another shape.

    Args:
      template: The stored image.
      shape: `(H, W, C)` of the image to write.

    Returns:
      `template` with pixels of that shape, all 0, and with alpha resized (bicubic). The color
      profile is dropped if the number of channels differs, and outliers are dropped. The resolution
      and the world coordinates of a FITS header are scaled, with a note if they cannot be.
      `template` itself for its own shape.
    """
    if template.pixels.shape == shape:
        return template
    alpha = template.alpha
    if alpha is not None and alpha.shape != shape[:2]:
        plane = Image.fromarray(alpha.astype(np.float32))
        resized = np.asarray(plane.resize((shape[1], shape[0]), Image.Resampling.BICUBIC))
        clipped = np.clip(resized, alpha.min(), alpha.max())
        alpha = (np.rint(clipped) if alpha.dtype.kind in "ui" else clipped).astype(alpha.dtype)
    tags, notes = _tags_like(template, shape)
    pixels = np.zeros(shape, np.float32)
    return template._replace(
        pixels=pixels,
        alpha=alpha,
        tags=tags,
        notes=(*template.notes, *notes),
        is_known=None,
        outliers=None,
    )


def _tags_like(template: StoredImage, shape: tuple[int, int, int]) -> tuple[Tags, tuple[str, ...]]:
    """The tags of an image of another shape, and notes for the user."""
    tags, notes = template.tags, tuple[str, ...]()
    height, width, channels = template.pixels.shape
    scale = (shape[1] / width, shape[0] / height)
    tags = tags._replace(
        dpi=_scale(tags.dpi, scale), pixels_per_unit=_scale(tags.pixels_per_unit, scale)
    )
    if tags.fits_header is not None and scale != (1.0, 1.0):
        header, notes = fits_file.scale_header(tags.fits_header, scale)
        tags = tags._replace(fits_header=header)
    if channels != shape[-1]:
        tags = tags._replace(icc_profile=None, description=None)
        if tags.layout and "C" not in tags.layout:
            is_fits = template.suffix == ".fits"
            tags = tags._replace(layout=f"C{tags.layout}" if is_fits else f"{tags.layout}C")
    if "<OME" in (tags.description or ""):
        tags = tags._replace(description=None)  # it states the number and the size of the pixels
    return tags, notes


def _scale(
    resolution: tuple[float, float] | None, scale: tuple[float, float]
) -> tuple[float, float] | None:
    """The resolution of an image that shows the same in another number of pixels."""
    return None if resolution is None else (resolution[0] * scale[0], resolution[1] * scale[1])


def to_stored_values(pixels: np.ndarray, template: StoredImage) -> np.ndarray:
    """Converts pixels to the values that a file stores.

    Outliers of the template keep their values.

    Args:
      pixels: `[H, W, C]`; values outside [0, 1] are kept if the type can hold them.
      template: The stored image whose depth, range and alpha the values take.

    Returns:
      `[H, W, C]`, or `[H, W, C + 1]` with alpha, in `template.dtype`; integers are rounded and
      clipped to the limits of the type.

    Raises:
      ValueError: If the number of channels or the size of alpha differs from that of `template`.

    Example:
      >>> import numpy as np
      >>> pixels = np.float32([[[0.0], [0.5], [1.5]]])
      >>> to_stored_values(pixels, StoredImage(pixels))[0, :, 0].tolist()
      [0, 128, 255]
    """
    low, high = template.low, template.high
    values = low + np.asarray(pixels, np.float64) * (high - low)
    if values.shape[2:] != template.pixels.shape[2:]:
        raise ValueError(f"expected channels as in {template.pixels.shape}, got {values.shape}")
    if template.outliers is not None:
        values = np.where(np.isnan(template.outliers), values, template.outliers)
    if template.dtype.kind in "ui":
        values = np.clip(np.rint(values), *full_scale(template.dtype))
    values = values.astype(template.dtype)
    if template.alpha is None:
        return values
    if values.shape[:2] != template.alpha.shape:
        raise ValueError(f"expected the size of alpha, {template.alpha.shape}, got {values.shape}")
    return np.concatenate([values, template.alpha[..., np.newaxis]], axis=-1)


def write_image(path: str | AnyPath, pixels: np.ndarray, template: StoredImage) -> None:
    """Writes an image in the way that another one is stored, whole or not at all.

    Args:
      path: The file to write; ends in `template.suffix`. An existing one is replaced.
      pixels: `[H, W, C]`; see `to_stored_values`.
      template: The stored image whose format, depth, range, alpha and tags the file takes.

    Raises:
      OSError: If the file cannot be written. No partial file remains.
      ValueError: If `path` has another suffix, or `pixels` does not fit `template` (see
        `to_stored_values`).

    Example:
      >>> import tempfile
      >>> import numpy as np
      >>> from dip_jax.images.read import read_image
      >>> pixels = np.full((33, 33, 1), 0.2, np.float32)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     write_image(f"{folder}/gray.png", pixels, StoredImage(pixels))
      ...     stored = read_image(f"{folder}/gray.png")
      >>> stored.pixels.shape, stored.dtype, round(float(stored.pixels[0, 0, 0]), 3)
      ((33, 33, 1), dtype('uint8'), 0.2)
    """
    path = to_path(path)
    if path.suffix != template.suffix:
        raise ValueError(f"expected a name ending in {template.suffix}, got {path}")
    data = _encode(to_stored_values(pixels, template), template)
    atomic.write(path, lambda file: file.write(data), durable=True)


def _encode(values: np.ndarray, template: StoredImage) -> bytes:
    tags, has_channels = template.tags, values.shape[-1] > 1
    match template.suffix:
        case ".npy":
            return array_file.encode_array(values, tags.layout or ("HWC" if has_channels else "HW"))
        case ".fits":
            layout = tags.layout or ("CHW" if has_channels else "HW")
            return fits_file.encode_fits(values, layout, tags.fits_header)
        case ".png":
            return _encode_png(values if has_channels else values[..., 0], tags)
        case ".bmp":
            return _encode_bmp(values if has_channels else values[..., 0], tags)
        case ".tif":
            page = Decoded(values, ".tif", tags=tags, has_alpha=template.alpha is not None)
            buffer = io.BytesIO()
            write_pages(buffer, [page], values.nbytes)
            return buffer.getvalue()
    raise ValueError(f"expected .png, .tif, .bmp, .fits or .npy, got {template.suffix}")


def _encode_png(values: np.ndarray, tags: Tags) -> bytes:
    if values.ndim == 2 or values.dtype == np.uint8:
        return _write_png(values, tags)
    # Pillow, and so imageio, has no colors of 16 bits. The chunks of the tags are those of a file of one pixel.
    pixel = np.zeros((1, 1), np.uint8)
    with_tags, without = _write_png(pixel, tags), _write_png(pixel, Tags())
    chunks = with_tags[HEADER_END : HEADER_END + len(with_tags) - len(without)]
    data = bytes(imagecodecs.png_encode(values))
    return data[:HEADER_END] + chunks + data[HEADER_END:]


def _write_png(values: np.ndarray, tags: Tags) -> bytes:
    info = PngImagePlugin.PngInfo()
    if tags.gamma and not tags.icc_profile:  # a profile has precedence
        info.add(b"gAMA", struct.pack(">I", round(1e5 * tags.gamma)))
    profile, dpi, exif = tags.icc_profile, tags.dpi, tags.exif
    return _write_with_pillow(values, ".png", icc_profile=profile, dpi=dpi, exif=exif, pnginfo=info)


def _encode_bmp(values: np.ndarray, tags: Tags) -> bytes:
    return _write_with_pillow(values, ".bmp", **({"dpi": tags.dpi} if tags.dpi else {}))


def _write_with_pillow(values: np.ndarray, suffix: str, **options: Any) -> bytes:
    return bytes(iio.imwrite("<bytes>", values, plugin="pillow", extension=suffix, **options))
