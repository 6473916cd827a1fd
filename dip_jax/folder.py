"""A folder of pictures: what the command does, without flags.

`restore_files` reads pictures as their turn comes, restores each with its own network and writes a folder
for each as it finishes; reading and writing go on beside the fitting. A mistake that shows before
anything is started is an `InputError`; what goes wrong with one picture is in that picture's summary, and the
others are restored all the same. A run that was stopped or killed is taken up again by `resume`.
"""

import contextlib
import errno
import functools
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from dip_jax import hosts, pages
from dip_jax.base import Case, Result, member_label
from dip_jax.checkpoint import CheckpointStore
from dip_jax.config import Config
from dip_jax.ensemble import num_members, restore_many, with_noise
from dip_jax.errors import InputError, is_disk_full
from dip_jax.fit import build_optimizer
from dip_jax.images import MAX_PIXELS
from dip_jax.interrupt import Interrupt, interruptible
from dip_jax.jobs import Entry, Job, list_entries
from dip_jax.padding import padded_side
from dip_jax.posterior import report_posterior
from dip_jax.report import (
    failure_summary,
    prepare_folder,
    read_summary,
    report_picture,
    write_failure,
)
from dip_jax.runner import Progress
from dip_jax.tasks import is_pointwise

# A fit that diverged would do so again: same settings, same picture, same numbers.
FINISHED = ("done", "stopped", "diverged")
_OWN = ".dip_jax"  # the run's folder for its own use, under a name that no picture has
_WAITING = 4  # results that wait to be written; with more the fits wait
_SUMMARY_SECONDS = 10.0
# A process of which nothing was heard for so long is given up.
_SILENCE_SECONDS = 120.0


class FolderProgress(NamedTuple):
    """What is known while a folder is restored."""

    pictures: Progress
    """Those in work."""
    num_pictures: int
    num_done: int
    """Restored and written, or finished by an earlier run."""
    num_failed: int
    per_hour: float
    """Pictures restored per hour since the start; 0 before the first."""
    seconds_left: float
    """At most, if the pictures to come take as many steps as those that are done."""


