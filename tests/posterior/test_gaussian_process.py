"""Kernels and regression of Gaussian processes, against closed forms, sampling and formulas."""

import jax
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from dip_jax.config import NetConfig
from dip_jax.errors import InputError
from dip_jax.nets import build_net
from dip_jax.posterior import gaussian_process as gp


# Reference values of the code of Cheng et al. 2019, to four digits.
@pytest.mark.parametrize(
    ("input_std", "depth", "distances", "correlations"),
    [
        (2, 1, (1, 2, 5, 10), (0.9439, 0.8104, 0.4301, 0.3193)),
        (2, 2, (1, 2, 5, 10), (0.9479, 0.8354, 0.5633, 0.4943)),
        (2, 4, (1, 2, 5, 10), (0.9547, 0.8722, 0.7147, 0.6812)),
        (10, 2, (1, 5, 10, 20, 50), (0.9976, 0.9479, 0.8354, 0.6251, 0.4943)),
        (60, 2, (127,), (0.6080,)),
        (0, 1, (1, 100), (1 / np.pi, 1 / np.pi)),
        (0, 2, (1, 100), (0.4937, 0.4937)),
        (0, 3, (1, 100), (0.6048, 0.6048)),
        (0, 4, (1, 100), (0.6810, 0.6810)),
    ],
)
def test_the_recursion_gives_the_correlations_of_the_2019_code(
    input_std, depth, distances, correlations
):
    found = gp.network_kernel(np.array(distances), depth, input_std)
    np.testing.assert_allclose(found, correlations, atol=1e-4)


def test_the_correlation_at_distance_zero_is_one_and_shapes_are_kept():
    distances = np.array([[0.0, 1.0], [2.0, 3.0]])
    found = gp.network_kernel(distances, 3, 2.0)
    assert found.shape == (2, 2)
    assert found[0, 0] == pytest.approx(1)


@pytest.mark.parametrize("correlation", [-0.9, -0.3, 0.0, 0.5, 0.95])
def test_a_rectified_kernel_is_the_mean_of_rectified_normal_pairs(correlation):
    variance = 1.7
    grid = np.linspace(-9, 9, 1501)
    u, w = grid[:, None], grid[None]
    v = correlation * u + np.sqrt(1 - correlation**2) * w
    density = np.exp(-(u**2 + w**2) / 2) / (2 * np.pi) * (grid[1] - grid[0]) ** 2
    expected = variance * np.sum(np.maximum(u, 0) * np.maximum(v, 0) * density)
    kernel = gp.relu_kernel(variance * np.array([1.0, correlation]))
    # The rectifiers' kinks limit the sum over the grid to its second order, (18 / 1500)^2.
    np.testing.assert_allclose(kernel, [variance / 2, expected], atol=1e-4)


def test_a_convolution_scales_the_kernel_and_adds_its_bias():
    found = gp.conv_kernel(np.array([2.0, 1.0]), weight_var=3.0, bias_var=0.5)
    np.testing.assert_allclose(found, [6.5, 3.5])


@pytest.mark.parametrize("input_std", [0.0, 2.0])
def test_a_smooth_code_has_the_input_kernel(input_std):
    code = gp.smooth_code(jax.random.key(0), (1, 80, 4000), input_std)
    signals = np.moveaxis(np.asarray(code), -1, 0)[..., None]
    each = np.stack([gp.estimate_kernel(x[None], 10)[0] for x in signals[:800]])
    error = each.std(axis=0) / np.sqrt(len(signals))
    kernel = gp.estimate_kernel(signals, 10)[0]
    assert np.all(np.abs(kernel - gp.input_kernel(np.arange(11), input_std)) < 5 * error + 1e-3)


