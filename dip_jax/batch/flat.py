"""Flat output: the restored images side by side, as `NAME.png`, and all other files of the run in a folder `details`."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from dip_jax.errors import InputError
from dip_jax.report.manifest import Manifest
from dip_jax.storage import atomic
from dip_jax.storage.paths import AnyPath, is_folder, list_folder, read_bytes

DETAILS = "details"
# Suffixes of restored images; see `images.write`.
_SUFFIXES = (".png", ".tif", ".bmp", ".fits", ".npy")


class FlatOutput:
    """The folder of the restored images."""

    def __init__(self, output: AnyPath):
        """Creates nothing yet.

        Args:
          output: The folder.
        """
        self._output = output
        self.details = output / DETAILS
        """The output folder of the run."""

    def require_free(self, names: Sequence[str]) -> None:
        """Checks that no file of the user has the name of a restored image.

        Args:
          names: The names of the images.

        Raises:
          InputError: If there is such a file.
        """
        by_folder: dict[AnyPath, set[str]] = {}
        for name in names:
            path = self._output / name
            by_folder.setdefault(path.parent, set()).add(path.name.casefold())
        for folder, stems in by_folder.items():
            for path in list_folder(folder):
                if path.stem.casefold() not in stems or path.suffix.lower() not in _SUFFIXES:
                    continue
                name = (path.parent / path.stem).relative_to(self._output).as_posix()
                relative = path.relative_to(self._output).as_posix()
                if is_folder(path) or relative not in self._manifest(name):
                    raise InputError(
                        f"{path} is not recorded as a file of dip_jax, and --flat needs its name: choose another "
                        "--output."
                    )

    def publish(self, name: str) -> None:
        """Copies a restored image out of the folder of its run.

        Args:
          name: The name of the image.

        Raises:
          OSError: If the copy cannot be written, or a file that no run wrote has its name.
        """
        recorded = map(PurePosixPath, Manifest(self.details, name))
        restored = [p for p in recorded if p.stem == "restored" and p.parent == PurePosixPath(name)]
        files = self._manifest(name)
        for path in restored:
            atomic.write_bytes(files.path(f"{name}{path.suffix}"), read_bytes(self.details / path))
        files.remove_others()

    def _manifest(self, name: str) -> Manifest:
        return Manifest(self._output, name, is_flat=True)
