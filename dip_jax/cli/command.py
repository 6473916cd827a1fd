"""The command `dip-jax`: restores images; without an image, one that ships with scikit-image.

Exit statuses follow `sysexits.h` and shells.
"""

import contextlib
import logging
import os
import platform
import sys
import warnings
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import platformdirs
from absl.flags import FlagValues

from dip_jax._version import __version__
from dip_jax.cli.flags import parse_flags
from dip_jax.cli.help import help_text
from dip_jax.cli.listings import list_presets, list_settings
from dip_jax.cli.request import (
    Request,
    divide_cpu,
    load_plugins,
    resolve_flags,
    validate,
    validate_task,
)
from dip_jax.errors import InputError

if TYPE_CHECKING:
    from dip_jax.report.summary import Summary

_FAILED, _MISTAKE, _RESUMABLE, _INTERRUPTED = 1, 2, 75, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
      arguments: The arguments without the name of the command; None for those of the process.

    Returns:
      The exit status.
    """
    _prepare_process()
    try:
        flags, images = parse_flags(sys.argv[1:] if arguments is None else arguments)
        if listing := _listing(flags, images):
            print(listing, end="")
            return 0
        request = resolve_flags(flags, images)
        validate(request)
        if sys.stderr.isatty():
            print("Loading JAX ...", file=sys.stderr)
        validate_task(request)
        summaries = dispatch(request)
        status = exit_code(
            (summary["status"] for summary in summaries), can_resume=request.mode != "demo"
        )
    except InputError as error:
        print(f"dip-jax: {error}", file=sys.stderr)
        return _MISTAKE
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - stays open until the process ends
        print("dip-jax: standard output was closed; the files are complete.", file=sys.stderr)
        return _FAILED
    except OSError as error:  # a full disk, or a folder that was removed
        print(f"dip-jax: {error}; files written before are complete.", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        status = _INTERRUPTED
    if status == _INTERRUPTED:
        print("dip-jax: interrupted; files written before are complete.", file=sys.stderr)
    return status


def _listing(flags: FlagValues, names: Sequence[str]) -> str:
    """The text that the flags ask for instead of a run; empty if they ask for none.

    Args:
      flags: The flags.
      names: The arguments that are no flags: names of tasks, or of sections.
    """
    if flags.help:
        return help_text()
    if flags.version:
        return _versions()
    if flags.list_presets:
        load_plugins(flags)
        return "".join(map(list_presets, _asked(flags.list_presets, names)))
    if flags.list_settings:
        return "".join(map(list_settings, _asked(flags.list_settings, names)))
    return ""


def _asked(value: str, names: Sequence[str]) -> list[str | None]:
    """The parts that a listing shows; None for all. `--list_settings=net` and `--list_settings net` are the same."""
    return [*([value] if value != "true" else []), *names] or [None]


def _versions() -> str:
    libraries = " ".join(f"{name} {version(name)}" for name in ("jax", "flax", "optax"))
    return f"dip-jax {__version__} ({libraries}, Python {platform.python_version()})\n"


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
    from dip_jax.engine.devices import describe_devices, require_platform

    if request.keep_compiled:
        program_cache.keep_compiled()
    divide_cpu(request.cpu_devices)
    if not request.processes["distributed"]:  # processes meet before they use a device
        require_platform()
    config, output, files = request.config, request.output, InputFiles(**request.files)
    if request.mode == "plan":
        start_seconds = plan.seconds_since_start()
        plans = plan.plan_inputs(list_inputs(config, files), config)
        console.print_plan(plans, start_seconds=start_seconds)
        return []
    with console.ProgressDisplay(heading=describe_devices) as display:
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
            summaries = restore_files(config, output, files, flat=request.flat, **options)
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
