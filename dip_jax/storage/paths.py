"""Paths of local files, and of remote ones in a bucket, such as `gs://bucket/folder`.

A local path is a `pathlib.Path`. A remote one is an `epath.Path`, which has the same methods for reading, listing and
writing. Where they differ, the functions of this module hide the difference:

- Object stores have no empty folders, no links and no renaming. An object appears whole when its file is closed.
- Their errors are of many types; here all of them are `OSError`.

References:
  etils.epath; fsspec and its file systems gcsfs, s3fs and adlfs.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from dip_jax.errors import InputError

AnyPath: TypeAlias = Path | Any
"""A local path, or an `epath.Path`, which has no static types and is imported only when it is needed."""

_LIBRARIES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}
"""The library of each supported scheme."""


def to_path(path: str | AnyPath) -> AnyPath:
    """Makes a path of text.

    Args:
      path: A local path, in which a leading `~` is the home folder, or a URL of one of the schemes gs, s3 and az.

    Returns:
      A `pathlib.Path`, or an `epath.Path` for a URL.

    Raises:
      InputError: If the text is empty, the scheme is unknown, or its library is not installed.

    Example:
      >>> to_path("photos/cup.png").name
      'cup.png'
    """
    if not isinstance(path, str | Path):  # an epath.Path is one already
        return path
    if path == "":
        raise InputError("Expected a path, got an empty text.")
    scheme, is_url, rest = str(path).partition("://")
    if not is_url:
        _refuse_broken_url(str(path))
        return Path(os.path.expanduser(path))
    if scheme not in _LIBRARIES:
        known = ", ".join(f"{name}://" for name in _LIBRARIES)
        raise InputError(f"{path}: expected a local path or a URL of {known}, got {scheme}://.")
    if not rest.strip("/"):
        raise InputError(f"{path}: expected a bucket and a folder, as {scheme}://bucket/folder.")
    return _remote_path(scheme, rest)


def is_remote(path: AnyPath) -> bool:
    """Whether a path is remote."""
    return not isinstance(path, Path)


def absolute(path: AnyPath) -> str:
    """The path as absolute text with slashes, without following links; of a remote one without its colon.

    Example:
      >>> absolute(Path("/photos/../cup.png"))
      '/cup.png'
    """
    return os.path.abspath(os.path.join(*path.parts)) if path.parts else os.getcwd()


def identity(path: AnyPath) -> str:
    """Text that is equal for two paths of the same file; links are followed."""
    return str(path) if is_remote(path) else os.path.realpath(path)


def exists(path: AnyPath) -> bool:
    """Whether a file, folder or link exists; a link also counts if it leads nowhere."""
    return os.path.lexists(path) if isinstance(path, Path) else _status(path) is not None


def is_folder(path: AnyPath) -> bool:
    """Whether a path is a folder; links are followed."""
    if isinstance(path, Path):
        return path.is_dir()
    status = _status(path)
    return status is not None and status.is_directory


def is_link(path: AnyPath) -> bool:
    """Whether a path is a symbolic link."""
    return isinstance(path, Path) and path.is_symlink()


def list_folder(folder: AnyPath) -> list[AnyPath]:
    """The content of a folder, sorted; empty if there is none.

    Raises:
      OSError: If the folder cannot be listed.
    """
    try:
        with as_os_error(folder):
            return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def read_bytes(path: AnyPath) -> bytes:
    """Reads a file.

    Raises:
      OSError: If it is missing or cannot be read.
    """
    with as_os_error(path):
        return path.read_bytes()


def make_folder(folder: AnyPath) -> None:
    """Creates a folder and its parents; an object store needs none."""
    if not is_remote(folder):
        folder.mkdir(parents=True, exist_ok=True)


def remove_file(path: AnyPath) -> None:
    """Removes a file, if it exists.

    Raises:
      OSError: If it cannot be removed.
    """
    with contextlib.suppress(FileNotFoundError), as_os_error(path):
        path.unlink(missing_ok=True)


def remove_folder(folder: AnyPath) -> None:
    """Removes a folder and its content, as far as possible."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with contextlib.suppress(OSError), as_os_error(folder):
        folder.rmtree()


def remove_if_empty(folder: AnyPath) -> None:
    """Removes a folder without content, if it exists."""
    if isinstance(folder, Path):
        with contextlib.suppress(OSError):
            folder.rmdir()


def file_version(path: AnyPath) -> tuple[int, int]:
    """Time of the last change and size in bytes: a file with equal numbers has not changed.

    Raises:
      OSError: If the file is missing or cannot be read.
    """
    if isinstance(path, Path):
        stat = path.stat()
        return stat.st_mtime_ns, stat.st_size
    with as_os_error(path):
        status = path.stat()
        return status.mtime, status.length


@contextlib.contextmanager
def local_copy(path: AnyPath) -> Iterator[Path]:
    """A context with a local file of the same content, for libraries that open files themselves.

    Yields:
      `path` itself if it is local, otherwise a temporary copy.

    Raises:
      OSError: If the file cannot be read.
    """
    if isinstance(path, Path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(read_bytes(path))
        yield copy


@contextlib.contextmanager
def as_os_error(path: AnyPath) -> Iterator[None]:
    """A context in which every error of a remote file system is raised as `OSError`."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        if not is_remote(path):
            raise
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise OSError(f"{path} cannot be accessed ({reason})") from error


def _status(path: AnyPath) -> Any:
    """The `stat` of a remote path; None if it does not exist. Its `exists` also says no when the network fails."""
    try:
        with as_os_error(path):
            return path.stat()
    except FileNotFoundError:
        return None


def _refuse_broken_url(path: str) -> None:
    """`pathlib.Path` makes `gs:/bucket` of `gs://bucket`, which would be a local folder `gs:`."""
    scheme, colon, rest = path.partition(":/")
    if colon and scheme in _LIBRARIES:
        raise InputError(f"{path}: expected {scheme}://{rest.lstrip('/')}; pass a URL as text.")


def _remote_path(scheme: str, rest: str) -> AnyPath:
    import fsspec
    from etils import epath

    # Listings are kept for minutes by default, but other processes change the folder.
    for name in (scheme, {"gs": "gcs", "az": "abfs"}.get(scheme, scheme)):
        fsspec.config.conf.setdefault(name, {}).setdefault("use_listings_cache", False)
    path = epath.Path(f"{scheme}://{rest}")
    library = _LIBRARIES[scheme]
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError:
        raise InputError(
            f"{path}: {scheme}:// needs the library {library}; install it with `pip install {library}`."
        ) from None
    return path
