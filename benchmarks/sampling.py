"""The quality of posterior means and standard deviations, where a point estimate overfits.

    python -m benchmarks.sampling --samplers=underdamped,psgld,paper
    python -m benchmarks.sampling --reference=F16.png --crop=96

A fit of `--num_steps` steps finds the best step of the point estimate. Each sampler then makes five
times as many steps as that, in each of `--chains` chains, and is compared with the best and the end
of the point estimate. Without `--reference`, the image is a crop of scikit-image's astronaut. The
noise is 25/255. A row per sampler is appended to `lines.jsonl` in the folder `--output`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table
from skimage import data

from benchmarks import environment
from benchmarks.records import psnr
from dip_jax.base import Case, Result
from dip_jax.config import Config
from dip_jax.engine.restore import restore
from dip_jax.images.read import read_image
from dip_jax.keys import image_key, simulation_key
from dip_jax.posterior.calibration import calibrate, calibrate_scaled
from dip_jax.posterior.convergence import diagnose
from dip_jax.presets import build_config
from dip_jax.report.posterior_figures import draw_calibration
from dip_jax.tasks.simulate import simulate_case

FLAGS = flags.FLAGS
flags.DEFINE_string("preset", "denoise_single", "The preset.")
flags.DEFINE_string("reference", None, "Path of a clean image.")
flags.DEFINE_integer("crop", 96, "Height and width of its center crop.")
flags.DEFINE_list(
    "samplers", ["underdamped", "psgld", "paper", "csgld", "sgld"], "Samplers, in this order."
)
flags.DEFINE_integer("num_steps", 3000, "Steps of the point estimate.")
flags.DEFINE_integer("chains", 2, "Number of chains of each sampler.")
flags.DEFINE_integer("seed", 0, "Seed of noise, code, weights and chains.")
flags.DEFINE_multi_string("set", [], "Config overrides, FIELD=VALUE.")
flags.DEFINE_string("output", "sampling", "Folder for the rows and the calibration figures.")


def main(argv: list[str]) -> None:
    """Fits, samples, writes the rows and prints a table."""
    del argv
    folder = Path(FLAGS.output)
    folder.mkdir(parents=True, exist_ok=True)
    case, point = _fit()
    curve = point.curve["psnr_average"]
    best, best_step = float(curve.max()), int(np.argmax(curve))
    num_steps = 5 * best_step
    end = float(curve[min(num_steps, len(curve)) - 1])
    raw = float(point.curve["psnr"][min(num_steps, len(curve)) - 1])
    head = {
        "command": " ".join(sys.argv),
        **environment(),
        "point_best": best,
        "point_best_raw": float(point.curve["psnr"].max()),
        "point_best_step": best_step,
        "point_end": end,
        "point_end_raw": raw,
        "num_steps": num_steps,
        "fit_seconds_per_step": point.seconds / point.num_steps,
    }
    _write(folder, head)
    title = (
        f"{case.name}, {FLAGS.preset} {' '.join(FLAGS.set)}, jax {jax.__version__}, "
        f"commit {head['commit']}, {head['date']}. Point estimate: {best:.2f} dB at step "
        f"{best_step}, after {num_steps} steps {end:.2f}, a single output {raw:.2f}"
    )
    columns = "sampler mean gap sample R-hat ESS std cov90 scaled NLL scaled UCE AUSE s/step"
    table = Table(*columns.split(), title=title, box=None)
    for sampler in FLAGS.samplers:
        row = _sample(sampler, case, num_steps, folder)
        _write(folder, row)
        table.add_row(
            sampler,
            f"{row['psnr']:.2f}",
            f"{best - row['psnr']:+.2f}",
            f"{row['psnr_sample']:.2f}",
            f"{row['rhat_max']:.2f}",
            f"{row['ess_min']:.0f}",
            f"{255 * row['std_mean']:.1f}",
            f"{row['coverage_90']:.3f}",
            f"{row['coverage_90_scaled']:.3f}",
            f"{row['nll']:.3f}",
            f"{row['nll_scaled']:.3f}",
            f"{row['uce']:.1e}",
            f"{row['ause']:.3f}",
            f"{row['seconds_per_step']:.4f}",
        )
    Console(width=170).print(table)


def _config(*overrides: str) -> Config:
    settings = [*FLAGS.set, f"run.seed={FLAGS.seed}", *overrides]
    return build_config(FLAGS.preset, overrides=settings)


def _fit() -> tuple[Case, Result]:
    if FLAGS.reference:
        name, pixels = Path(FLAGS.reference).stem, read_image(FLAGS.reference).pixels
    else:
        crop = data.astronaut()[0:256, 96:352]
        halved = crop.reshape(128, 2, 128, 2, 3).mean(axis=(1, 3)) / 255
        name, pixels = "astronaut", halved.astype(np.float32)
    top, left = ((n - FLAGS.crop) // 2 for n in pixels.shape[:2])
    reference = pixels[top : top + FLAGS.crop, left : left + FLAGS.crop]
    config = _config("stop.rule=fixed", f"fit.num_steps={FLAGS.num_steps}")
    key = simulation_key(image_key(FLAGS.seed, name))
    case = simulate_case(key, config.task, name, reference)
    return case, restore([case], config)[0]


def _sample(sampler: str, case: Case, num_steps: int, folder: Path) -> dict[str, Any]:
    overrides = [
        "fit.method=sgld",
        f"fit.num_steps={num_steps}",
        f"sgld.sampler={sampler}",
        f"sgld.num_chains={FLAGS.chains}",
        "sgld.point_estimate=False",
    ]
    (result,) = restore([case], _config(*overrides))
    posterior, reference = result.posterior, case.reference
    diagnosis = diagnose(posterior.traces, posterior.trace_names)
    plain = calibrate(posterior.mean, posterior.std, reference)
    scaled = calibrate_scaled(posterior.mean, posterior.std, reference)
    draw_calibration(folder / f"calibration_{sampler}.png", plain, scaled)
    y, noise_std = np.asarray(case.problem.measurement), float(case.problem.noise_std)
    np.save(folder / f"mean_{sampler}.npy", posterior.mean)
    np.save(folder / f"std_{sampler}.npy", posterior.std)
    return {
        "sampler": sampler,
        "psnr": psnr(posterior.mean, reference),
        "psnr_chains": [psnr(mean, reference) for mean in posterior.chain_means],
        "psnr_sample": float(np.mean([curve["psnr"][-1] for curve in result.network_curves])),
        "residual": float(np.mean((posterior.mean - y) ** 2)) / noise_std**2,
        "num_samples": posterior.num_samples,
        "rhat_max": diagnosis.rhat_max,
        "ess_min": diagnosis.ess_min,
        "sentence": diagnosis.message,
        "std_mean": float(np.sqrt(np.mean(posterior.std**2))),
        "coverage_90": plain.coverage_90,
        "coverage_90_scaled": scaled.coverage_90,
        "nll": plain.nll,
        "nll_scaled": scaled.nll,
        "uce": plain.uce,
        "ause": plain.ause,
        "seconds_per_step": result.seconds / (FLAGS.chains * result.num_steps),
    }


def _write(folder: Path, row: dict[str, Any]) -> None:
    with (folder / "lines.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    app.run(main)
