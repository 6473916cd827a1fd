"""Files beside a picture, and measurements that are no pictures: guides, kernels, arrays.

They are read with the care of `images`, and refused with a sentence. Masks are read there.
"""

from pathlib import Path

import numpy as np

from dip_jax.errors import InputError
from dip_jax.images.read import MAX_PIXELS, read_image, read_values

ARRAY_SUFFIX = ".npy"


def read_array(path: str | Path) -> np.ndarray:
    """Reads a measurement from a .npy file.

    Returns:
      float32 or complex64, of the file's shape.

    Raises:
      InputError: If it is no such file, holds no numbers, or some that are not finite.
    """
    try:
        values = np.load(path, allow_pickle=False)
    except OSError as error:
        raise InputError(
            f"{path}: expected an array file, it cannot be opened ({error.strerror or error})."
        ) from None
    except Exception as error:  # numpy raises whatever a damaged file leads to
        raise InputError(f"{path}: expected an array written by numpy.save ({error}).") from None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "buifc" or not values.size:
        raise InputError(f"{path}: expected an array of numbers, came {values!r:.60}.")
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise InputError(f"{path}: expected finite numbers, {bad} of {values.size} are not.")
    return values.astype(np.complex64 if values.dtype.kind == "c" else np.float32)


def read_guide(
    path: str | Path, shape: tuple[int, int], *, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Reads a guide (the flash picture).

    Args:
      path: The file.
      shape: `(H, W)` of the picture it belongs to.
      max_pixels: As in `images.read_image`.

    Returns:
      float32 `[H, W, 3]` in [0, 1], gray repeated, and notes for the user.

    Raises:
      InputError: If it cannot be read or has another size.
    """
    picture = read_image(path, max_pixels=max_pixels)
    height, width, channels = picture.pixels.shape
    if (height, width) != tuple(shape):
        raise InputError(
            f"{path}: expected a guide of the picture's size, {shape[1]} x {shape[0]} (width x height), it "
            f"has {width} x {height}; crop or resize it first"
        )
    pixels = np.repeat(picture.pixels, 3, axis=-1) if channels == 1 else picture.pixels
    return pixels, picture.notes


def read_kernel(
    path: str | Path, *, max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Reads a point spread: a .npy file as it is, a picture scaled to sum 1.

    Returns:
      float32 `[k, l]` and notes for the user.

    Raises:
      InputError: If it cannot be read, is all black, or no table of numbers.
    """
    if Path(path).suffix.lower() == ARRAY_SUFFIX:
        kernel = read_array(path)
        if kernel.ndim != 2 or np.iscomplexobj(kernel):
            raise InputError(
                f"{path}: expected a kernel [k, l] of real numbers, came {kernel.dtype} {kernel.shape}"
            )
        return kernel, ()
    values, notes = read_values(path, max_pixels=max_pixels)
    kernel = values.mean(axis=-1, dtype=np.float64)
    total = float(kernel.sum())
    if total <= 0:
        raise InputError(f"{path}: expected a kernel, it is all black")
    # Gray levels mean nothing by themselves, so there is nothing to refuse.
    note = f"kernel of {kernel.shape[0]} x {kernel.shape[1]} scaled to sum 1"
    return (kernel / total).astype(np.float32), (*notes, note)
