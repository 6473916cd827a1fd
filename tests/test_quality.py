"""The quality of whole runs. Each test takes minutes and needs `pytest -m slow`.

One image is the face of scikit-image's astronaut. The other is the F16 of the 2018 paper, which is
not part of the repository. The environment variable DIP_JAX_F16 has its path; without it, its test
is skipped.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from skimage import data
from skimage.restoration import inpaint_biharmonic

from dip_jax import build_config, read_image, restore, simulate_case
from dip_jax.keys import image_key, simulation_key
from dip_jax.tasks.baselines import denoising_baselines

F16 = Path(os.environ.get("DIP_JAX_F16", "F16_GT.png"))


def psnr(image, reference):
    return -10 * np.log10(np.mean((image - reference) ** 2))


def denoise(reference, seed, *overrides, preset="denoise_single"):
    config = build_config(preset, overrides=[f"run.seed={seed}", *overrides])
    key = simulation_key(image_key(seed, "picture"))
    case = simulate_case(key, config.task, "picture", reference)
    return case, restore([case], config)[0]


@pytest.mark.slow
@pytest.mark.skipif(not F16.exists(), reason="the image of the 2018 paper is missing")
def test_the_standard_network_reaches_the_psnr_of_the_2018_code_and_stops_near_it():
    reference = read_image(F16).pixels[192:320, 192:320]
    peaks, gaps = [], []
    for seed in range(3):
        # A rule that hides no pixel from the fit, as in the 2018 code.
        _, result = denoise(reference, seed, "fit.num_steps=800", "stop.rule=wmv")
        peaks.append(result.curve["psnr_average"].max())
        gaps.append(peaks[-1] - psnr(result.image, reference))
    assert np.mean(peaks) >= 30.3
    assert max(gaps) <= 0.5


@pytest.mark.slow
def test_a_face_is_restored_better_than_by_the_baselines_and_the_rule_stops_near_the_peak():
    face = data.astronaut()[0:256, 96:352].astype(np.float32)
    reference = face.reshape(128, 2, 128, 2, 3).mean(axis=(1, 3)) / 255
    case, result = denoise(reference, 0, preset="denoise_small")
    noisy = np.asarray(case.problem.measurement)
    returned = psnr(result.image, reference)
    assert result.status == "stopped"
    assert returned > psnr(noisy, reference) + 7.5
    assert all(returned > psnr(image, reference) for image in denoising_baselines(noisy).values())
    assert result.curve["psnr_average"].max() - returned <= 0.5


@pytest.mark.slow
def test_scattered_pixels_are_filled_better_than_by_biharmonic_equations():
    face = data.astronaut()[10:138, 130:258].astype(np.float32)
    reference = face.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3)) / 255
    config = build_config("inpaint_random")
    key = simulation_key(image_key(0, "picture"))
    case = simulate_case(key, config.task, "picture", reference)
    (result,) = restore([case], config)
    is_missing = np.asarray(case.problem.operator.mask)[..., 0] == 0
    y = np.asarray(case.problem.measurement)
    biharmonic = inpaint_biharmonic(y, is_missing, channel_axis=-1)
    np.testing.assert_array_equal(result.image[~is_missing], y[~is_missing])
    assert psnr(result.image, reference) > psnr(biharmonic, reference) + 1
