"""The record of the files that runs wrote into an output folder. Only recorded files are ever removed or replaced."""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from dip_jax.storage.atomic import write_text
from dip_jax.storage.paths import (
    AnyPath,
    exists,
    identity,
    is_folder,
    is_link,
    is_remote,
    list_folder,
    make_folder,
    read_bytes,
    remove_file,
    remove_if_empty,
)

STATE_FOLDER = ".dip_jax"  # holds the state of a run; no image has this name
_FOLDER = "manifest"
_SAMPLES = "samples"  # the only folder in the folder of an image

_RUN_FILES = re.compile(
    r"(config|conformal)\.json|summary\.(json|csv)|index\.html|(contact|comparison)-.*\.png|"
    + re.escape(STATE_FOLDER)
)
_IMAGE_FILES = re.compile(
    r"(restored|median)\..*|config\.json|metrics\.jsonl|summary\.json|posterior\.npz|samples|thumbnail\.jpg|"
    r"(degraded|reference|restored_8bit|interval_(low|high)|curve|sheet|std|traces|calibration)\.png"
)


def is_run_file(name: str) -> bool:
    """Whether a run may write a file or folder of this name into its output folder, on any file system.

    Example:
      >>> is_run_file("Index.HTML"), is_run_file("contact-12.png"), is_run_file("photo")
      (True, True, False)
    """
    return _RUN_FILES.fullmatch(name.casefold()) is not None


def is_image_file(name: str) -> bool:
    """Whether a run may write a file or folder of this name into the folder of an image.

    Example:
      >>> is_image_file("restored.tif"), is_image_file("Sheet.png"), is_image_file("notes.txt")
      (True, True, False)
    """
    return _IMAGE_FILES.fullmatch(name.casefold()) is not None


class Manifest:
    """The recorded files of a run, or of one image of it, as paths relative to the output folder.

    The record is a file of `.dip_jax/manifest/`. Each image has its own, so that processes which restore different
    images never write the same record.
    """

    def __init__(self, output: AnyPath, image: str | None = None, *, is_flat: bool = False):
        """Reads the record; it is empty if the file is missing or damaged.

        Args:
          output: The output folder.
          image: The name of the image; None for the files of the run itself.
          is_flat: The files of the image lie in the output folder itself.

        Raises:
          OSError: If the file cannot be read.
        """
        self._output, self._image = output, None if is_flat else image
        name = "run" if image is None else hashlib.sha1(image.encode()).hexdigest()
        self._path = output / STATE_FOLDER / _FOLDER / f"{name}.json"
        self._names = _read(self._path)
        self._written: set[str] = set()

    def __contains__(self, name: str) -> bool:
        """Whether the file is recorded."""
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        """The recorded paths, sorted."""
        return iter(sorted(self._names))

    def path(self, name: str) -> AnyPath:
        """Records a file and returns its path; its folder is created.

        Call it before the file is written: a killed run then leaves no unrecorded file.

        Args:
          name: Path of the file, relative to the folder of the image, or of the run.

        Raises:
          FileExistsError: If the file exists and is not recorded.
        """
        self.reserve([name])
        name = self._full_name(name)
        path = self._output / name
        make_folder(path.parent)
        self._written.add(name)
        return path

    def reserve(self, names: Iterable[str]) -> None:
        """Records files that will be written, all at once: a remote record takes a request to save.

        Args:
          names: Paths of the files, as in `path`.

        Raises:
          FileExistsError: If a file exists and is not recorded.
        """
        full_names = [self._full_name(name) for name in names]
        paths = [self._output / name for name in full_names if name not in self._names]
        for path in _existing(paths):
            raise FileExistsError(f"{path} is not recorded as a file of dip_jax, and is kept")
        self.add(full_names)

    def add(self, names: Iterable[str]) -> None:
        """Records files, given relative to the output folder."""
        self._save(self._names | set(names))

    def remove(self, name: str) -> None:
        """Removes a file and its record, and its folder within the image if empty; other files stay."""
        self._remove([name])

    def remove_others(self) -> None:
        """Removes the recorded files whose `path` was not requested: those of an earlier run."""
        self._remove(sorted(self._names - self._written))

    def unrecorded(self, may_write: Callable[[str], bool]) -> list[AnyPath]:
        """Existing files whose names a run needs, but which no run wrote.

        Args:
          may_write: Returns whether the run may write a file or folder of a name into the folder of the record.

        Raises:
          OSError: If the folder cannot be listed.
        """
        folder = self._output if self._image is None else self._output / self._image
        inside = (folder, *folder.parents)[: len(folder.parts) - len(self._output.parts)]
        for path in inside:  # a link would lead out of the output folder
            if is_link(path) or (exists(path) and not is_folder(path)):
                return [path]
        found = [path for path in list_folder(folder) if may_write(path.name)]
        return [file for path in found for file in self._unrecorded_at(path)]

    def _unrecorded_at(self, path: AnyPath) -> list[AnyPath]:
        # A run writes no links, and no folder but that of the samples.
        if not is_link(path) and is_folder(path):
            is_samples = self._image is not None and path.name.casefold() == _SAMPLES
            files = list_folder(path) if is_samples else [path]
            return [file for file in files if is_folder(file) or not self._has(file)]
        return [path] if is_link(path) or not self._has(path) else []

    def _has(self, path: AnyPath) -> bool:
        return path.relative_to(self._output).as_posix() in self._names

    def _full_name(self, name: str) -> str:
        return name if self._image is None else f"{self._image}/{name}"

    def _remove(self, names: Iterable[str]) -> None:
        recorded = [name for name in names if name in self._names]
        for name in recorded:
            path = self._output / name
            remove_file(path)
            if self._image is not None and path.parent != self._output / self._image:
                remove_if_empty(path.parent)
        self._save(self._names.difference(recorded))

    def _save(self, names: set[str]) -> None:
        if names != self._names:
            make_folder(self._path.parent)
            write_text(self._path, json.dumps(sorted(names), indent=0) + "\n")
            self._names = names


