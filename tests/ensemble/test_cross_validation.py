"""The estimated error is the true one plus the variance of the noise, and each channel gets its best step."""

import numpy as np

from dip_jax.ensemble.cross_validation import combine, stack
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
    found = stack(predictions[None], y, folds, np.ones((SIDE, SIDE), bool)).errors[0]
    true = (((predictions.mean(axis=0) - truth) @ channel_basis(3).T) ** 2).mean(axis=(0, 1))
    np.testing.assert_allclose(found, true + NOISE**2, rtol=0.03)
    # Without the spread, the error would be that of single networks, which is larger.
    assert (found < bias**2 + 0.1**2 + NOISE**2 - 0.004).all()


def test_networks_that_reproduce_the_noise_they_saw_look_no_better():
    unbiased = np.zeros(3)
    _, y, folds, honest = networks(unbiased, 0.02, leak=0.0)
    _, _, _, overfitted = networks(unbiased, 0.02, leak=0.8)
    is_known = np.ones((SIDE, SIDE), bool)
    errors = stack(np.stack([honest, overfitted]), y, folds, is_known).errors
    # The spread of overfitted networks, one of which lacks the noise of a pixel, is subtracted: 0.16 s^2 (1 - 1/K).
    lowered = 0.8**2 * NOISE**2 * (NUMBER - 1) / NUMBER**2
    np.testing.assert_allclose(errors[1], errors[0] - lowered, rtol=0.05)
    apparent = ((overfitted.mean(axis=0) - y) ** 2).mean()
    assert apparent < 0.5 * errors[1].mean()


def test_the_weights_are_those_of_the_least_squares_fit_to_the_truth():
    """Two estimates whose errors are opposite in sign: the best combination cancels them."""
    truth, y, folds, first = networks(np.array([0.3, 0.0, 0.1]), 0.02, leak=0.0)
    _, _, _, second = networks(np.array([-0.1, 0.2, 0.1]), 0.02, leak=0.0)
    found = stack(np.stack([first, second]), y, folds, np.ones((SIDE, SIDE), bool))
    np.testing.assert_allclose(found.weights[:, 0], [0.25, 0.75], atol=0.02)
    np.testing.assert_allclose(found.weights[:, 1], [1, 0], atol=0.02)
    np.testing.assert_allclose(found.weights.sum(axis=0), 1)
    basis = channel_basis(3)
    combined = combine(np.stack([first, second]), found.weights).mean(axis=0)
    error = ((combined - truth) @ basis[0]).std()
    assert abs(((combined - truth) @ basis[0]).mean()) < 0.01
    assert error < 0.05


def test_weights_are_not_negative():
    _, y, folds, good = networks(np.full(3, 0.05), 0.02, leak=0.0)
    _, _, _, bad = networks(np.full(3, 0.3), 0.02, leak=0.0)
    weights = stack(np.stack([bad, good]), y, folds, np.ones((SIDE, SIDE), bool)).weights
    np.testing.assert_allclose(weights, [[0] * 3, [1] * 3], atol=1e-9)


def test_unknown_pixels_do_not_count():
    is_known = np.random.default_rng(3).random((SIDE, SIDE)) > 0.5
    _, y, folds, predictions = networks(np.zeros(3), 0.05, leak=0.0)
    predictions[:, ~is_known] = 100.0
    assert (stack(predictions[None], y, folds, is_known).errors < 0.05).all()


def test_an_estimate_that_is_not_finite_has_no_weight():
    _, y, folds, good = networks(np.zeros(3), 0.05, leak=0.0)
    broken = good.copy()
    broken[0, 0, 0, 0] = np.nan
    estimates = np.stack([broken, good])
    weights = stack(estimates, y, folds, np.ones((SIDE, SIDE), bool)).weights
    np.testing.assert_allclose(weights, [[0] * 3, [1] * 3], atol=1e-9)
    np.testing.assert_allclose(combine(estimates, weights), good, atol=1e-6)


def test_pixels_of_a_missing_network_do_not_count():
    _, y, folds, predictions = networks(np.zeros(3), 0.05, leak=0.0)
    y = np.where((folds == 3)[..., None], 50.0, y)
    folds = np.where(folds == 3, -1, folds)
    found = stack(predictions[None, :3], y, folds, np.ones((SIDE, SIDE), bool))
    assert (found.errors < 0.05).all()


def test_each_channel_of_the_combination_has_weights_of_its_own():
    estimates = np.random.default_rng(0).random((2, 4, 5, 3)).astype(np.float32)
    weights = np.array([[1.0, 0.25, 0.0], [0.0, 0.75, 1.0]])
    found = combine(estimates, weights)
    basis = channel_basis(3)
    for c in range(3):
        expected = weights[0, c] * estimates[0] @ basis[c] + weights[1, c] * estimates[1] @ basis[c]
        np.testing.assert_allclose(found @ basis[c], expected, atol=1e-6)
