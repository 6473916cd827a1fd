import io

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage import data

from dip_jax.base import Case, Problem
from dip_jax.errors import InputError
from dip_jax.operators.basic import Identity, Mask
from dip_jax.operators.bayer import Bayer
from dip_jax.operators.downsample import Downsample
from dip_jax.operators.radon import Radon
from dip_jax.operators.sensing import SubsampledFourier
from dip_jax.presets import build_config
from dip_jax.tasks.noise_level import (
    estimate_noise_std,
    noise_of_neighbors,
    resolve_noise,
    with_noise_std,
)


def clean(channels=3):
    """A crop of a photo with little texture, `[96, 80, C]`."""
    crop = data.rocket()[100:196, 200:280].astype(np.float32) / 255
    return crop[..., :channels] * 0.6 + 0.2


def noisy(std, channels=3, seed=0):
    x = clean(channels)
    return (x + std * np.random.default_rng(seed).standard_normal(x.shape)).astype(np.float32)


def case(measurement, operator=None, shape=None, **fields):
    fields = {"noise_std": jnp.float32(np.nan), **fields}
    problem = Problem(operator or Identity(), jnp.asarray(measurement), **fields)
    return Case("a", problem, shape or measurement.shape)


@pytest.mark.parametrize("level", [5, 15, 25, 50])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_estimate_is_the_level_of_simulated_noise(level, channels):
    found = 255 * estimate_noise_std(case(noisy(level / 255, channels)))
    # 7 % is five standard errors of a median of 2000 values, and texture adds its own 1.5 gray levels
    assert 0.93 * level < found < 1.07 * np.hypot(level, 1.5)


def test_texture_counts_as_noise():
    assert estimate_noise_std(case(clean())) < 1.5 / 255
    grass = data.grass()[:96, :80, None].astype(np.float32) / 255
    assert 5 / 255 < estimate_noise_std(case(grass)) < 20 / 255


@pytest.mark.parametrize("level", [5, 25])
def test_in_a_masked_image_only_known_neighbors_count(level):
    mask = (np.random.default_rng(1).random((96, 80, 1)) < 0.5).astype(np.float32)
    noisy_case = case(noisy(level / 255) * mask, Mask(jnp.asarray(mask)))
    # a sixteenth of the blocks: 480 in each of three channels
    found = 255 * estimate_noise_std(noisy_case)
    error = 5 * 1.17 / np.sqrt(3 * 480)
    assert (1 - error) * level < found < (1 + error) * np.hypot(level, 1.5)


def test_ignored_values_and_margins_do_not_count():
    y = noisy(25 / 255)
    weights = np.ones(y.shape, np.float32)
    y[:30], weights[:30] = np.random.default_rng(2).random((30, 80, 3)), 0
    assert abs(255 * estimate_noise_std(case(y, weights=jnp.asarray(weights))) - 25) < 2.5
    region = np.pad(np.ones((96, 80, 1), np.float32), [(0, 32), (0, 0), (0, 0)])
    padded = np.pad(noisy(25 / 255), [(0, 32), (0, 0), (0, 0)])
    assert abs(255 * estimate_noise_std(case(padded, region=jnp.asarray(region))) - 25) < 2.5


def test_the_noise_of_a_reduced_image_is_estimated():
    noisy_case = case(noisy(10 / 255), Downsample(4, "box"), (382, 320, 3))
    assert abs(255 * estimate_noise_std(noisy_case) - 10) < 1.5


def without_estimate():
    rng = np.random.default_rng(0)
    y = noisy(25 / 255)
    sparse = np.zeros((96, 80, 1), np.float32)
    sparse[::2, ::2] = 1
    square = rng.random((96, 96)).astype(np.float32)
    return {
        "photons": case(y, peak=jnp.float32(30)),
        "mosaic": case(y[..., :1], Bayer(), (96, 80, 3)),
        "frequencies": case(
            np.fft.fft2(y, axes=(0, 1)).astype(np.complex64), SubsampledFourier(jnp.ones((96, 80)))
        ),
        "sinogram": case(rng.random((136, 96, 1)).astype(np.float32), Radon(96), (96, 96, 1)),
        "coefficients": case(rng.random(96 * 80 * 3).astype(np.float32), shape=(96, 80, 3)),
        "no neighbors": case(y * sparse, Mask(jnp.asarray(sparse))),
        "few neighbors": case(square[:16, :16, None], Mask(jnp.ones((16, 16, 1)).at[8:].set(0.0))),
    }


