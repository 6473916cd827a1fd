import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from dip_jax.base import Problem
from dip_jax.errors import InputError
from dip_jax.losses import build_likelihood, total_variation
from dip_jax.operators.basic import Identity


def problem(y, **fields):
    return Problem(Identity(), jnp.asarray(y, jnp.float32), jnp.float32(0.0), **fields)


def loss(name, y, p, **fields):
    return build_likelihood(name)(problem(y, **fields), jnp.asarray(p, jnp.float32))


def test_the_gaussian_loss_orders_predictions_as_the_normal_density_does():
    rng = np.random.default_rng(0)
    y, p, other = rng.random((3, 5, 4, 2))
    std = 0.3
    densities = [stats.norm.logpdf(y, q, std).sum() for q in (p, other)]
    losses = [float(loss("gaussian", y, q)) * y.size / (2 * std**2) for q in (p, other)]
    np.testing.assert_allclose(densities[0] - densities[1], losses[1] - losses[0], rtol=1e-4)


def test_the_gaussian_loss_of_complex_numbers_is_the_squared_modulus():
    y, p = np.array([1 + 2j, 3j]), np.array([2 + 2j, -1j])
    prob = problem(0.0)._replace(measurement=jnp.asarray(y, jnp.complex64))
    value = build_likelihood("gaussian")(prob, jnp.asarray(p, jnp.complex64))
    np.testing.assert_allclose(value, (1 + 16) / 2)


def test_the_poisson_loss_differs_between_predictions_as_the_poisson_probability_does():
    rng = np.random.default_rng(1)
    peak = 20.0
    p, other = 0.2 + 0.7 * rng.random((2, 6, 5, 1))
    counts = rng.poisson(peak * p)
    chances = [stats.poisson.logpmf(counts, peak * q).sum() for q in (p, other)]
    losses = [float(loss("poisson", counts / peak, q)) * counts.size * peak for q in (p, other)]
    # 1e-4 is added to both, so that zero photons do not give infinity
    np.testing.assert_allclose(chances[0] - chances[1], losses[1] - losses[0], rtol=2e-3)


def test_the_shifted_poisson_has_the_variance_of_photons_and_read_out_noise():
    # Near its minimum a negative log likelihood is (p - y)^2 / (2 variance).
    peak, std, y = 50.0, 0.1, 0.4
    variance = y / peak + std**2

    def value(p):
        prob = problem([y], peak=jnp.float32(peak))._replace(noise_std=jnp.float32(std))
        return peak * build_likelihood("poisson_gauss")(prob, jnp.asarray([p]))

    curvature = jax.hessian(lambda p: value(p))(jnp.float32(y))
    np.testing.assert_allclose(curvature, 1 / variance, rtol=1e-3)


def test_without_read_out_noise_the_shifted_poisson_is_the_poisson():
    rng = np.random.default_rng(2)
    y, p = rng.random((2, 4, 4, 1))
    both = [loss(name, y, p, peak=jnp.float32(9.0)) for name in ("poisson", "poisson_gauss")]
    np.testing.assert_allclose(*both, rtol=1e-6)


def test_a_poisson_loss_without_a_peak_is_refused():
    with pytest.raises(InputError, match="peak"):
        loss("poisson_gauss", [0.5], [0.5])


def test_read_out_noise_below_zero_and_darkness_give_finite_losses_and_gradients():
    y, p = jnp.asarray([-0.3, 0.0, 0.5]), jnp.asarray([0.0, 0.0, 0.0])
    for name in ("poisson", "poisson_gauss"):
        prob = problem(y, peak=jnp.float32(10.0))
        value, slope = jax.value_and_grad(lambda q, g=prob, n=name: build_likelihood(n)(g, q))(p)
        assert np.isfinite(value)
        assert np.isfinite(slope).all()


def test_the_gradient_increases_a_negative_expectation_of_photons():
    slope = jax.grad(lambda p: loss("poisson", [0.5], p))(jnp.asarray([-0.01]))
    assert slope[0] < -1


@pytest.mark.parametrize("scale", [1.0, 200.0])
def test_a_small_deviance_keeps_its_sign_and_size_in_single_precision(scale):
    y = scale * (0.2 + np.random.default_rng(6).random((20, 20, 1)))
    p = np.float32(y) * np.float32(1 + 1e-4)
    shifted, counted = np.float64(p) + 1e-4, np.float64(np.float32(y)) + 1e-4
    exact = shifted - counted + counted * np.log(counted / shifted)
    np.testing.assert_allclose(loss("poisson", np.float32(y), p), exact.mean(), rtol=0.02)
    each = [
        float(loss("poisson", np.float32(a), b))
        for a, b in zip(y.flat[:50], p.flat[:50], strict=True)
    ]
    assert min(each) >= 0


