"""One process's run over its share of a folder: reading, fitting, writing, and what is known meanwhile."""

import contextlib
import errno
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from dip_jax.base import Case, Result, network_label
from dip_jax.batch import processes as hosts
from dip_jax.batch.inputs import LazyInput, LoadedInput
from dip_jax.batch.interrupt import Interrupt
from dip_jax.batch.processes import Heartbeats
from dip_jax.config import Config
from dip_jax.engine.canvas import canvas_side
from dip_jax.engine.checkpoint import CheckpointStore
from dip_jax.engine.restore import num_networks, restore_many, with_noise
from dip_jax.engine.scheduler import Progress
from dip_jax.errors import describe_error, is_disk_full
from dip_jax.report import run_pages as pages
from dip_jax.report.image import report_picture
from dip_jax.report.manifest import STATE_FOLDER
from dip_jax.report.posterior import report_posterior
from dip_jax.report.summary import failure_summary, read_summary, write_failure
from dip_jax.tasks.cases import is_pixelwise

# A fit that diverged would do so again: same settings, same picture, same numbers.
FINISHED = ("done", "stopped", "diverged")
PROCESSES = "processes"  # their signs of life, in there
_WAITING = 4  # results that wait to be written; with more the fits wait
_SUMMARY_SECONDS = 10.0


class FolderProgress(NamedTuple):
    """What is known while a folder is restored."""

    pictures: Progress
    """Those in work."""
    num_images: int
    num_done: int
    """Restored and written, or finished by an earlier run."""
    num_failed: int
    per_hour: float
    """Pictures restored per hour since the start; 0 before the first."""
    seconds_left: float
    """At max_cases, if the pictures to come take as many steps as those that are done."""


