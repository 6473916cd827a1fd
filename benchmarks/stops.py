r"""The stopping rules: where each one stops, against the best step of the running average.

    python -m benchmarks.stops --json=stops.jsonl
    python -m benchmarks.stops --pictures=chelsea,camera --noise=gaussian25,poisson \
        --num_steps=2000 --preset=denoise_small --json=stops.jsonl
    python -m benchmarks.stops --reference=F16.png --noise=gaussian25

Each image is fitted once per kind of noise, to the last step, with all rules (`stop.rule=all`). So
all rules run on the same fit, which does not see the measurements that `held_out` hides. The gap, in
dB, is the best PSNR of the running average in the whole run minus that of the returned image.

The images are crops of images of scikit-image, halved to 96 x 96. They differ from those on which
the defaults were chosen (coins, ihc, moon, retina). The noise `gaussianS` has a standard deviation
of S gray levels, which is given to the rules, or estimated from the image with `--estimate`.
`salt_and_pepper` and `poisson` use the likelihood of their presets. Salt and pepper has no noise
level, so `discrepancy` and `sure` get none that is meaningful.

A finished fit is appended to the file as a row. Rows with the same settings are not computed again,
so a killed run continues where it stopped.
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

from benchmarks import environment
from benchmarks.records import SOURCES, append_row, clean_images, read_rows, rounded
from dip_jax.base import Case, Result
from dip_jax.config import Config
from dip_jax.engine.restore import restore_many
from dip_jax.errors import InputError
from dip_jax.keys import image_key, simulation_key
from dip_jax.presets import PRESETS, build_config
from dip_jax.tasks.noise_level import with_noise_std
from dip_jax.tasks.simulate import simulate_case

NOISES = ("gaussian15", "gaussian25", "gaussian50", "salt_and_pepper", "poisson")
RULES = ("wmv", "emv", "discrepancy", "held_out", "sure")
_PRESET_OF = {"salt_and_pepper": "denoise_impulse", "poisson": "denoise_poisson"}

FLAGS = flags.FLAGS
flags.DEFINE_list("pictures", list(SOURCES), "Images of scikit-image.")
flags.DEFINE_multi_string(
    "reference", [], "Paths of clean images to use instead; their centers are cropped."
)
flags.DEFINE_integer("side", 96, "Height and width of the images.")
flags.DEFINE_list(
    "noise",
    list(NOISES),
    "Kinds of noise; Gaussian noise with its standard deviation in gray levels.",
)
flags.DEFINE_bool(
    "estimate", False, "Give the rules the estimated level of Gaussian noise, not the true one."
)
flags.DEFINE_string("preset", "denoise_single", "The preset.")
flags.DEFINE_integer("num_steps", 2000, "Steps of each fit.")
flags.DEFINE_integer("seed", 0, "Seed of noise, code and weights.")
flags.DEFINE_multi_string("set", [], "Config overrides, FIELD=VALUE.")
flags.DEFINE_string("json", "stops.jsonl", "File of the rows, one per fit.")
flags.DEFINE_bool("curves", False, "Also store PSNR and signals of each step.")


def build_noise_config(noise: str) -> Config:
    """Builds the config for one kind of noise."""
    kind = re.fullmatch(r"(gaussian)(\d+)|(salt_and_pepper)|(poisson)", noise)
    if kind is None:
        raise InputError(f"Unknown noise {noise!r}. Known: {', '.join(NOISES)}, gaussianS.")
    changes: dict[str, Any] = {"fit.num_steps": FLAGS.num_steps, "run.seed": FLAGS.seed}
    if kind[1]:
        changes["task.noise_std"] = int(kind[2]) / 255
    else:
        changes |= PRESETS[_PRESET_OF[noise]].overrides
    changes["stop.rule"] = "all"
    return build_config(FLAGS.preset, changes=changes, overrides=FLAGS.set)


def build_cases(noise: str, config: Config, images: dict[str, np.ndarray]) -> Iterator[Case]:
    """Yields the images with simulated noise."""
    for name, reference in images.items():
        # The random numbers follow from the name.
        name = f"{name} {noise}"
        key = simulation_key(image_key(FLAGS.seed, name))
        case = simulate_case(key, config.task, name, reference)
        if FLAGS.estimate and noise.startswith("gaussian"):
            problem = case.problem._replace(noise_std=jnp.float32(jnp.nan))
            case = with_noise_std(case._replace(problem=problem))
        yield case


def measure(case: Case, result: Result) -> dict[str, Any]:
    """Returns the row of one fit: its best step, and the result of each rule."""
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
            # A rule without any signal does not apply to this noise.
            "applies": rule == "fixed" or bool(np.isfinite(signals[rule]).any()),
            "psnr": round(float(curve[step]), 3),
            "gap": round(float(curve[best] - curve[step]), 3),
        }
    row = {
        "status": result.status,
        "num_steps": result.num_steps,
        "num_rollbacks": result.num_rollbacks,
        "noise_std": rounded(case.problem.noise_std, 5),
        "best_step": best,
        "best_psnr": round(float(curve[best]), 3),
        # The threshold at which the rule `discrepancy` would have stopped at the best step.
        "discrepancy_at_best": rounded(signals["discrepancy"][best], 4),
        "seconds": round(result.seconds, 1),
        "rules": rules,
    }
    if FLAGS.curves:
        curves = {"psnr_average": curve, **signals}
        row["curves"] = {name: [rounded(v, 7) for v in values] for name, values in curves.items()}
    return row


def settings() -> dict[str, Any]:
    """The settings that identify a row."""
    names = ("preset", "num_steps", "seed", "side", "estimate", "set")
    return {name: getattr(FLAGS, name) for name in names}


def show(rows: list[dict[str, Any]], title: str) -> None:
    """Prints a row for each fit, then mean, median and worst gap of each rule."""
    names = (*RULES, "fixed")
    table = Table("image", "noise", "best", "dB", *names, title=title, box=None)
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
    table.caption = "step, and gap in dB; * the rule had not fired by the last step"
    Console(width=150).print(table)


def main(argv: list[str]) -> None:
    """Makes the fits that the file does not have yet, and prints the table."""
    del argv
    path = Path(FLAGS.json)
    images = clean_images(FLAGS.side, FLAGS.pictures, FLAGS.reference)
    rows = [row for row in read_rows(path) if row["settings"] == settings()]
    known = {(row["picture"], row["noise"]) for row in rows}
    facts = environment()
    command = " ".join(["python -m benchmarks.stops", *sys.argv[1:]])
    for noise in FLAGS.noise:
        config = build_noise_config(noise)
        missing = {name: x for name, x in images.items() if (name, noise) not in known}
        cases = {case.name: case for case in build_cases(noise, config, missing)}
        for result in restore_many(cases.values(), config):
            row = {"picture": result.name.removesuffix(f" {noise}"), "noise": noise}
            row |= measure(cases[result.name], result)
            row |= {"settings": settings(), "command": command, **facts}
            append_row(path, row)
            rows.append(row)
            gaps = {rule: found["gap"] for rule, found in row["rules"].items()}
            print(row["picture"], noise, row["best_psnr"], gaps, row["seconds"], flush=True)
    wanted = {(name, noise) for name in images for noise in FLAGS.noise}
    rows = [row for row in rows if (row["picture"], row["noise"]) in wanted]
    title = f"{command}, {facts['device']}, jax {facts['jax']}, python {facts['python']}, "
    show(rows, title + f"{facts['commit']}, {facts['date']}")


if __name__ == "__main__":
    app.run(main)
