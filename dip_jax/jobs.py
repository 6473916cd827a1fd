"""From files to files: what the command does, without flags.

`restore_files` reads pictures, restores each with its own network, and writes a folder for each. A
mistake that shows before anything is started is an `InputError`; what goes wrong with one picture is
in that picture's summary, and the others are restored all the same.
"""

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import jax
import numpy as np

from dip_jax.base import Case
from dip_jax.config import Config
from dip_jax.errors import InputError
from dip_jax.fit import build_optimizer
from dip_jax.images import MAX_PIXELS, Picture, list_pictures, read_mask, read_picture
from dip_jax.report import (
    failure_summary,
    finished_summary,
    prepare_folder,
    report_picture,
    write_run_summary,
)
from dip_jax.runner import Progress, batch_size, group_cases, picture_key, restore
from dip_jax.tasks import build_case, simulate_case


class Job(NamedTuple):
    """One picture to restore: the case, and the form in which it is written."""

    case: Case
    like: Picture


def load_jobs(
    config: Config,
    *,
    inputs: Sequence[str | Path] = (),
    references: Sequence[str | Path] = (),
    masks: Sequence[str | Path] = (),
    max_pixels: int = MAX_PIXELS,
) -> tuple[list[Job], dict[str, str]]:
    """Reads pictures and makes the cases.

    Args:
      config: The settings; a simulation's random numbers follow from its seed.
      inputs: Damaged pictures: files, globs, folders. Without any, the damage is simulated on the
        references.
      references: Clean pictures; with inputs they are matched by file stem.
      masks: For inpainting: one for all, or matched by file stem.
      max_pixels: Larger pictures are refused before they are decoded.

    Returns:
      The jobs, and for each picture that could not be used its name and why.

    Raises:
      InputError: If there is nothing to do, a path matches nothing, or no picture can be used.
    """
    if not inputs and not references:
        raise InputError(
            "Nothing to restore: give a picture (--input), or a clean one (--reference)."
        )
    paths = list_pictures(list(inputs or references))
    clean = _by_stem(references) if inputs else {}
    known = _by_stem(masks)
    jobs, failures = [], {}
    for name, path in _unique_names(paths).items():
        try:
            jobs.append(_load(config, name, path, clean, known, max_pixels, bool(inputs)))
        except InputError as error:
            failures[name] = str(error)
    if not jobs:
        raise InputError(next(iter(failures.values())))
    return jobs, failures


