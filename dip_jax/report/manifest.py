"""The record of the files that runs wrote into an output folder. Only recorded files are ever removed or replaced."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from dip_jax.images.atomic import write_text

STATE_FOLDER = ".dip_jax"  # holds the state of a run; no image has this name
_FOLDER = "manifest"

_RUN_FILES = re.compile(
    r"config\.json|summary\.(json|csv)|index\.html|(contact|comparison)-.*\.png|"
    + re.escape(STATE_FOLDER)
)
_IMAGE_FILES = re.compile(
    r"(restored|std|median)\..*|config\.json|metrics\.jsonl|summary\.json|interval\.npy|samples|"
    r"(curve|sheet|traces|calibration)\.png"
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

    def __init__(self, output: Path, image: str | None = None):
        """Reads the record; it is empty if the file is missing or damaged.

        Args:
          output: The output folder.
          image: The name of the image; None for the files of the run itself.
        """
        self._output, self._image = output, image
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

    def path(self, name: str) -> Path:
        """Records a file and returns its path; its folder is created.

        Call it before the file is written: a killed run then leaves no unrecorded file.

        Args:
          name: Path of the file, relative to the folder of the image, or of the run.

        Raises:
          FileExistsError: If the file exists and is not recorded.
        """
        name = name if self._image is None else f"{self._image}/{name}"
        path = self._output / name
        if name not in self._names and os.path.lexists(path):
            raise FileExistsError(f"{path} was not written by dip_jax, and is kept")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.add([name])
        self._written.add(name)
        return path

    def add(self, names: Iterable[str]) -> None:
        """Records files, given relative to the output folder."""
        names = self._names | set(names)
        if names != self._names:
            self._names = names
            self._save()

    def remove(self, name: str) -> None:
        """Removes a file and its record, and its folder within the image if empty; other files stay."""
        if name in self._names:
            path = self._output / name
            path.unlink(missing_ok=True)
            if self._image is not None and path.parent != self._output / self._image:
                with contextlib.suppress(OSError):  # not empty
                    path.parent.rmdir()
            self._names.discard(name)
            self._save()

    def remove_others(self) -> None:
        """Removes the recorded files whose `path` was not requested: those of an earlier run."""
        for name in self._names - self._written:
            self.remove(name)

    def unrecorded(self, may_write: Callable[[str], bool]) -> list[Path]:
        """Existing files whose names a run needs, but which no run wrote.

        Args:
          may_write: Returns whether the run may write a file or folder of a name into the folder of the record.
        """
        folder = self._output if self._image is None else self._output / self._image
        inside = (folder, *folder.parents)[: len(folder.parts) - len(self._output.parts)]
        for path in inside:  # a link would lead out of the output folder
            if path.is_symlink() or (path.exists() and not path.is_dir()):
                return [path]
        if not folder.is_dir():
            return []
        found = [path for path in folder.iterdir() if may_write(path.name)]
        files = [f for path in found for f in (path.iterdir() if _is_folder(path) else [path])]
        relative = {file.relative_to(self._output).as_posix(): file for file in sorted(files)}
        return [file for name, file in relative.items() if name not in self._names]

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._path, json.dumps(sorted(self._names), indent=0) + "\n")


class RecordedFiles:
    """The files that runs wrote into any output folder; each record is read once."""

    def __init__(self) -> None:
        """Reads nothing yet."""
        self._names: dict[Path, frozenset[str]] = {}

    def __contains__(self, path: object) -> bool:
        """Whether a file is recorded in one of the folders that contain it; links are followed."""
        path = Path(os.path.realpath(str(path)))
        return any(
            path.relative_to(folder).as_posix() in self._recorded(folder) for folder in path.parents
        )

    def _recorded(self, output: Path) -> frozenset[str]:
        if output not in self._names:
            records = (output / STATE_FOLDER / _FOLDER).glob("*.json")
            self._names[output] = frozenset(name for record in records for name in _read(record))
        return self._names[output]


def _read(path: Path) -> set[str]:
    try:
        return set(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # TypeError: valid JSON, but no list
        return set()


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
