"""Denoising against BM3D: the protocol of docs/development/quality.md.

    python -m benchmarks.quality --method=bm3d --method=denoise --json=denoising.jsonl
    python -m benchmarks.quality --half=test --noise_std=15 --noise_std=50 --method="denoise fit.num_seeds=8"

Each picture gets noise of its own, which depends on its name and the seed alone, so all methods restore the same
arrays. No method sees the clean image. BM3D is told the noise level; a preset is told it only with `--known`. The
differences are those to BM3D on the same noisy image.
"""

import datetime
import platform
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table
from skimage.metrics import structural_similarity

from benchmarks import environment
from benchmarks.pictures import HALVES, clean_crop, noisy_image
from benchmarks.records import append_row, clean_images, psnr, read_rows
from dip_jax.config import TaskConfig
from dip_jax.engine.restore import restore
from dip_jax.ensemble.similar_patches import nonlocal_ridge
from dip_jax.presets import build_config
from dip_jax.tasks.cases import build_case
from dip_jax.tasks.clipped_noise import correct_clipping, limits_of

FLAGS = flags.FLAGS
flags.DEFINE_enum("half", "development", list(HALVES), "Half of the pictures.")
flags.DEFINE_multi_string(
    "reference", [], "Paths of clean images, whose center crops replace the pictures."
)
flags.DEFINE_list("pictures", [], "Names of pictures; default: the whole half.")
flags.DEFINE_multi_string(
    "method",
    ["bm3d", "denoise"],
    "bm3d, bm3d_corrected (for clipped noise, as dip_jax does), nonlocal_ridge, or a preset with overrides, 'PRESET FIELD=VALUE ...'.",
)
flags.DEFINE_multi_float("noise_std", [25.0], "Noise level in gray levels.")
flags.DEFINE_bool("clip", True, "Clip the noisy image to [0, 1].")
flags.DEFINE_enum(
    "noise",
    "white",
    ["white", "blurred", "jpeg"],
    "Noise; neighbors share that which is not white.",
)
flags.DEFINE_bool("known", False, "Tell the presets the noise level.")
flags.DEFINE_integer("seeds", 1, "Number of seeds, of the noise and of the networks.")
flags.DEFINE_integer("side", 128, "Height and width.")
flags.DEFINE_string(
    "json", None, "File to which rows are appended; rows that it has are not repeated."
)
flags.DEFINE_string("images", None, "Folder for the restored images, as arrays.")

_KEYS = ("method", "picture", "side", "noise_std", "clip", "known", "seed", "noise")


