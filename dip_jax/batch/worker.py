"""Restores the images of one process: reads, fits and writes them in three threads."""

import dataclasses
from collections.abc import Callable, Sequence

from dip_jax.base import Status
from dip_jax.batch.finisher import Finisher
from dip_jax.batch.flat import FlatOutput
from dip_jax.batch.inputs import LazyInput
from dip_jax.batch.interrupt import Interrupt
from dip_jax.batch.output_folder import checkpoint_folder, heartbeat_folder
from dip_jax.batch.processes import Heartbeats, Partition
from dip_jax.batch.progress import FolderProgress, ProgressMeter
from dip_jax.batch.reader import Reader
from dip_jax.batch.record import RunRecord
from dip_jax.batch.writer import ResultWriter
from dip_jax.config import Config
from dip_jax.engine.checkpoint import CheckpointStore
from dip_jax.engine.devices import made_on_host
from dip_jax.engine.restore import restore_many
from dip_jax.engine.scheduler import Progress
from dip_jax.report.loggers import build_logger
from dip_jax.report.summary import Summary
from dip_jax.storage.paths import AnyPath


class Worker:
    """Restores the partition of one process."""

    def __init__(
        self,
        inputs: Sequence[LazyInput],
        config: Config,
        folder: AnyPath,
        *,
        partition: Partition,
        resume: bool,
        flat: FlatOutput | None,
        on_message: Callable[[str], None],
    ):
        """Starts nothing yet.

        Args:
          inputs: The images of all processes.
          config: The settings.
          folder: The output folder, prepared.
          partition: The partition of this process.
          resume: Keep the results of an earlier run.
          flat: Gets a copy of each restored image; None for no copies.
          on_message: Called with sentences for the user.
        """
        self._config, self._folder, self._resume = config, folder, resume
        self._flat, self._on_message = flat, on_message
        self._inputs = partition.of(inputs)
        self._record = RunRecord(folder, config, saves_summaries=partition.num_processes == 1)
        self._heartbeats = Heartbeats(heartbeat_folder(folder), partition)
        self._finisher = Finisher(
            inputs, config, folder, partition, self._heartbeats, flat=flat, on_message=on_message
        )

    def run(
        self, interrupt: Interrupt, on_progress: Callable[[FolderProgress], None] | None
    ) -> list[Summary]:
        """Restores the images and writes the files of the run.

        Args:
          interrupt: A request to stop.
          on_progress: Called between chunks of steps.

        Returns:
          The summaries of all images; in a process other than 0, those of its partition.

        Raises:
          OSError: If the disk is full.
        """
        with self._heartbeats.beating():
            self._restore(interrupt, on_progress)
            return self._finisher.finish(self._record, should_stop=interrupt)

    def _restore(
        self, interrupt: Interrupt, on_progress: Callable[[FolderProgress], None] | None
    ) -> None:
        config, record = self._config, self._record

        def should_stop() -> bool:
            return interrupt() or record.disk_is_full

        reader = Reader(
            self._folder, config, record, should_stop=should_stop, on_message=self._on_message
        )
        unfinished = reader.unfinished(self._inputs, resume=self._resume)
        meter = ProgressMeter(record, num_images=len(self._inputs), num_networks=config.num_fits)

        def show(progress: Progress) -> None:
            if on_progress is not None:
                on_progress(meter.measure(progress))

        store = CheckpointStore(
            checkpoint_folder(self._folder),
            every_minutes=config.run.checkpoint_every,
            keep=config.run.checkpoint_keep,
            on_message=self._on_message,
        )
        logger = build_logger(config, self._folder, on_message=self._on_message)
        try:
            with ResultWriter(
                self._folder,
                config,
                reader,
                record,
                store,
                logger=logger,
                flat=self._flat,
                on_message=self._on_message,
            ) as writer:
                for result in restore_many(
                    made_on_host(reader.cases(unfinished)),
                    config,
                    run=dataclasses.replace(config.run, log="none"),  # `logger` writes the logs
                    max_cases=len(unfinished),
                    store=store,
                    on_progress=show,
                    should_stop=should_stop,
                    on_step=None if logger is None else logger.on_step,
                    every=config.run.log_every,
                ):
                    is_partial = result.status == Status.INTERRUPTED
                    if is_partial and not interrupt.is_from_keyboard:
                        continue  # after SIGTERM, no user waits for partial results
                    writer.submit(result)
        except Exception as error:
            if not record.note_disk_full(error):
                raise