class RecordedFiles:
    """The files that runs wrote into any output folder; each record is read once."""

    def __init__(self) -> None:
        """Reads nothing yet."""
        self._names: dict[AnyPath, frozenset[str]] = {}

    def __contains__(self, path: AnyPath) -> bool:
        """Whether a file is recorded in one of the folders that contain it; links are followed."""
        path = path if is_remote(path) else Path(identity(path))
        # The last parents of a remote path are its scheme and a root.
        parents = list(path.parents)[:-2] if is_remote(path) else path.parents
        return any(
            path.relative_to(folder).as_posix() in self._recorded(folder) for folder in parents
        )

    def _recorded(self, output: AnyPath) -> frozenset[str]:
        if output not in self._names:
            names: set[str] = set()
            with contextlib.suppress(OSError):  # a folder above, which this user may not read
                for record in list_folder(output / STATE_FOLDER / _FOLDER):
                    names |= _read(record)
            self._names[output] = frozenset(names)
        return self._names[output]


def _existing(paths: Sequence[AnyPath]) -> Iterator[AnyPath]:
    """The paths that exist; several names of a folder take one request."""
    present: dict[AnyPath, set[str]] = {}
    for path in paths:
        if len(paths) > 1:
            if path.parent not in present:
                present[path.parent] = {p.name.casefold() for p in list_folder(path.parent)}
            if path.name.casefold() not in present[path.parent]:
                continue
        if exists(path):
            yield path


def _read(path: AnyPath) -> set[str]:
    """The names in a record, without those of files outside of the folder; none if it is missing or damaged."""
    try:
        names = json.loads(read_bytes(path))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError, RecursionError):
        return set()
    return set(filter(_is_inside, names)) if isinstance(names, list) else set()


def _is_inside(name: object) -> bool:
    """Whether a name is that of a file in a folder."""
    if not isinstance(name, str) or "\0" in name:
        return False
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts
