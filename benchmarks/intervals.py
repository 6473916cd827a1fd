"""Intervals of all methods on twenty crops: coverage, width and likelihood. The table of docs/development/sampling.md.

    python -m benchmarks.intervals run --noise_std=25 --output=intervals
    python -m benchmarks.intervals table --output=intervals

The settings below were fixed before any of the twenty crops was used; they and the baselines know no clean image of
the crop that they are applied to. Every method makes 5000 to 6500 gradients, or
conjugate gradients in about the same time. `run` stores an archive for
each crop and method and leaves out those that exist; `table` reads them. Standard errors are over crops.

Two baselines take the estimate of a method: a constant deviation, and one that is proportional to the local texture of
the estimate. Their scale comes from the clean images of the other crops, and so does the scale in the columns `scaled`.
The column `pooled` scales by held-out pixels of the other crops instead, for which no clean image is needed.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from benchmarks import environment
from benchmarks.pictures import HALVES, INTERVALS, clean_crop
from benchmarks.records import psnr
from dip_jax.base import Case, Posterior, Result
from dip_jax.config import Config
from dip_jax.engine.restore import restore
from dip_jax.keys import image_key, simulation_key
from dip_jax.posterior.calibration import STD_FLOOR, calibrate
from dip_jax.posterior.conformal import pooled_scale
from dip_jax.posterior.law import law_of
from dip_jax.posterior.prediction import PredictiveCheck
from dip_jax.presets import build_config
from dip_jax.report.held_out import check_held_out
from dip_jax.tasks.simulate import simulate_case

NETWORK = (
    "net.channels_down=32,32,32,32",
    "net.channels_up=32,32,32,32",
    "net.channels_skip=4,4,4,4",
)
_SAMPLING = (
    "fit.method=sgld",
    "fit.num_steps=3000",
    "sgld.num_chains=2",
    "sgld.keep_samples=100",
    "sgld.held_out_fraction=0.05",
    "sgld.point_estimate=False",
)
METHODS: dict[str, tuple[str, ...]] = {
    "sampling": _SAMPLING,
    "sampling-unclipped": (*_SAMPLING, "task.clipping=ignored"),
    "seeds": ("fit.num_seeds=8",),
    "bootstrap": ("fit.intervals=bootstrap", "fit.num_replicates=6"),
    "linearized": ("fit.intervals=linearized", "fit.num_replicates=8"),
}
"""Settings of each method, beside `NETWORK`."""

BLOCKS = (1, 2, 4, 8, 16)
"""Sides of the blocks whose means are covered."""
_QUANTILE = 1.6448536
_TEXTURE = 2.0
"""Standard deviation of the Gaussian window of the local texture, pixels."""


class Interval(NamedTuple):
    """An estimate with its deviation, and the truth."""

    mean: np.ndarray
    std: np.ndarray
    clean: np.ndarray


def config_of(method: str, *, seed: int, overrides: Sequence[str] = ()) -> Config:
    """Returns the config of a method.

    Args:
      method: A name in `METHODS`.
      seed: Seed of noise, code, weights and chains.
      overrides: Further settings, FIELD=VALUE.
    """
    settings = [*NETWORK, *METHODS[method], f"run.seed={seed}", *overrides]
    return build_config("denoise_single", overrides=settings)


def simulate(picture: str, noise_std: float, *, seed: int) -> Case:
    """Returns the noisy crop of a picture; the noise is that of the files of a camera, clipped to [0, 1].

    Args:
      picture: A name in `INTERVALS` or `HALVES`.
      noise_std: Noise level in gray levels.
      seed: Seed of the noise.
    """
    pictures = {**HALVES["development"], **INTERVALS}
    config = build_config("denoise_single", overrides=[f"task.noise_std={noise_std / 255}"])
    key = simulation_key(image_key(seed, picture))
    return simulate_case(key, config.task, picture, clean_crop(pictures[picture], flags.FLAGS.side))


def run(picture: str, method: str, noise_std: float, *, seed: int, path: Path) -> None:
    """Restores a crop by a method and stores the figures and arrays.

    Args:
      picture: Name of the crop.
      method: Name of the method.
      noise_std: Noise level in gray levels.
      seed: Seed of noise, code, weights and chains.
      path: Where the archive is written.
    """
    case, clock = simulate(picture, noise_std, seed=seed), time.perf_counter()
    (result,) = restore(
        [case], config_of(method, seed=seed, overrides=flags.FLAGS.set), keep_networks=False
    )
    posterior = result.posterior
    assert posterior is not None
    facts = {
        "command": " ".join(sys.argv),
        **environment(),
        "picture": picture,
        "method": method,
        "noise_std": noise_std,
        "seconds": time.perf_counter() - clock,
        "compile_seconds": result.compile_seconds,
        "num_steps": result.num_steps,
        "notes": list(result.notes),
        "psnr": psnr(result.image, case.reference),
        "psnr_one": [psnr(image, case.reference) for image in posterior.chain_means],
        **_held_out(case, result),
    }
    np.savez_compressed(
        path,
        facts=json.dumps(facts),
        mean=result.image,
        std=posterior.std,
        estimates=_estimates(posterior),
        clean=case.reference,
    )
    print(f"{picture} {method} {facts['psnr']:.2f} dB, {facts['seconds']:.0f} s", file=sys.stderr)


def _estimates(posterior: Posterior) -> np.ndarray:
    """Images whose spread is that of the method: samples of chains, fits, or replicates."""
    return np.asarray(posterior.samples, np.float32)


def _held_out(case: Case, result: Result) -> dict[str, Any]:
    """Mean squared error at held-out pixels and the predicted one; empty for fits."""
    if result.held_out is None or result.posterior is None:
        return {}
    law = law_of(result.network_curves or (result.curve,))
    check: PredictiveCheck | None = check_held_out(case, result, result.posterior, "gaussian", law)
    return {} if check is None else {"check": check._asdict()}


def texture(image: np.ndarray) -> np.ndarray:
    """Returns the local root mean square of the fine detail of an image, `[H, W, C]`.

    Args:
      image: The estimate.
    """
    smooth = ndimage.gaussian_filter(image, (1, 1, 0))
    energy = ndimage.gaussian_filter((image - smooth) ** 2, (_TEXTURE, _TEXTURE, 0))
    return np.sqrt(energy)


def blocks_covered(
    estimates: np.ndarray, interval: Interval, side: int, *, is_spread: bool
) -> float:
    """Returns the fraction of block means inside their 90 % interval.

    Args:
      estimates: Images whose spread is that of the method `[K, H, W, C]`.
      interval: The estimate and the truth.
      side: Side of the blocks.
      is_spread: Whether the spread is about the estimate, as that of replicates; otherwise about the mean of `estimates`.
    """

    def means(images: np.ndarray) -> np.ndarray:
        rows, columns = (n // side for n in images.shape[-3:-1])
        cut = images[..., : rows * side, : columns * side, :]
        shape = (*cut.shape[:-3], rows, side, columns, side, cut.shape[-1])
        return cut.reshape(shape).mean(axis=(-4, -2))

    if is_spread:  # the factor that the method has found
        spread = np.mean((estimates - interval.mean) ** 2)
        factor = np.sqrt(np.mean(interval.std**2) / spread)
        estimates = interval.mean + factor * (estimates - interval.mean)
    of_images = means(estimates)
    center = means(interval.mean) if is_spread else of_images.mean(axis=0)
    count = len(of_images) if is_spread else len(of_images) - 1
    std = np.sqrt(np.sum((of_images - center) ** 2, axis=0) / count)
    return float(np.mean(np.abs(means(interval.clean - interval.mean)) <= _QUANTILE * std))


def scale_of_others(intervals: list[Interval], index: int) -> float:
    """Returns the factor on a deviation that fits the clean images of all other crops best.

    Args:
      intervals: Those of all crops, with the deviation of the method.
      index: The crop that is left out.
    """
    others = [one for number, one in enumerate(intervals) if number != index]
    squares = [np.mean(((x.clean - x.mean) / np.maximum(x.std, STD_FLOOR)) ** 2) for x in others]
    return float(np.sqrt(np.mean(squares)))


def pooled_scale_of_others(checks: list[dict[str, Any]], index: int) -> float:
    """Returns the factor on a deviation that fits the held-out pixels of all other crops.

    Args:
      checks: The check of each crop.
      index: The crop that is left out.
    """
    others = [check for number, check in enumerate(checks) if number != index]
    errors, predicted, numbers = (
        np.array([check[name] for check in others])
        for name in ("squared_error", "predicted_error", "num_held_out")
    )
    return pooled_scale(errors, predicted**2, numbers).factor


def _row(method: str, archives: list[Any], name: str) -> list[str]:
    """A row of the table: means over crops with their standard errors."""
    facts = [json.loads(str(a["facts"])) for a in archives]
    intervals = [Interval(a["mean"], a["std"], a["clean"]) for a in archives]
    if name == "constant":
        intervals = [x._replace(std=np.ones_like(x.std)) for x in intervals]
    if name == "texture":
        intervals = [x._replace(std=np.maximum(texture(x.mean), STD_FLOOR)) for x in intervals]
    scales = [scale_of_others(intervals, i) for i in range(len(intervals))]
    scaled = [_figures(x, scale) for x, scale in zip(intervals, scales, strict=True)]
    cells = [
        str(len(facts)),
        _mean([f["psnr"] for f in facts], 2),
        f"{np.mean([f['seconds'] for f in facts]):.0f}",
    ]
    if name == method:
        plain = [_figures(x, 1.0) for x in intervals]
        cells += [
            _mean(column, digits)
            for column, digits in zip(zip(*plain, strict=True), (3, 1, 3), strict=True)
        ]
    else:
        cells += [""] * 3
    cells += [
        _mean(column, digits)
        for column, digits in zip(zip(*scaled, strict=True), (3, 1, 3), strict=True)
    ]
    checks = [f.get("check") for f in facts]
    if name == method and all(checks):
        pooled = [_figures(x, pooled_scale_of_others(checks, i)) for i, x in enumerate(intervals)]
        cells += [
            _mean(column, digits)
            for column, digits in zip(zip(*pooled, strict=True), (3, 1, 3), strict=True)
        ]
    return [f"{method}" if name == method else f"  {name}", *cells]


def _figures(interval: Interval, scale: float) -> tuple[float, float, float]:
    """Coverage, width in gray levels and NLL of a scaled deviation."""
    result = calibrate(interval.mean, scale * interval.std, interval.clean)
    return result.coverage_90, 255 * result.width_90, result.nll


def _mean(values: Any, digits: int) -> str:
    values = np.asarray(values, float)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{values.mean():.{digits}f} ± {error:.{digits}f}"


def _conditional(intervals: list[Interval], by: str) -> list[str]:
    """Coverage in the quarters of lowest to highest deviation, or intensity, mean over crops."""
    found = []
    for x in intervals:
        key = x.std if by == "std" else x.mean
        inside = np.abs(x.clean - x.mean) <= _QUANTILE * np.maximum(x.std, STD_FLOOR)
        order = np.argsort(key, axis=None, kind="stable")
        found.append([inside.ravel()[part].mean() for part in np.array_split(order, 4)])
    return [_mean(column, 3) for column in zip(*found, strict=True)]


def table(folder: Path) -> None:
    """Prints the tables of all archives in a folder.

    Args:
      folder: The folder of one noise level.
    """
    console = Console(width=190)
    main = Table(
        "method", "crops", "dB", "s", *3 * ["coverage", "width", "NLL"], box=None, title=str(folder)
    )
    details = Table(
        "method", *(f"std {i}" for i in range(1, 5)), *(f"value {i}" for i in range(1, 5)), box=None
    )
    of_blocks = Table("method", *(f"{b} x {b}" for b in BLOCKS), box=None)
    for method in METHODS:
        archives = [np.load(path) for path in sorted(folder.glob(f"*_{method}.npz"))]
        if not archives:
            continue
        for name in (method, "constant", "texture"):
            main.add_row(*_row(method, archives, name))
        intervals = [Interval(a["mean"], a["std"], a["clean"]) for a in archives]
        details.add_row(
            method, *_conditional(intervals, "std"), *_conditional(intervals, "intensity")
        )
        is_spread = method in ("bootstrap", "linearized")
        of_blocks.add_row(
            method,
            *(
                _mean(
                    [
                        blocks_covered(a["estimates"], x, b, is_spread=is_spread)
                        for a, x in zip(archives, intervals, strict=True)
                    ],
                    3,
                )
                for b in BLOCKS
            ),
        )
    for each in (main, details, of_blocks, _against_seeds(folder)):
        console.print(each)


def _against_seeds(folder: Path) -> Table:
    """By how much the estimates of the methods are better than the mean of the stopped fits, in dB, over equal crops."""

    def psnrs(method: str) -> dict[str, float]:
        facts = [json.loads(str(np.load(p)["facts"])) for p in folder.glob(f"*_{method}.npz")]
        return {f["picture"]: f["psnr"] for f in facts}

    fits, table = psnrs("seeds"), Table("method", "crops", "dB above seeds", "better on", box=None)
    for method in METHODS:
        differences = [value - fits[name] for name, value in psnrs(method).items() if name in fits]
        if differences and method != "seeds":
            number = sum(difference > 0 for difference in differences)
            table.add_row(method, str(len(differences)), _mean(differences, 2), str(number))
    return table


def main(argv: list[str]) -> None:
    """Runs the methods, or prints the tables."""
    flag, action = flags.FLAGS, argv[1] if len(argv) > 1 else "run"
    folder = Path(flag.output) / f"noise_{flag.noise_std:g}"
    if action == "table":
        for one in sorted(Path(flag.output).glob("noise_*")):
            table(one)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for picture in flag.pictures or INTERVALS:
        for method in flag.methods:
            path = folder / f"{picture}_{method}.npz"
            if not path.exists():
                run(picture, method, flag.noise_std, seed=flag.seed, path=path)


if __name__ == "__main__":
    flags.DEFINE_list("pictures", [], "Names of crops; all twenty if empty.")
    flags.DEFINE_list("methods", list(METHODS), "Methods.")
    flags.DEFINE_float("noise_std", 25.0, "Noise level in gray levels.")
    flags.DEFINE_integer("side", 48, "Height and width.")
    flags.DEFINE_integer("seed", 0, "Seed of noise, code, weights and chains.")
    flags.DEFINE_multi_string("set", [], "Config overrides, FIELD=VALUE.")
    flags.DEFINE_string("output", "intervals", "Folder of the archives.")
    app.run(main)
