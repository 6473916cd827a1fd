"""The output folder of a run: checked for other runs, created, and cleaned up at the end."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from dip_jax.config import Config, from_json, to_json
from dip_jax.errors import InputError
from dip_jax.images.atomic import write_text
from dip_jax.report.contact_sheets import contact_sheet_names
from dip_jax.report.manifest import STATE_FOLDER, Manifest, is_image_file
from dip_jax.report.summary import remove_summary

# Files that a run writes into its folder, in addition to the folders of the images.
_RUN_FILES = ("config.json", "summary.json", "summary.csv", "index.html")


def checkpoint_folder(folder: Path) -> Path:
    """The folder of the checkpoints in an output `folder`."""
    return folder / STATE_FOLDER / "checkpoints"


def heartbeat_folder(folder: Path) -> Path:
    """The folder of the heartbeats of several processes in an output `folder`."""
    return folder / STATE_FOLDER / "processes"


def prepare_folder(
    folder: Path,
    names: Sequence[str],
    config: Config,
    *,
    overwrite: bool = False,
    resume: bool = False,
    process: int = 0,
) -> None:
    """Creates the output folder, writes the `config.json` of the run and removes the state of other runs.

    Args:
      folder: The output folder.
      names: The names of the images, each of which gets a folder in it.
      config: The settings.
      overwrite: Overwrite the files of another run.
      resume: Continue an earlier run of the same settings.
      process: Number of this process, where several prepare the folder; only process 0 removes the
        heartbeats of an earlier run.

    Raises:
      InputError: If the folder cannot be written; if it holds another run, and neither `overwrite` nor
        `resume` is set; if it holds a run of other settings that is to be resumed; or if a file that no run
        wrote has the name of a file of the run.
    """
    _require_writable(folder)
    _require_free_names(folder, names)
    _require_permission(folder, names, config, overwrite=overwrite, resume=resume)
    Manifest(folder).add(_RUN_FILES)
    path, text = folder / "config.json", to_json(config)
    if not path.exists() or path.read_text() != text:
        write_text(path, text)
    if not resume:
        # The state and the summaries of another run must not count as those of this run.
        shutil.rmtree(checkpoint_folder(folder), ignore_errors=True)
        for name in names:
            with contextlib.suppress(OSError):
                remove_summary(folder, name)
    if not resume or process == 0:
        shutil.rmtree(heartbeat_folder(folder), ignore_errors=True)


def remove_state(folder: Path, *, is_finished: bool) -> None:
    """Removes the heartbeats of a run that ends, and its checkpoints if it finished all images."""
    shutil.rmtree(heartbeat_folder(folder), ignore_errors=True)
    if is_finished:
        shutil.rmtree(checkpoint_folder(folder), ignore_errors=True)
        return
    for state in (checkpoint_folder(folder), folder / STATE_FOLDER):
        with contextlib.suppress(OSError):  # not empty: checkpoints of unfinished images stay
            state.rmdir()


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"The output folder {folder} cannot be written ({error.strerror}); choose another --output."
        ) from None


def _require_free_names(folder: Path, names: Sequence[str]) -> None:
    run_files = {*_RUN_FILES, *contact_sheet_names(len(names))}
    taken = Manifest(folder).unrecorded(lambda name: name.casefold() in run_files)
    for name in names:
        taken += Manifest(folder, name).unrecorded(is_image_file)
    state = folder / STATE_FOLDER
    if state.is_symlink() or state.is_file():
        taken.append(state)
    if taken:
        raise InputError(
            f"{taken[0]} was not written by dip_jax, and the run needs its name: move it, or choose another "
            "--output."
        )


def _require_permission(
    folder: Path, names: Sequence[str], config: Config, *, overwrite: bool, resume: bool
) -> None:
    path = folder / "config.json"
    is_taken = any((folder / name).exists() for name in (*_RUN_FILES, "contact-1.png", *names))
    # Checked after `is_taken`, because another process may start in between.
    if path.exists() and resume:
        difference = _first_difference(from_json(path.read_text()), config)
        if difference:
            raise InputError(
                f"{folder} holds a run with {difference}; resume it with its settings, or choose another "
                "--output."
            )
    elif is_taken and not overwrite:
        raise InputError(
            f"The output folder {folder} holds another run, and nothing is overwritten by default: choose "
            "another --output, or add --resume to continue that run, or --overwrite."
        )


def _first_difference(old: Config, new: Config) -> str:
    """The first field that differs, as text; empty if there is none."""
    before, after = json.loads(to_json(old)), json.loads(to_json(new))
    for section, fields in after.items():
        for field, value in fields.items():
            if section == "run" and field != "seed":
                continue  # other fields of `run` do not change results
            if before[section][field] != value:
                return f"{section}.{field} = {before[section][field]!r}, not {value!r}"
    return ""
