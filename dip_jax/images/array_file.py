"""Arrays in `.npy` and `.npz` files: measurements, and images.

References:
  numpy.lib.format, the specification of the format NPY.
"""

import contextlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
from numpy.lib import format as npy

from dip_jax.errors import InputError
from dip_jax.images.decoded import (
    Decoded,
    Header,
    Tags,
    band_notes,
    check_data,
    check_dtype,
    check_page,
    check_size,
    widen,
)

SUFFIXES = (".npy", ".npz")
MAGIC = npy.MAGIC_PREFIX
ZIP_MAGIC = b"PK\x03\x04"

_MOST_COLORS = 4  # a first axis of at most this length is one of channels


def read_array(path: str | Path) -> np.ndarray:
    """Reads a measurement from a .npy file, or from a .npz file of one array.

    Args:
      path: A file that `numpy.save` or `numpy.savez` wrote.

    Returns:
      float32 or complex64, in the shape of the file.

    Raises:
      InputError: If the file is missing or damaged, or holds anything but finite numbers.
    """
    try:
        with Path(path).open("rb") as file, _open_array(file) as (stream, _):
            values = npy.read_array(stream, allow_pickle=False)
    except InputError as error:
        raise InputError(f"{path}: {error}.") from None
    except OSError as error:
        raise InputError(
            f"{path}: expected an array file, but it cannot be opened ({error.strerror or error})."
        ) from None
    except Exception as error:  # numpy may raise anything on a damaged file
        raise InputError(f"{path}: expected an array written by numpy.save ({error}).") from None
    if values.dtype.kind not in "buifc" or not values.size:
        raise InputError(f"{path}: expected an array of numbers, got {values!r:.60}.")
    with np.errstate(over="ignore"):
        single = values.astype(np.complex64 if values.dtype.kind == "c" else np.float32)
    bad = int(np.count_nonzero(~np.isfinite(single)))
    if bad:
        raise InputError(
            f"{path}: expected finite numbers in single precision, but {bad} of {values.size} are not."
        )
    return single


def peek_array(file: BinaryIO, page: int | None) -> Header:
    """Reads the shape of an array of any number of axes; the errors are those of numpy."""
    with _open_array(file) as (stream, _):
        shape, _ = _read_header(stream)
    height, width, *rest = (*shape, 1, 1)
    return Header((height, width, int(np.prod(rest))))


def decode_array(file: BinaryIO, max_pixels: int, page: int | None) -> Decoded:
    """Decodes an array `[H, W]` or `[H, W, C]`; the arguments and errors are those of `decode.decode`."""
    check_page(page, 1)
    with _open_array(file) as (stream, num_bytes):
        shape, dtype = _read_header(stream)
        if len(shape) not in (2, 3) or 0 in shape:
            raise InputError(f"expected an array [H, W] or [H, W, C], got the shape {shape}")
        if len(shape) == 3 and shape[0] <= _MOST_COLORS < min(shape[1:]):
            raise InputError(
                f"expected an array [H, W, C], got the shape {shape}; move its first axis to the end"
            )
        check_size(shape[1], shape[0], max_pixels)
        check_dtype(dtype)
        check_data(num_bytes, shape, dtype.itemsize)
        stream.seek(0)
        values = npy.read_array(stream, allow_pickle=False)
    values = values.reshape(*shape[:2], -1)
    values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    notes = () if values.shape[-1] == 3 else band_notes(values.shape[-1])
    if dtype.kind == "b":
        values, widening = widen(values, 1)
        notes += widening
    return Decoded(values, ".npy", tags=Tags(layout="HWC"[: len(shape)]), notes=notes)


def encode_array(values: np.ndarray, layout: str) -> bytes:
    """Returns the content of a .npy file.

    Args:
      values: `[H, W, C]`.
      layout: The axes of the array in the file; see `Tags.layout`.
    """
    buffer = io.BytesIO()
    np.save(buffer, arrange(values, layout), allow_pickle=False)
    return buffer.getvalue()


def arrange(values: np.ndarray, layout: str) -> np.ndarray:
    """Arranges the axes of an image as a file has them.

    Args:
      values: `[H, W, C]`; with one channel if the layout has no C.
      layout: See `Tags.layout`.

    Example:
      >>> arrange(np.zeros((40, 50, 1)), "1HW").shape, arrange(np.zeros((40, 50, 3)), "CHW").shape
      ((1, 40, 50), (3, 40, 50))
    """
    axes = {"H": 0, "W": 1, "C": 2}
    values = values if "C" in layout else values[..., :1]
    order = [axes[axis] for axis in layout if axis in axes]
    kept = values.transpose(order) if "C" in layout else values[..., 0].transpose(order)
    new_axes = tuple(position for position, axis in enumerate(layout) if axis not in axes)
    return np.ascontiguousarray(np.expand_dims(kept, new_axes))


@contextlib.contextmanager
def _open_array(file: BinaryIO) -> Iterator[tuple[IO[bytes], int]]:
    """The content of a .npy file, or of the only member of a .npz file, and its size in bytes."""
    start = file.read(len(ZIP_MAGIC))
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if start != ZIP_MAGIC:
        yield file, size
        return
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len(members) != 1:
            names = ", ".join(member.filename.removesuffix(".npy") for member in members)
            raise InputError(
                f"expected one array in the file, got {len(members)} ({names}); save one with numpy.save"
            )
        with archive.open(members[0]) as stream:
            yield stream, members[0].file_size


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = npy.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = npy.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = npy.read_array_header_2_0(stream)
    else:  # only structured types need version 3
        raise ValueError(f"version {version} of the format is not supported")
    return shape, dtype
