"""The filter agrees with an independent one that is written with loops, and behaves as its statistics say."""

import numpy as np
import pytest
from scipy.fft import dct

from dip_jax.clipping import Limits, variance_of_clipped
from dip_jax.ensemble import similar_patches as module
from dip_jax.ensemble.similar_patches import channel_basis, filter_with_pilot, nonlocal_ridge
from dip_jax.errors import InputError


def noisy_stripes(side=24, channels=2, noise_std=0.1, seed=0):
    rows, columns = np.mgrid[0:side, 0:side]
    waves = [0.5 + 0.4 * np.sin(0.9 * rows + 0.2 * columns + k) for k in range(channels)]
    clean = np.stack(waves, axis=-1)
    noise = np.random.default_rng(seed).normal(scale=noise_std, size=clean.shape)
    return clean, clean + noise


def filter_with_loops(y, pilot, guide, variance, *, size, number, has_pilot):
    """The definition in float64, one reference patch after the other."""
    height, width, channels = y.shape
    starts = [
        sorted({*range(0, side - size, module._STRIDE), side - size}) for side in (height, width)
    ]
    total, count = np.zeros_like(y), np.zeros_like(y)
    variances = np.broadcast_to(variance, y.shape)
    reach = module._WINDOW

    def patch(image, row, column):
        return image[row : row + size, column : column + size]

    for row in starts[0]:
        for column in starts[1]:
            corners = [
                (r, c)
                for r in range(max(0, row - reach), min(height - size, row + reach) + 1)
                for c in range(max(0, column - reach), min(width - size, column + reach) + 1)
            ]
            reference = patch(guide, row, column)
            corners.sort(key=lambda corner: ((patch(guide, *corner) - reference) ** 2).sum())
            group = corners[:number]
            for channel in range(channels):
                noisy = np.array([patch(y[..., channel], *corner).ravel() for corner in group])
                level = np.mean([patch(variances[..., channel], *corner) for corner in group])
                if has_pilot:
                    p = np.array([patch(pilot[..., channel], *c).ravel() for c in group])
                    moments = p @ p.T
                    shrunk = moments + size**2 * level * np.eye(number)
                    weights = moments @ np.linalg.inv(shrunk)
                else:
                    inverse = np.linalg.inv(noisy @ noisy.T)
                    free = np.eye(number) - size**2 * level * inverse
                    factors, vectors = np.linalg.eigh(free)
                    bounded = np.maximum(factors, module._LEAST_FACTOR)
                    weights = vectors @ np.diag(bounded) @ vectors.T
                estimates = weights @ noisy
                shares = 1 / np.maximum((weights**2).sum(axis=1), 1 / number)
                for (r, c), estimate, share in zip(group, estimates, shares, strict=True):
                    block = np.s_[r : r + size, c : c + size, channel]
                    total[block] += share * estimate.reshape(size, size)
                    count[block] += share
    return total / count


def test_both_stages_agree_with_loops_in_float64():
    _, noisy = noisy_stripes()
    basis = channel_basis(2)
    y = noisy @ basis.T
    first = filter_with_loops(y, y, y[..., :1], 0.01, size=9, number=18, has_pilot=False)
    second = filter_with_loops(y, first, first[..., :1], 0.01, size=9, number=90, has_pilot=True)
    np.testing.assert_allclose(nonlocal_ridge(noisy, 0.1), second @ basis, atol=2e-3)


def test_clipped_noise_is_weaker_in_groups_near_black():
    rng = np.random.default_rng(2)
    rows, _ = np.mgrid[0:32, 0:24] / 32
    pilot = (0.4 * rows * rng.random(rows.shape))[..., None]
    noisy = np.clip(pilot + 0.1 * rng.standard_normal(pilot.shape), 0, 1)
    limits = Limits(black=True)
    variances = 0.6 * variance_of_clipped(pilot, 0.1, limits)
    expected = filter_with_loops(noisy, pilot, pilot, variances, size=7, number=48, has_pilot=True)
    found = filter_with_pilot(noisy, pilot, 0.1, limits)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(found - filter_with_pilot(noisy, pilot, 0.1)).max() > 1e-3


def test_the_filter_with_a_pilot_agrees_with_loops_in_float64():
    clean, noisy = noisy_stripes(seed=1)
    basis = channel_basis(2)
    pilot = 0.9 * clean + 0.1 * noisy
    y, p = noisy @ basis.T, pilot @ basis.T
    expected = filter_with_loops(y, p, p, 0.006, size=7, number=48, has_pilot=True)
    np.testing.assert_allclose(filter_with_pilot(noisy, pilot, 0.1), expected @ basis, atol=1e-4)


def test_a_clean_pilot_leaves_a_small_part_of_the_noise():
    clean, noisy = noisy_stripes(side=48, channels=3)
    error = filter_with_pilot(noisy, clean, 0.1) - clean
    assert error.std() < 0.25 * (noisy - clean).std()


def test_the_basis_is_that_of_the_cosine_transform_and_keeps_lengths():
    for channels in (1, 2, 3, 5):
        basis = channel_basis(channels)
        np.testing.assert_allclose(basis, dct(np.eye(channels), axis=0, norm="ortho"), atol=1e-12)
        np.testing.assert_allclose(basis @ basis.T, np.eye(channels), atol=1e-12)


def test_a_transposed_image_has_the_transposed_result():
    _, noisy = noisy_stripes(side=24, channels=1)
    turned = nonlocal_ridge(noisy.swapaxes(0, 1), 0.1)
    np.testing.assert_allclose(turned.swapaxes(0, 1), nonlocal_ridge(noisy, 0.1), atol=1e-3)


@pytest.mark.parametrize("noise_std", [0.02, 0.1, 0.2])
def test_images_of_the_least_size_have_enough_patches_for_each_noise_level(noise_std):
    clean, noisy = noisy_stripes(noise_std=noise_std)
    error = nonlocal_ridge(noisy, noise_std) - clean
    assert error.std() < 0.8 * noise_std


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_a_constant_image_stays_constant(value):
    noisy = value + 0.05 * np.random.default_rng(0).normal(size=(32, 40, 1))
    result = nonlocal_ridge(noisy, 0.05)
    assert abs(result.mean() - value) < 0.01
    assert result.std() < 0.01


@pytest.mark.parametrize("noise_std", [1e-6, 1e-4])
def test_weak_noise_on_a_flat_or_smooth_image_leaves_it_as_it_is(noise_std):
    ramp = np.broadcast_to(np.linspace(0, 1, 32)[:, None, None], (32, 32, 3))
    for clean in (ramp, np.ones((32, 32, 3)), np.zeros((32, 32, 3))):
        np.testing.assert_allclose(filter_with_pilot(clean, clean, noise_std), clean, atol=1e-3)


@pytest.mark.parametrize("noise_std", [0.0, -1.0, float("nan")])
def test_a_noise_level_that_is_not_positive_is_refused(noise_std):
    with pytest.raises(InputError, match="noise_std must be above 0"):
        nonlocal_ridge(np.zeros((32, 32, 1)), noise_std)


def test_weak_noise_is_not_amplified():
    """Black with clipped noise: its noise is weaker than the stated level."""
    noisy = np.maximum(0.1 * np.random.default_rng(0).normal(size=(48, 48, 1)), 0)
    assert (nonlocal_ridge(noisy, 0.1) - noisy.mean()).std() < 0.5 * noisy.std()


def test_an_image_smaller_than_a_group_is_refused():
    with pytest.raises(InputError, match="at least 24 x 24"):
        filter_with_pilot(np.zeros((23, 40, 3)), np.zeros((23, 40, 3)), 0.1)
