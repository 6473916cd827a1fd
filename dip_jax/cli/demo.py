"""The demonstration: denoises an image that ships with scikit-image, and compares with two classical methods."""

from collections.abc import Callable

import numpy as np
from skimage import data
from skimage.metrics import peak_signal_noise_ratio

from dip_jax.batch.folder import restore_inputs
from dip_jax.batch.inputs import LazyInput
from dip_jax.batch.load import LoadedInput
from dip_jax.batch.progress import FolderProgress
from dip_jax.config import Config
from dip_jax.images.read import StoredImage
from dip_jax.keys import image_key, simulation_key
from dip_jax.report.summary import Summary
from dip_jax.storage.paths import AnyPath
from dip_jax.tasks.baselines import denoising_baselines
from dip_jax.tasks.simulate import simulate_case

NAME = "coffee"
SIDE = 128


def demo_image() -> StoredImage:
    """A crop of `skimage.data.coffee` at half resolution, `[128, 128, 3]`, which suits a laptop.

    Example:
      >>> demo_image().pixels.shape
      (128, 128, 3)
    """
    crop = data.coffee()[60:316, 150:406].astype(np.float32)
    halved = crop.reshape(SIDE, 2, SIDE, 2, 3).mean(axis=(1, 3)) / 255
    return StoredImage(halved.astype(np.float32))


def run_demo(
    config: Config,
    output: AnyPath,
    *,
    on_progress: Callable[[FolderProgress], None] | None = None,
    on_message: Callable[[str], None] = lambda text: None,
) -> tuple[list[Summary], dict[str, float | None]]:
    """Adds noise to the demo image, restores it, and compares.

    Args:
      config: The settings; the noise level is `task.noise_std`, by default 25/255.
      output: The output folder; an earlier demonstration in it is overwritten.
      on_progress: Called between chunks of steps.
      on_message: Called with sentences for the user.

    Returns:
      The summaries of the run, and the PSNR in dB of each method; that of `dip_jax` is None if there is no
      restored image.
    """
    image = demo_image()
    key = simulation_key(image_key(config.run.seed, NAME))
    case = simulate_case(key, config.task, NAME, image.pixels)
    lazy = LazyInput(NAME, lambda: LoadedInput(case, image), lambda: "", case.shape)
    summaries = restore_inputs(
        config, output, [lazy], overwrite=True, on_progress=on_progress, on_message=on_message
    )
    noisy = np.asarray(case.problem.measurement)
    psnrs: dict[str, float | None] = {
        name: peak_signal_noise_ratio(image.pixels, estimate.astype(np.float32), data_range=1)
        for name, estimate in {
            "noisy": noisy,
            **denoising_baselines(noisy),
            **_bm3d(noisy, float(case.problem.noise_std)),
        }.items()
    }
    psnrs["dip_jax"] = summaries[0]["psnr"]
    return summaries, psnrs


def _bm3d(noisy: np.ndarray, noise_std: float) -> dict[str, np.ndarray]:
    """The estimate of BM3D, which is told the noise level, if its package is installed.

    The package is free for non-commercial use only, so it is no requirement.
    """
    try:
        import bm3d
    except ImportError:
        return {}
    if not noise_std > 0:  # not known for noise of another kind
        return {}
    return {"BM3D": bm3d.bm3d_rgb(noisy, noise_std)}
