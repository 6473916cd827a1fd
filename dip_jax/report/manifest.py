"""The record of the files that runs wrote into an output folder. Only recorded files are ever removed."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from dip_jax.images.atomic import write_text

STATE_FOLDER = ".dip_jax"  # holds the state of a run; no image has this name
_FILE = "manifest.json"


class Manifest:
    """The paths of recorded files, relative to the output folder; stored in `.dip_jax/manifest.json`."""

    def __init__(self, folder: Path):
        """Reads the record of an output `folder`; it is empty if the file is missing or damaged."""
        self._folder = folder
        self._path = folder / STATE_FOLDER / _FILE
        try:
            self._names = set(json.loads(self._path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # TypeError: valid JSON, but no list
            self._names = set()

    def __contains__(self, name: str) -> bool:
        """Whether the file is recorded."""
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        """The recorded paths, sorted."""
        return iter(sorted(self._names))

    def add(self, names: Iterable[str]) -> None:
        """Records files. Call it before they are written: a killed run then leaves no unrecorded file."""
        names = self._names | set(names)
        if names != self._names:
            self._names = names
            self._save()

    def remove(self, name: str) -> None:
        """Removes a file and its record; a file that is not recorded stays."""
        if name in self._names:
            (self._folder / name).unlink(missing_ok=True)
            self._names.discard(name)
            self._save()

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._path, json.dumps(sorted(self._names), indent=0) + "\n")