def restored(
    method: str,
    noisy: np.ndarray,
    clean: np.ndarray,
    name: str,
    noise_std: float,
    *,
    seed: int,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Restores a noisy image; returns it with facts about the run.

    Args:
      method: See the flag.
      noisy: `[H, W, C]`.
      clean: The clean image, only for the curve of the running average.
      name: Name of the picture.
      noise_std: Noise level in gray levels; a preset is told it only with `--known`.
      seed: Seed of the networks.
    """
    if method in ("bm3d", "bm3d_corrected"):
        import bm3d  # free for non-commercial use only, so it is not a requirement of the package

        std = noise_std / 255
        if noisy.shape[-1] == 1:
            image = bm3d.bm3d(noisy[..., 0], std)[..., None]
        else:
            image = bm3d.bm3d_rgb(noisy, std)
        return (image if method == "bm3d" else corrected(noisy, image, std)), {}
    if method == "nonlocal_ridge":
        return nonlocal_ridge(noisy, noise_std / 255), {}
    preset, *overrides = method.split()
    if FLAGS.known:
        overrides.append(f"task.noise_std={noise_std / 255}")
    config = build_config(preset, overrides=[f"run.seed={seed}", *overrides])
    case = build_case(config.task, name, noisy)._replace(reference=clean)
    (result,) = restore([case], config, keep_networks=False)
    return result.image, {
        "peak_of_first_network": round(float(np.nanmax(result.curve["psnr_average"])), 3),
        "status": result.status.value,
        "stop_step": result.stop_step,
        "num_steps": result.num_steps,
        "num_networks": config.num_networks,
        "compile_seconds": round(result.compile_seconds, 1),
        "notes": list(result.notes),
    }


def corrected(noisy: np.ndarray, image: np.ndarray, noise_std: float) -> np.ndarray:
    """Corrects an estimate for clipped noise as dip_jax does.

    Args:
      noisy: `[H, W, C]`.
      image: `[H, W, C]`, an estimate from it.
      noise_std: Noise level before clipping.
    """
    case = build_case(TaskConfig(noise_std=noise_std), "image", noisy)
    return correct_clipping(case._replace(limits=limits_of(case)), image)[0]


def measure(
    method: str, name: str, clean: np.ndarray, noise_std: float, *, seed: int
) -> dict[str, Any]:
    """Restores a picture and returns the row of the result."""
    noisy = noisy_image(clean, name, noise_std, seed=seed, clip=FLAGS.clip, noise=FLAGS.noise)
    clock = time.perf_counter()
    image, facts = restored(method, noisy, clean, name, noise_std, seed=seed)
    seconds = time.perf_counter() - clock
    image = np.clip(image, 0, 1).astype(np.float32)
    if FLAGS.images:
        folder = Path(FLAGS.images)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{image_label(method, name, noise_std, seed)}.npy", image)
    return {
        **_identity(method, name, noise_std, seed),
        "half": None if FLAGS.reference else FLAGS.half,
        "psnr": round(psnr(image, clean), 3),
        "ssim": round(float(structural_similarity(image, clean, channel_axis=-1, data_range=1)), 4),
        "seconds": round(seconds, 1),
        **facts,
        "device": jax.devices()[0].device_kind,
        **environment(),
    }


def image_label(method: str, name: str, noise_std: float, seed: int) -> str:
    """Returns the name of the file of a restored image, without its suffix."""
    return f"{name}-{noise_std:g}-{seed}-{method.replace(' ', '_').replace('/', '_')}"


def _identity(method: str, name: str, noise_std: float, seed: int) -> dict[str, Any]:
    values = (method, name, FLAGS.side, noise_std, FLAGS.clip, FLAGS.known, seed, FLAGS.noise)
    return dict(zip(_KEYS, values, strict=True))


def summary_table(rows: Iterable[dict[str, Any]]) -> Table:
    """Returns a table with a line for each method and noise level.

    Args:
      rows: Rows of `measure`. Differences are taken to rows of `bm3d` on the same noisy image, and averaged over seeds;
        their standard error is that over pictures. Seconds are without the compilation of a fit.
    """
    rows = list(rows)
    columns = ("noise", "method", "PSNR", "SSIM", "worst", "to BM3D", "+-", "least", "seconds", "n")
    table = Table(*columns, box=None)
    noise_keys = ("picture", "side", "noise_std", "clip", "seed")
    bm3d = {
        tuple(row[key] for key in noise_keys): row["psnr"]
        for row in rows
        if row["method"] == "bm3d"
    }
    groups: dict[tuple[float, str, bool], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["noise_std"], row["method"], row["known"]), []).append(row)
    for (noise_std, method, known), group in sorted(groups.items(), key=lambda item: item[0][0]):
        psnrs = [row["psnr"] for row in group]
        differences: dict[str, list[float]] = {}
        for row in group:
            if (identity := tuple(row[key] for key in noise_keys)) in bm3d:
                differences.setdefault(row["picture"], []).append(row["psnr"] - bm3d[identity])
        pairs = [np.mean(of_picture) for of_picture in differences.values()]
        error = np.std(pairs, ddof=1) / np.sqrt(len(pairs)) if len(pairs) > 1 else np.nan
        table.add_row(
            f"{noise_std:g}",
            method + (" (level known)" if known and method != "bm3d" else ""),
            f"{np.mean(psnrs):.2f}",
            f"{np.mean([row['ssim'] for row in group]):.3f}",
            f"{min(psnrs):.2f}",
            f"{np.mean(pairs):+.2f}" if pairs else "",
            f"{error:.2f}" if len(pairs) > 1 else "",
            f"{min(pairs):+.2f}" if pairs else "",
            f"{np.mean([row['seconds'] - row.get('compile_seconds', 0) for row in group]):.0f}",
            str(len(group)),
        )
    return table


def main(argv: list[str]) -> None:
    """Restores the pictures and prints the tables."""
    del argv
    half = HALVES[FLAGS.half]
    if FLAGS.reference:
        images = clean_images(FLAGS.side, references=FLAGS.reference)
    else:
        if unknown := set(FLAGS.pictures) - set(half):
            raise app.UsageError(
                f"--pictures expects names of the half {FLAGS.half} ({', '.join(half)}), got {', '.join(unknown)}."
            )
        images = {name: clean_crop(half[name], FLAGS.side) for name in FLAGS.pictures or half}
    stored = read_rows(Path(FLAGS.json)) if FLAGS.json else []
    done = {tuple(row.get(key, "white") for key in _KEYS): row for row in stored}
    rows = []
    console = Console(width=120)
    for noise_std in FLAGS.noise_std:
        for seed in range(FLAGS.seeds):
            for name, clean in images.items():
                for method in FLAGS.method:
                    identity = tuple(_identity(method, name, noise_std, seed).values())
                    row = done.get(identity)
                    if row is None:
                        row = measure(method, name, clean, noise_std, seed=seed)
                        if FLAGS.json:
                            append_row(Path(FLAGS.json), row)
                        console.print(
                            f"{name} {noise_std:g} seed {seed} {method}: {row['psnr']:.2f} dB, "
                            f"{row['seconds']:.0f} s"
                        )
                    rows.append(row)
    when = datetime.datetime.now(datetime.UTC).date().isoformat()
    clipped = "clipped" if FLAGS.clip else "not clipped"
    console.print(
        f"\n{FLAGS.half}, {FLAGS.side} x {FLAGS.side}, {FLAGS.noise} noise, {clipped}, jax {jax.__version__}, "
        f"python {platform.python_version()}, {when}"
    )
    console.print(summary_table(rows))


if __name__ == "__main__":
    app.run(main)
