"""Restores a folder of images: the whole command as a function.

Reading and writing run in parallel to the fits. An error of the call is raised before anything is written; an
error of one image is recorded in its summary, and the other images are restored.
"""

import functools
from collections.abc import Callable, Sequence

from dip_jax.batch.flat import FlatOutput
from dip_jax.batch.inputs import InputFiles, LazyInput, list_inputs
from dip_jax.batch.interrupt import interruptible
from dip_jax.batch.load import LoadedInput
from dip_jax.batch.output_folder import prepare_folder
from dip_jax.batch.processes import (
    SINGLE_PROCESS,
    Partition,
    ProcessOptions,
    broadcast_error,
    independent_partition,
    rendezvous,
)
from dip_jax.batch.progress import FolderProgress
from dip_jax.batch.worker import Worker
from dip_jax.config import Config
from dip_jax.engine.devices import on_host
from dip_jax.engine.from_config import optimizer_from_config
from dip_jax.errors import InputError, describe_error
from dip_jax.images.find import subfolders_with_images
from dip_jax.report.loggers import require_logger
from dip_jax.report.manifest import RecordedFiles
from dip_jax.report.summary import Summary
from dip_jax.storage.paths import AnyPath, to_path
from dip_jax.tasks.settings import check_settings


def restore_files(
    config: Config,
    output: str | AnyPath,
    files: InputFiles,
    *,
    overwrite: bool = False,
    resume: bool = False,
    processes: ProcessOptions = SINGLE_PROCESS,
    flat: bool = False,
    on_progress: Callable[[FolderProgress], None] | None = None,
    on_message: Callable[[str], None] = lambda text: None,
) -> list[Summary]:
    """Restores image files into a folder.

    The first Ctrl-C, SIGTERM or SIGHUP ends the run in order: images in progress are saved for `resume`, and they
    and all later ones get the status `interrupted`.

    Args:
      config: The settings, from `build_config`.
      output: The output folder; each image gets a folder of its name in it.
      files: The image files.
      overwrite: Overwrite the files of another run in `output`.
      resume: Continue an earlier run of the same settings: keep its finished images, and continue those
        in progress from their checkpoints.
      processes: How several processes divide the images. Without `distributed`, they never meet and can
        start and end independently, which needs `resume`.
      flat: Write each restored image to `output/NAME.png` (or another suffix), and all files of the run to
        `output/details/`.
      on_progress: Called between chunks of steps, and when a phase without steps begins.
      on_message: Called with sentences for the user.

    Returns:
      A summary per image, as in the `summary.json` of the run; in a process other than 0, only the images
      of its partition.

    Raises:
      InputError: If the call has an error that shows before anything is started.
      OSError: If the disk is full.

    Example:
      >>> import imageio.v3 as iio, numpy as np
      >>> from dip_jax import build_config
      >>> iio.imwrite("photo.png", np.random.default_rng(0).integers(0, 256, (33, 33), np.uint8))
      >>> net = ["net.kind=deep_decoder", "net.depth=1", "net.width=4", "net.input_depth=4"]
      >>> config = build_config(overrides=["fit.num_steps=1", *net])
      >>> (summary,) = restore_files(config, "restored", InputFiles(["photo.png"]))
      >>> summary["name"], summary["status"].value
      ('photo', 'done')
    """
    inputs = list_inputs(config, files)
    if not files.recursive:
        _report_subfolders(files, on_message)
    return restore_inputs(
        config,
        output,
        inputs,
        overwrite=overwrite,
        resume=resume,
        processes=processes,
        flat=flat,
        on_progress=on_progress,
        on_message=on_message,
    )


def _report_subfolders(files: InputFiles, on_message: Callable[[str], None]) -> None:
    """Says which subfolders with images are left out."""
    left_out = subfolders_with_images(files.inputs or files.references, exclude=RecordedFiles())
    if left_out:
        named = ", ".join(map(str, left_out[:3])) + (", ..." if len(left_out) > 3 else "")
        on_message(f"Images of subfolders are left out ({named}); add --recursive to restore them.")


def restore_inputs(
    config: Config,
    output: str | AnyPath,
    inputs: Sequence[LazyInput],
    *,
    overwrite: bool = False,
    resume: bool = False,
    processes: ProcessOptions = SINGLE_PROCESS,
    flat: bool = False,
    on_progress: Callable[[FolderProgress], None] | None = None,
    on_message: Callable[[str], None] = lambda text: None,
) -> list[Summary]:
    """Restores images from any source into a folder.

    Args:
      config: The settings.
      output: The output folder.
      inputs: The images, with unique names.
      overwrite: As in `restore_files`, which also describes the other arguments and the return value.
      resume: Continue an earlier run.
      processes: How several processes divide the images.
      flat: Write the restored images side by side.
      on_progress: Called between chunks of steps.
      on_message: Called with sentences for the user.

    Raises:
      InputError: If the call has an error that shows before anything is started.
      OSError: If the disk is full.
    """
    folder, names = to_path(output), [lazy.name for lazy in inputs]
    flat_output = FlatOutput(folder) if flat else None
    if flat_output is not None:
        folder = flat_output.details
    require_logger(config, folder)
    names += sorted({lazy.stack.name for lazy in inputs if lazy.stack is not None})

    def prepare(process: int = 0) -> None:
        check_settings(config)
        optimizer_from_config(config.fit)
        if flat_output is not None:
            flat_output.require_free(names)
        prepare_folder(folder, names, config, overwrite=overwrite, resume=resume, process=process)

    partition = Partition()
    if processes.distributed:
        partition = _join(processes, prepare)
    elif processes.num_processes is not None and processes.process_id is not None:
        partition = independent_partition(
            processes.num_processes, processes.process_id, resume=resume
        )
        prepare(partition.process)
    else:
        # If no image can be read, nothing is created.
        inputs = _require_readable(inputs)
        prepare()
    worker = Worker(
        inputs,
        config,
        folder,
        partition=partition,
        resume=resume,
        flat=flat_output,
        on_message=on_message,
    )
    with interruptible(on_message) as interrupt:
        return worker.run(interrupt, on_progress)


def _join(processes: ProcessOptions, prepare: Callable[[], None]) -> Partition:
    """Meets the other processes; process 0 calls `prepare`, and its error is raised in all of them."""
    with rendezvous(processes) as partition:
        error = ""
        if partition.process == 0:
            try:
                prepare()
            except Exception as raised:  # any error: the others wait for the broadcast
                error = describe_error(raised)
        if error := broadcast_error(error):
            raise InputError(error)
    return partition


def _require_readable(inputs: Sequence[LazyInput]) -> list[LazyInput]:
    """Reads inputs until one succeeds and keeps that one; if none does, raises the first error."""
    first_error = None
    for i, lazy in enumerate(inputs):
        try:
            with on_host():
                loaded = lazy.load()
        except (InputError, OSError, MemoryError) as error:
            first_error = first_error or InputError(describe_error(error))
            continue
        kept = lazy._replace(load=functools.partial(_take_or_load, [loaded], lazy.load))
        return [*inputs[:i], kept, *inputs[i + 1 :]]
    raise first_error or InputError("There is no image to restore.")


def _take_or_load(kept: list[LoadedInput], load: Callable[[], LoadedInput]) -> LoadedInput:
    """The kept input at the first call, which frees it; afterwards `load()`."""
    return kept.pop() if kept else load()