@pytest.mark.parametrize(
    ("input_std", "depth"),
    [
        pytest.param(2.0, 1, marks=pytest.mark.slow),
        (0.0, 2),
        pytest.param(10.0, 2, marks=pytest.mark.slow),
    ],
)
def test_random_networks_have_the_kernel_of_the_recursion(input_std, depth):
    net = gp.conv_relu_net(128, depth=depth, width=64, channels=16)
    signals = gp.prior_images(
        jax.random.key(depth),
        net,
        200,
        code_fn=lambda key: gp.smooth_code(key, net.code_shape, input_std),
    )
    assert signals.shape == (200, 1, 128, 16)
    each = np.stack([gp.estimate_kernel(x[None], 20)[0] for x in np.asarray(signals)])
    kernel, lags = each.mean(axis=0), np.arange(21)
    limit = gp.network_kernel(lags, depth, input_std)
    # The standard error of a ratio of means, from the residuals.
    error = (each - limit * each[:, :1]).std(axis=0) / np.sqrt(len(each)) / kernel[0]
    # With 64 channels, the correlation is off by the order of a tenth of 1 / 64.
    assert np.all(np.abs(kernel / kernel[0] - limit) <= 5 * error + 2e-3)
    assert error.max() < 0.01
    assert kernel[0] == pytest.approx(0.5**depth, rel=0.05)


def test_the_network_of_convolutions_computes_the_same_as_a_loop():
    net = gp.conv_relu_net(5, depth=1, width=3, input_depth=2)
    params = net.init(jax.random.key(0))
    code = np.asarray(gp.smooth_code(jax.random.key(1), net.code_shape, 0.0))
    x = code[0].astype(np.float64)
    for name in ("conv_0", "conv_1"):
        kernel = np.asarray(params[name])[0]
        x = np.stack([sum(x[i + a] @ kernel[a] for a in range(3)) for i in range(x.shape[0] - 2)])
        x = np.maximum(x, 0) if name == "conv_0" else x
    assert net.image_shape == (1, 5, 1)
    np.testing.assert_allclose(net.apply(params, code)[0], x, atol=1e-5)


def test_prior_images_of_the_skip_network_all_differ():
    config = NetConfig(
        channels_down=(8, 8), channels_up=(8, 8), channels_skip=(4, 4), input_depth=4
    )
    images = gp.prior_images(jax.random.key(0), build_net(config, (16, 20, 3)), 3)
    assert images.shape == (3, 16, 20, 3)
    assert 0 <= images.min() < images.max() <= 1
    assert np.abs(images[0] - images[1]).max() > 0.01
    assert np.abs(images[1] - images[2]).max() > 0.01


def test_the_kernel_of_an_autoregressive_signal_is_estimated():
    # x_t = a x_{t-1} + n_t has the kernel a^d / (1 - a^2).
    a, generator = 0.8, np.random.default_rng(0)
    signals = np.zeros((400, 300))
    noise = generator.standard_normal(signals.shape)
    for t in range(1, 300):
        signals[:, t] = a * signals[:, t - 1] + noise[:, t]
    signals = signals[:, None, 100:, None]
    each = np.stack([gp.estimate_kernel(x[None], 8)[0] for x in signals])
    error = each.std(axis=0) / np.sqrt(len(each))
    expected = a ** np.arange(9) / (1 - a**2)
    kernel = gp.estimate_kernel(signals, 8)
    assert kernel.shape == (1, 9)
    assert np.all(np.abs(kernel[0] - expected) < 5 * error)


def test_the_kernel_of_images_is_the_mean_product_over_all_pixels():
    images = np.random.default_rng(0).standard_normal((3, 6, 7, 2))

    def mean_product(i, j):
        values = []
        for rows, columns in ((i, j), (i, -j), (j, i), (j, -i)):
            first = images[:, : 6 - rows, max(0, -columns) : 7 - max(0, columns)]
            second = images[:, rows:, max(0, columns) : 7 - max(0, -columns)]
            values.append(np.mean(first * second))
        return np.mean(values)

    expected = [[mean_product(i, j) for j in range(4)] for i in range(4)]
    np.testing.assert_allclose(gp.estimate_kernel(images, 3), expected, atol=1e-12)


def test_a_lag_beyond_the_image_is_rejected():
    with pytest.raises(InputError, match=r"got 6 and \(6, 7\)"):
        gp.estimate_kernel(np.zeros((1, 6, 7, 1)), 6)


