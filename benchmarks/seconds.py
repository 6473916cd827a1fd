"""Seconds to quality: which settings reach what the settings of 2018 hand out, and after how many steps.

    python -m benchmarks.seconds --side=128 --setting="2018 denoise_2018" --setting="fast fast" \
        --json=seconds.jsonl                    # fits: a line for each picture and seed
    python -m benchmarks.seconds --side=128 --setting="2018 denoise_2018" --setting="fast fast" \
        --json=seconds.jsonl --time             # their steps in turns, and PyTorch's of the goal
    python -m benchmarks.seconds --json=seconds.jsonl --table --figure=seconds.png

A setting is a label, a preset and overrides, separated by spaces. Each is fitted to each picture and
seed; a line of the file has the PSNR of what was handed out and of the running average after step 1, 11, 21 and so on
(where a setting fits several networks to a picture, of the first). A run that was killed goes on where it was.
Fits and times are apart, so that fits can share a machine whose times would then be worth nothing.

`--table` and `--figure` fit nothing; see `curves`. The goal of a picture and seed is what the setting `--goal`
makes of it, or where a task and side do not have it, the first setting of the file.
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

from benchmarks import about
from benchmarks.curves import LazyInput, Row, build_table, draw, entries
from benchmarks.protocol import Run, Settings, alternate
from benchmarks.records import SOURCES, append_row, clean_pictures, figure, read_rows
from benchmarks.step import Ours, Torch
from dip_jax.base import Case, InputError, Result
from dip_jax.config import Config, replace_fields
from dip_jax.engine.restore import num_networks, restore_many
from dip_jax.keys import image_key, simulation_key
from dip_jax.presets import build_config
from dip_jax.tasks.simulate import simulate_case

EVERY = 10

FLAGS = flags.FLAGS
flags.DEFINE_multi_string("setting", [], "Label, preset and overrides, separated by spaces.")
flags.DEFINE_list("pictures", list(SOURCES), "Pictures of scikit-image.")
flags.DEFINE_multi_string("reference", [], "Clean pictures instead of them; their center crops.")
flags.DEFINE_integer("side", 128, "Side of the pictures.")
flags.DEFINE_integer("seeds", 3, "Runs with different noise, code and weights.")
flags.DEFINE_string("json", "seconds.jsonl", "The file of lines.")
flags.DEFINE_bool("time", False, "Time a step of each setting instead of fitting.")
flags.DEFINE_bool("table", False, "Only show what the file has.")
flags.DEFINE_string("figure", None, "Only draw what the file has, into this file.")
flags.DEFINE_string("goal", "2018", "The label of the setting that says what is to be reached.")


def build_setting(text: str) -> tuple[str, Config]:
    """Label and config.

    Raises:
      InputError: If it is not a label, a preset and overrides.
    """
    label, *rest = text.split()
    if not rest:
        raise InputError(f"A setting is a label, a preset and overrides, came {text!r}.")
    return label, build_config(rest[0], overrides=rest[1:])


def build_case(config: Config, picture: str, seed: int, reference: np.ndarray) -> Case:
    """The damaged picture; the damage depends on picture, seed and task, on nothing else of the setting."""
    name = f"{picture} {seed}"
    key = simulation_key(image_key(0, name))
    return simulate_case(key, config.task, name, reference)


def measure(result: Result, reference: np.ndarray) -> Row:
    """What was handed out, and the way there."""
    if result.error is not None:
        raise result.error
    members = result.network_curves or (result.curve,)
    mse = np.mean((result.image - reference) ** 2)
    return {
        "answer": figure(-10 * np.log10(mse), 3),
        "stop_step": result.stop_step,
        "num_steps": result.num_steps,
        "num_networks": len(members),
        "network_steps": sum(len(curve["loss"]) for curve in members),
        "status": result.status,
        "num_rollbacks": result.num_rollbacks,
        "seconds": round(result.seconds, 1),
        "every": EVERY,
        **{
            name: [figure(value, 3) for value in result.curve[name][::EVERY]]
            for name in ("psnr", "psnr_average")
        },
    }


def time_steps(settings: dict[str, Config], side: int) -> list[Row]:
    """Milliseconds per step of each setting, and of the goal in PyTorch where that is installed, in turns.

    A step of a setting with several networks for a picture is one of all of them.
    """
    # The rule runs and never fires.
    endless = {"fit.num_steps": 1_000_000, "stop.patience": 1_000_000.0, "run.chunk": 200}
    builders: dict[tuple[str, str], Callable[[], Run]] = {}

    def build_ours(config: Config) -> Run:
        number = num_networks(config)
        return Ours(replace_fields(config, {**endless, "run.slots": number}), side, number).run

    for label, config in settings.items():
        builders[label, "ours"] = functools.partial(build_ours, config)
    goal = settings.get(FLAGS.goal)
    if goal is not None and goal.task.name == "denoise" and importlib.util.find_spec("torch"):
        builders[FLAGS.goal, "PyTorch"] = lambda: Torch(goal, side, "eager", goal.net.precision).run
    else:
        print("PyTorch is not timed: it is not installed, or no setting is the goal.")
    names = {" ".join(key): key for key in builders}
    times = alternate(
        {name: builders[key] for name, key in names.items()}, Settings(round_seconds=5), most=200
    )
    return [
        {
            "label": label,
            "library": library,
            "side": side,
            "num_networks": num_networks(settings[label]),
            **times[name],
        }
        for name, (label, library) in names.items()
    ]


def fit_settings(settings: dict[str, Config], texts: dict[str, str], path: Path) -> None:
    """Fits what the file does not have yet."""
    pictures = clean_pictures(FLAGS.side, FLAGS.pictures, FLAGS.reference)
    device = about()
    for label, config in settings.items():
        same = {"label": label, "setting": texts[label], "side": FLAGS.side}
        known = {
            (row["picture"], row["seed"])
            for row in read_rows(path)
            if "picture" in row and {name: row.get(name) for name in same} == same
        }
        wanted = [
            (picture, seed)
            for picture in pictures
            for seed in range(FLAGS.seeds)
            if (picture, seed) not in known
        ]
        cases = (build_case(config, name, seed, pictures[name]) for name, seed in wanted)
        for result in restore_many(cases, config):
            picture, seed = result.name.rsplit(" ", 1)
            row = {**same, "picture": picture, "seed": int(seed)}
            row |= measure(result, pictures[picture])
            append_row(path, row | {"command": _command()} | device)
            said = (label, picture, seed, row["answer"], row["stop_step"], row["num_steps"])
            print(*said, row["seconds"], flush=True)


def show(path: Path) -> None:
    """The table and the figure, a part for each task and side.

    Raises:
      InputError: If there are no fits, or one label stands for two settings.
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
            raise InputError(f"{path}: the label {label!r} stands for two settings.")
    found: list[tuple[str, list[LazyInput]]] = []
    for (task, side), rows in parts.items():
        fits = [row for row in rows if "picture" in row]
        if fits:
            labels = [row["label"] for row in fits]
            goal = FLAGS.goal if FLAGS.goal in labels else labels[0]
            times = [row for row in rows if "ms" in row]
            title = f"{task.name}, {side} x {side}; goal: {goal}"
            found.append((title, list(entries(fits, times, goal))))
    if not found:
        raise InputError(f"{path} has no fits.")
    for title, part_entries in found:
        Console(width=160).print(build_table(part_entries, title))
    if FLAGS.figure:
        draw(found, Path(FLAGS.figure))


def _command() -> str:
    return "python -m benchmarks.seconds " + shlex.join(sys.argv[1:])


def run() -> None:
    """Fits or times settings, or shows what the file has."""
    path = Path(FLAGS.json)
    if FLAGS.table or FLAGS.figure:
        show(path)
        return
    texts = {text.split()[0]: text for text in FLAGS.setting if text.strip()}
    if not texts or len(texts) < len(FLAGS.setting):
        raise InputError("Give --setting at least once, each with a label of its own.")
    settings = dict(build_setting(text) for text in FLAGS.setting)
    if not FLAGS.time:
        fit_settings(settings, texts, path)
        return
    for row in time_steps(settings, FLAGS.side):
        print(row, flush=True)
        more = {"setting": texts[row["label"]], "command": _command()}
        append_row(path, row | more | about())


def main(argv: list[str]) -> None:
    """The command; a user's mistake is a sentence."""
    del argv
    try:
        run()
    except InputError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    app.run(main)
