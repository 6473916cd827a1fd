"""The end of a run: waits for the other processes and writes the files of the run."""

import errno
from collections.abc import Callable, Sequence

from dip_jax.base import Status
from dip_jax.batch.flat import FlatOutput
from dip_jax.batch.inputs import LazyInput
from dip_jax.batch.output_folder import earlier_summaries, remove_state
from dip_jax.batch.processes import Heartbeats, Partition
from dip_jax.batch.reader import has_changed
from dip_jax.batch.record import RunRecord
from dip_jax.config import Config
from dip_jax.images.stack import write_stack
from dip_jax.report.manifest import Manifest
from dip_jax.report.run_pages import write_pages
from dip_jax.report.summarize import failure_summary
from dip_jax.report.summary import Summary, read_summary, write_run_summary
from dip_jax.storage.paths import AnyPath


class Finisher:
    """Ends the run of one process; process 0 also ends the whole run."""

    def __init__(
        self,
        inputs: Sequence[LazyInput],
        config: Config,
        folder: AnyPath,
        partition: Partition,
        heartbeats: Heartbeats,
        *,
        flat: FlatOutput | None,
        on_message: Callable[[str], None],
    ):
        """Does nothing yet.

        Args:
          inputs: The images of all processes.
          config: The settings.
          folder: The output folder.
          partition: The partition of this process.
          heartbeats: The heartbeats of all processes.
          flat: Gets a copy of each joined file of pages; None for no copies.
          on_message: Called with sentences for the user.
        """
        self._inputs, self._config, self._folder = inputs, config, folder
        self._partition, self._heartbeats = partition, heartbeats
        self._flat, self._on_message = flat, on_message

    def finish(self, record: RunRecord, *, should_stop: Callable[[], bool]) -> list[Summary]:
        """Writes the files of the run.

        Args:
          record: The outcome of each image of this process.
          should_stop: Returns whether the run was interrupted; the pages are then left out.

        Returns:
          The summaries of all images; in a process other than 0, those of its partition.

        Raises:
          OSError: If the disk was full.
        """
        if record.disk_is_full:
            raise OSError(
                errno.ENOSPC,
                f"the disk of {self._folder} is full; make room, run again with --resume",
            )
        known = record.summaries()
        if self._partition.process != 0:
            return [self._own_summary(lazy, known) for lazy in self._partition.of(self._inputs)]
        if self._partition.num_processes > 1:
            self._heartbeats.wait_for_others(
                self._is_finished, should_stop=should_stop, on_message=self._on_message
            )
        summaries = [
            self._own_summary(lazy, known)
            if i % self._partition.num_processes == 0
            else self._other_summary(lazy, i % self._partition.num_processes)
            for i, lazy in enumerate(self._inputs)
        ]
        earlier = earlier_summaries(self._folder, (lazy.name for lazy in self._inputs))
        if should_stop():  # the user waits for the end: leave out the pages
            write_run_summary(self._folder, [*earlier, *summaries])
            return summaries
        self._write_stacks(summaries)
        if message := write_pages(self._folder, summaries, earlier=earlier):
            self._on_message(message)
        finished = [s["name"] for s in summaries if s["status"].is_finished]
        remove_state(self._folder, finished)
        return summaries

    def _write_stacks(self, summaries: Sequence[Summary]) -> None:
        """Joins the pages of each TIFF file whose pages are all restored."""
        unfinished = {s["name"] for s in summaries if s["error"] or not s["status"].is_finished}
        stacks = {lazy.stack for lazy in self._inputs if lazy.stack is not None}
        incomplete = {lazy.stack for lazy in self._inputs if lazy.name in unfinished}
        for stack in sorted(stacks - incomplete):
            pages = [self._folder / name / "restored.tif" for name in stack.page_names()]
            write_stack(Manifest(self._folder, stack.name).path("restored.tif"), pages, stack.path)
            if self._flat is not None:
                self._flat.publish(stack.name)

    def _own_summary(self, lazy: LazyInput, known: dict[str, Summary]) -> Summary:
        return known.get(lazy.name) or failure_summary(
            lazy.name,
            self._config,
            "the run was interrupted: run again with --resume",
            status=Status.INTERRUPTED,
        )

    def _other_summary(self, lazy: LazyInput, process: int) -> Summary:
        return read_summary(self._folder / lazy.name) or failure_summary(
            lazy.name,
            self._config,
            f"process {process} did not restore it: run again with --resume",
            status=Status.INTERRUPTED,
        )

    def _is_finished(self, process: int) -> bool:
        """Whether all images of a process are restored."""
        for lazy in Partition(process, self._partition.num_processes).of(self._inputs):
            summary = read_summary(self._folder / lazy.name)
            if summary is None or not summary["status"].is_finished:
                return False
            if has_changed(lazy, summary, self._on_message):
                return False
        return True
