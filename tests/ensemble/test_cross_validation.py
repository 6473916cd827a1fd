"""The estimated error is the true one plus the variance of the noise, and each channel gets its best step."""

import numpy as np

from dip_jax.ensemble.cross_validation import best_steps, select_steps
from dip_jax.ensemble.similar_patches import channel_basis

SIDE, NUMBER, NOISE = 96, 4, 0.1


def networks(bias, spread, *, leak, seed=0):
    """Truth, measurement, folds, and predictions `[K, H, W, C]` that know some of the noise of what they saw."""
    random = np.random.default_rng(seed)
    truth = random.random((SIDE, SIDE, 3))
    noise = NOISE * random.standard_normal(truth.shape)
    folds = random.integers(0, NUMBER, (SIDE, SIDE))
    error = bias @ channel_basis(3)  # the same in all pixels, given for each channel of the basis
    shape = (NUMBER, SIDE, SIDE, 3)
    predictions = truth + error + spread * random.standard_normal(shape)
    is_seen = folds != np.arange(NUMBER)[:, None, None]
    predictions += leak * np.where(is_seen[..., None], noise, 0)
    return truth, truth + noise, folds, predictions


def test_the_estimated_error_is_that_of_the_mean_plus_the_variance_of_the_noise():
    bias = np.array([0.05, 0.1, 0.2])
    truth, y, folds, predictions = networks(bias, 0.1, leak=0.0)
    found = best_steps(predictions[None], y, folds, np.ones((SIDE, SIDE), bool)).errors[0]
    true = (((predictions.mean(axis=0) - truth) @ channel_basis(3).T) ** 2).mean(axis=(0, 1))
    np.testing.assert_allclose(found, true + NOISE**2, rtol=0.03)
    # Without the spread, the error would be that of single networks, which is larger.
    assert (found < bias**2 + 0.1**2 + NOISE**2 - 0.004).all()


def test_networks_that_reproduce_the_noise_they_saw_look_no_better():
    unbiased = np.zeros(3)
    _, y, folds, honest = networks(unbiased, 0.02, leak=0.0)
    _, _, _, overfitted = networks(unbiased, 0.02, leak=0.8)
    is_known = np.ones((SIDE, SIDE), bool)
    errors = best_steps(np.stack([honest, overfitted]), y, folds, is_known).errors
    # The spread of overfitted networks, one of which lacks the noise of a pixel, is subtracted: 0.16 s^2 (1 - 1/K).
    lowered = 0.8**2 * NOISE**2 * (NUMBER - 1) / NUMBER**2
    np.testing.assert_allclose(errors[1], errors[0] - lowered, rtol=0.05)
    apparent = ((overfitted.mean(axis=0) - y) ** 2).mean()
    assert apparent < 0.5 * errors[1].mean()


def test_each_channel_gets_its_own_step_and_unknown_pixels_do_not_count():
    is_known = np.random.default_rng(3).random((SIDE, SIDE)) > 0.5
    biases = np.array([[0.3, 0.0, 0.3], [0.2, 0.1, 0.0], [0.0, 0.2, 0.1]])
    steps = []
    for bias in biases:
        _, y, folds, predictions = networks(bias, 0.05, leak=0.0)
        predictions[:, ~is_known] = 100.0
        steps.append(predictions)
    found = best_steps(np.stack(steps), y, folds, is_known)
    assert found.indices.tolist() == [2, 0, 1]
    assert (found.errors < 0.2).all()


def test_pixels_of_a_missing_network_do_not_count():
    _, y, folds, predictions = networks(np.zeros(3), 0.05, leak=0.0)
    y = np.where((folds == 3)[..., None], 50.0, y)
    folds = np.where(folds == 3, -1, folds)
    found = best_steps(predictions[None, :3], y, folds, np.ones((SIDE, SIDE), bool))
    assert (found.errors < 0.05).all()


def test_the_selected_image_has_the_channels_of_the_selected_steps():
    estimates = np.random.default_rng(0).random((3, 2, 4, 5, 3)).astype(np.float32)
    selected = select_steps(estimates, np.array([2, 0, 1]))
    assert selected.shape == (2, 4, 5, 3)
    basis = channel_basis(3)
    for channel, step in enumerate([2, 0, 1]):
        np.testing.assert_allclose(
            selected @ basis[channel], estimates[step] @ basis[channel], atol=1e-6
        )
