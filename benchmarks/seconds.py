"""Seconds to quality: which settings reach what the settings of 2018 hand out, and after how many steps.

    python -m benchmarks.seconds --side=128 --setting="2018 denoise_2018" --setting="fast fast" \
        --json=seconds.jsonl
    python -m benchmarks.seconds --side=128 --json=seconds.jsonl --table --step_ms=2018:190,fast:20

A setting is a label, a preset and overrides, separated by spaces. Each is fitted to each picture and
seed; a line of the file has the PSNR of what was handed out and of the running average after every tenth step.
A run that was killed goes on where it was.

With `--table` nothing is fitted. The goal of a picture and seed is the PSNR that the setting `--goal` hands
out. The table has, for each setting, the difference of what it hands out from that (mean, worst), and from
the best that the goal's running average passed through, which only the clean picture can tell; and the steps
to the goal. Times the milliseconds per step, given by `--step_ms`, they are seconds.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table

from benchmarks import about
from benchmarks.records import SOURCES, append_row, clean_pictures, figure, read_rows
from dip_jax.base import Case, Result, picture_key
from dip_jax.config import Config
from dip_jax.ensemble import restore_many
from dip_jax.presets import build_config
from dip_jax.simulation import simulate_case

EVERY = 10

FLAGS = flags.FLAGS
flags.DEFINE_multi_string("setting", [], "Label, preset and overrides, separated by spaces.")
flags.DEFINE_list("pictures", list(SOURCES), "Pictures of scikit-image.")
flags.DEFINE_multi_string("reference", [], "Clean pictures instead of them; their centre crops.")
flags.DEFINE_integer("side", 128, "Side of the pictures.")
flags.DEFINE_integer("seeds", 3, "Runs with different noise, code and weights.")
flags.DEFINE_string("json", "seconds.jsonl", "The file of lines.")
flags.DEFINE_bool("table", False, "Only show what the file has.")
flags.DEFINE_string("goal", "2018", "The setting that says what is to be reached.")
flags.DEFINE_list("step_ms", [], "Milliseconds per step, LABEL:MS.")


def build_setting(text: str) -> tuple[str, Config]:
    """Label and config."""
    label, preset, *overrides = text.split()
    return label, build_config(preset, overrides=overrides)


def build_case(config: Config, picture: str, seed: int, reference: np.ndarray) -> Case:
    """The damaged picture; the damage depends on picture and seed alone, not on the setting."""
    name = f"{picture} {seed}"
    key = jax.random.fold_in(picture_key(0, name), 1)
    return simulate_case(key, config.task, name, reference)


def measure(result: Result, reference: np.ndarray) -> dict[str, Any]:
    """What was handed out, and the way there."""
    if result.error is not None:
        raise result.error
    error = np.mean((result.image - reference) ** 2)
    return {
        "answer": figure(-10 * np.log10(error), 3),
        "stop_step": result.stop_step,
        "num_steps": result.num_steps,
        "status": result.status,
        "num_rollbacks": result.num_rollbacks,
        "seconds": round(result.seconds, 1),
        "every": EVERY,
        **{
            name: [figure(value, 3) for value in result.curve[name][::EVERY]]
            for name in ("psnr", "psnr_average")
        },
    }


def steps_to(row: dict[str, Any], goal: float) -> float:
    """Steps until the running average reaches a PSNR; infinite if it never does."""
    curve = np.array([np.nan if value is None else value for value in row["psnr_average"]])
    reached = np.flatnonzero(curve >= goal)
    return float(row["every"] * reached[0]) if len(reached) else np.inf


def best(row: dict[str, Any]) -> float:
    """The most that the running average reached, which only the clean picture can tell."""
    return max(value for value in row["psnr_average"] if value is not None)


def show(rows: list[dict[str, Any]]) -> None:
    """A line for each setting, over all pictures and seeds that have a goal."""
    step_ms = dict(item.rsplit(":", 1) for item in FLAGS.step_ms)
    goals = {(row["picture"], row["seed"]): row for row in rows if row["label"] == FLAGS.goal}
    columns = (
        *("setting", "runs", "dB", "to the goal", "worst", "to the goal's best", "worst", "steps"),
        *("steps to goal", "reached", "ms", "s", "s to goal", "worst"),
    )
    table = Table(*columns, box=None, title=f"{FLAGS.side} x {FLAGS.side}, goal: {FLAGS.goal}")
    for label in dict.fromkeys(row["label"] for row in rows):
        mine = [
            row for row in rows if row["label"] == label and (row["picture"], row["seed"]) in goals
        ]
        if not mine:
            continue
        goal = [goals[row["picture"], row["seed"]] for row in mine]
        answer = np.array([row["answer"] for row in mine])
        to_answer = answer - [row["answer"] for row in goal]
        to_best = answer - [best(row) for row in goal]
        steps = np.mean([row["num_steps"] for row in mine])
        to_goal = np.array([steps_to(row, g["answer"]) for row, g in zip(mine, goal, strict=True)])
        reached = np.isfinite(to_goal)
        mean_to_goal = to_goal[reached].mean() if reached.any() else np.nan
        ms = float(step_ms.get(label, "nan"))
        table.add_row(
            label,
            str(len(mine)),
            f"{answer.mean():.2f}",
            *(f"{value:+.2f}" for v in (to_answer, to_best) for value in (v.mean(), v.min())),
            f"{steps:.0f}",
            f"{mean_to_goal:.0f}",
            f"{reached.mean():.0%}",
            f"{ms:.1f}",
            f"{ms * steps / 1e3:.1f}",
            f"{ms * mean_to_goal / 1e3:.1f}",
            f"{ms * to_goal.max() / 1e3:.1f}",
        )
    Console(width=150).print(table)


def main(argv: list[str]) -> None:
    """Fits what is missing, or shows what there is."""
    del argv
    path = Path(FLAGS.json)
    if FLAGS.table:
        show([row for row in read_rows(path) if row["side"] == FLAGS.side])
        return
    pictures = clean_pictures(FLAGS.side, FLAGS.pictures, FLAGS.reference)
    device = about()
    for text in FLAGS.setting:
        label, config = build_setting(text)
        same = {"label": label, "setting": text, "side": FLAGS.side}
        known = {
            (row["picture"], row["seed"])
            for row in read_rows(path)
            if {name: row[name] for name in same} == same
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
            row["command"] = " ".join(["python -m benchmarks.seconds", *sys.argv[1:]])
            append_row(path, row | device)
            said = (label, picture, seed, row["answer"], row["stop_step"], row["num_steps"])
            print(*said, row["seconds"], flush=True)
    show([row for row in read_rows(path) if row["side"] == FLAGS.side])


if __name__ == "__main__":
    app.run(main)