@pytest.mark.parametrize("kind", sorted(without_estimate()))
def test_a_noise_level_that_cannot_be_estimated_stays_unknown(kind):
    noisy_case = without_estimate()[kind]
    assert np.isnan(estimate_noise_std(noisy_case))
    assert with_noise_std(noisy_case) is noisy_case


def test_the_case_gets_the_estimate_and_a_note():
    noisy_case = case(noisy(25 / 255))._replace(notes=("first",))
    filled = with_noise_std(noisy_case)
    assert float(filled.problem.noise_std) == np.float32(estimate_noise_std(noisy_case))
    assert filled.notes[0] == "first"
    assert (
        filled.notes[1]
        == f"noise estimated: {255 * float(filled.problem.noise_std):.1f} gray levels"
    )
    assert with_noise_std(filled) is filled


def test_a_known_noise_level_stays():
    noisy_case = case(noisy(25 / 255), noise_std=jnp.float32(0))
    assert with_noise_std(noisy_case) is noisy_case


SAMPLING = build_config(overrides=["fit.method=sgld"])


def test_sampling_estimates_an_unknown_noise_level_and_keeps_a_known_one():
    unknown = case(noisy(25 / 255))
    resolved = resolve_noise(unknown, SAMPLING)
    assert abs(float(resolved.problem.noise_std) * 255 - 25) < 3
    assert any("noise" in note for note in resolved.notes)
    assert resolve_noise(resolved, SAMPLING) is resolved


def test_sampling_without_noise_keeps_the_exact_measurement_and_adds_a_note():
    exact = resolve_noise(case(clean(), noise_std=jnp.float32(0)), SAMPLING)
    assert float(exact.problem.noise_std) == 0  # so known pixels can still be restored
    assert any("1 gray level" in note for note in exact.notes)
    assert resolve_noise(exact, SAMPLING) is exact


def test_sampling_needs_a_noise_level_except_for_photons():
    cases = without_estimate()
    with pytest.raises(InputError, match="noise level"):
        resolve_noise(cases["sinogram"], SAMPLING)
    assert resolve_noise(cases["photons"], SAMPLING) is cases["photons"]


@pytest.mark.parametrize("rule", ["discrepancy", "sure", "all", "held_out"])
def test_only_some_stopping_rules_estimate_an_unknown_noise_level(rule):
    unknown = case(noisy(25 / 255))
    resolved = resolve_noise(unknown, build_config(overrides=[f"stop.rule={rule}"]))
    assert np.isnan(float(resolved.problem.noise_std)) == (rule == "held_out")
    assert len(resolved.notes) == (rule != "held_out")


def test_a_stopping_rule_that_never_fires_without_noise_adds_a_note():
    config = build_config(overrides=["stop.rule=discrepancy"])
    exact = resolve_noise(case(clean(), noise_std=jnp.float32(0)), config)
    assert any("never fires" in note for note in exact.notes)
    assert resolve_noise(exact, config) is exact


def noisy_photo(kind, *, channels=3, level=25 / 255):
    """A photo of 128 x 128 with white noise, blurred noise, white noise saved as JPEG, or none."""
    crop = data.astronaut()[10:266, 130:386].reshape(128, 2, 128, 2, 3).mean(axis=(1, 3)) / 255
    crop = crop[..., :channels]
    noise = np.random.default_rng(0).standard_normal(crop.shape)
    if kind == "blurred":
        noise = ndimage.gaussian_filter(noise, (0.7, 0.7, 0))
    noisy = np.clip(crop + (kind != "clean") * level * noise / noise.std(), 0, 1)
    if kind == "jpeg":
        file = io.BytesIO()
        Image.fromarray(np.rint(255 * noisy).astype(np.uint8)).save(file, "JPEG", quality=85)
        noisy = np.asarray(Image.open(file)) / 255
    return noisy.astype(np.float32)


