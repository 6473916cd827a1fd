"""Limits of the device, and how much of them the optimization steps use: a table and a JSON file.

    python -m benchmarks                                    # at most 8 minutes (--budget_seconds)
    python -m benchmarks --part=ceilings,steps --size=256 --batch=8 --precision=tf32,bfloat16
    python -m benchmarks --part=layers --size=256 --json=layers.json

There are three parts. `ceilings` measures a large matrix product and a copy. `steps` measures an
optimization step of the standard network for 1 to 16 images, ours and PyTorch's in alternating
rounds. `layers` measures each convolution in each lowering, and normalization, padding and
upsampling.

The most informative measurements come first. Those that do not fit into the time budget are listed
as not measured. The JSON file is rewritten after each measurement, so a killed run loses nothing.
FLOPs are those of plain convolutions (`layers.step_flops`), so a faster algorithm may exceed the
ceiling of the device. For the time to reach a quality, see `python -m benchmarks.seconds`.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import psutil
from absl import app, flags
from rich.console import Console
from rich.table import Table

from benchmarks import ceilings, layers, step
from benchmarks.protocol import Record, Row, Settings, facts, measure_all

PARTS = {"ceilings": ceilings.tasks, "steps": step.tasks, "layers": layers.tasks}

FLAGS = flags.FLAGS
flags.DEFINE_list("part", list(PARTS), "Parts to measure: ceilings, steps, layers.")
flags.DEFINE_multi_integer("size", [64, 128, 256, 512], "Heights and widths of the images.")
flags.DEFINE_multi_integer(
    "batch", [1, 2, 4, 8, 16], "Numbers of networks that run at once (one for PyTorch)."
)
flags.DEFINE_list(
    "precision", None, "auto, float32, tf32, bfloat16; by default, those that the device supports."
)
flags.DEFINE_list(
    "share",
    None,
    "How our networks share the device: map, vmap, unroll; by default, map on CPU, and vmap and "
    "map elsewhere.",
)
flags.DEFINE_list(
    "torch",
    None,
    "Modes of PyTorch: eager, channels_last, compile, reduce-overhead, graph, or several joined by "
    "+; by default, eager on CPU, and all but reduce-overhead elsewhere. An empty list skips "
    "PyTorch.",
)
flags.DEFINE_list(
    "lowering",
    None,
    "Lowerings of the part layers: winograd, patches, xla, or xla/separate, xla/grouped, "
    "xla/product (see net.batching); by default, the first two on CPU and the last three "
    "elsewhere.",
)
flags.DEFINE_integer("rounds", 3, "Rounds in which the candidates alternate.", lower_bound=1)
flags.DEFINE_float(
    "round_seconds", None, "Target duration of a round; by default, 0.5 on CPU and 0.2 elsewhere."
)
flags.DEFINE_integer(
    "steps", None, "Steps per round; by default, as many as fit into round_seconds."
)
flags.DEFINE_float("budget_seconds", 480, "Time budget; measurements that do not fit are skipped.")
flags.DEFINE_string("json", "benchmarks.json", "Output file.")
flags.DEFINE_string("commit", None, "Commit to report if the files are not in a git repository.")
flags.DEFINE_multi_string("set", [], "Config overrides, FIELD=VALUE.")
flags.register_validator(
    "part", lambda parts: set(parts) <= set(PARTS), f"must be among {', '.join(PARTS)}"
)

# Header of a column: the key of its values, and their format.
COLUMNS: dict[str, tuple[str, str]] = {
    "operation": ("what", ""),
    "pass": ("pass", ""),
    "lowering": ("lowering", ""),
    "size": ("size", "d"),
    "batch": ("batch", "d"),
    "precision": ("precision", ""),
    "ms": ("ms", ".4g"),
    "+-": ("spread", ".2g"),
    "ms/image": ("ms_per_image", ".4g"),
    "images/h": ("images_per_hour", ".3g"),
    "x eager": ("against_eager", ".2f"),
    "GFLOP/s": ("gflops", ".0f"),
    "of product": ("share_of_product", ".0%"),
    "GB/s": ("gigabytes_per_second", ".1f"),
    "of copy": ("share_of_copy", ".0%"),
    "GB": ("forecast_gigabytes", ".2f"),
    "GB/Mpx": ("gigabytes_per_megapixel", ".1f"),
    "peak GB": ("peak_gigabytes", ".2f"),
    "compile s": ("compile_seconds", ".0f"),
    "error": ("error", ""),
    "reason": ("why", ""),
}


def build_settings() -> Settings:
    """The settings from the flags, with defaults that depend on the device."""
    is_cpu = jax.default_backend() == "cpu"
    precisions = ["auto"] if is_cpu else ["tf32", "bfloat16", "float32"]
    torch = ["eager"]
    if not is_cpu:
        torch += ["channels_last", "graph", "channels_last+graph"]
        torch += ["compile", "channels_last+compile"]
    lowerings = ["winograd", "patches"]
    if not is_cpu:
        lowerings = ["xla/separate", "xla/grouped", "xla/product"]
    return Settings(
        sizes=FLAGS.size,
        batches=FLAGS.batch,
        precisions=FLAGS.precision or precisions,
        slot_modes=FLAGS.share or (["map"] if is_cpu else ["vmap", "map"]),
        torch=torch if FLAGS.torch is None else FLAGS.torch,
        lowerings=FLAGS.lowering or lowerings,
        rounds=FLAGS.rounds,
        round_seconds=FLAGS.round_seconds or (0.5 if is_cpu else 0.2),
        steps=FLAGS.steps,
        overrides=FLAGS.set,
    )


def show(console: Console, title: str, rows: Sequence[Row]) -> None:
    """Prints a table of the columns for which at least one row has a value."""
    columns = {
        column: (name, form)
        for column, (name, form) in COLUMNS.items()
        if any(row.get(name) not in (None, "") for row in rows)
    }
    table = Table(title=title, box=None, title_justify="left", padding=(0, 1))
    for column in columns:
        table.add_column(
            column, justify="left" if column in ("operation", "error", "reason") else "right"
        )
    for row in rows:
        values = [(row.get(name), form) for name, form in columns.values()]
        table.add_row(*("" if value is None else format(value, form) for value, form in values))
    if rows:
        console.print(table)


def main(argv: list[str]) -> None:
    """Measures, writes the JSON file and prints the tables."""
    del argv
    # A cached executable would have no compile time.
    jax.config.update("jax_enable_compilation_cache", False)
    settings = build_settings()
    path = Path(FLAGS.json) if FLAGS.json else None
    run_facts: dict[str, Any] = facts(FLAGS.commit)
    record = Record(run_facts, FLAGS.part, path)
    tasks = [task for part in FLAGS.part for task in PARTS[part](settings)]
    record.save(tasks)
    # The start of Python counts too. A virtual machine may report a wrong start time, hence the
    # limit.
    start = max(psutil.Process().create_time(), time.time() - 60)
    end = start + FLAGS.budget_seconds
    measure_all(tasks, record, settings, end=end)
    console = Console(width=200)
    console.print(", ".join(f"{name} {value}" for name, value in run_facts.items() if value))
    # The results come last, where they stay visible in a terminal.
    show(console, "not measured", record.not_measured)
    for part, rows in record.parts.items():
        show(console, part, rows)


if __name__ == "__main__":
    app.run(main)
