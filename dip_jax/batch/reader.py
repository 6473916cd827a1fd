"""Reads the images of a process one by one, and skips those that an earlier run finished."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

from dip_jax.base import Case
from dip_jax.batch.inputs import LazyInput
from dip_jax.batch.load import LoadedInput
from dip_jax.batch.record import RunRecord
from dip_jax.config import Config, to_json
from dip_jax.engine.canvas import canvas_shape
from dip_jax.errors import describe_error
from dip_jax.report.manifest import Manifest
from dip_jax.report.summary import Summary, read_summary, remove_summary
from dip_jax.storage.atomic import write_text
from dip_jax.storage.paths import AnyPath
from dip_jax.tasks.cases import operator_class
from dip_jax.tasks.noise_level import resolve_noise


class Reader:
    """Reads images when the engine asks for them, and keeps each until its result is written.

    The engine iterates over `cases` in its prefetch thread; the writer calls `release` in its own.
    """

    def __init__(
        self,
        folder: AnyPath,
        config: Config,
        record: RunRecord,
        *,
        should_stop: Callable[[], bool],
        on_message: Callable[[str], None],
    ):
        """Reads nothing yet.

        Args:
          folder: The output folder.
          config: The settings.
          record: Gets the images that an earlier run finished, and those that cannot be read.
          should_stop: Returns whether to read no further image.
          on_message: Called with sentences for the user.
        """
        self._folder, self._config, self._record = folder, config, record
        self._should_stop, self._on_message = should_stop, on_message
        self._lock = threading.Lock()
        self._loaded: dict[str, tuple[LoadedInput, str]] = {}

    def unfinished(self, inputs: Sequence[LazyInput], *, resume: bool) -> list[LazyInput]:
        """The images that are still to be restored, those of equal canvas next to each other.

        Args:
          inputs: The images of this process.
          resume: Keep the results of an earlier run.
        """
        unfinished = []
        for lazy in inputs:
            if self._should_stop():
                break
            summary = read_summary(self._folder / lazy.name) if resume else None
            if summary is not None and summary["name"] != lazy.name:  # a copied folder
                summary = None
            if summary is not None and summary["status"].is_finished:
                if not has_changed(lazy, summary, self._on_message):
                    self._on_message(f"{lazy.name}: finished earlier, kept")
                    self._record.keep(summary)
                    continue
                self._on_message(
                    f"{lazy.name}: its files changed since it was restored; starting anew"
                )
            unfinished.append(lazy)
            with contextlib.suppress(OSError):  # a stale summary would mark the image as finished
                remove_summary(self._folder, lazy.name)
        return sorted(unfinished, key=self._canvas)

    def cases(self, inputs: Sequence[LazyInput]) -> Iterator[Case]:
        """Reads images and yields their cases; an image that cannot be read is recorded as failed."""
        for lazy in inputs:
            if self._should_stop():
                return
            try:
                loaded, digest = lazy.load(), lazy.digest()
                loaded = loaded._replace(case=resolve_noise(loaded.case, self._config))
            except Exception as error:  # any error concerns only this image
                self._record.fail(lazy.name, describe_error(error))
                continue
            self._note_settings(lazy.name)
            for note in loaded.case.notes:
                self._on_message(f"{lazy.name}: {note}")
            with self._lock:
                self._loaded[lazy.name] = (loaded, digest)
            yield loaded.case

    def _note_settings(self, name: str) -> None:
        """Writes the settings of an image that begins, so that it is resumed with them only."""
        try:
            write_text(Manifest(self._folder, name).path("config.json"), to_json(self._config))
        except OSError as error:  # the result cannot be written either, which is reported then
            self._record.note_disk_full(error)

    def release(self, name: str) -> tuple[LoadedInput, str]:
        """Returns an image that was read, with the digest of its files, and keeps it no longer."""
        with self._lock:
            return self._loaded.pop(name)

    def _canvas(self, lazy: LazyInput) -> tuple[int, int, int]:
        operator = operator_class(self._config.task)
        return canvas_shape(lazy.shape or (0, 0, 0), operator, self._config.net.sides_per_octave)


def has_changed(lazy: LazyInput, summary: Summary, on_message: Callable[[str], None]) -> bool:
    """Returns whether the files of an image changed since an earlier run restored it.

    Files that can no longer be read count as unchanged: without them the result cannot be improved.

    Args:
      lazy: The image.
      summary: Its summary from the earlier run.
      on_message: Called with a sentence if the files cannot be read.
    """
    try:
        return summary["digest"] != lazy.digest()
    except OSError as error:
        on_message(f"{lazy.name}: its files cannot be read any more ({describe_error(error)})")
        return False
