"""The demonstration: a picture that ships inside scikit-image, noise, and two baselines beside us."""

from pathlib import Path
from typing import Any

import numpy as np
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

from dip_jax.batch.folder import restore_inputs
from dip_jax.batch.inputs import LazyInput, LoadedInput
from dip_jax.config import Config
from dip_jax.images.read import StoredImage
from dip_jax.keys import image_key, simulation_key
from dip_jax.tasks.baselines import baselines
from dip_jax.tasks.simulate import simulate_case

NAME = "coffee"
SIDE = 128


def demo_image() -> StoredImage:
    """The cup of `skimage.data.coffee`, halved to suit a laptop: `[128, 128, 3]`."""
    crop = data.coffee()[60:316, 150:406].astype(np.float32)
    halved = crop.reshape(SIDE, 2, SIDE, 2, 3).mean(axis=(1, 3)) / 255
    return StoredImage(halved.astype(np.float32))


def run_demo(
    config: Config, output: Path, **watch: Any
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Denoises the cup and compares.

    Args:
      config: The settings; the noise is `task.noise_std`, or 25/255.
      output: Folder for the results; what an earlier demonstration left there is written over.
      **watch: `on_progress` and `on_message`, see `restore_inputs`.

    Returns:
      The run's summaries, and PSNR in dB by method.
    """
    picture = demo_image()
    key = simulation_key(image_key(config.run.seed, NAME))
    case = simulate_case(key, config.task, NAME, picture.pixels)
    entry = LazyInput(NAME, lambda: LoadedInput(case, picture), lambda: "", case.shape)
    summaries = restore_inputs([entry], config, output, overwrite=True, **watch)
    noisy = np.asarray(case.problem.measurement)
    images = {"noisy": noisy, **baselines(noisy)}
    rows = {
        name: peak_signal_noise_ratio(picture.pixels, image.astype(np.float32), data_range=1)
        for name, image in images.items()
    }
    rows["dip_jax"] = summaries[0]["psnr"]
    return summaries, rows