def test_the_laplace_loss_is_least_at_the_median():
    y = np.array([0.1, 0.2, 0.3, 0.9, 1.0])
    found = optimize.minimize_scalar(
        lambda q: float(loss("laplace", y, np.full(5, q))), bounds=(0, 1), method="bounded"
    )
    assert abs(found.x - np.median(y)) < 1e-3


def test_the_interval_loss_is_zero_inside_and_the_squared_distance_outside():
    y, p = [0.5, 0.5, 0.5], [0.55, 0.7, 0.2]
    value = loss("interval", y, p, tolerance=jnp.asarray([0.1, 0.1, 0.1]))
    np.testing.assert_allclose(value, (0 + 0.1**2 + 0.2**2) / 3, rtol=1e-5)
    np.testing.assert_allclose(loss("interval", y, p), loss("gaussian", y, p))
    prob = problem(y, tolerance=jnp.full(3, 0.1))
    pulled = build_likelihood("interval", interval_pull=0.3)(prob, jnp.asarray(p))
    np.testing.assert_allclose(pulled, value + 0.3 * loss("gaussian", y, p), rtol=1e-6)


@pytest.mark.parametrize("name", ["gaussian", "poisson", "laplace", "interval", "poisson_gauss"])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_no_loss_is_negative_and_that_of_a_perfect_prediction_is_zero(name, seed):
    y, p = np.random.default_rng(seed).random((2, 3, 3, 1))
    fields = {"peak": jnp.float32(30.0), "tolerance": jnp.full((3, 3, 1), 0.05)}
    assert loss(name, y, p, **fields) >= 0
    assert abs(loss(name, y, y, **fields)) < 1e-6


def test_values_of_weight_zero_are_ignored():
    rng = np.random.default_rng(3)
    y, p = rng.random((2, 4, 5, 1))
    weights = np.ones((4, 5, 1))
    weights[1, 2] = 0
    y[1, 2] = 7.0
    kept = weights > 0
    expected = np.mean((y[kept] - p[kept]) ** 2)
    np.testing.assert_allclose(
        loss("gaussian", y, p, weights=jnp.asarray(weights)), expected, rtol=1e-5
    )


def test_the_error_for_an_unknown_likelihood_names_a_similar_one():
    with pytest.raises(InputError, match="'gaussian'"):
        build_likelihood("gausian")


def naive_variation(image, power, add, subtract):
    total = 0.0
    for c in range(image.shape[2]):
        for i in range(image.shape[0] - 1):
            for j in range(image.shape[1] - 1):
                down = image[i + 1, j, c] - image[i, j, c]
                right = image[i, j + 1, c] - image[i, j, c]
                total += (down**2 + right**2 + add) ** power - subtract
    return total


@pytest.mark.parametrize(
    ("form", "add", "subtract"), [("isotropic", 0.0, 0.0), ("smooth", 1e-6, 1e-3)]
)
def test_total_variation_is_the_loop_over_pixels(form, add, subtract):
    image = np.random.default_rng(4).random((5, 6, 2))
    value = total_variation(jnp.asarray(image, jnp.float32), form)
    np.testing.assert_allclose(value, naive_variation(image, 0.5, add, subtract), rtol=1e-5)


def test_a_margin_adds_no_variation():
    image = np.random.default_rng(5).random((5, 6, 1)).astype(np.float32)
    canvas = np.pad(image, [(0, 3), (0, 2), (0, 0)])
    region = np.pad(np.ones((5, 6, 1), np.float32), [(0, 3), (0, 2), (0, 0)])
    whole = total_variation(jnp.asarray(canvas), "isotropic", region=jnp.asarray(region))
    np.testing.assert_allclose(whole, total_variation(jnp.asarray(image), "isotropic"), rtol=1e-6)


@pytest.mark.parametrize("form", ["isotropic", "smooth"])
def test_total_variation_of_a_flat_image_has_gradient_zero(form):
    slope = jax.grad(lambda x: total_variation(x, form))(jnp.full((4, 4, 1), 0.5))
    np.testing.assert_array_equal(slope, np.zeros((4, 4, 1)))
