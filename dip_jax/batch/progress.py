"""The progress of a folder: images done, rate, time left."""

import time
from typing import NamedTuple

from dip_jax.base import Status
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
    """Upper bound on the time left, if the other images take as many steps as the finished ones."""


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
        self._start = time.monotonic()

    def measure(self, in_progress: Progress) -> FolderProgress:
        """Returns the progress of the folder.

        Args:
          in_progress: The networks in progress.
        """
        statuses = [summary["status"] for summary in self._record.summaries().values()]
        num_failed = sum(status in (Status.FAILED, Status.DIVERGED) for status in statuses)
        num_steps = self._record.num_steps()
        hours = (time.monotonic() - self._start) / 3600
        mean_steps = sum(num_steps) / len(num_steps) if num_steps else in_progress.num_steps
        steps_left = [max(mean_steps - steps, 0) for steps in in_progress.steps]
        num_waiting = self._num_networks * (self._num_images - len(statuses)) - len(steps_left)
        total_left = sum(steps_left) + max(num_waiting, 0) * mean_steps
        steps_per_second = in_progress.steps_per_second * max(len(steps_left), 1)
        return FolderProgress(
            in_progress=in_progress,
            num_images=self._num_images,
            num_done=len(statuses) - num_failed,
            num_failed=num_failed,
            per_hour=len(num_steps) / hours if hours else 0.0,
            seconds_left=total_left / max(steps_per_second, 1e-9),
        )
