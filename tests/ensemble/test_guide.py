"""A guide knows nothing of the pixels that its network does not see."""

import numpy as np
import pytest

from dip_jax.ensemble import guide as guide_module
from dip_jax.ensemble.guide import fill, guide_image
from dip_jax.ensemble.similar_patches import nonlocal_ridge


@pytest.mark.parametrize("noise_std", [0.0, 0.05])
def test_hidden_pixels_do_not_affect_the_guide(image, noise_std, monkeypatch):
    monkeypatch.setattr(guide_module, "_ROUNDS_WITHOUT_NOISE", 2)
    image = image[:28, :28]
    random = np.random.default_rng(0)
    is_visible = random.random(image.shape[:2]) > 0.25
    other = random.random(image.shape).astype(np.float32)
    changed = np.where(is_visible[..., None], image, other)
    first, second = (guide_image(y, is_visible, noise_std) for y in (image, changed))
    np.testing.assert_array_equal(first, second)


def test_the_guide_denoises_the_visible_pixels(image):
    noisy = image + 0.1 * np.random.default_rng(1).standard_normal(image.shape)
    is_visible = np.random.default_rng(2).random(image.shape[:2]) > 0.1
    error = guide_image(noisy, is_visible, 0.1) - image
    assert error.std() < 0.07


def test_known_pixels_stay_and_gaps_of_any_size_are_filled_between_the_values_around():
    ramp = np.broadcast_to(np.linspace(0, 1, 30, dtype=np.float32)[:, None, None], (30, 30, 2))
    is_known = np.ones((30, 30), bool)
    is_known[8:20, 5:22] = False
    filled = fill(ramp, is_known)
    np.testing.assert_array_equal(filled[is_known], ramp[is_known])
    gap = filled[8:20, 5:22]
    assert (gap >= ramp[6].min()).all()
    assert (gap <= ramp[21].max()).all()
    # The fill starts at the border, so the upper half is nearer to the values above.
    assert gap[0].mean() < gap[5].mean() < gap[-1].mean()


def test_an_image_without_known_pixels_becomes_zero():
    assert not fill(np.ones((4, 4, 1)), np.zeros((4, 4), bool)).any()


def test_rounds_spread_repeated_structure_over_holes(monkeypatch):
    monkeypatch.setattr(guide_module, "_ROUNDS_WITHOUT_NOISE", 6)
    rows, columns = np.mgrid[0:48, 0:48]
    stripes = (0.5 + 0.4 * np.sin(1.5 * rows + 0.4 * columns)).astype(np.float32)[..., None]
    is_visible = np.random.default_rng(0).random((48, 48)) > 0.5
    guide = guide_image(np.where(is_visible[..., None], stripes, 0), is_visible, 0.0)
    np.testing.assert_array_equal(guide[is_visible], stripes[is_visible])
    errors = [
        np.abs(image - stripes)[~is_visible].mean() for image in (fill(stripes, is_visible), guide)
    ]
    assert errors[1] < 0.3 * errors[0]


def test_the_rounds_start_from_a_pilot(image, monkeypatch):
    monkeypatch.setattr(guide_module, "_ROUNDS_WITH_PILOT", 1)
    image = image[:28, :28]
    is_visible = np.random.default_rng(0).random((28, 28)) > 0.5
    known = np.where(is_visible[..., None], image, 0)
    found = guide_image(known, is_visible, 0.0, pilot=image)
    level = guide_module._FIRST_LEVEL_OF_PILOT
    expected = np.where(is_visible[..., None], image, nonlocal_ridge(image, level))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_more_rounds_improve_hidden_pixels_in_weak_noise(image):
    noisy = image + 0.05 * np.random.default_rng(1).standard_normal(image.shape)
    is_visible = np.random.default_rng(2).random(image.shape[:2]) > 0.25
    one_round = nonlocal_ridge(fill(noisy, is_visible), 0.05)
    errors = [
        np.sqrt(((found - image)[~is_visible] ** 2).mean())
        for found in (one_round, guide_image(noisy, is_visible, 0.05))
    ]
    assert errors[1] < errors[0]
