r"""Seconds to quality: how long settings need to reach the PSNR of another setting, the goal.

    python -m benchmarks.seconds --side=128 --setting="2018 denoise_2018" --setting="fast fast" \
        --json=seconds.jsonl                    # fits: a row per image and seed
    python -m benchmarks.seconds --side=128 --setting="2018 denoise_2018" --setting="fast fast" \
        --json=seconds.jsonl --time             # time per step, also of the goal in PyTorch
    python -m benchmarks.seconds --json=seconds.jsonl --table --figure=seconds.png

A setting is a label, a preset and overrides, separated by spaces. Each setting is fitted to each
image with each seed. A row of the file has the PSNR of the returned image, and of the running
average after step 1, 11, 21 and so on (of the first network, if a setting fits several to an
image). A killed run continues where it stopped. Fits and times are separate, so that fits can run
on a machine that is too busy for timing.

`--table` and `--figure` fit nothing; see `curves`. The goal is the setting `--goal`, or the first
setting of the file for a task and size that was not fitted with it.
"""

import functools
import importlib.util
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags
from rich.console import Console

from benchmarks import environment
from benchmarks.curves import Comparison, Row, build_table, comparisons, draw
from benchmarks.protocol import Run, Settings, alternate
from benchmarks.records import SOURCES, append_row, clean_images, psnr, read_rows, rounded
from benchmarks.step import Ours, Torch
from dip_jax.base import Case, Result
from dip_jax.config import Config, replace_fields
from dip_jax.engine.restore import restore_many
from dip_jax.errors import InputError
from dip_jax.keys import image_key, simulation_key
from dip_jax.presets import build_config
from dip_jax.tasks.simulate import simulate_case

EVERY = 10  # steps between the stored values of a curve

FLAGS = flags.FLAGS
flags.DEFINE_multi_string(
    "setting", [], "A setting: label, preset and overrides, separated by spaces."
)
flags.DEFINE_list("pictures", list(SOURCES), "Images of scikit-image.")
flags.DEFINE_multi_string(
    "reference", [], "Paths of clean images to use instead; their centers are cropped."
)
flags.DEFINE_integer("side", 128, "Height and width of the images.")
flags.DEFINE_integer("seeds", 3, "Number of runs, with different noise, code and weights.")
flags.DEFINE_string("json", "seconds.jsonl", "File of the rows.")
flags.DEFINE_bool("time", False, "Time a step of each setting, and fit nothing.")
flags.DEFINE_bool("table", False, "Print a table of the file, and fit nothing.")
flags.DEFINE_string("figure", None, "Draw the rows of the file into this file, and fit nothing.")
flags.DEFINE_string("goal", "2018", "Label of the setting whose PSNR the others are to reach.")


def build_setting(text: str) -> tuple[str, Config]:
    """Returns label and config of a setting.

    Raises:
      InputError: If the text is not a label, a preset and overrides.
    """
    label, *rest = text.split()
    if not rest:
        raise InputError(f"Expected a label, a preset and overrides as a setting, got {text!r}.")
    return label, build_config(rest[0], overrides=rest[1:])


def build_case(config: Config, image: str, seed: int, reference: np.ndarray) -> Case:
    """Simulates a degraded image; only the task of the setting affects the degradation."""
    name = f"{image} {seed}"
    key = simulation_key(image_key(0, name))
    return simulate_case(key, config.task, name, reference)


def measure(result: Result, reference: np.ndarray) -> Row:
    """Returns the row of a fit: the PSNR of the returned image, and the curves."""
    if result.error is not None:
        raise result.error
    curves = result.network_curves or (result.curve,)
    return {
        "answer": rounded(psnr(result.image, reference), 3),
        "stop_step": result.stop_step,
        "num_steps": result.num_steps,
        "num_networks": len(curves),
        "network_steps": sum(len(curve["loss"]) for curve in curves),
        "status": result.status,
        "num_rollbacks": result.num_rollbacks,
        "seconds": round(result.seconds, 1),
        "every": EVERY,
        **{
            name: [rounded(value, 3) for value in result.curve[name][::EVERY]]
            for name in ("psnr", "psnr_average")
        },
    }