class FolderRun:
    """One process's run over its partition."""

    def __init__(
        self,
        entries: Sequence[LazyInput],
        config: Config,
        folder: Path,
        partition: hosts.Partition,
        resume: bool,
        on_message: Callable[[str], None],
    ):
        """Looks at nothing yet.

        Args:
          entries: All pictures, those of other processes too.
          config: The settings.
          folder: The output folder, prepared.
          partition: This process's part.
          resume: Whether what an earlier run finished is kept.
          on_message: Called with sentences for the user.
        """
        self.all, self.config, self.folder = entries, config, folder
        self.partition, self.resume, self.tell = partition, resume, on_message
        self.mine = partition.of(entries)
        self.summaries: dict[str, dict[str, Any]] = {}
        self.disk_error: BaseException | None = None
        self._jobs: dict[str, tuple[LoadedInput, str]] = {}
        self._lock = threading.Lock()
        self._room = threading.Semaphore(_WAITING)
        self._begun = time.monotonic()
        self._written = self._begun
        self._steps: list[int] = []
        self._own = folder / STATE_FOLDER
        self.presence = Heartbeats(self._own / PROCESSES, partition)

    # ---- reading, in the runner's thread ----

    def _waiting(self, interrupt: Interrupt) -> list[LazyInput]:
        """What is still to be done, alike pictures together."""
        waiting = []
        for entry in self.mine:
            if interrupt():
                break
            summary = read_summary(self.folder / entry.name) if self.resume else None
            if summary is not None and summary["status"] in FINISHED:
                if not self._has_changed(entry, summary):
                    self.tell(f"{entry.name}: finished earlier, kept")
                    self.summaries[entry.name] = summary
                    continue
                self.tell(f"{entry.name}: its files changed since it was restored; starting anew")
            waiting.append(entry)
            with contextlib.suppress(OSError):  # it must not speak for what is in work
                (self.folder / entry.name / "summary.json").unlink()

        def canvas(entry: LazyInput) -> Any:
            height, width, channels = entry.shape or (0, 0, 0)
            pointwise = is_pixelwise(self.config.task)
            per_octave = self.config.net.sides_per_octave if pointwise else 0
            return canvas_side(height, per_octave), canvas_side(width, per_octave), channels

        return sorted(waiting, key=canvas)

    def _has_changed(self, entry: LazyInput, summary: dict[str, Any]) -> bool:
        try:
            return summary.get("digest") != entry.digest()
        except OSError as error:  # it is restored, and that is all one can do without its files
            self.tell(f"{entry.name}: its files cannot be read any more ({describe_error(error)})")
            return False

    def _cases(self, waiting: Sequence[LazyInput], interrupt: Interrupt) -> Iterator[Case]:
        for entry in waiting:
            if interrupt() or self.disk_error is not None:
                return
            try:
                job, digest = entry.load(), entry.digest()
                job = job._replace(case=with_noise(job.case, self.config))
            except Exception as error:  # of whatever kind: it is this picture's
                self._fail(entry.name, describe_error(error))
                continue
            for note in job.case.notes:
                self.tell(f"{entry.name}: {note}")
            self._jobs[entry.name] = (job, digest)
            yield job.case

    # ---- fitting ----

    def restore(
        self, interrupt: Interrupt, on_progress: Callable[[FolderProgress], None] | None
    ) -> None:
        """Restores the share; afterwards `summaries` has what came of it."""
        waiting = self._waiting(interrupt)
        self._begun = time.monotonic()
        self._store = store = CheckpointStore(
            self._own / "checkpoints",
            every_minutes=self.config.run.checkpoint_every,
            keep=self.config.run.checkpoint_keep,
            on_message=self.tell,
        )

        def show(progress: Progress) -> None:
            if on_progress is not None:
                on_progress(self._progress(progress))

        try:
            with ThreadPoolExecutor(1) as writer:  # one: matplotlib does not bear two
                for result in restore_many(
                    self._cases(waiting, interrupt),
                    self.config,
                    max_cases=len(waiting),
                    store=store,
                    on_progress=show,
                    should_stop=lambda: interrupt() or self.disk_error is not None,
                ):
                    if result.status == "interrupted" and interrupt.signum != signal.SIGINT:
                        continue  # nobody waits for its picture, somebody may for the end
                    self._room.acquire()
                    writer.submit(self._write, result)
        except Exception as error:
            if not self._note_disk(error):
                raise
        finally:
            store.close()

    # ---- writing, in a thread of its own ----

    def _write(self, result: Result) -> None:
        try:
            self._write_result(result)
        except Exception as error:  # of whatever kind: it is this picture's
            if not self._note_disk(error):
                self._fail(result.name, f"cannot be written: {describe_error(error)}")
        finally:
            self._room.release()

    def _write_result(self, result: Result) -> None:
        job, digest = self._jobs.pop(result.name)
        if result.error is not None:
            self._fail(result.name, describe_error(result.error))
            return
        for note in result.notes:
            self.tell(f"{result.name}: {note}")
        folder = self.folder / result.name
        more = report_posterior(folder, job.case, result, self.config, job.like)
        notes = more.get("notes", [])
        for note in notes:
            self.tell(f"{result.name}: {note}")
        more["notes"] = [*job.case.notes, *result.notes, *notes]
        summary = report_picture(
            folder, job.case, result, self.config, job.like, digest=digest, more=more
        )
        if result.status != "interrupted":
            for member in range(num_networks(self.config)):
                self._store.remove(network_label(result.name, member))
        if result.status in FINISHED:
            self._steps.append(result.num_steps)
        self._add(summary)

    def _fail(self, name: str, error: str) -> None:
        summary = failure_summary(name, self.config, error)
        with contextlib.suppress(OSError):
            write_failure(self.folder / name, summary)
        self._add(summary)

    def _add(self, summary: dict[str, Any]) -> None:
        with self._lock:
            self.summaries[summary["name"]] = summary
            now = time.monotonic()
            if self.partition.num_processes == 1 and now - self._written >= _SUMMARY_SECONDS:
                self._written = now
                try:
                    pages.write_summary(self.folder, list(self.summaries.values()))
                except OSError as error:  # it is not this picture's; the end will tell
                    self._note_disk(error)

    def _note_disk(self, error: BaseException) -> bool:
        """Whether an error is the disk's; then the run stops."""
        if is_disk_full(error):
            self.disk_error = error
        return self.disk_error is not None

    # ---- watching ----

    def _progress(self, pictures: Progress) -> FolderProgress:
        statuses = [summary["status"] for summary in list(self.summaries.values())]
        num_failed = sum(status in ("failed", "diverged") for status in statuses)
        hours = (time.monotonic() - self._begun) / 3600
        usual = sum(self._steps) / len(self._steps) if self._steps else pictures.num_steps
        left = [max(usual - steps, 0) for steps in pictures.steps]
        networks = num_networks(self.config)
        to_come = networks * (len(self.mine) - len(statuses)) - len(left)
        steps = sum(left) + max(to_come, 0) * usual
        speed = pictures.steps_per_second * max(len(left), 1)
        return FolderProgress(
            pictures=pictures,
            num_images=len(self.mine),
            num_done=len(statuses) - num_failed,
            num_failed=num_failed,
            per_hour=len(self._steps) / hours if hours else 0.0,
            seconds_left=steps / max(speed, 1e-9),
        )

    # ---- the end ----

    def finish(self, interrupt: Interrupt) -> list[dict[str, Any]]:
        """Writes the run's own files and returns the summaries."""
        if self.disk_error is not None:
            raise OSError(
                errno.ENOSPC,
                f"the disk of {self.folder} is full; make room, run again with --resume",
            )
        for entry in self.mine:
            if entry.name not in self.summaries:
                reason = "the run was interrupted: run again with --resume"
                self.summaries[entry.name] = failure_summary(
                    entry.name, self.config, reason, status="interrupted"
                )
        everything = [self.summaries[entry.name] for entry in self.mine]
        if self.partition.process != 0:
            return everything
        if self.partition.num_processes > 1:
            everything = self._gather(interrupt)
        if interrupt():  # somebody waits for the end
            pages.write_summary(self.folder, everything)
            return everything
        pages.write_pages(self.folder, everything)
        shutil.rmtree(self.presence.folder, ignore_errors=True)
        if all(summary["status"] in FINISHED for summary in everything):
            shutil.rmtree(self._own / "checkpoints", ignore_errors=True)
        else:  # checkpoints of what failed stay; folders without any go
            for folder in (self._own / "checkpoints", self._own):
                with contextlib.suppress(OSError):
                    folder.rmdir()
        return everything

    def _gather(self, interrupt: Interrupt) -> list[dict[str, Any]]:
        """Waits for the other processes and reads what they wrote."""
        self.presence.wait_for_others(
            self._is_finished, should_stop=interrupt, on_message=self.tell
        )
        everything = []
        for i, entry in enumerate(self.all):
            summary = self.summaries.get(entry.name) or read_summary(self.folder / entry.name)
            if summary is None:
                process = i % self.partition.num_processes
                reason = f"process {process} did not get to it: run again with --resume"
                summary = failure_summary(entry.name, self.config, reason, status="interrupted")
            everything.append(summary)
        return everything

    def _is_finished(self, process: int) -> bool:
        """Whether all pictures of a process are restored."""
        for entry in hosts.Partition(process, self.partition.num_processes).of(self.all):
            summary = read_summary(self.folder / entry.name)
            if summary is None or summary["status"] not in FINISHED:
                return False
            if self._has_changed(entry, summary):
                return False
        return True
