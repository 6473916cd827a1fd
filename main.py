"""The command: `python main.py` restores a picture that ships with a dependency; `--help` has the rest."""

import difflib
import sys
from pathlib import Path

from absl import flags

from dip_jax.config import Config, replace_fields
from dip_jax.errors import InputError
from dip_jax.presets import COMPARISONS, DEFAULT_PRESETS, build_comparison, build_config

FLAGS = flags.FLAGS

flags.DEFINE_string("task", None, f"What was done to the picture: {', '.join(DEFAULT_PRESETS)}.")
flags.DEFINE_multi_string("input", [], "Damaged picture: a file, a glob or a folder. Repeatable.")
flags.DEFINE_multi_string(
    "reference",
    [],
    "Clean picture, matched to the input by file stem. Without --input, the damage is simulated on it.",
)
flags.DEFINE_multi_string("mask", [], "inpaint: white = known. One for all, or matched by stem.")
flags.DEFINE_multi_string("guide", [], "flash: the flash picture. One for all, or matched by stem.")
flags.DEFINE_multi_string(
    "kernel", [], "deblur: the point spread, a picture or .npy. One for all, or matched by stem."
)
flags.DEFINE_integer("factor", None, "super_resolve: how many times smaller the picture is.")
flags.DEFINE_string("operator", None, "custom: path.py:function, any JAX function of an image.")
flags.DEFINE_float("noise_std", None, "Noise level in gray levels of 255, where it is known.")
flags.DEFINE_string("preset", None, "A named setting; --list_presets shows them.")
flags.DEFINE_bool("help", False, "Show this text and end.")
flags.DEFINE_bool("list_presets", False, "List the presets and end.")
flags.DEFINE_string(
    "compare",
    None,
    f"Run several settings and draw them beside each other: {', '.join(COMPARISONS)}, or presets "
    "separated by commas.",
)
flags.DEFINE_string(
    "stop",
    None,
    "When to stop: held_out, wmv, emv, discrepancy, sure, fixed (all steps), or all side by side.",
)
flags.DEFINE_string(
    "method", None, "fit (a point estimate) or sgld (samples of the posterior, and their mean)."
)
flags.DEFINE_integer(
    "num_chains", None, "sgld: chains for each picture, with networks of their own."
)
flags.DEFINE_integer(
    "num_seeds", None, "fit: networks for each picture, whose answers are averaged."
)
flags.DEFINE_integer("num_steps", None, "Optimization steps, at most.")
flags.DEFINE_integer("seed", None, "Seed of every random number.")
flags.DEFINE_string("output", "out", "Folder for the results; each picture gets a folder in it.")
flags.DEFINE_bool("overwrite", False, "Go over what is in the output folder.")
flags.DEFINE_bool(
    "resume",
    False,
    "Go on with an earlier run: keep what it finished, take up what it had in work.",
)
flags.DEFINE_bool("plan", False, "Say what the run would cost in memory and time, and end.")
flags.DEFINE_integer("slots", None, "Pictures that share a device; by default what suits it.")
flags.DEFINE_float("checkpoint_every", None, "Minutes between checkpoints of what is in work.")
flags.DEFINE_bool(
    "distributed", False, "Share the pictures with other processes; the launcher says who is who."
)
flags.DEFINE_bool(
    "keep_compiled",
    True,
    "Keep compiled programs for the next start, in a cache folder of the user's.",
)
flags.DEFINE_string(
    "precision",
    None,
    "Of the network's products: float32 (the default on CPU), tf32 (the default elsewhere) or bfloat16.",
)
flags.DEFINE_integer("num_processes", None, "Share them with so many, without a launcher.")
flags.DEFINE_integer("process_id", None, "The number of this one, from 0.")
flags.DEFINE_string(
    "coordinator", None, "host:port of process 0, where they should meet; not needed with --resume."
)
flags.DEFINE_integer("cpu_devices", None, "Treat the processor as so many devices.", lower_bound=1)
flags.DEFINE_integer("max_pixels", 100_000_000, "Refuse larger pictures before decoding them.")
flags.DEFINE_multi_string("set", [], "Any config field, as section.field=value. Repeatable.")