def time_steps(settings: dict[str, Config], side: int) -> list[Row]:
    """Times a step of each setting in alternating rounds.

    The goal is also timed in PyTorch, if that is installed. If a setting has several networks per
    image, a step is one step of all of them.
    """
    # The stopping rule runs but never fires.
    endless = {"fit.num_steps": 1_000_000, "stop.patience": 1_000_000.0, "run.chunk": 200}
    builders: dict[tuple[str, str], Callable[[], Run]] = {}

    def build_ours(config: Config) -> Run:
        number = config.num_networks
        return Ours(replace_fields(config, {**endless, "run.slots": number}), side, number).run

    for label, config in settings.items():
        builders[label, "ours"] = functools.partial(build_ours, config)
    goal = settings.get(FLAGS.goal)
    if goal is not None and goal.task.name == "denoise" and importlib.util.find_spec("torch"):
        builders[FLAGS.goal, "PyTorch"] = lambda: Torch(goal, side, "eager", goal.net.precision).run
    else:
        print("PyTorch is not timed: it is not installed, or the goal is not a denoising setting.")
    names = {" ".join(key): key for key in builders}
    times = alternate(
        {name: builders[key] for name, key in names.items()},
        Settings(round_seconds=5),
        max_steps=200,
    )
    return [
        {
            "label": label,
            "library": library,
            "side": side,
            "num_networks": settings[label].num_networks,
            **times[name],
        }
        for name, (label, library) in names.items()
    ]


def fit_settings(settings: dict[str, Config], texts: dict[str, str], path: Path) -> None:
    """Makes the fits that the file does not have yet, and appends their rows."""
    images = clean_images(FLAGS.side, FLAGS.pictures, FLAGS.reference)
    facts = environment()
    for label, config in settings.items():
        same = {"label": label, "setting": texts[label], "side": FLAGS.side}
        known = {
            (row["picture"], row["seed"])
            for row in read_rows(path)
            if "picture" in row and {name: row.get(name) for name in same} == same
        }
        wanted = [
            (name, seed)
            for name in images
            for seed in range(FLAGS.seeds)
            if (name, seed) not in known
        ]
        cases = (build_case(config, name, seed, images[name]) for name, seed in wanted)
        for result in restore_many(cases, config):
            name, seed = result.name.rsplit(" ", 1)
            row = {**same, "picture": name, "seed": int(seed)}
            row |= measure(result, images[name])
            append_row(path, row | {"command": _command()} | facts)
            values = [row[key] for key in ("answer", "stop_step", "num_steps", "seconds")]
            print(label, name, seed, *values, flush=True)


def show(path: Path) -> None:
    """Prints a table and draws a panel for each task and size.

    Raises:
      InputError: If there are no fits, or if two settings have the same label.
    """
    parts: dict[Any, list[Row]] = {}
    configs: dict[Any, Config] = {}
    for row in read_rows(path):
        if "setting" not in row:
            continue
        label, config = build_setting(row["setting"])
        part = (config.task, row["side"])
        parts.setdefault(part, []).append(row)
        if "picture" in row and configs.setdefault((part, label), config) != config:
            raise InputError(f"{path}: two settings have the label {label!r}.")
    panels: list[tuple[str, list[Comparison]]] = []
    for (task, side), rows in parts.items():
        fits = [row for row in rows if "picture" in row]
        if fits:
            labels = [row["label"] for row in fits]
            goal = FLAGS.goal if FLAGS.goal in labels else labels[0]
            times = [row for row in rows if "ms" in row]
            title = f"{task.name}, {side} x {side}; goal: {goal}"
            panels.append((title, list(comparisons(fits, times, goal))))
    if not panels:
        raise InputError(f"{path} has no fits.")
    for title, settings in panels:
        Console(width=160).print(build_table(settings, title))
    if FLAGS.figure:
        draw(panels, Path(FLAGS.figure))


def _command() -> str:
    return "python -m benchmarks.seconds " + shlex.join(sys.argv[1:])


def run() -> None:
    """Fits or times the settings, or shows the rows of the file."""
    path = Path(FLAGS.json)
    if FLAGS.table or FLAGS.figure:
        show(path)
        return
    texts = {text.split()[0]: text for text in FLAGS.setting if text.strip()}
    if not texts or len(texts) < len(FLAGS.setting):
        raise InputError("Give --setting at least once, each time with a different label.")
    settings = dict(build_setting(text) for text in FLAGS.setting)
    if not FLAGS.time:
        fit_settings(settings, texts, path)
        return
    for row in time_steps(settings, FLAGS.side):
        print(row, flush=True)
        row |= {"setting": texts[row["label"]], "command": _command()}
        append_row(path, row | environment())


def main(argv: list[str]) -> None:
    """Runs the command; exits with a message for a wrong input."""
    del argv
    try:
        run()
    except InputError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    app.run(main)
