"""What a whole run restores; minutes each, so behind `pytest -m slow`.

The picture is the astronaut's face of scikit-image. Beside the checkout there may be the F16 of the 2018
paper; where it is, its figures are checked too.
"""

from pathlib import Path

import numpy as np
import pytest
from skimage import data

from dip_jax import build_config, read_image, restore, simulate_case
from dip_jax.keys import image_key, simulation_key
from dip_jax.tasks.baselines import baselines

F16 = Path(__file__).parents[2] / "shared/data/denoising/F16_GT.png"


def psnr(image, reference):
    return -10 * np.log10(np.mean((image - reference) ** 2))


def denoise(reference, seed, *overrides, preset="denoise"):
    config = build_config(preset, overrides=[f"run.seed={seed}", *overrides])
    key = simulation_key(image_key(seed, "picture"))
    case = simulate_case(key, config.task, "picture", reference)
    return case, restore([case], config)[0]


@pytest.mark.slow
@pytest.mark.skipif(not F16.exists(), reason="the picture of the 2018 paper is not here")
def test_the_standard_network_reaches_the_figures_of_the_2018_code_and_stops_near_them():
    reference = read_image(F16).pixels[192:320, 192:320]
    peaks, gaps = [], []
    for seed in range(3):
        # A rule that keeps no pixel from the fit, as the 2018 code does not.
        _, result = denoise(reference, seed, "fit.num_steps=800", "stop.rule=wmv")
        peaks.append(result.curve["psnr_average"].max())
        gaps.append(peaks[-1] - psnr(result.image, reference))
    assert np.mean(peaks) >= 30.3
    assert max(gaps) <= 0.5


@pytest.mark.slow
def test_a_face_is_restored_better_than_by_the_baselines_and_the_stop_is_near_the_peak():
    face = data.astronaut()[0:256, 96:352].astype(np.float32)
    reference = face.reshape(128, 2, 128, 2, 3).mean(axis=(1, 3)) / 255
    case, result = denoise(reference, 0, preset="denoise_small")
    noisy = np.asarray(case.problem.measurement)
    estimate = psnr(result.image, reference)
    assert result.status == "stopped"
    assert estimate > psnr(noisy, reference) + 7.5
    assert all(estimate > psnr(image, reference) for image in baselines(noisy).values())
    assert result.curve["psnr_average"].max() - estimate <= 0.5
