"""Reading guides and kernels; `read` reads images and masks, `array_file` arrays of measurements."""

from pathlib import Path

import numpy as np

from dip_jax.errors import InputError
from dip_jax.images.array_file import SUFFIXES, read_array
from dip_jax.images.read import MAX_PIXELS, read_image, read_values


def read_guide(
    path: str | Path, shape: tuple[int, int], *, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Reads a guide: the flash photo of a scene.

    Args:
      path: The file.
      shape: `(H, W)` of the image that the guide belongs to.
      max_pixels: As in `read_image`.

    Returns:
      float32 `[H, W, 3]` in [0, 1], with gray repeated, and notes for the user.

    Raises:
      InputError: If the file cannot be read or has another size.
    """
    stored = read_image(path, max_pixels=max_pixels)
    height, width, channels = stored.pixels.shape
    if (height, width) != tuple(shape):
        raise InputError(
            f"{path}: expected a guide of the image's size, {shape[1]} x {shape[0]} (width x "
            f"height), got {width} x {height}; crop or resize it first"
        )
    pixels = np.repeat(stored.pixels, 3, axis=-1) if channels == 1 else stored.pixels
    return pixels, stored.notes


def read_kernel(
    path: str | Path, *, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Reads a blur kernel: an array file unchanged, an image scaled to sum 1.

    Args:
      path: The file.
      max_pixels: As in `read_image`.

    Returns:
      float32 `[k, l]` and notes for the user.

    Raises:
      InputError: If the file cannot be read, is all black, or is not a matrix of real numbers.
    """
    if Path(path).suffix.lower() in SUFFIXES:
        kernel = read_array(path)
        if kernel.ndim != 2 or np.iscomplexobj(kernel):
            raise InputError(
                f"{path}: expected a kernel [k, l] of real numbers, got {kernel.dtype} "
                f"{kernel.shape}"
            )
        return kernel, ()
    values, notes = read_values(path, max_pixels=max_pixels)
    kernel = values.mean(axis=-1, dtype=np.float64)
    total = float(kernel.sum())
    if total <= 0:
        raise InputError(f"{path}: expected a kernel, but it is all black")
    # The unit of gray levels is arbitrary, so any sum is accepted.
    note = f"kernel of {kernel.shape[0]} x {kernel.shape[1]} scaled to sum 1"
    return (kernel / total).astype(np.float32), (*notes, note)
