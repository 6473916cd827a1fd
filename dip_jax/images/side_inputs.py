"""Reading guides, kernels and arrays of measurements; `read` reads images and masks."""

from pathlib import Path

import numpy as np

from dip_jax.errors import InputError
from dip_jax.images.read import MAX_PIXELS, read_image, read_values

ARRAY_SUFFIX = ".npy"


def read_array(path: str | Path) -> np.ndarray:
    """Reads a measurement from a .npy file.

    Args:
      path: A file that `numpy.save` wrote.

    Returns:
      float32 or complex64, in the shape of the file.

    Raises:
      InputError: If the file is missing or damaged, or holds anything but finite numbers.
    """
    try:
        values = np.load(path, allow_pickle=False)
    except OSError as error:
        raise InputError(
            f"{path}: expected an array file, but it cannot be opened ({error.strerror or error})."
        ) from None
    except Exception as error:  # numpy may raise anything on a damaged file
        raise InputError(f"{path}: expected an array written by numpy.save ({error}).") from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "buifc" or not values.size:
        raise InputError(f"{path}: expected an array of numbers, got {values!r:.60}.")
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise InputError(f"{path}: expected finite numbers, but {bad} of {values.size} are not.")
    return values.astype(np.complex64 if values.dtype.kind == "c" else np.float32)


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
    """Reads a blur kernel: a .npy file unchanged, an image scaled to sum 1.

    Args:
      path: The file.
      max_pixels: As in `read_image`.

    Returns:
      float32 `[k, l]` and notes for the user.

    Raises:
      InputError: If the file cannot be read, is all black, or is not a matrix of real numbers.
    """
    if Path(path).suffix.lower() == ARRAY_SUFFIX:
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
