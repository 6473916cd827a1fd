"""The outcome of each image of a process, shared by the threads that read, fit and write."""

import contextlib
import threading
import time

from dip_jax.batch.output_folder import earlier_summaries
from dip_jax.config import Config
from dip_jax.errors import is_disk_full
from dip_jax.report.manifest import Manifest
from dip_jax.report.summarize import failure_summary
from dip_jax.report.summary import Summary, write_run_summary, write_summary
from dip_jax.storage.paths import AnyPath

_SAVE_SECONDS = 10.0  # between two saves of the run's `summary.json`


class RunRecord:
    """The summaries of the images so far, and whether the disk is full. Any thread may call any method."""

    def __init__(self, folder: AnyPath, config: Config, *, saves_summaries: bool):
        """Starts empty.

        Args:
          folder: The output folder.
          config: The settings.
          saves_summaries: Whether the `summary.json` of the run is saved periodically; with several
            processes, none of them knows all images.
        """
        self._folder, self._config = folder, config
        self._saves_summaries = saves_summaries
        self._saved_at = time.monotonic()
        self._lock = threading.Lock()
        self._summaries: dict[str, Summary] = {}
        self._earlier: dict[str, Summary] | None = None  # of all images that earlier runs restored
        self._num_steps: list[int] = []
        self._disk_full = threading.Event()

    @property
    def disk_is_full(self) -> bool:
        """Whether a file could not be written because the disk is full."""
        return self._disk_full.is_set()

    def note_disk_full(self, error: BaseException) -> bool:
        """Notes an error if it means a full disk; returns whether the disk is full."""
        if is_disk_full(error):
            self._disk_full.set()
        return self._disk_full.is_set()

    def keep(self, summary: Summary) -> None:
        """Adds an image that an earlier run finished."""
        with self._lock:
            self._summaries[summary["name"]] = summary

    def add(self, summary: Summary) -> None:
        """Adds an image of this run."""
        with self._lock:
            self._summaries[summary["name"]] = summary
            if summary["status"].is_finished and summary["num_steps"] is not None:
                self._num_steps.append(summary["num_steps"])
            self._save_if_due()

    def fail(self, name: str, error: str) -> None:
        """Adds an image that could not be restored, and writes its summary."""
        summary = failure_summary(name, self._config, error)
        with contextlib.suppress(OSError):
            write_summary(Manifest(self._folder, name), summary)
        self.add(summary)

    def summaries(self) -> dict[str, Summary]:
        """The summaries so far, by name."""
        with self._lock:
            return dict(self._summaries)

    def num_steps(self) -> list[int]:
        """The numbers of steps of the images that this run finished."""
        with self._lock:
            return list(self._num_steps)

    def _save_if_due(self) -> None:
        now = time.monotonic()
        if not self._saves_summaries or now - self._saved_at < _SAVE_SECONDS:
            return
        self._saved_at = now
        try:
            if self._earlier is None:  # read once: that of a large folder takes seconds
                self._earlier = {s["name"]: s for s in earlier_summaries(self._folder, ())}
            write_run_summary(self._folder, list({**self._earlier, **self._summaries}.values()))
        except OSError as error:  # not an error of this image; the end of the run reports it
            self.note_disk_full(error)
