"""The demonstration: a picture that ships inside scikit-image, noise, and two baselines beside us."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from skimage import data, restoration
from skimage.metrics import peak_signal_noise_ratio

from dip_jax.base import picture_key
from dip_jax.batch.folder import run_entries
from dip_jax.batch.inputs import Entry, Job
from dip_jax.config import Config
from dip_jax.images.read import Picture
from dip_jax.tasks.simulate import simulate_case

NAME = "coffee"
SIDE = 128


def demo_picture() -> Picture:
    """The cup of `skimage.data.coffee`, halved to suit a laptop: `[128, 128, 3]`."""
    crop = data.coffee()[60:316, 150:406].astype(np.float32)
    halved = crop.reshape(SIDE, 2, SIDE, 2, 3).mean(axis=(1, 3)) / 255
    return Picture(halved.astype(np.float32))


def baselines(noisy: np.ndarray) -> dict[str, np.ndarray]:
    """What scikit-image makes of a noisy picture `[H, W, C]`, its noise estimated from the picture.

    Total variation with the estimated noise as its weight, and non-local means with h = 0.8 sigma and
    fast_mode off, as scikit-image's own example recommends for it.

    References:
      Chambolle 2004; Buades, Coll and Morel 2005; scikit-image's gallery, "Non-local means denoising
      for preserving textures".
    """
    sigma = float(np.mean(restoration.estimate_sigma(noisy, channel_axis=-1)))
    total_variation = restoration.denoise_tv_chambolle(noisy, weight=sigma, channel_axis=-1)
    non_local_means = restoration.denoise_nl_means(
        noisy,
        h=0.8 * sigma,
        sigma=sigma,
        patch_size=5,
        patch_distance=6,
        fast_mode=False,
        channel_axis=-1,
    )
    return {"total variation": total_variation, "non-local means": non_local_means}


def run_demo(
    config: Config, output: Path, **watch: Any
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Denoises the cup and compares.

    Args:
      config: The settings; the noise is `task.noise_std`, or 25/255.
      output: Folder for the results; what an earlier demonstration left there is written over.
      **watch: `on_progress` and `on_message`, see `run_entries`.

    Returns:
      The run's summaries, and PSNR in dB by method.
    """
    picture = demo_picture()
    key = jax.random.fold_in(picture_key(config.run.seed, NAME), 1)
    case = simulate_case(key, config.task, NAME, picture.pixels)
    entry = Entry(NAME, lambda: Job(case, picture), lambda: "", case.shape)
    summaries = run_entries([entry], config, output, overwrite=True, **watch)
    noisy = np.asarray(case.problem.measurement)
    images = {"noisy": noisy, **baselines(noisy)}
    rows = {
        name: peak_signal_noise_ratio(picture.pixels, image.astype(np.float32), data_range=1)
        for name, image in images.items()
    }
    rows["dip_jax"] = summaries[0]["psnr"]
    return summaries, rows