def notes_of(image, rule):
    config = build_config(overrides=[f"stop.rule={rule}"])
    case = Case("a", Problem(Identity(), jnp.asarray(image), np.nan), image.shape)
    return [note for note in resolve_noise(case, config).notes if "share their noise" in note]


@pytest.mark.parametrize(
    ("kind", "channels", "is_noted"),
    [
        ("white", 3, False),
        ("clean", 3, False),
        ("blurred", 3, True),
        ("jpeg", 3, True),
        ("white", 1, False),
        ("clean", 1, False),
        ("blurred", 1, True),
    ],
)
def test_a_note_says_that_neighbors_share_their_noise(kind, channels, is_noted):
    image = noisy_photo(kind, channels=channels)
    assert bool(notes_of(image, "held_out")) == is_noted
    assert not notes_of(image, "fixed")


@pytest.mark.parametrize(
    ("kind", "is_shared"), [("white", False), ("blurred", True), ("jpeg", True)]
)
def test_an_ensemble_learns_that_noise_is_shared_and_its_level(kind, is_shared):
    image = noisy_photo(kind, channels=3)
    case = Case("a", Problem(Identity(), jnp.asarray(image), np.nan), image.shape)
    resolved = resolve_noise(case, build_config("denoise"))
    assert resolved.shares_noise == is_shared
    assert 0.8 * 25 < 255 * float(resolved.problem.noise_std) < 1.4 * 25
    assert any("hide blocks" in note for note in resolved.notes) == is_shared
    known = case._replace(problem=case.problem._replace(noise_std=np.float32(0.07)))
    resolved = resolve_noise(known, build_config("denoise"))
    assert (resolved.shares_noise, float(resolved.problem.noise_std)) == (
        is_shared,
        pytest.approx(0.07),
    )


def test_both_levels_are_those_of_white_noise_and_grow_with_the_noise():
    white = np.random.default_rng(0).standard_normal((200, 201, 3))
    for level in (0.1, 3.0):
        full, half = noise_of_neighbors(level * white)
        np.testing.assert_allclose(full, level, rtol=0.05)
        np.testing.assert_allclose(half, level, rtol=0.05)


def test_noise_that_four_neighbors_share_is_twice_as_strong_at_half_resolution():
    blocks = np.random.default_rng(0).standard_normal((100, 100, 1)).repeat(2, 0).repeat(2, 1)
    white = 0.1 * np.random.default_rng(1).standard_normal(blocks.shape)
    full, half = noise_of_neighbors(blocks + white)
    np.testing.assert_allclose(full, 0.1, rtol=0.05)
    np.testing.assert_allclose(half, 2 * np.sqrt(1 + 0.05**2), rtol=0.05)


@pytest.mark.parametrize(("fraction", "is_much"), [(0.0, False), (0.03, False), (0.07, True)])
def test_samples_of_much_clipped_noise_have_another_likelihood_and_the_level_before_it(
    fraction, is_much
):
    y = 0.5 + 0.1 * np.random.default_rng(0).standard_normal((64, 64, 1))
    y.ravel()[: int(fraction * y.size)] = 0
    case = Case("photo", Problem(Identity(), jnp.asarray(y, jnp.float32), np.nan), y.shape)
    found = resolve_noise(case, SAMPLING)
    assert any("likelihood is that of clipped noise" in note for note in found.notes) == is_much
    expected = estimate_noise_std(case, before_clipping=is_much)
    assert float(found.problem.noise_std) == pytest.approx(expected)
    ignored = build_config(overrides=["fit.method=sgld", "task.clipping=ignored"])
    assert not any("black or white" in note for note in resolve_noise(case, ignored).notes)
    masked = case._replace(problem=case.problem._replace(operator=Mask(jnp.ones((64, 64, 1)))))
    assert not any("black or white" in note for note in resolve_noise(masked, SAMPLING).notes)