def test_the_covariance_matrix_has_the_kernel_at_the_lags():
    positions = np.array([[0, 0], [2, 1], [1, 3]])
    matrix = gp.covariance_matrix(gp.rbf_kernel((3, 4), 1.5), positions)
    distances = np.sum((positions[:, None] - positions[None]) ** 2, axis=-1)
    np.testing.assert_allclose(matrix, np.exp(-distances / (2 * 1.5**2)))


def test_the_posterior_agrees_with_the_plain_formula():
    generator = np.random.default_rng(0)
    root = generator.standard_normal((12, 12))
    kernel, mean = root @ root.T, generator.standard_normal(12)
    known = np.arange(12) % 3 == 0
    y = generator.standard_normal(known.sum())
    inverse = np.linalg.inv(kernel[np.ix_(known, known)] + 0.3**2 * np.eye(known.sum()))
    gain = kernel[:, known] @ inverse
    found, std = gp.posterior(kernel, known, y, noise_std=0.3, mean=mean)
    np.testing.assert_allclose(found, mean + gain @ (y - mean[known]), rtol=1e-9)
    variance = np.diag(kernel - gain @ kernel[known])
    np.testing.assert_allclose(std, np.sqrt(variance), rtol=1e-9)


def test_without_noise_the_posterior_passes_through_the_known_values():
    positions = np.stack([np.zeros(30, int), np.arange(30)], axis=-1)
    kernel = gp.covariance_matrix(gp.network_kernel(np.arange(30), 1, 2.0)[None], positions)
    known = np.arange(30) % 7 == 0
    y = np.sin(np.arange(30)[known])
    mean, std = gp.posterior(kernel, known, y, noise_std=0.0)
    np.testing.assert_allclose(mean[known], y, atol=1e-9)
    np.testing.assert_allclose(std[known], 0, atol=1e-6)
    assert np.all(std[~known] > 0.1)


def test_a_matrix_that_is_not_positive_definite_asks_for_more_noise():
    known = np.ones(3, bool)
    with pytest.raises(
        InputError, match=r"not positive definite with noise_std=0\.1; raise noise_std"
    ):
        gp.posterior(np.ones((3, 3)) - 2 * np.eye(3), known, np.zeros(3), noise_std=0.1)


def test_maximum_likelihood_finds_the_parameters_of_a_drawn_image():
    generator = np.random.default_rng(3)
    positions = np.argwhere(np.ones((9, 9), bool))
    ridge = 0.1**2 * np.eye(len(positions))

    def correlation(lengthscale):
        return gp.covariance_matrix(gp.rbf_kernel((9, 9), lengthscale), positions)

    def log_density(y, mean, scale, noise_std, lengthscale):
        covariance = scale * correlation(lengthscale) + noise_std**2 * np.eye(len(y))
        return multivariate_normal(np.full(len(y), mean), covariance).logpdf(y)

    y = generator.multivariate_normal(np.full(81, 0.5), 0.3 * correlation(2.0) + ridge)
    found = gp.fit_hyperparameters(correlation, y, start=(1.0,))
    best = (found.mean, found.scale, found.noise_std, *found.correlation_args)
    assert found.log_likelihood == pytest.approx(log_density(y, *best), abs=1e-6)
    assert found.log_likelihood >= log_density(y, 0.5, 0.3, 0.1, 2.0)
    for i in range(4):
        for factor in (0.9, 1.1):
            other = [factor * b if i == j else b for j, b in enumerate(best)]
            assert log_density(y, *other) < found.log_likelihood
    # 5 standard errors, which are 0.25 and 0.012 over many such images.
    assert found.correlation_args[0] == pytest.approx(2.0, abs=1.25)
    assert found.noise_std == pytest.approx(0.1, abs=0.06)


def test_the_search_ends_near_its_bound_for_a_measurement_without_noise():
    positions = np.argwhere(np.ones((10, 10), bool))
    matrix = gp.covariance_matrix(gp.rbf_kernel((10, 10), 1.5), positions)
    y = np.random.default_rng(0).multivariate_normal(np.zeros(100), matrix)
    found = gp.fit_hyperparameters(lambda: matrix, y)
    assert found.correlation_args == ()
    assert 0.999e-3 <= found.noise_std / np.sqrt(found.scale) < 3e-3
