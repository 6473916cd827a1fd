"""Finding image files in folders and by patterns, local or remote."""

import glob
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from dip_jax.errors import InputError
from dip_jax.images.decode import SUFFIXES
from dip_jax.storage.paths import (
    AnyPath,
    as_os_error,
    exists,
    identity,
    is_folder,
    is_link,
    list_folder,
    to_path,
)


def list_images(
    paths: Sequence[str | AnyPath],
    *,
    suffixes: tuple[str, ...] = SUFFIXES,
    exclude: Container[AnyPath] = (),
    recursive: bool = False,
) -> list[AnyPath]:
    """Finds the image files of files, folders and glob patterns.

    Args:
      paths: Files, folders or glob patterns; also URLs (see `to_path`), whose patterns have no `**`. A folder means
        the images directly in it. A leading `~` is the home folder, also where no shell expands it.
      suffixes: Suffixes of the images in a folder or a pattern.
      exclude: Files of a folder or a pattern to leave out.
      recursive: A folder also means the images in its subfolders, except hidden ones and links.

    Returns:
      The files in the order of `paths`, each only once, also if links lead to it again. Those of a folder or
      pattern are sorted.

    Raises:
      InputError: If a path matches no image, or a remote one cannot be listed.
    """
    found: dict[str, AnyPath] = {}
    for path in map(to_path, paths):
        try:
            matches = _matches(path, suffixes, recursive=recursive)
        except OSError as error:
            raise InputError(
                f"{path}: expected images, but it cannot be listed ({error})."
            ) from None
        kept = [match for match in matches if match == path or match not in exclude]
        if matches and not kept:
            raise InputError(
                f"{path}: all {len(matches)} images are output of dip_jax; name the files to restore them"
            )
        if not matches:
            raise InputError(
                f"{path}: expected an image, a folder or a pattern, but no image matches "
                f"({', '.join(suffixes)}); check the path"
            )
        for match in kept:
            found.setdefault(identity(match), match)
    return list(found.values())


def subfolders_with_images(
    paths: Sequence[str | AnyPath], *, exclude: Container[AnyPath] = ()
) -> list[AnyPath]:
    """Finds the direct subfolders of folders that `list_images` leaves out, although they contain images.

    Args:
      paths: As in `list_images`.
      exclude: Files that do not count.
    """
    folders = [path for path in map(to_path, paths) if is_folder(path)]
    subfolders = (child for folder in folders for child in list_folder(folder))
    return [
        child
        for child in subfolders
        if _is_searched(child)
        and any(path not in exclude for path in _images_in(child, SUFFIXES, recursive=False))
    ]


def _matches(path: AnyPath, suffixes: tuple[str, ...], *, recursive: bool) -> list[AnyPath]:
    """The path itself if it is a file; otherwise the images in the folder, or those of the pattern."""
    # A file is looked for first, because its name may look like a pattern.
    if path.is_file() if isinstance(path, Path) else exists(path) and not is_folder(path):
        return [path]
    if is_folder(path):
        return list(_images_in(path, suffixes, recursive=recursive))
    if isinstance(path, Path):
        names = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        return [name for name in names if name.suffix.lower() in suffixes and name.is_file()]
    # Asking whether each name is a file would take one request per file.
    return [name for name in _remote_matches(path) if name.suffix.lower() in suffixes]


def _images_in(folder: AnyPath, suffixes: tuple[str, ...], *, recursive: bool) -> Iterator[AnyPath]:
    for path in list_folder(folder):
        if path.suffix.lower() in suffixes and _may_be_file(path):
            yield path
        elif recursive and _is_searched(path):
            yield from _images_in(path, suffixes, recursive=True)


def _may_be_file(path: AnyPath) -> bool:
    """Whether a path is a visible file; asking this of a remote one takes a request, and only a file has a suffix."""
    return not isinstance(path, Path) or (path.name[0] != "." and path.is_file())


def _is_searched(path: AnyPath) -> bool:
    """Whether a path is a folder that a recursive search enters."""
    return path.name[0] != "." and not is_link(path) and is_folder(path)


def _remote_matches(pattern: AnyPath) -> list[AnyPath]:
    if "**" in pattern.parts:
        raise InputError(f"{pattern}: expected a pattern without `**`; name the folders.")
    bucket = pattern.parents[-3] if len(pattern.parents) > 2 else pattern.parent
    with as_os_error(pattern):
        return sorted(bucket.glob(pattern.relative_to(bucket).as_posix()))
