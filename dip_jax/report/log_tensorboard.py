"""Event files of TensorBoard, written by tensorboardX, an optional dependency."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dip_jax.errors import InputError


def require_tensorboard() -> None:
    """Checks that tensorboardX is installed.

    Raises:
      InputError: If it is not.
    """
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        raise InputError(
            "run.log=tensorboard expects the package tensorboardX, which is not installed; "
            "`pip install tensorboardX` installs it."
        ) from None


class EventFile:
    """The event file of one network.

    Each call writes to the disk before it returns, so that it raises the errors of the disk. The `SummaryWriter` of
    tensorboardX writes in a thread: when a full disk ends that thread, its queue fills up and blocks the fit.
    """

    def __init__(self, folder: Path, first_step: int):
        """Creates the file, and its folder.

        Args:
          folder: The folder; TensorBoard takes its path for the name of the run.
          first_step: TensorBoard ignores steps from this one on that other files of the folder have: an interrupted
            run may repeat some steps when it is resumed.

        Raises:
          OSError: If the file cannot be created.
        """
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard looks for names with `tfevents`, and reads the files of a folder in their order.
        self._file = RecordWriter(str(folder / f"events.out.tfevents.{time.time_ns()}"))
        with contextlib.ExitStack() as stack:
            stack.callback(self._file.close)
            self._write(0, file_version="brain.Event:2")
            self._write(first_step, session_log=SessionLog(status=SessionLog.START))
            stack.pop_all()  # no error: the file stays open

    def write(
        self, step: int, values: Mapping[str, float], images: Mapping[str, np.ndarray]
    ) -> None:
        """Adds numbers, and uint8 images `[H, W]` or `[H, W, 3]`, by name.

        Args:
          step: Number of steps made.
          values: The numbers.
          images: The images.

        Raises:
          OSError: If the file cannot be written.
        """
        from tensorboardX import summary

        for name, value in values.items():
            self._write(step, summary=summary.scalar(name, value))
        for name, image in images.items():
            axes = "HW" if image.ndim == 2 else "HWC"
            self._write(step, summary=summary.image(name, image, dataformats=axes))
        self._file.flush()

    def close(self) -> None:
        """Closes the file.

        Raises:
          OSError: If the file cannot be written.
        """
        self._file.close()

    def _write(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        event = Event(step=step, wall_time=time.time(), **content)
        self._file.write(event.SerializeToString())
