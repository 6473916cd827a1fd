"""What the device can do and what we make of it, in one run: a table, and a file that has all figures.

    python -m benchmarks                                    # 8 minutes at most; `--budget_seconds`
    python -m benchmarks --part=ceilings,steps --size=256 --batch=1 --batch=8 --precision=tf32,bfloat16
    python -m benchmarks --part=layers --size=256 --json=layers.json

`ceilings`: a large matrix product, a copy. `steps`: an optimization step of the standard network for 1 to 16
pictures, ours and PyTorch's in alternating rounds. `layers`: each convolution in each lowering, normalization,
padding, upsampling. What tells most comes first; what does not fit into the budget is listed as not measured. A
run that is killed has written what it found. FLOPs are counted as plain convolutions (`layers.step_flops`), so
that a clever one may exceed the device's ceiling. Seconds to quality: `python -m benchmarks.seconds`.
"""

import dataclasses
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
from benchmarks.protocol import Record, Row, Settings, facts, work_off
from dip_jax.config import NetConfig

PARTS = {"ceilings": ceilings.tasks, "steps": step.tasks, "layers": layers.tasks}

FLAGS = flags.FLAGS
flags.DEFINE_list("part", list(PARTS), "What to measure.")
flags.DEFINE_multi_integer("size", [64, 128, 256, 512], "Height and width.")
flags.DEFINE_multi_integer("batch", [1, 2, 4, 8, 16], "Networks at once (PyTorch has one).")
flags.DEFINE_list(
    "precision", None, "auto, float32, tf32, bfloat16; by default what the device has."
)
flags.DEFINE_list(
    "share",
    None,
    "How our networks share the device: map, vmap, unroll; by default map on CPU, else vmap and map.",
)
flags.DEFINE_list(
    "torch",
    None,
    "How PyTorch runs: eager, channels_last, compile, reduce-overhead, graph, or several joined by +; by default "
    "eager on CPU, else all but reduce-overhead. An empty list leaves it out.",
)
flags.DEFINE_list(
    "lowering",
    None,
    "Of layers: winograd, patches, xla, or xla/separate, xla/grouped, xla/product (see `net.batching`); by default the "
    "first two on CPU and the last three elsewhere.",
)
flags.DEFINE_integer("rounds", 3, "Alternations.", lower_bound=1)
flags.DEFINE_float(
    "round_seconds", None, "What a round should take; by default 0.5 on CPU and 0.2 elsewhere."
)
flags.DEFINE_integer("steps", None, "Steps per round; by default as many as fit into its seconds.")
flags.DEFINE_float("budget_seconds", 480, "What does not fit is not measured.")
flags.DEFINE_string("json", "benchmarks.json", "Where to write the figures.")
flags.DEFINE_string("commit", None, "What to say where the files are no repository.")
flags.DEFINE_multi_string("set", [], "Config overrides.")
flags.register_validator(
    "part", lambda parts: set(parts) <= set(PARTS), f"must be of {', '.join(PARTS)}"
)

# Column to figure and format.
COLUMNS: dict[str, tuple[str, str]] = {
    "what": ("what", ""),
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
    "why not": ("error", ""),
    "why": ("why", ""),
}


def build_settings() -> Settings:
    """The flags, and what the device suggests where they say nothing."""
    is_cpu = jax.default_backend() == "cpu"
    has_precision = any(field.name == "precision" for field in dataclasses.fields(NetConfig))
    precisions = ["auto"] if is_cpu or not has_precision else ["tf32", "bfloat16", "float32"]
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
        shares=FLAGS.share or (["map"] if is_cpu else ["vmap", "map"]),
        torch=torch if FLAGS.torch is None else FLAGS.torch,
        lowerings=FLAGS.lowering or lowerings,
        rounds=FLAGS.rounds,
        round_seconds=FLAGS.round_seconds or (0.5 if is_cpu else 0.2),
        steps=FLAGS.steps,
        overrides=FLAGS.set,
    )


def show(console: Console, title: str, rows: Sequence[Row]) -> None:
    """A table of the figures that some row has."""
    columns = {
        column: figure
        for column, figure in COLUMNS.items()
        if any(row.get(figure[0]) not in (None, "") for row in rows)
    }
    table = Table(title=title, box=None, title_justify="left", padding=(0, 1))
    for column in columns:
        table.add_column(
            column, justify="left" if column in ("what", "why", "why not") else "right"
        )
    for row in rows:
        values = [(row.get(name), form) for name, form in columns.values()]
        table.add_row(*("" if value is None else format(value, form) for value, form in values))
    if rows:
        console.print(table)


def main(argv: list[str]) -> None:
    """Measures, writes and prints."""
    del argv
    # A program out of a cache would tell no time to compile.
    jax.config.update("jax_enable_compilation_cache", False)
    settings = build_settings()
    path = Path(FLAGS.json) if FLAGS.json else None
    about: dict[str, Any] = facts(FLAGS.commit)
    record = Record(about, FLAGS.part, path)
    tasks = [task for part in FLAGS.part for task in PARTS[part](settings)]
    record.save(tasks)
    # Python's own start counts, too; a virtual machine may be wrong about when that was.
    began = max(psutil.Process().create_time(), time.time() - 60)
    ends = began + FLAGS.budget_seconds
    work_off(tasks, record, settings, ends=ends)
    console = Console(width=200)
    console.print(", ".join(f"{name} {value}" for name, value in about.items() if value))
    # What was measured comes last, where it can be seen.
    show(console, "not measured", record.not_measured)
    for part, rows in record.parts.items():
        show(console, part, rows)


if __name__ == "__main__":
    app.run(main)
