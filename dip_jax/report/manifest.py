"""The record of the files that runs wrote into an output folder. Only recorded files are ever removed."""

import json
from collections.abc import Iterable
from pathlib import Path

from dip_jax.images.atomic import write_text

STATE_FOLDER = ".dip_jax"  # where a run keeps its own state; no image has this name
_NAME = "manifest.json"


class Manifest:
    """Paths relative to the output folder, in `.dip_jax/manifest.json`."""

    def __init__(self, folder: Path):
        """Reads the record of an output `folder`; it is empty where there is none."""
        self._folder = folder
        self._path = folder / STATE_FOLDER / _NAME
        try:
            self._files = set(json.loads(self._path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            self._files = set()

    def __contains__(self, name: str) -> bool:
        """Whether a run wrote the file with this path."""
        return name in self._files

    def __iter__(self):
        """The recorded paths, sorted."""
        return iter(sorted(self._files))

    def add(self, names: Iterable[str]) -> None:
        """Records files. Call it before they are written, so that none is ever without an owner."""
        new = self._files | set(names)
        if new != self._files:
            self._files = new
            self._save()

    def remove(self, name: str) -> None:
        """Removes a file and its record; a file that is not recorded stays."""
        if name in self._files:
            (self._folder / name).unlink(missing_ok=True)
            self._files.discard(name)
            self._save()

    def _save(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._path, json.dumps(sorted(self._files), indent=0) + "\n")
