"""Where each stopping rule would stop, against the best step of the running average.

    python -m benchmarks.stops --json=stops.jsonl
    python -m benchmarks.stops --pictures=chelsea,camera --noise=gaussian25,poisson --num_steps=2000 \
        --preset=denoise_small --json=stops.jsonl
    python -m benchmarks.stops --reference=F16.png --noise=gaussian25

Each picture and noise is fitted once, to the last step, with all rules side by side (`stop.rule=all`): so
all of them judge the same fit, one that does not see what `held_out` keeps for itself. The gap is in dB,
the best PSNR of the running average in the whole run minus that of the answer.

The pictures are 96 x 96: crops of pictures of scikit-image, halved, other ones than those by which
defaults were chosen (coins, ihc, moon, retina). Noise: `gaussianS`, S gray levels, known to the rules, or
estimated from the picture (`--estimate`); `salt_and_pepper` and `poisson` with the likelihood of their presets.
Salt and pepper have no level; what `discrepancy` and `sure` make of the one that is estimated for want of it
is what a user would get, and no more.

A finished fit is a line of the file at once. Lines that are there already, of the same settings, are not
computed again, so a run that was killed goes on.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table

from benchmarks import about
from benchmarks.records import SOURCES, append_row, clean_pictures, figure, read_rows
from dip_jax.base import Case, InputError, Result
from dip_jax.config import Config
from dip_jax.engine.restore import restore_many
from dip_jax.keys import image_key, simulation_key
from dip_jax.presets import PRESETS, build_config
from dip_jax.tasks.noise_level import with_noise_std
from dip_jax.tasks.simulate import simulate_case

NOISES = ("gaussian15", "gaussian25", "gaussian50", "salt_and_pepper", "poisson")
RULES = ("wmv", "emv", "discrepancy", "held_out", "sure")
_PRESET_OF = {"salt_and_pepper": "denoise_impulse", "poisson": "denoise_poisson"}

FLAGS = flags.FLAGS
flags.DEFINE_list("pictures", list(SOURCES), "Pictures of scikit-image.")
flags.DEFINE_multi_string("reference", [], "Clean pictures instead of them; their center crops.")
flags.DEFINE_integer("side", 96, "Side of the pictures.")
flags.DEFINE_list("noise", list(NOISES), "Kinds of noise, Gaussian ones with their gray levels.")
flags.DEFINE_bool("estimate", False, "Let the rules have the estimated level of Gaussian noise.")
flags.DEFINE_string("preset", "denoise", "The setting.")
flags.DEFINE_integer("num_steps", 2000, "Steps of each fit.")
flags.DEFINE_integer("seed", 0, "For the noise, the code and the weights.")
flags.DEFINE_multi_string("set", [], "Config overrides.")
flags.DEFINE_string("json", "stops.jsonl", "Where to write the figures, a line for each fit.")
flags.DEFINE_bool("curves", False, "Write also PSNR and signals of every step.")


def build_settings(noise: str) -> Config:
    """The config for one kind of noise."""
    kind = re.fullmatch(r"(gaussian)(\d+)|(salt_and_pepper)|(poisson)", noise)
    if kind is None:
        raise InputError(f"Unknown noise {noise!r}. Known: {', '.join(NOISES)}, gaussian...")
    changes: dict[str, Any] = {"fit.num_steps": FLAGS.num_steps, "run.seed": FLAGS.seed}
    if kind[1]:
        changes["task.noise_std"] = int(kind[2]) / 255
    else:
        changes |= PRESETS[_PRESET_OF[noise]].overrides
    changes["stop.rule"] = "all"
    return build_config(FLAGS.preset, changes=changes, overrides=FLAGS.set)


def build_cases(noise: str, config: Config, pictures: dict[str, np.ndarray]) -> Iterator[Case]:
    """The pictures with their noise."""
    for name, reference in pictures.items():
        # The name is what their random numbers follow from.
        name = f"{name} {noise}"
        key = simulation_key(image_key(FLAGS.seed, name))
        case = simulate_case(key, config.task, name, reference)
        if FLAGS.estimate and noise.startswith("gaussian"):
            problem = case.problem._replace(noise_std=jnp.float32(jnp.nan))
            case = with_noise_std(case._replace(problem=problem))
        yield case


def measure(case: Case, result: Result) -> dict[str, Any]:
    """Best step and answers of one fit."""
    if result.error is not None:
        raise result.error
    curve = result.curve["psnr_average"]
    best = int(np.nanargmax(curve))
    signals = {rule: result.curve[f"signal_{rule}"] for rule in RULES}
    rules = {}
    for rule in (*RULES, "fixed"):
        step, has_fired = result.stops[rule]
        rules[rule] = {
            "step": step,
            "fired": has_fired,
            # Without any signal it has not been asked.
            "applies": rule == "fixed" or bool(np.isfinite(signals[rule]).any()),
            "psnr": round(float(curve[step]), 3),
            "gap": round(float(curve[best] - curve[step]), 3),
        }
    row = {
        "status": result.status,
        "num_steps": result.num_steps,
        "num_rollbacks": result.num_rollbacks,
        "noise_std": figure(case.problem.noise_std, 5),
        "best_step": best,
        "best_psnr": round(float(curve[best]), 3),
        # What would have been the right threshold.
        "discrepancy_at_best": figure(signals["discrepancy"][best], 4),
        "seconds": round(result.seconds, 1),
        "rules": rules,
    }
    if FLAGS.curves:
        kept = {"psnr_average": curve, **signals}
        row["curves"] = {name: [figure(v, 7) for v in values] for name, values in kept.items()}
    return row


def settings() -> dict[str, Any]:
    """What a line must agree in to count as done."""
    names = ("preset", "num_steps", "seed", "side", "estimate", "set")
    return {name: getattr(FLAGS, name) for name in names}


def show(rows: list[dict[str, Any]], title: str) -> None:
    """Prints a line for each fit, then mean and worst gap of each rule."""
    names = (*RULES, "fixed")
    table = Table("picture", "noise", "best", "dB", *names, title=title, box=None)
    for row in rows:
        cells = []
        for rule in names:
            found = row["rules"][rule]
            mark = "" if found["fired"] or rule == "fixed" else "*"
            cells.append(f"{found['step']}{mark} {found['gap']:.2f}" if found["applies"] else "-")
        best = str(row["best_step"]), f"{row['best_psnr']:.2f}"
        table.add_row(row["picture"], row["noise"], *best, *cells)
    table.add_section()
    gaps = {
        rule: [row["rules"][rule]["gap"] for row in rows if row["rules"][rule]["applies"]]
        for rule in names
    }
    for label, reduce in {
        "mean gap": np.mean,
        "median gap": np.median,
        "worst gap": np.max,
    }.items():
        cells = [f"{reduce(values):.2f}" if values else "-" for values in gaps.values()]
        table.add_row(label, "", "", "", *cells)
    table.add_row("fits", "", "", "", *(str(len(values)) for values in gaps.values()))
    table.caption = "step and gap in dB; * the rule had not fired when the steps were over"
    Console(width=150).print(table)


def main(argv: list[str]) -> None:
    """Fits what is missing and prints the table."""
    del argv
    path = Path(FLAGS.json)
    pictures = clean_pictures(FLAGS.side, FLAGS.pictures, FLAGS.reference)
    rows = [row for row in read_rows(path) if row["settings"] == settings()]
    known = {(row["picture"], row["noise"]) for row in rows}
    device = about()
    command = " ".join(["python -m benchmarks.stops", *sys.argv[1:]])
    for noise in FLAGS.noise:
        config = build_settings(noise)
        missing = {name: x for name, x in pictures.items() if (name, noise) not in known}
        cases = {case.name: case for case in build_cases(noise, config, missing)}
        for result in restore_many(cases.values(), config):
            row = {"picture": result.name.removesuffix(f" {noise}"), "noise": noise}
            row |= measure(cases[result.name], result)
            row |= {"settings": settings(), "command": command, **device}
            append_row(path, row)
            rows.append(row)
            gaps = {rule: found["gap"] for rule, found in row["rules"].items()}
            print(row["picture"], noise, row["best_psnr"], gaps, row["seconds"], flush=True)
    wanted = {(name, noise) for name in pictures for noise in FLAGS.noise}
    rows = [row for row in rows if (row["picture"], row["noise"]) in wanted]
    title = f"{command}, {device['device']}, jax {device['jax']}, python {device['python']}, "
    show(rows, title + f"{device['commit']}, {device['date']}")


if __name__ == "__main__":
    app.run(main)
