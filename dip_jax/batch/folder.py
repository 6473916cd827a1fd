"""A folder of pictures: what the command does, without flags.

`restore_files` reads pictures as their turn comes, restores each with its own network and writes a folder
for each as it finishes; reading and writing go on beside the fitting. A mistake that shows before
anything is started is an `InputError`; what goes wrong with one picture is in that picture's summary, and the
others are restored all the same. A run that was stopped or killed is taken up again by `resume`.
"""

import contextlib
import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dip_jax.batch import processes as hosts
from dip_jax.batch.inputs import LazyInput, LoadedInput, list_inputs
from dip_jax.batch.interrupt import interruptible
from dip_jax.batch.output_folder import prepare_folder
from dip_jax.batch.worker import PROCESSES, FolderProgress, FolderRun
from dip_jax.config import Config
from dip_jax.errors import InputError, describe_error
from dip_jax.fit import build_optimizer
from dip_jax.images.read import MAX_PIXELS
from dip_jax.report.manifest import STATE_FOLDER
from dip_jax.report.run_pages import require_free_contact_sheets


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
      inputs: See `list_inputs`, as for `references`, `masks` and `max_pixels`.
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
      A summary per picture, as in the run's `summary.json`; of a process other than 0, of its own partition. The
      first Ctrl-C (or SIGTERM) ends the run: what is in work is saved for `resume` and has the status
      `interrupted`, as have those after it.

    Raises:
      InputError: For a mistake that shows before anything is started.
    """
    entries = list_inputs(
        config,
        inputs=inputs,
        references=references,
        masks=masks,
        guides=guides,
        kernels=kernels,
        max_pixels=max_pixels,
    )
    partition = None
    if distributed:
        with hosts.meeting(
            coordinator=coordinator, num_processes=num_processes, process_id=process_id
        ) as partition:
            problem = ""
            if partition.process == 0:
                try:
                    _prepare(entries, config, output, overwrite=overwrite, resume=resume)
                except Exception as error:  # of whatever kind: the others wait to hear of it
                    problem = describe_error(error)
            if problem := hosts.agree(problem):
                raise InputError(problem)
    elif num_processes is not None and process_id is not None:
        partition = _unmet(num_processes, process_id, resume)
        _prepare(entries, config, output, overwrite=overwrite, resume=resume, partition=partition)
    return restore_inputs(
        entries,
        config,
        output,
        partition=partition,
        overwrite=overwrite,
        resume=resume,
        on_progress=on_progress,
        on_message=on_message,
    )


def _unmet(num_processes: int, process_id: int, resume: bool) -> hosts.Partition:
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
    return hosts.Partition(process_id, num_processes)


def _prepare(
    entries: Sequence[LazyInput],
    config: Config,
    output: str | Path,
    *,
    overwrite: bool,
    resume: bool,
    partition: hosts.Partition | None = None,
) -> None:
    """Refuses what cannot be, and makes the output folder."""
    build_optimizer(config.fit.optimizer, config.fit.learning_rate, config.fit.b2)
    folder, names = Path(output), [entry.name for entry in entries]
    require_free_contact_sheets(folder, len(names))
    prepare_folder(folder, names, config, overwrite=overwrite, resume=resume)
    if not resume:
        # What another run left here must not look like a part of this one.
        for state in ("checkpoints", PROCESSES):
            shutil.rmtree(folder / STATE_FOLDER / state, ignore_errors=True)
        for name in names:
            with contextlib.suppress(OSError):
                (folder / name / "summary.json").unlink()
    elif partition is None or partition.process == 0:
        shutil.rmtree(folder / STATE_FOLDER / PROCESSES, ignore_errors=True)


def restore_inputs(
    entries: Sequence[LazyInput],
    config: Config,
    output: str | Path,
    *,
    partition: hosts.Partition | None = None,
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
      partition: This process's part, where there are several; the folder is then prepared already.
      overwrite: Go over what is in `output`.
      resume: Go on with an earlier run.
      on_progress: Called between chunks of steps.
      on_message: Called with sentences for the user.
    """
    if partition is None:
        # A mistake that spoils every picture is one of the command: nothing is made for it.
        entries = _with_one_that_loads(entries)
        _prepare(entries, config, output, overwrite=overwrite, resume=resume)
    run = FolderRun(
        entries, config, Path(output), partition or hosts.Partition(), resume, on_message
    )
    with interruptible(on_message) as interrupt, run.presence.beating():
        run.restore(interrupt, on_progress)
        return run.finish(interrupt)


def _with_one_that_loads(entries: Sequence[LazyInput]) -> list[LazyInput]:
    """Tries entries until one can be read, and keeps what it read; raises the first error if none can."""
    first = None
    for i, entry in enumerate(entries):
        try:
            job = entry.load()
        except (InputError, OSError, MemoryError) as error:
            first = first or InputError(describe_error(error))
            continue
        again = entry._replace(load=functools.partial(_once, [job], entry.load))
        return [*entries[:i], again, *entries[i + 1 :]]
    raise first or InputError("There is no picture to restore.")


def _once(kept: list[LoadedInput], load: Callable[[], LoadedInput]) -> LoadedInput:
    """What was read already, let go as it is taken; later what `load` reads."""
    return kept.pop() if kept else load()
