"""The command: `python main.py` restores an image that ships with a dependency; `--help` lists the flags."""

import contextlib
import dataclasses
import difflib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import platformdirs
from absl import flags

from dip_jax.config import TASKS, Config, replace_fields
from dip_jax.errors import InputError
from dip_jax.fields import shorten
from dip_jax.presets import COMPARISONS, build_comparison, build_config
from dip_jax.storage.paths import AnyPath, to_path

if TYPE_CHECKING:
    from dip_jax.report.summary import Summary

FLAGS = flags.FLAGS

flags.DEFINE_string("task", None, f"Degradation of the image: {', '.join(TASKS)}.")
flags.DEFINE_multi_string("input", [], "Degraded images: a file, glob or folder")
flags.DEFINE_multi_string(
    "reference",
    [],
    "Clean images, matched to the inputs by file stem. Without --input, they are degraded first",
)
flags.DEFINE_multi_string(
    "mask", [], "inpaint: white = known. One for all images, or matched by stem"
)
flags.DEFINE_multi_string(
    "guide", [], "flash: the flash image. One for all images, or matched by stem"
)
flags.DEFINE_multi_string(
    "kernel", [], "deblur: the blur kernel, an image or .npy. One for all, or matched by stem"
)
flags.DEFINE_integer("factor", None, "super_resolve: ratio of output size to input size, per side.")
flags.DEFINE_string(
    "angles",
    None,
    "ct: the angles in degrees, separated by commas, or a .npy or text file that lists them.",
)
flags.DEFINE_string("operator", None, "custom: path.py:function, a JAX function of an image.")
flags.DEFINE_multi_string("plugin", [], "Python files that register tasks, for --task")
flags.DEFINE_float("noise_std", None, "Noise level in gray levels of 255, if it is known.")
flags.DEFINE_string(
    "noise_unit",
    None,
    "Unit of --noise_std: gray (levels of 255) or file (the values of the file).",
)
flags.DEFINE_string(
    "range",
    None,
    "Values of black and white in the files: auto, container (limits of the type), or LOW,HIGH.",
)
flags.DEFINE_integer(
    "page",
    None,
    "Page or frame to restore of each file, from 1; default: all pages of a TIFF stack.",
)
flags.DEFINE_string("preset", None, "Named setting; --list_presets shows them.")
flags.DEFINE_bool("help", False, "Show this text and exit.")
flags.DEFINE_bool("list_presets", False, "List the presets and exit.")
flags.DEFINE_string(
    "compare",
    None,
    "Run several settings on the same images and draw them in one figure: "
    f"{', '.join(COMPARISONS)}, or presets separated by commas.",
)
flags.DEFINE_string(
    "stop",
    None,
    "Stopping rule: cross_validation (several networks), held_out, wmv, emv, discrepancy, sure, fixed "
    "(all steps), or all side by side.",
)
flags.DEFINE_string(
    "method", None, "fit (a point estimate) or sgld (samples of the posterior and their mean)."
)
flags.DEFINE_integer("num_chains", None, "sgld: number of chains per image, one network each.")
flags.DEFINE_integer(
    "num_seeds", None, "fit: number of networks per image, whose outputs are combined."
)
flags.DEFINE_string(
    "intervals",
    None,
    "fit: error of each pixel by bootstrap (fits to images whose truth is known) or linearized (the network, linearized "
    "in its weights).",
)
flags.DEFINE_integer("num_steps", None, "Maximum number of optimization steps.")
flags.DEFINE_integer("seed", None, "Seed of all random numbers.")
flags.DEFINE_string("output", "out", "Output folder; each image gets a folder in it.")
flags.DEFINE_bool("overwrite", False, "Replace an earlier run in the output folder.")
flags.DEFINE_bool(
    "resume",
    False,
    "Continue an earlier run: keep finished images and continue those in progress.",
)
flags.DEFINE_bool("plan", False, "Forecast the memory and time of the run, and exit.")
flags.DEFINE_integer("slots", None, "Number of images that share a device; default: automatic.")
flags.DEFINE_float(
    "checkpoint_every", None, "Minutes between checkpoints of the images in progress."
)
flags.DEFINE_bool(
    "distributed", False, "Divide the images among the processes that a launcher started."
)
flags.DEFINE_bool(
    "keep_compiled", True, "Store compiled programs in the user's cache folder for later runs."
)
flags.DEFINE_string(
    "precision",
    None,
    "Precision of the products in the network: float32 (default on CPU), tf32 (default elsewhere) "
    "or bfloat16.",
)
flags.DEFINE_integer(
    "num_processes", None, "Number of processes that divide the images without a launcher."
)
flags.DEFINE_integer("process_id", None, "Index of this process, from 0.")
flags.DEFINE_string(
    "coordinator", None, "host:port of process 0, where the processes meet; --resume needs none."
)
flags.DEFINE_integer(
    "cpu_devices", None, "Number of devices that the CPU is divided into.", lower_bound=1
)
flags.DEFINE_integer("max_pixels", 100_000_000, "Refuse larger images before decoding them.")
flags.DEFINE_multi_string("set", [], "Any config field, as section.field=value")

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
# Exit statuses, as `sysexits.h` and shells use them.
_FAILED, _MISTAKE, _RESUMABLE, _INTERRUPTED = 1, 2, 75, 130


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