def main() -> int:
    """Runs the command; returns the exit status."""
    try:
        rest = FLAGS(sys.argv)[1:]
        if FLAGS.help:
            print(__doc__, FLAGS.module_help(sys.modules[__name__]), sep="\n")
            return 0
        if FLAGS.list_presets:
            return _list_presets()
        if rest:
            raise InputError(
                f"Unexpected argument {rest[0]!r}; pictures are given as --input={rest[0]}."
            )
        return _run()
    except flags.UnrecognizedFlagError as error:
        near = difflib.get_close_matches(error.flagname, list(FLAGS), n=1, cutoff=0.4)
        hint = f"; did you mean --{near[0]}?" if near else ""
        print(f"dip_jax: Unknown flag --{error.flagname}{hint}", file=sys.stderr)
        return 2
    except (flags.Error, InputError) as error:
        print(f"dip_jax: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder that went away
        print(f"dip_jax: {error}; what was written before is whole.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("dip_jax: dropped; what was written before is whole.", file=sys.stderr)
        return 130


def _configs(preset: str | None) -> dict[str, Config]:
    """The configs that the flags ask for: one, or those of a comparison by label."""
    task = FLAGS.task
    overrides = list(FLAGS.set)
    if FLAGS.operator is not None:
        overrides.append(f"task.operator={FLAGS.operator}")
        task = task or (None if preset else "custom")
    if FLAGS.noise_std is not None and not 0 <= FLAGS.noise_std <= 255:
        raise InputError(f"--noise_std is in gray levels, from 0 to 255, came {FLAGS.noise_std:g}.")
    given = {
        "task.noise_std": None if FLAGS.noise_std is None else FLAGS.noise_std / 255,
        "task.factor": FLAGS.factor,
        "stop.rule": FLAGS.stop,
        "fit.method": FLAGS.method,
        "fit.num_seeds": FLAGS.num_seeds,
        "sgld.num_chains": FLAGS.num_chains,
        "fit.num_steps": FLAGS.num_steps,
        "net.precision": FLAGS.precision,
        "run.seed": FLAGS.seed,
        "run.slots": FLAGS.slots,
        "run.checkpoint_every": FLAGS.checkpoint_every,
    }
    if FLAGS.kernel:
        given["task.kernel"] = "file"
    values = {k: v for k, v in given.items() if v is not None}
    if FLAGS.compare is None:
        configs = {"": build_config(preset, task=task, overrides=overrides)}
    else:
        configs = build_comparison(FLAGS.compare, preset, task=task, overrides=overrides)
    return {label: replace_fields(config, values) for label, config in configs.items()}


def _check_flags(*, is_demo: bool) -> None:
    """Raises an `InputError` for flags that do not go together."""
    if is_demo and _is_chosen() and FLAGS.preset != "demo":
        raise InputError(
            "Nothing to restore: give a picture (--input), or a clean one (--reference)."
        )
    if is_demo and FLAGS.plan:
        raise InputError("Nothing to plan: give pictures (--input).")
    if FLAGS.compare and FLAGS.method:
        raise InputError("The settings of a comparison say their own method: leave out --method.")
    if FLAGS.compare and FLAGS.plan:
        raise InputError(
            "A plan is of one setting: leave out --compare, or plan a preset at a time."
        )
    for given, flag, task in (
        (FLAGS.mask, "mask", "inpaint"),
        (FLAGS.guide, "guide", "flash"),
        (FLAGS.kernel, "kernel", "deblur"),
        (FLAGS.factor, "factor", "super_resolve"),
    ):
        if given and not _is_chosen():
            raise InputError(f"A {flag} belongs to {task}: add --task={task}.")
    if (FLAGS.num_processes is None) != (FLAGS.process_id is None) or (
        FLAGS.coordinator is not None and FLAGS.process_id is None
    ):
        raise InputError(
            "--num_processes and --process_id belong together, and --coordinator needs both."
        )


def _is_chosen() -> bool:
    """Whether a flag says what to do, so that this is no demonstration."""
    return any((FLAGS.task, FLAGS.preset, FLAGS.compare, FLAGS.operator))


def _run() -> int:
    is_demo = not FLAGS.input and not FLAGS.reference
    configs = _configs(FLAGS.preset if _is_chosen() or not is_demo else "demo")
    config = next(iter(configs.values()))
    _check_flags(is_demo=is_demo)
    if FLAGS.factor is not None and config.task.name != "super_resolve":
        raise InputError(f"A factor belongs to super_resolve, the task is {config.task.name}.")
    methods = {config.fit.method for config in configs.values()}
    if FLAGS.num_chains is not None and "sgld" not in methods:
        raise InputError("Chains belong to sampling: add --method=sgld.")
    if FLAGS.num_seeds is not None and "fit" not in methods:
        raise InputError("Seeds belong to a fit; samples come in chains: --num_chains.")
    if FLAGS.stop is not None and "fit" not in methods:
        raise InputError("Samples need no stopping rule: leave out --stop.")

    # Only now JAX: the mistakes above are answered at once.
    import jax

    from dip_jax.batch import folder
    from dip_jax.batch import inputs as jobs
    from dip_jax.cli import compare, console, demo, plan
    from dip_jax.engine import program_cache

    if FLAGS.keep_compiled:
        program_cache.keep_compiled()
    if FLAGS.cpu_devices is not None:
        jax.config.update("jax_num_cpu_devices", FLAGS.cpu_devices)
    files = {
        "inputs": FLAGS.input,
        "references": FLAGS.reference,
        "masks": FLAGS.mask,
        "guides": FLAGS.guide,
        "kernels": FLAGS.kernel,
        "max_pixels": FLAGS.max_pixels,
    }
    if FLAGS.plan:
        start_seconds = plan.seconds_since_start()
        plans = plan.plan_inputs(jobs.list_inputs(config, **files), config)
        console.print_plan(plans, start_seconds=start_seconds)
        return 0
    with console.ProgressDisplay() as display:
        if is_demo:
            output = Path(FLAGS.output) / "demo"
            summaries, comparison = demo.run_demo(
                config, output, on_progress=display.show, on_message=display.announce
            )
        else:
            output = Path(FLAGS.output)
            options = {
                **files,
                "overwrite": FLAGS.overwrite,
                "resume": FLAGS.resume,
                "distributed": FLAGS.distributed or FLAGS.coordinator is not None,
                "coordinator": FLAGS.coordinator,
                "num_processes": FLAGS.num_processes,
                "process_id": FLAGS.process_id,
                "on_progress": display.show,
                "on_message": display.announce,
            }
            if FLAGS.compare is None:
                summaries = folder.restore_files(config, output, **options)
            else:
                summaries = compare.compare_files(configs, output, **options)
    statuses = {summary["status"] for summary in summaries}
    if is_demo and "interrupted" in statuses:
        raise KeyboardInterrupt  # it takes two minutes and starts anew each time
    if is_demo and "failed" not in statuses:
        console.print_comparison(comparison, output / demo.NAME)
    else:
        console.print_results(summaries, output)
    if "interrupted" in statuses:
        return 75
    return 1 if statuses & {"failed", "diverged"} else 0


def _list_presets() -> int:
    from dip_jax.cli import console

    console.print_presets()
    return 0


if __name__ == "__main__":
    sys.exit(main())