def restore_files(
    config: Config,
    output: str | Path,
    *,
    inputs: Sequence[str | Path] = (),
    references: Sequence[str | Path] = (),
    masks: Sequence[str | Path] = (),
    guides: Sequence[str | Path] = (),
    kernels: Sequence[str | Path] = (),
    max_pixels: int = MAX_PIXELS,
    overwrite: bool = False,
    resume: bool = False,
    distributed: bool = False,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    on_progress: Callable[[FolderProgress], None] | None = None,
    on_message: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Restores picture files into a folder; everything that the command does.

    Args:
      config: The settings; see `build_config`.
      output: The folder; each picture gets a folder of its name in it.
      inputs: See `list_entries`, as for `references`, `masks` and `max_pixels`.
      references: Clean pictures.
      masks: Masks, white = known.
      guides: Flash pictures.
      kernels: Point spreads.
      max_pixels: The largest picture to decode.
      overwrite: Go over what is in `output`.
      resume: Go on with an earlier run of the same settings: keep what it finished, take up what it had
        in work.
      distributed: Meet other processes and share the pictures with them; see `hosts`.
      coordinator: `host:port` of process 0, where the environment does not say it.
      num_processes: How many processes, likewise; without `distributed` they share the pictures without
        meeting, for which they need `resume`: each can then come and go as it likes.
      process_id: Which one this is, likewise.
      on_progress: Called between chunks of steps.
      on_message: Called with sentences for the user.

    Returns:
      A summary per picture, as in the run's `summary.json`; of a process other than 0, of its own share. The
      first Ctrl-C (or SIGTERM) ends the run: what is in work is saved for `resume` and has the status
      `interrupted`, as have those after it.

    Raises:
      InputError: For a mistake that shows before anything is started.
    """
    entries = list_entries(
        config,
        inputs=inputs,
        references=references,
        masks=masks,
        guides=guides,
        kernels=kernels,
        max_pixels=max_pixels,
    )
    share = None
    if distributed:
        with hosts.meeting(
            coordinator=coordinator, num_processes=num_processes, process_id=process_id
        ) as share:
            problem = ""
            if share.process == 0:
                try:
                    _prepare(entries, config, output, overwrite=overwrite, resume=resume)
                except Exception as error:  # of whatever kind: the others wait to hear of it
                    problem = sentence(error)
            if problem := hosts.agree(problem):
                raise InputError(problem)
    elif num_processes is not None and process_id is not None:
        share = _unmet(num_processes, process_id, resume)
        _prepare(entries, config, output, overwrite=overwrite, resume=resume, share=share)
    return run_entries(
        entries,
        config,
        output,
        share=share,
        overwrite=overwrite,
        resume=resume,
        on_progress=on_progress,
        on_message=on_message,
    )


def _unmet(num_processes: int, process_id: int, resume: bool) -> hosts.Share:
    if not 0 <= process_id < num_processes:
        raise InputError(
            f"--process_id must be from 0 to {num_processes - 1}, as there are --num_processes="
            f"{num_processes}, came {process_id}."
        )
    if not resume:
        raise InputError(
            "Processes that do not meet cannot agree that the output folder is theirs: add --resume, or "
            "--coordinator=host:port."
        )
    return hosts.Share(process_id, num_processes)


def _prepare(
    entries: Sequence[Entry],
    config: Config,
    output: str | Path,
    *,
    overwrite: bool,
    resume: bool,
    share: hosts.Share | None = None,
) -> None:
    """Refuses what cannot be, and makes the output folder."""
    build_optimizer(config.fit.optimizer, config.fit.learning_rate)
    folder, names = Path(output), [entry.name for entry in entries]
    prepare_folder(folder, names, config, overwrite=overwrite, resume=resume)
    if not resume:
        # What another run left here must not look like a part of this one.
        shutil.rmtree(folder / _OWN, ignore_errors=True)
        for name in names:
            with contextlib.suppress(OSError):
                (folder / name / "summary.json").unlink()
    elif share is None or share.process == 0:
        shutil.rmtree(folder / _OWN / "processes", ignore_errors=True)


def run_entries(
    entries: Sequence[Entry],
    config: Config,
    output: str | Path,
    *,
    share: hosts.Share | None = None,
    overwrite: bool = False,
    resume: bool = False,
    on_progress: Callable[[FolderProgress], None] | None = None,
    on_message: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Restores entries from wherever; see `restore_files`.

    Args:
      entries: The pictures.
      config: The settings.
      output: The folder.
      share: This process's part, where there are several; the folder is then prepared already.
      overwrite: Go over what is in `output`.
      resume: Go on with an earlier run.
      on_progress: Called between chunks of steps.
      on_message: Called with sentences for the user.
    """
    if share is None:
        # A mistake that spoils every picture is one of the command: nothing is made for it.
        entries = _with_one_that_loads(entries)
        _prepare(entries, config, output, overwrite=overwrite, resume=resume)
    run = _Run(entries, config, Path(output), share or hosts.Share(), resume, on_message)
    with interruptible(on_message) as interrupt, run.signs_of_life():
        run.restore(interrupt, on_progress)
        return run.finish(interrupt)


def _with_one_that_loads(entries: Sequence[Entry]) -> list[Entry]:
    """Tries entries until one can be read, and keeps what it read; raises the first error if none can."""
    first = None
    for i, entry in enumerate(entries):
        try:
            job = entry.load()
        except (InputError, OSError, MemoryError) as error:
            first = first or InputError(sentence(error))
            continue
        again = entry._replace(load=functools.partial(_once, [job], entry.load))
        return [*entries[:i], again, *entries[i + 1 :]]
    raise first or InputError("There is no picture to restore.")


def _once(kept: list[Job], load: Callable[[], Job]) -> Job:
    """What was read already, let go as it is taken; later what `load` reads."""
    return kept.pop() if kept else load()


class _Run:
    """One process's run over its share."""

    def __init__(
        self,
        entries: Sequence[Entry],
        config: Config,
        folder: Path,
        share: hosts.Share,
        resume: bool,
        on_message: Callable[[str], None],
    ):
        self.all, self.config, self.folder = entries, config, folder
        self.share, self.resume, self.tell = share, resume, on_message
        self.mine = share.of(entries)
        self.summaries: dict[str, dict[str, Any]] = {}
        self.disk_error: BaseException | None = None
        self._jobs: dict[str, tuple[Job, str]] = {}
        self._lock = threading.Lock()
        self._room = threading.Semaphore(_WAITING)
        self._begun = time.monotonic()
        self._written = self._begun
        self._steps: list[int] = []
        self._own = folder / _OWN
        self._alive = self._own / "processes" / str(share.process)

    # ---- reading, in the runner's thread ----

    def _waiting(self, interrupt: Interrupt) -> list[Entry]:
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

        def canvas(entry: Entry) -> Any:
            height, width, channels = entry.shape or (0, 0, 0)
            pointwise = is_pointwise(self.config.task)
            per_octave = self.config.net.sides_per_octave if pointwise else 0
            return padded_side(height, per_octave), padded_side(width, per_octave), channels

        return sorted(waiting, key=canvas)

    def _has_changed(self, entry: Entry, summary: dict[str, Any]) -> bool:
        try:
            return summary.get("digest") != entry.digest()
        except OSError as error:  # it is restored, and that is all one can do without its files
            self.tell(f"{entry.name}: its files cannot be read any more ({sentence(error)})")
            return False

    def _cases(self, waiting: Sequence[Entry], interrupt: Interrupt) -> Iterator[Case]:
        for entry in waiting:
            if interrupt() or self.disk_error is not None:
                return
            try:
                job, digest = entry.load(), entry.digest()
                job = job._replace(case=with_noise(job.case, self.config))
            except Exception as error:  # of whatever kind: it is this picture's
                self._fail(entry.name, sentence(error))
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
                self._fail(result.name, f"cannot be written: {sentence(error)}")
        finally:
            self._room.release()

    def _write_result(self, result: Result) -> None:
        job, digest = self._jobs.pop(result.name)
        if result.error is not None:
            self._fail(result.name, sentence(result.error))
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
            for member in range(num_members(self.config)):
                self._store.remove(member_label(result.name, member))
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
            if self.share.num_processes == 1 and now - self._written >= _SUMMARY_SECONDS:
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

    @contextlib.contextmanager
    def signs_of_life(self) -> Iterator[None]:
        """A context in which the other processes see now and then that this one is there."""
        ended = threading.Event()

        def beat() -> None:
            while True:
                self._sign_of_life("")
                if ended.wait(_SILENCE_SECONDS / 10):
                    return

        thread = threading.Thread(target=beat, name="signs of life", daemon=True)
        if self.share.num_processes > 1:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            if thread.is_alive():
                thread.join()
            if self.share.process != 0:
                self._sign_of_life("done")

    def _sign_of_life(self, text: str) -> None:
        if self.share.num_processes > 1:
            with contextlib.suppress(OSError):
                self._alive.parent.mkdir(parents=True, exist_ok=True)
                self._alive.write_text(text)

    def _progress(self, pictures: Progress) -> FolderProgress:
        statuses = [summary["status"] for summary in list(self.summaries.values())]
        num_failed = sum(status in ("failed", "diverged") for status in statuses)
        hours = (time.monotonic() - self._begun) / 3600
        usual = sum(self._steps) / len(self._steps) if self._steps else pictures.num_steps
        left = [max(usual - steps, 0) for steps in pictures.steps]
        networks = num_members(self.config)
        to_come = networks * (len(self.mine) - len(statuses)) - len(left)
        steps = sum(left) + max(to_come, 0) * usual
        speed = pictures.steps_per_second * max(len(left), 1)
        return FolderProgress(
            pictures=pictures,
            num_pictures=len(self.mine),
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
        if self.share.process != 0:
            return everything
        if self.share.num_processes > 1:
            everything = self._gather(interrupt)
        if interrupt():  # somebody waits for the end
            pages.write_summary(self.folder, everything)
            return everything
        pages.write_pages(self.folder, everything)
        shutil.rmtree(self._alive.parent, ignore_errors=True)
        if all(summary["status"] in FINISHED for summary in everything):
            shutil.rmtree(self._own, ignore_errors=True)
        else:  # checkpoints of what failed stay; folders without any go
            for folder in (self._own / "checkpoints", self._own):
                with contextlib.suppress(OSError):
                    folder.rmdir()
        return everything

    def _gather(self, interrupt: Interrupt) -> list[dict[str, Any]]:
        """Waits for the other processes and reads what they wrote."""
        heard = dict.fromkeys(range(1, self.share.num_processes), (0, time.monotonic()))
        while heard and not interrupt():
            for process, (last_sign, since) in list(heard.items()):
                path = self._alive.with_name(str(process))
                sign = path.stat().st_mtime_ns if path.exists() else 0
                if sign != last_sign:
                    heard[process] = (sign, time.monotonic())
                elif time.monotonic() - since > _SILENCE_SECONDS:
                    self.tell(f"Process {process} is silent; it is not waited for.")
                    del heard[process]
                if process in heard and self._is_finished(process, path):
                    del heard[process]
            if heard:
                time.sleep(0.5)
        everything = []
        for i, entry in enumerate(self.all):
            summary = self.summaries.get(entry.name) or read_summary(self.folder / entry.name)
            if summary is None:
                process = i % self.share.num_processes
                reason = f"process {process} did not get to it: run again with --resume"
                summary = failure_summary(entry.name, self.config, reason, status="interrupted")
            everything.append(summary)
        return everything

    def _is_finished(self, process: int, path: Path) -> bool:
        """Whether a process says that it is done, or is not there and has left nothing undone."""
        if path.exists():
            return path.read_text() == "done"
        for entry in hosts.Share(process, self.share.num_processes).of(self.all):
            summary = read_summary(self.folder / entry.name)
            if summary is None or summary["status"] not in FINISHED:
                return False
            if self._has_changed(entry, summary):
                return False
        return True


def sentence(error: BaseException) -> str:
    """An error as a line for the user."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    if "RESOURCE_EXHAUSTED" in text or isinstance(error, MemoryError):
        return f"out of memory: use a smaller picture, fewer channels or --slots=1 ({text})"
    return text