def main() -> int:
    """Runs the command; returns the exit status."""
    _prepare_process()
    try:
        rest = FLAGS(sys.argv)[1:]
        if FLAGS.help:
            print(__doc__, FLAGS.module_help(sys.modules[__name__]), sep="\n")
            return 0
        if FLAGS.list_presets:
            return _list_presets()
        if rest:
            raise InputError(f"Unexpected argument {rest[0]!r}; pass images as --input={rest[0]}.")
        request = resolve_flags()
        validate(request)
        validate_task(request)
        summaries = dispatch(request)
        status = exit_code(
            (summary["status"] for summary in summaries), can_resume=request.mode != "demo"
        )
    except flags.UnrecognizedFlagError as error:
        near = difflib.get_close_matches(error.flagname, list(FLAGS), n=1, cutoff=0.4)
        hint = f"; did you mean --{near[0]}?" if near else ""
        print(f"dip_jax: Unknown flag --{error.flagname}{hint}", file=sys.stderr)
        return _MISTAKE
    except (flags.Error, InputError) as error:
        print(f"dip_jax: {error}", file=sys.stderr)
        return _MISTAKE
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - stays open until the process ends
        print("dip_jax: standard output was closed; the files are complete.", file=sys.stderr)
        return _FAILED
    except OSError as error:  # a full disk, or a folder that was removed
        print(f"dip_jax: {error}; files written before are complete.", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        status = _INTERRUPTED
    if status == _INTERRUPTED:
        print("dip_jax: interrupted; files written before are complete.", file=sys.stderr)
    return status


def _prepare_process() -> None:
    """Makes the process independent of an environment that is meant for other programs."""
    os.environ["MPLBACKEND"] = "agg"  # notebooks set one that only their own kernel has
    with contextlib.suppress(RuntimeError):  # a user without a home folder
        cache = platformdirs.user_cache_dir("dip_jax", appauthor=False)
        # The settings of a user must not change figures, and a run writes nothing into other folders.
        os.environ.setdefault("MPLCONFIGDIR", os.path.join(cache, "matplotlib"))
    for library in ("tifffile", "matplotlib"):  # our own messages name the file
        logging.getLogger(library).setLevel(logging.CRITICAL)
    if not sys.warnoptions:  # the same holds for warnings of libraries
        warnings.simplefilter("ignore")
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):  # a name may not be in the encoding of the stream
            stream.reconfigure(errors="backslashreplace")


def resolve_flags() -> Request:
    """Reads the flags into a request.

    Raises:
      InputError: For an unknown name, or a value that no config can have.
    """
    values = FLAGS.flag_values_dict()
    given = frozenset(
        name for name, value in values.items() if value not in (None, []) and value is not False
    )
    mode, output = _choose_mode(given), to_path(FLAGS.output)
    return Request(
        mode=mode,
        configs=_build_configs(FLAGS.preset),
        files={
            "inputs": FLAGS.input,
            "references": FLAGS.reference,
            "masks": FLAGS.mask,
            "guides": FLAGS.guide,
            "kernels": FLAGS.kernel,
            "max_pixels": FLAGS.max_pixels,
        },
        processes={
            "distributed": FLAGS.distributed or FLAGS.coordinator is not None,
            "coordinator": FLAGS.coordinator,
            "num_processes": FLAGS.num_processes,
            "process_id": FLAGS.process_id,
        },
        output=output / "demo" if mode == "demo" else output,
        overwrite=FLAGS.overwrite,
        resume=FLAGS.resume,
        cpu_devices=FLAGS.cpu_devices,
        keep_compiled=FLAGS.keep_compiled,
        given=given,
    )


def _load_plugins() -> tuple[str, ...]:
    """Runs the files that register tasks; returns their paths and checksums."""
    if not FLAGS.plugin:
        return ()
    from dip_jax.tasks.plugin import load_plugin

    _divide_cpu(FLAGS.cpu_devices)  # before a plugin uses a device
    return tuple(load_plugin(path) for path in FLAGS.plugin)


