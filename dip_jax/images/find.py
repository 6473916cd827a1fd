"""Finding image files in folders and by patterns, local or remote."""

import glob
from collections.abc import Container, Sequence
from pathlib import Path

from dip_jax.errors import InputError
from dip_jax.images.decode import SUFFIXES
from dip_jax.storage.paths import (
    AnyPath,
    as_os_error,
    exists,
    identity,
    is_folder,
    list_folder,
    to_path,
)


def list_images(
    paths: Sequence[str | AnyPath],
    *,
    suffixes: tuple[str, ...] = SUFFIXES,
    exclude: Container[AnyPath] = (),
) -> list[AnyPath]:
    """Finds the image files of files, folders and glob patterns.

    Args:
      paths: Files, folders or glob patterns; also URLs (see `to_path`), whose patterns have no `**`. A folder means
        the images directly in it. A leading `~` is the home folder, also where no shell expands it.
      suffixes: Suffixes of the images in a folder or a pattern.
      exclude: Files of a folder or a pattern to leave out.

    Returns:
      The files in the order of `paths`, each only once, also if links lead to it again. Those of a folder or
      pattern are sorted.

    Raises:
      InputError: If a path matches no image, or a remote one cannot be listed.
    """
    found: dict[str, AnyPath] = {}
    for path in map(to_path, paths):
        try:
            matches = _matches(path, suffixes)
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


def _matches(path: AnyPath, suffixes: tuple[str, ...]) -> list[AnyPath]:
    """The path itself if it is a file; otherwise the images in the folder, or those of the pattern."""
    # A file is looked for first, because its name may look like a pattern.
    if isinstance(path, Path):
        if path.is_file():
            return [path]
        pattern = f"{glob.escape(str(path))}/*" if path.is_dir() else str(path)
        names = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
        return [name for name in names if name.suffix.lower() in suffixes and name.is_file()]
    if exists(path) and not is_folder(path):
        return [path]
    # Asking whether each name is a file would take one request per file.
    names = list_folder(path) if is_folder(path) else _remote_matches(path)
    return [name for name in names if name.suffix.lower() in suffixes]


def _remote_matches(pattern: AnyPath) -> list[AnyPath]:
    if "**" in pattern.parts:
        raise InputError(f"{pattern}: expected a pattern without `**`; name the folders.")
    bucket = pattern.parents[-3] if len(pattern.parents) > 2 else pattern.parent
    with as_os_error(pattern):
        return sorted(bucket.glob(pattern.relative_to(bucket).as_posix()))
