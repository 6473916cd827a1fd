"""The output folder of a run: checked for other runs, created, and cleaned up at the end."""

import contextlib
import json
import tempfile
import uuid
from collections.abc import Iterable, Sequence

from dip_jax.config import Config, from_json, to_json
from dip_jax.errors import InputError
from dip_jax.report.contact_sheets import contact_sheet_names
from dip_jax.report.loggers import log_folder
from dip_jax.report.manifest import STATE_FOLDER, Manifest, is_image_file
from dip_jax.report.summary import remove_summary
from dip_jax.storage.atomic import write_text
from dip_jax.storage.paths import (
    AnyPath,
    exists,
    is_folder,
    is_link,
    is_remote,
    list_folder,
    make_folder,
    read_bytes,
    remove_file,
    remove_folder,
    remove_if_empty,
)

# Files that a run writes into its folder, in addition to the folders of the images.
_RUN_FILES = ("config.json", "summary.json", "summary.csv", "index.html", "conformal.json")


def checkpoint_folder(folder: AnyPath) -> AnyPath:
    """The folder of the checkpoints in an output `folder`."""
    return folder / STATE_FOLDER / "checkpoints"


def heartbeat_folder(folder: AnyPath) -> AnyPath:
    """The folder of the heartbeats of several processes in an output `folder`."""
    return folder / STATE_FOLDER / "processes"


def prepare_folder(
    folder: AnyPath,
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
    if not exists(path) or read_bytes(path) != text.encode():
        write_text(path, text)
    if not resume:
        # The state and the summaries of another run must not count as those of this run.
        remove_folder(checkpoint_folder(folder))
        remove_folder(log_folder(folder))
        for name in names:
            with contextlib.suppress(OSError):
                remove_summary(folder, name)
    if not resume or process == 0:
        remove_folder(heartbeat_folder(folder))


def remove_state(folder: AnyPath, *, is_finished: bool) -> None:
    """Removes the heartbeats of a run that ends, and its checkpoints if it finished all images."""
    remove_folder(heartbeat_folder(folder))
    if is_finished:
        remove_folder(checkpoint_folder(folder))
    else:
        remove_if_empty(checkpoint_folder(folder))  # those of unfinished images stay


def _require_writable(folder: AnyPath) -> None:
    try:
        make_folder(folder)
        if is_remote(folder):
            probe = folder / STATE_FOLDER / f"probe-{uuid.uuid4().hex}"
            write_text(probe, "")
            remove_file(probe)
        else:
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        raise InputError(
            f"The output folder {folder} cannot be written ({error.strerror or error}); choose another --output."
        ) from None


def _require_free_names(folder: AnyPath, names: Sequence[str]) -> None:
    run_files = {*_RUN_FILES, *contact_sheet_names(len(names))}
    taken = Manifest(folder).unrecorded(lambda name: name.casefold() in run_files)
    for name in _possible(folder, names):
        taken += Manifest(folder, name).unrecorded(is_image_file)
    state = folder / STATE_FOLDER
    if is_link(state) or (exists(state) and not is_folder(state)):
        taken.append(state)
    if taken:
        raise InputError(
            f"{taken[0]} is not recorded as a file of dip_jax, and the run needs its name: move it, or choose another "
            "--output."
        )


def _possible(folder: AnyPath, names: Iterable[str]) -> list[str]:
    """The names that may exist, since the folder has their first part; it is listed only once."""
    present = {path.name.casefold() for path in list_folder(folder)}  # some file systems fold case
    return [name for name in names if name.split("/")[0].casefold() in present]


def _require_permission(
    folder: AnyPath, names: Sequence[str], config: Config, *, overwrite: bool, resume: bool
) -> None:
    path = folder / "config.json"
    possible = _possible(folder, (*_RUN_FILES, "contact-1.png", *names))
    is_taken = any(exists(folder / name) for name in possible)
    # Checked after `is_taken`, because another process may start in between.
    if exists(path) and resume:
        difference = _first_difference(from_json(read_bytes(path).decode(errors="replace")), config)
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
