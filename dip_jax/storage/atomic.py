"""Atomic writes: a file appears whole or not at all.

The content of a local file goes to a temporary file in the same folder, which is then renamed. A rename is atomic
only within one file system. An object store shows an object only when it is complete.
"""

import io
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import ArrayLike

from dip_jax.storage.paths import AnyPath, as_os_error

_SUFFIX = ".dip_jax-part"  # no other program writes such files


def write(path: AnyPath, writer: Callable[[BinaryIO], object], *, durable: bool = False) -> None:
    """Writes a file whole or not at all.

    If `writer` raises, the temporary file is removed and an existing file is kept.

    Args:
      path: The file to write; an existing one is replaced.
      writer: Writes the content to an open binary file.
      durable: Flush the content to the disk before the rename, so that a power failure cannot
        leave an empty file under the final name.

    Raises:
      OSError: If the file cannot be written.
    """
    if not isinstance(path, Path):
        buffer = io.BytesIO()
        writer(buffer)
        with as_os_error(path):
            path.write_bytes(buffer.getvalue())
        return
    # `tempfile` would deny other users access to the file.
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{_SUFFIX}")
    try:
        with part.open("wb") as file:
            writer(file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: AnyPath, data: bytes) -> None:
    """Writes a file whole or not at all."""
    write(path, lambda file: file.write(data))


def write_text(path: AnyPath, text: str) -> None:
    """Writes a UTF-8 text file whole or not at all."""
    write_bytes(path, text.encode())


def write_array(path: AnyPath, array: np.ndarray) -> None:
    """Writes an array as `.npy`, whole or not at all."""
    write(path, lambda file: np.save(file, array, allow_pickle=False))


def write_arrays(path: AnyPath, **arrays: ArrayLike) -> None:
    """Writes arrays by name as `.npz`, whole or not at all."""
    write(path, lambda file: np.savez(file, allow_pickle=False, **arrays))


def remove_parts(folder: AnyPath) -> None:
    """Removes temporary files that a killed process left in `folder`."""
    if not isinstance(folder, Path):
        return
    for part in folder.glob(f".*{_SUFFIX}"):  # nothing, if the folder does not exist
        part.unlink(missing_ok=True)
