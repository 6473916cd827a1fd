"""The request of one call: the flags, resolved and checked."""

import dataclasses
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from absl import flags

from dip_jax.config import Config, replace_fields
from dip_jax.errors import InputError
from dip_jax.fields import shorten
from dip_jax.presets import build_comparison, build_config
from dip_jax.storage.paths import AnyPath, to_path

# Flags that set a config field. They take precedence over --set.
_FIELDS = {
    "factor": "task.factor",
    "stop": "stop.rule",
    "method": "fit.method",
    "num_seeds": "fit.num_seeds",
    "intervals": "fit.intervals",
    "num_chains": "sgld.num_chains",
    "num_steps": "fit.num_steps",
    "precision": "net.precision",
    "range": "task.value_range",
    "page": "task.page",
    "noise_unit": "task.noise_unit",
    "seed": "run.seed",
    "slots": "run.slots",
    "checkpoint_every": "run.checkpoint_every",
}
# Flags that belong to some tasks only: side inputs, and fields of the task.
_SIDE_INPUTS = ("mask", "guide", "kernel")
_TASK_FIELDS = ("factor", "angles")
# Flags that make no sense in the demonstration.
_NEED_IMAGES = {"resume", "recursive", "flat"}
_GRAY_LEVELS = 255


@dataclasses.dataclass(frozen=True)
class Request:
    """The request of one call of the command; made without JAX, so that mistakes are reported at once."""

    mode: Literal["demo", "plan", "compare", "restore"]
    configs: dict[str, Config]
    """The settings by label: those of a comparison, otherwise one with an empty label."""
    files: dict[str, Any]
    """Fields of `batch.inputs.InputFiles`."""
    processes: dict[str, Any]
    """Fields of `batch.processes.ProcessOptions`."""
    output: AnyPath
    flat: bool
    overwrite: bool
    resume: bool
    cpu_devices: int | None
    keep_compiled: bool
    given: frozenset[str]
    """Names of the flags that have a value."""

    @property
    def config(self) -> Config:
        """The only setting, or the first of a comparison."""
        return next(iter(self.configs.values()))


def resolve_flags(values: flags.FlagValues, images: Sequence[str] = ()) -> Request:
    """Makes a request of the flags.

    Args:
      values: The parsed flags.
      images: The arguments that are no flags: degraded images.

    Raises:
      InputError: For an unknown name, or a value that no config can have.
    """
    given = {
        name
        for name, value in values.flag_values_dict().items()
        if value not in (None, []) and value is not False
    }
    if images:
        given.add("input")
    mode, output = _choose_mode(given), to_path(values.output)
    return Request(
        mode=mode,
        configs=_build_configs(values),
        files={
            "inputs": [*images, *values.input],
            "references": values.reference,
            "masks": values.mask,
            "guides": values.guide,
            "kernels": values.kernel,
            "max_pixels": values.max_pixels,
            "recursive": values.recursive,
        },
        processes={
            "distributed": values.distributed or values.coordinator is not None,
            "coordinator": values.coordinator,
            "num_processes": values.num_processes,
            "process_id": values.process_id,
        },
        output=output / "demo" if mode == "demo" else output,
        flat=values.flat,
        overwrite=values.overwrite,
        resume=values.resume,
        cpu_devices=values.cpu_devices,
        keep_compiled=values.keep_compiled,
        given=frozenset(given),
    )


def load_plugins(values: flags.FlagValues) -> tuple[str, ...]:
    """Runs the files that register tasks; returns their paths and checksums."""
    if not values.plugin:
        return ()
    from dip_jax.tasks.plugin import load_plugin

    divide_cpu(values.cpu_devices)  # before a plugin uses a device
    return tuple(load_plugin(path) for path in values.plugin)


def divide_cpu(number: int | None) -> None:
    """Divides the CPU into a number of devices; None leaves it as it is."""
    import jax

    if number not in (None, jax.config.values["jax_num_cpu_devices"]):
        jax.config.update("jax_num_cpu_devices", number)


def _choose_mode(given: set[str]) -> Literal["demo", "plan", "compare", "restore"]:
    if "plan" in given:
        return "plan"
    if "compare" in given:
        return "compare"
    # Without images and without a task, the command runs the demo.
    is_demo = not given & {"task", "preset", "operator", "input", "reference"}
    return "demo" if is_demo else "restore"


def _build_configs(given: flags.FlagValues) -> dict[str, Config]:
    """The configs by label."""
    plugins = load_plugins(given)
    task, overrides = given.task, list(given.set)
    if given.operator is not None:
        overrides.append(f"task.operator={given.operator}")
        task = task or (None if given.preset else "custom")
    values = {
        field: given[flag].value for flag, field in _FIELDS.items() if given[flag].value is not None
    }
    if plugins:
        values["task.plugins"] = plugins
    if given.noise_std is not None:
        values["task.noise_std"] = _in_units(given.noise_std, given.noise_unit or "gray")
    if given.kernel:
        values["task.kernel"] = "file"
    if given.angles is not None:
        values["task.angles"] = read_angles(given.angles)
    if given.compare is None:
        # The default preset depends on the given. They are set again below, because they precede --set.
        configs = {"": build_config(given.preset, task=task, overrides=overrides, changes=values)}
    else:
        configs = build_comparison(given.compare, given.preset, task=task, overrides=overrides)
    return {label: replace_fields(config, values) for label, config in configs.items()}


def _in_units(noise_std: float, unit: str) -> float:
    """The noise level as `task.noise_std`."""
    if unit != "gray":
        return noise_std
    if not 0 <= noise_std <= _GRAY_LEVELS:
        raise InputError(
            f"--noise_std expects gray levels from 0 to 255, got {noise_std:g}; for values of the file "
            "add --noise_unit=file."
        )
    if 0 < noise_std < 1:
        raise InputError(
            f"--noise_std expects gray levels from 0 to 255, and {noise_std:g} is less than one: for a fraction of the "
            f"range write --noise_std={_GRAY_LEVELS * noise_std:g}; if less than one level is meant, --set "
            f"task.noise_std={noise_std / _GRAY_LEVELS:.3g}."
        )
    return noise_std / _GRAY_LEVELS


def read_angles(text: str) -> tuple[float, ...]:
    """The angles of a comma-separated list, or of a file of numbers."""
    try:
        values: Any = [float(part) for part in text.split(",")]
    except ValueError:
        values = _read_angle_file(text)
    angles = tuple(np.asarray(values, np.float64).ravel().tolist())
    if not angles or not np.isfinite(angles).all():
        raise InputError(f"--angles expects finite numbers, got {text!r}.")
    return angles


def _read_angle_file(text: str) -> np.ndarray:
    path = Path(os.path.expanduser(text))
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False).astype(np.float64, casting="safe")
        return np.loadtxt(io.StringIO(path.read_text().replace(",", " ")))
    except Exception as error:  # numpy may raise anything on a damaged file
        raise InputError(
            "--angles expects numbers separated by commas, or a .npy or text file of them, got "
            f"{shorten(text)} ({shorten(str(error))})."
        ) from None


def validate(request: Request) -> None:
    """Raises an `InputError` for flags that do not belong together."""
    given = request.given
    methods = {config.fit.method for config in request.configs.values()}
    rules = [
        ({"compare", "method"} <= given, "A comparison sets its own methods: leave out --method."),
        (
            {"compare", "plan"} <= given,
            "A plan is for one setting: leave out --compare, or plan one preset at a time.",
        ),
        (
            request.cpu_devices is not None and request.cpu_devices < 1,
            f"--cpu_devices expects at least 1, got {request.cpu_devices}.",
        ),
        (
            request.flat and request.mode == "compare",
            "A comparison has a folder for each setting: leave out --flat.",
        ),
        (
            "num_chains" in given and "sgld" not in methods,
            "--num_chains belongs to sampling: add --method=sgld.",
        ),
        (
            "num_seeds" in given and "fit" not in methods,
            "--num_seeds belongs to a fit; for sampling use --num_chains.",
        ),
        (
            "intervals" in given and "fit" not in methods,
            "--intervals belongs to a fit; samples have intervals anyway.",
        ),
        (
            "stop" in given and "fit" not in methods,
            "Sampling has no stopping rule: leave out --stop.",
        ),
        (
            ("num_processes" in given) != ("process_id" in given)
            or ("coordinator" in given and "process_id" not in given),
            "--num_processes and --process_id belong together, and --coordinator needs both.",
        ),
    ]
    for is_broken, message in rules:
        if is_broken:
            raise InputError(message)


def validate_task(request: Request) -> None:
    """Raises an `InputError` for flags and settings that do not fit the task; it loads JAX."""
    from dip_jax.tasks.registry import task_of, tasks_with_setting, tasks_with_side_input
    from dip_jax.tasks.settings import check_settings

    task, takes_files = request.config.task.name, task_of(request.config.task).target is None
    needs_files = request.mode != "demo" or request.given & _NEED_IMAGES
    if takes_files and needs_files and not request.given & {"input", "reference"}:
        raise InputError("Nothing to restore: pass degraded images, or clean ones (--reference).")
    users = {
        **{flag: tasks_with_side_input(flag) for flag in _SIDE_INPUTS},
        **{flag: tasks_with_setting(flag) for flag in _TASK_FIELDS},
    }
    for flag, tasks in users.items():
        if flag in request.given and task not in tasks:
            raise InputError(
                f"--{flag} belongs to {' and '.join(tasks)}, the task is {task}: use --task={tasks[0]}."
            )
    for config in request.configs.values():
        check_settings(config)
