"""The preset `best` with each of its ingredients taken away: the ablation of docs/development/quality.md.

    python -m benchmarks.ablation --pictures=astronaut,chelsea,coffee,motorcycle --seeds=3 --json=ablation.jsonl

The pictures and the noise are those of `benchmarks.quality`; the noise is white and clipped. A part that follows the
fits (the combination, the filter, the correction of clipped noise) is taken away from the results of the same fits,
another part in fits of its own. Fewer networks are some of those of the complete preset, so each of them has not seen
the same fraction of the pixels.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table

from benchmarks import environment
from benchmarks.pictures import HALVES, clean_crop, noisy_image
from benchmarks.records import append_row, psnr, read_rows
from dip_jax.engine.restore import restore
from dip_jax.ensemble import ensemble as ensemble_module
from dip_jax.ensemble.cross_validation import Stack, stack
from dip_jax.ensemble.ensemble import Ensemble
from dip_jax.presets import build_config
from dip_jax.tasks.cases import build_case, finish_image

FLAGS = flags.FLAGS

FITS: dict[str, list[str]] = {
    "all": [],
    "without guides": ["fit.code=uniform"],
    "Adam in place of Muon": ["fit.optimizer=adam", "fit.learning_rate=0.01"],
    "without perturbation of the code": ["fit.perturbation=0"],
}
"""Overrides of each kind of fit."""

_KEYS = ("preset", "variant", "picture", "side", "noise_std", "seed")


def variants(
    overrides: list[str], name: str, noisy: np.ndarray, seed: int, *, is_complete: bool
) -> Iterator[tuple[str | None, np.ndarray]]:
    """Yields labels and images of a fit: the parts that are taken away after it, and None for the complete result.

    Args:
      overrides: Overrides of the preset.
      name: Name of the picture.
      noisy: `[H, W, C]`.
      seed: Seed of the networks.
      is_complete: Yield only the complete result.
    """
    config = build_config(FLAGS.preset, overrides=[f"run.seed={seed}", *overrides])
    case = build_case(config.task, name, noisy)
    calls: list[Any] = []
    combine = Ensemble.combine

    def recorded(ensemble: Ensemble, *args: Any) -> Any:
        calls.append((ensemble, *args))
        return combine(ensemble, *args)

    with mock.patch.object(Ensemble, "combine", recorded):
        (result,) = restore([case], config, keep_networks=False)
    if is_complete:
        yield None, result.image
        return
    yield "without correction of clipped noise", result.raw
    ensemble, case, members, results, seed = calls[-1]

    def image(ensemble: Ensemble, number: int = len(results)) -> np.ndarray:
        combination = ensemble.combine(case, members, results[:number], seed)
        return finish_image(case, combination.image)[0]

    yield "without the filter", image(dataclasses.replace(ensemble, is_filtered=False))
    with mock.patch.object(ensemble_module, "stack", one_estimate):
        yield "one estimate in place of weights", image(ensemble)
    for number in (len(results) // 2, len(results) // 4):
        yield f"{number} networks", image(ensemble, number)
    yield None, result.image  # last, because its row says that the fit is done


def one_estimate(
    predictions: np.ndarray, measurement: np.ndarray, folds: np.ndarray, is_known: np.ndarray
) -> Stack:
    """Chooses the one estimate with the least error, in place of `cross_validation.stack`.

    Args:
      predictions: See `stack`, as all arguments.
      measurement: See `stack`.
      folds: See `stack`.
      is_known: See `stack`.
    """
    errors = stack(predictions, measurement, folds, is_known).errors
    weights = np.zeros_like(errors)
    weights[errors.sum(axis=1).argmin()] = 1
    return Stack(weights, errors)


def summary_table(rows: Iterable[dict[str, Any]]) -> Table:
    """Returns a table with a line for each variant.

    Args:
      rows: Rows of `main`. Differences are taken to the complete preset on the same noisy image, and averaged over
        seeds; their standard error is that over pictures.
    """
    rows = list(rows)
    table = Table("variant", "PSNR", "to all", "+-", "least", "most", "n", box=None)
    complete = {(r["picture"], r["seed"]): r["psnr"] for r in rows if r["variant"] == "all"}
    rows = [row for row in rows if (row["picture"], row["seed"]) in complete]
    for variant in dict.fromkeys(row["variant"] for row in rows):
        group = [row for row in rows if row["variant"] == variant]
        differences: dict[str, list[float]] = {}
        for row in group:
            difference = row["psnr"] - complete[row["picture"], row["seed"]]
            differences.setdefault(row["picture"], []).append(difference)
        means = [np.mean(of_picture) for of_picture in differences.values()]
        error = np.std(means, ddof=1) / np.sqrt(len(means)) if len(means) > 1 else np.nan
        table.add_row(
            variant,
            f"{np.mean([row['psnr'] for row in group]):.2f}",
            f"{np.mean(means):+.2f}",
            f"{error:.2f}",
            f"{min(means):+.2f}",
            f"{max(means):+.2f}",
            str(len(group)),
        )
    return table


def main(argv: list[str]) -> None:
    """Restores the pictures with each variant and prints the table."""
    del argv
    half = HALVES[FLAGS.half]
    stored = read_rows(Path(FLAGS.json)) if FLAGS.json else []
    names = FLAGS.pictures or list(half)
    if unknown := set(names) - set(half):
        raise app.UsageError(
            f"--pictures expects names of the half {FLAGS.half} ({', '.join(half)}), got {', '.join(unknown)}."
        )
    noise_std = FLAGS.noise_std
    common = {"preset": FLAGS.preset, "side": FLAGS.side, "noise_std": noise_std}
    rows = [row for row in stored if all(row[key] == common[key] for key in common)]
    done = {tuple(row[key] for key in _KEYS) for row in rows}
    console = Console(width=120)
    for fit, overrides in FITS.items():
        for seed in range(FLAGS.seeds):
            for name in names:
                identity = (FLAGS.preset, fit, name, FLAGS.side, noise_std, seed)
                if identity in done:
                    continue
                clean = clean_crop(half[name], FLAGS.side)
                noisy = noisy_image(clean, name, noise_std, seed=seed, clip=True)
                images = variants(overrides, name, noisy, seed, is_complete=fit != "all")
                for label, image in images:
                    row = {
                        **dict(zip(_KEYS, identity, strict=True)),
                        "variant": label or fit,
                        "psnr": round(psnr(np.clip(image, 0, 1).astype(np.float32), clean), 3),
                        "device": jax.devices()[0].device_kind,
                        **environment(),
                    }
                    rows.append(row)
                    if FLAGS.json:
                        append_row(Path(FLAGS.json), row)
                    console.print(f"{name} seed {seed} {row['variant']}: {row['psnr']:.2f} dB")
    console.print(summary_table(rows))


if __name__ == "__main__":
    flags.DEFINE_string("preset", "best", "Preset whose ingredients are taken away.")
    flags.DEFINE_enum("half", "development", list(HALVES), "Half of the pictures.")
    flags.DEFINE_list("pictures", [], "Names of pictures; default: the whole half.")
    flags.DEFINE_float("noise_std", 25.0, "Noise level in gray levels.")
    flags.DEFINE_integer("seeds", 1, "Number of seeds, of the noise and of the networks.")
    flags.DEFINE_integer("side", 128, "Height and width.")
    flags.DEFINE_string(
        "json", None, "File to which rows are appended; fits that it has are not repeated."
    )
    app.run(main)
