"""Writes the results of images in one thread, while the devices continue."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from dip_jax.base import Result, Status, network_label
from dip_jax.batch.flat import FlatOutput
from dip_jax.batch.reader import Reader
from dip_jax.batch.record import RunRecord
from dip_jax.config import Config
from dip_jax.engine.checkpoint import CheckpointStore
from dip_jax.engine.devices import on_host
from dip_jax.errors import describe_error
from dip_jax.report.image import report_image
from dip_jax.report.loggers import Logger
from dip_jax.storage.paths import AnyPath

_MAX_WAITING = 4  # results in the queue; when it is full, the fits wait


class ResultWriter:
    """A context in which results are written; at its end, all of them are written or recorded as failed."""

    def __init__(
        self,
        folder: AnyPath,
        config: Config,
        reader: Reader,
        record: RunRecord,
        store: CheckpointStore,
        *,
        logger: Logger | None,
        flat: FlatOutput | None,
        on_message: Callable[[str], None],
    ):
        """Starts no thread yet.

        Args:
          folder: The output folder.
          config: The settings.
          reader: Has the image of each result.
          record: Gets the summary of each result.
          store: The checkpoints; those of a finished image are removed.
          logger: Gets each result after its files are written, and is closed at the end; None to log nothing.
          flat: Gets a copy of each restored image; None for no copies.
          on_message: Called with sentences for the user.
        """
        self._folder, self._config = folder, config
        self._reader, self._record, self._store = reader, record, store
        self._logger, self._flat, self._on_message = logger, flat, on_message
        self._executor = ThreadPoolExecutor(1)  # one thread: matplotlib is not thread-safe
        self._queue_space = threading.Semaphore(_MAX_WAITING)

    def __enter__(self) -> "ResultWriter":
        """Returns the writer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Waits until all results are written."""
        self._executor.shutdown()
        if self._logger is not None:
            self._logger.close()

    def submit(self, result: Result) -> None:
        """Queues a result; waits while the queue is full."""
        self._queue_space.acquire()
        self._executor.submit(self._write, result)

    def _write(self, result: Result) -> None:
        try:
            loaded, digest = self._reader.release(result.name)
            if result.error is not None:
                self._record.fail(result.name, describe_error(result.error))
                return
            case = loaded.case
            with on_host():
                summary = report_image(
                    self._folder, case, result, self._config, loaded.template, digest=digest
                )
            new_notes = summary["notes"][len(case.notes) :]  # the reader reported those of the case
            for note in new_notes:
                self._on_message(f"{result.name}: {note}")
            if self._flat is not None:
                self._flat.publish(result.name)
            if result.status != Status.INTERRUPTED:
                for network_index in range(self._config.num_networks):
                    self._store.remove(network_label(result.name, network_index))
            self._record.add(summary)
            if self._logger is not None:
                self._logger.on_result(case, result)
        except Exception as error:  # any error concerns only this image, except a full disk
            if not self._record.note_disk_full(error):
                self._record.fail(result.name, f"cannot be written: {describe_error(error)}")
        finally:
            self._queue_space.release()