def _by_stem(paths: Sequence[str | Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in list_pictures(list(paths)) if paths else []:
        if path.stem in found:
            raise InputError(
                f"{found[path.stem]} and {path} have the same stem, by which they are matched; leave one "
                "out, or rename it and its picture."
            )
        found[path.stem] = path
    return found


def _unique_names(paths: Sequence[Path]) -> dict[str, Path]:
    """Stems as names; a stem that comes again gets a number."""
    named: dict[str, Path] = {}
    for path in paths:
        name, number = path.stem, 2
        while name in named:
            name, number = f"{path.stem}-{number}", number + 1
        named[name] = path
    return named


def _load(
    config: Config,
    name: str,
    path: Path,
    clean: dict[str, Path],
    known: dict[str, Path],
    max_pixels: int,
    is_damaged: bool,
) -> Job:
    picture = read_picture(path, max_pixels=max_pixels)
    notes = picture.notes
    mask = None
    if known:
        mask_path = next(iter(known.values())) if len(known) == 1 else known.get(path.stem)
        if mask_path is None:
            raise InputError(f"{path}: none of the {len(known)} masks has its stem {path.stem!r}.")
        mask, mask_notes = read_mask(mask_path, picture.pixels.shape[:2], max_pixels=max_pixels)
        notes += mask_notes
    if is_damaged:
        case = build_case(config.task, name, picture.pixels, mask=mask)
        if clean:
            case = case._replace(reference=_load_reference(path, picture, clean, max_pixels))
    else:
        # Its own branch of the picture's key: the network must not start from the noise's numbers.
        key = jax.random.fold_in(picture_key(config.run.seed, name), 1)
        case = simulate_case(key, config.task, name, picture.pixels, mask=mask)
    return Job(case._replace(notes=notes), picture)


def _load_reference(path: Path, picture: Picture, clean: dict[str, Path], max_pixels: int):
    if path.stem not in clean:
        raise InputError(
            f"{path}: no reference has its stem {path.stem!r}; rename it, or leave it out."
        )
    clean_picture = read_picture(clean[path.stem], max_pixels=max_pixels)
    reference = clean_picture.pixels
    if picture.dtype.kind == "f" and clean_picture.dtype.kind == "f":
        # Floats beyond [0, 1] are mapped by their own range, which noise widens: use the picture's.
        stored = reference * (clean_picture.high - clean_picture.low) + clean_picture.low
        reference = (stored - picture.low) / ((picture.high - picture.low) or 1.0)
        reference = reference.astype(np.float32)
    if reference.shape != picture.pixels.shape:
        raise InputError(
            f"{clean[path.stem]}: a reference must have its picture's size and channels "
            f"{picture.pixels.shape}, came {reference.shape}."
        )
    return reference


def restore_files(
    config: Config,
    output: str | Path,
    *,
    inputs: Sequence[str | Path] = (),
    references: Sequence[str | Path] = (),
    masks: Sequence[str | Path] = (),
    max_pixels: int = MAX_PIXELS,
    overwrite: bool = False,
    resume: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    on_message: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Restores picture files into a folder; everything that the command does.

    Args:
      config: The settings; see `build_config`.
      output: The folder; each picture gets a folder of its stem in it.
      inputs: See `load_jobs`, as for `references`, `masks` and `max_pixels`.
      references: Clean pictures.
      masks: Masks, white = known.
      max_pixels: The largest picture to decode.
      overwrite: Go over what is in `output`.
      resume: Keep the pictures that an earlier run of the same settings finished there.
      on_progress: Called between chunks of steps.
      on_message: Called with sentences for the user.

    Returns:
      A summary per picture, as in the run's `summary.json`. The first Ctrl-C ends the run with what there
      is: the picture in work and those after it have the status `interrupted`.

    Raises:
      InputError: For a mistake that shows before anything is started.
    """
    jobs, failures = load_jobs(
        config, inputs=inputs, references=references, masks=masks, max_pixels=max_pixels
    )
    return run_jobs(
        jobs,
        config,
        output,
        failures=failures,
        overwrite=overwrite,
        resume=resume,
        on_progress=on_progress,
        on_message=on_message,
    )


def run_jobs(
    jobs: Sequence[Job],
    config: Config,
    output: str | Path,
    *,
    failures: dict[str, str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    on_message: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Restores jobs that are loaded already; see `restore_files`."""
    folder = Path(output)
    build_optimizer(
        config.fit.optimizer, config.fit.learning_rate
    )  # refuses an unknown name at once
    names = [job.case.name for job in jobs]
    prepare_folder(folder, names, config, overwrite=overwrite, resume=resume)
    summaries = {}
    for name, error in (failures or {}).items():
        summaries[name] = failure_summary(name, config, error)
    waiting = []
    for job in jobs:
        finished = finished_summary(folder / job.case.name) if resume else None
        if finished is not None:
            summaries[job.case.name] = finished
            on_message(f"{job.case.name}: finished earlier, kept")
        else:
            waiting.append(job)
            # What another run left here must not look like a result of this one.
            (folder / job.case.name / "summary.json").unlink(missing_ok=True)
        for note in job.case.notes:
            on_message(f"{job.case.name}: {note}")
    likes = {job.case.name: job.like for job in waiting}
    with _interruptible(on_message) as interrupted:
        for cases in group_cases((job.case for job in waiting), batch_size(config)):
            if interrupted():
                break
            for name, summary in _run_group(cases, likes, config, folder, on_progress, interrupted):
                summaries[name] = summary
            write_run_summary(folder, list(summaries.values()))
    for job in waiting:
        if job.case.name not in summaries:
            reason = "not started: the run was interrupted before its turn"
            summaries[job.case.name] = failure_summary(
                job.case.name, config, reason, status="interrupted"
            )
    order = [*(failures or {}), *names]
    ordered = [summaries[name] for name in order]
    write_run_summary(folder, ordered)
    return ordered


def _run_group(
    cases: Sequence[Case],
    likes: dict[str, Picture],
    config: Config,
    folder: Path,
    on_progress: Callable[[Progress], None] | None,
    interrupted: Callable[[], bool],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Restores one batch and writes it; what fails is a summary, not an exception."""
    try:
        results = restore(cases, config, on_progress=on_progress, should_stop=interrupted)
    except Exception as error:  # of whatever kind: the other pictures are still to be restored
        for case in cases:
            yield case.name, failure_summary(case.name, config, _sentence(error))
        return
    for case, result in zip(cases, results, strict=True):
        try:
            like = likes[case.name]
            yield case.name, report_picture(folder / case.name, case, result, config, like)
        except Exception as error:
            yield case.name, failure_summary(case.name, config, f"cannot be written: {error}")


def _sentence(error: BaseException) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "RESOURCE_EXHAUSTED" in text or isinstance(error, MemoryError):
        return f"out of memory: use a smaller picture, fewer channels or --set run.batch=1 ({text})"
    return text


@contextlib.contextmanager
def _interruptible(on_message: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """A context in which the first Ctrl-C asks to stop; the second one stops at once, as usual."""
    asked = False

    def ask(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, previous)
        on_message("Stopping; the best answer so far is being written (Ctrl-C again to drop it).")

    try:
        previous = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not in the main thread: signals are somebody else's business
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, previous)
