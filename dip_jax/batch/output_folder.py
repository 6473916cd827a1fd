"""The output folder of a run: checked for other runs, created, and cleaned up at the end."""

import contextlib
import functools
import json
import tempfile
import uuid
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from dip_jax.base import network_label
from dip_jax.config import MAX_NETWORKS, Config, from_json, to_json
from dip_jax.engine.checkpoint import CheckpointStore
from dip_jax.errors import InputError
from dip_jax.report.contact_sheets import contact_sheet_names
from dip_jax.report.loggers import log_folder
from dip_jax.report.manifest import STATE_FOLDER, Manifest, is_image_file
from dip_jax.report.summary import Summary, read_run_summary, remove_summary
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

_NUM_READING = 16  # files that are read at the same time: a remote one takes a request
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
    """Creates the output folder, writes the `config.json` of the run and removes the state of its images.

    A folder can hold several runs, if they restore different images.

    Args:
      folder: The output folder.
      names: The names of the images, each of which gets a folder in it.
      config: The settings.
      overwrite: Overwrite the files of another run of the same images.
      resume: Continue an earlier run of the same settings.
      process: Number of this process, where several prepare the folder; only process 0 removes the
        heartbeats of an earlier run.

    Raises:
      InputError: If the folder cannot be written; if it holds one of the images, and neither `overwrite` nor
        `resume` is set; if it holds one that was begun with other settings and is to be resumed; or if a file that
        no run wrote has the name of a file of the run.
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
        _checkpoints(folder).remove_images(names)
        labels = (network_label(name, i) for name in names for i in range(MAX_NETWORKS))
        for label in _possible(log_folder(folder), labels):
            remove_folder(log_folder(folder) / label)
        for name in names:
            with contextlib.suppress(OSError):
                remove_summary(folder, name)
    if not resume or process == 0:
        remove_folder(heartbeat_folder(folder))


def remove_state(folder: AnyPath, finished: Iterable[str]) -> None:
    """Removes the heartbeats of a run that ends, and the checkpoints of its finished images."""
    remove_folder(heartbeat_folder(folder))
    _checkpoints(folder).remove_images(finished)
    remove_if_empty(checkpoint_folder(folder))


def earlier_summaries(folder: AnyPath, names: Iterable[str]) -> list[Summary]:
    """The summaries of the images that other runs restored into the folder.

    Args:
      folder: The output folder.
      names: The images of this run, which are left out, as are images whose folders were removed.
    """
    own = {name.casefold() for name in names}
    try:
        summaries = read_run_summary(folder)
    except (InputError, OSError):  # missing or damaged: it is written anew
        return []
    others = {s["name"]: s for s in summaries if s["name"].casefold() not in own}
    present = set(_possible(folder, others))
    return [summary for name, summary in others.items() if name in present]


def _checkpoints(folder: AnyPath) -> CheckpointStore:
    return CheckpointStore(checkpoint_folder(folder), every_minutes=0, keep=0)


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
    taken = [name for name in _possible(folder, names) if exists(folder / name)]
    if resume:
        with ThreadPoolExecutor(_NUM_READING) as executor:
            paths = (folder / name / "config.json" for name in taken)
            # The list raises the first error.
            list(executor.map(functools.partial(_require_same_settings, config), paths))
    elif taken and not overwrite:
        others = f" and {len(taken) - 1} more" if len(taken) > 1 else ""
        raise InputError(
            f"The output folder {folder} already has {taken[0]}{others}, and nothing is overwritten by default: choose "
            "another --output, or add --resume to continue that run, or --overwrite."
        )


def _require_same_settings(config: Config, path: AnyPath) -> None:
    """Raises an error if an image was begun with other settings; `path` is its `config.json`."""
    try:
        text = read_bytes(path).decode(errors="replace")
    except FileNotFoundError:
        return
    if text == to_json(config):
        return
    try:
        difference = _first_difference(from_json(text), config)
    except InputError as error:
        raise InputError(f"{path}: {error} Use --overwrite to restore the image anew.") from None
    if difference:
        raise InputError(
            f"{path.parent} was begun with {difference}; resume it with its settings, or choose another --output."
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
