"""The progress of a folder: images done, rate, time left."""

import time
from typing import NamedTuple

from dip_jax.base import Status, network_label
from dip_jax.batch.record import RunRecord
from dip_jax.engine.scheduler import Progress


class FolderProgress(NamedTuple):
    """The progress of one process over its images."""

    in_progress: Progress
    """The networks in progress."""
    num_images: int
    """Number of images of this process."""
    num_done: int
    """Number of images that are restored and written, by this run or by an earlier one."""
    num_failed: int
    """Number of images that failed or diverged."""
    per_hour: float
    """Images that this run restored, per hour; 0 before the first one."""
    seconds_left: float
    """Upper bound on the time left, if the other images take as many steps as the finished ones; NaN while the speed
    is unknown."""


class ProgressMeter:
    """Measures the progress of a folder, from the time at which it is built."""

    def __init__(self, record: RunRecord, *, num_images: int, num_networks: int):
        """Starts the clock.

        Args:
          record: The outcome of each image.
          num_images: Number of images of this process.
          num_networks: Number of networks per image.
        """
        self._record = record
        self._num_images, self._num_networks = num_images, num_networks
        self._labels: set[str] = set()  # of all networks that made steps
        self._start = time.monotonic()

    def measure(self, in_progress: Progress) -> FolderProgress:
        """Returns the progress of the folder.

        Args:
          in_progress: The networks in progress.
        """
        if not in_progress.phase:
            self._labels.update(in_progress.names)
        summaries = self._record.summaries()
        statuses = [summary["status"] for summary in summaries.values()]
        num_failed = sum(status in (Status.FAILED, Status.DIVERGED) for status in statuses)
        num_steps = self._record.num_steps()
        hours = (time.monotonic() - self._start) / 3600
        mean_steps = sum(num_steps) / len(num_steps) if num_steps else in_progress.num_steps
        steps_left = [max(mean_steps - steps, 0) for steps in in_progress.steps]
        # An image that was kept from an earlier run, or could not be read, has no network in this run.
        num_without = sum(network_label(name, 0) not in self._labels for name in summaries)
        num_fitted = self._num_networks * (self._num_images - num_without)
        num_waiting = num_fitted - len(self._labels)
        total_left = sum(steps_left) + max(num_waiting, 0) * mean_steps
        steps_per_second = in_progress.steps_per_second * max(len(steps_left), 1)
        return FolderProgress(
            in_progress=in_progress,
            num_images=self._num_images,
            num_done=len(statuses) - num_failed,
            num_failed=num_failed,
            per_hour=len(num_steps) / hours if hours else 0.0,
            seconds_left=total_left / steps_per_second,
        )