def _divide_cpu(number: int | None) -> None:
    import jax

    if number not in (None, jax.config.values["jax_num_cpu_devices"]):
        jax.config.update("jax_num_cpu_devices", number)


def _choose_mode(given: frozenset[str]) -> Literal["demo", "plan", "compare", "restore"]:
    if "plan" in given:
        return "plan"
    if "compare" in given:
        return "compare"
    # Without images and without a task, the command runs the demo.
    is_demo = not given & {"task", "preset", "operator", "input", "reference"}
    return "demo" if is_demo else "restore"


def _build_configs(preset: str | None) -> dict[str, Config]:
    """The configs by label."""
    plugins = _load_plugins()
    task, overrides = FLAGS.task, list(FLAGS.set)
    if FLAGS.operator is not None:
        overrides.append(f"task.operator={FLAGS.operator}")
        task = task or (None if preset else "custom")
    values = {
        field: FLAGS[flag].value for flag, field in _FIELDS.items() if FLAGS[flag].value is not None
    }
    if plugins:
        values["task.plugins"] = plugins
    if FLAGS.noise_std is not None:
        in_gray_levels = (FLAGS.noise_unit or "gray") == "gray"
        if in_gray_levels and not 0 <= FLAGS.noise_std <= 255:
            raise InputError(
                f"--noise_std expects gray levels from 0 to 255, got {FLAGS.noise_std:g}; for values of the file "
                "add --noise_unit=file."
            )
        values["task.noise_std"] = FLAGS.noise_std / (255 if in_gray_levels else 1)
    if FLAGS.kernel:
        values["task.kernel"] = "file"
    if FLAGS.angles is not None:
        values["task.angles"] = _read_angles(FLAGS.angles)
    if FLAGS.compare is None:
        # The default preset depends on the flags. They are set again below, because they precede --set.
        configs = {"": build_config(preset, task=task, overrides=overrides, changes=values)}
    else:
        configs = build_comparison(FLAGS.compare, preset, task=task, overrides=overrides)
    return {label: replace_fields(config, values) for label, config in configs.items()}


def _read_angles(text: str) -> tuple[float, ...]:
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
    if takes_files and request.mode != "demo" and not request.given & {"input", "reference"}:
        raise InputError(
            "Nothing to restore: pass degraded images (--input), or clean ones (--reference)."
        )
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


def dispatch(request: Request) -> "list[Summary]":
    """Runs a valid request and prints its results.

    Returns:
      A summary per image; none for a plan.
    """
    from dip_jax.base import Status
    from dip_jax.batch.folder import restore_files
    from dip_jax.batch.inputs import InputFiles, list_inputs
    from dip_jax.batch.processes import ProcessOptions
    from dip_jax.cli import compare, console, demo, plan
    from dip_jax.engine import program_cache
    from dip_jax.engine.devices import require_platform

    if request.keep_compiled:
        program_cache.keep_compiled()
    _divide_cpu(request.cpu_devices)
    if not request.processes["distributed"]:  # processes meet before they use a device
        require_platform()
    config, output, files = request.config, request.output, InputFiles(**request.files)
    if request.mode == "plan":
        start_seconds = plan.seconds_since_start()
        plans = plan.plan_inputs(list_inputs(config, files), config)
        console.print_plan(plans, start_seconds=start_seconds)
        return []
    with console.ProgressDisplay() as display:
        hooks: dict[str, Any] = {"on_progress": display.show, "on_message": display.announce}
        options = {
            "overwrite": request.overwrite,
            "resume": request.resume,
            "processes": ProcessOptions(**request.processes),
            **hooks,
        }
        if request.mode == "demo":
            summaries, psnrs = demo.run_demo(config, output, **hooks)
        elif request.mode == "compare":
            summaries = compare.compare_files(request.configs, output, files, **options)
        else:
            summaries = restore_files(config, output, files, **options)
    statuses = {summary["status"] for summary in summaries}
    if request.mode != "demo" or Status.FAILED in statuses:
        console.print_results(summaries, output)
    elif Status.INTERRUPTED not in statuses:
        console.print_comparison(psnrs, output / demo.NAME)
    return summaries


def exit_code(statuses: Iterable[str], *, can_resume: bool = True) -> int:
    """The exit status of a run.

    Args:
      statuses: The status of each image.
      can_resume: Whether `--resume` continues an interrupted run; the demo starts anew each time.
    """
    found = set(statuses)
    if "interrupted" in found:
        return _RESUMABLE if can_resume else _INTERRUPTED
    return _FAILED if found & {"failed", "diverged"} else 0


def _list_presets() -> int:
    from dip_jax.cli import console

    _load_plugins()
    console.print_presets()
    return 0


if __name__ == "__main__":
    sys.exit(main())
