import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from dip_jax import losses
from dip_jax.base import Problem
from dip_jax.errors import InputError
from dip_jax.losses import Likelihood, loss_floor, mean_loss, nll_scale
from dip_jax.operators.basic import Identity, Mask

LIKELIHOODS = {
    "gaussian": losses.gaussian,
    "poisson": losses.poisson,
    "tobit": losses.tobit,
    "laplace": losses.laplace,
    "interval": losses.interval(pull=0.0),
    "poisson_gauss": losses.poisson_gauss,
}


def problem(y, **fields):
    return Problem(Identity(), jnp.asarray(y, jnp.float32), jnp.float32(0.0), **fields)


def loss(name, y, p, **fields):
    """The mean loss of a prediction."""
    return mean_loss(LIKELIHOODS[name], jnp.asarray(p, jnp.float32), problem(y, **fields))


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
    value = losses.gaussian(jnp.asarray(p, jnp.complex64), prob)
    np.testing.assert_allclose(value, [1, 16])


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
        return peak * mean_loss(losses.poisson_gauss, jnp.asarray([p]), prob)

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
        value, slope = jax.value_and_grad(lambda q, n=name: loss(n, y, q, peak=10.0))(p)
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
    pulled = losses.interval()(jnp.asarray(p), prob)
    center = np.square(np.subtract(p, y))
    np.testing.assert_allclose(pulled, [0, 0.1**2, 0.2**2] + 0.3 * center, rtol=1e-5)


@pytest.mark.parametrize("name", LIKELIHOODS)
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


def test_the_mean_over_a_canvas_is_that_over_the_image():
    rng = np.random.default_rng(4)
    y, p = rng.random((2, 4, 5, 1))
    margins = [(0, 2), (0, 3), (0, 0)]
    region = np.pad(np.ones((4, 5, 1)), margins)
    found = loss("laplace", np.pad(y, margins), np.pad(p, margins), region=jnp.asarray(region))
    np.testing.assert_allclose(found, np.mean(np.abs(y - p)), rtol=1e-5)


def worst(prediction, problem):
    """A scalar loss that depends on the order of prediction and measurement."""
    return jnp.max(prediction - 2 * problem.measurement)


def test_a_scalar_loss_is_taken_as_it_is():
    y, p = [0.5, 0.1, 0.3], [0.2, 0.9, 0.4]
    value, slope = jax.value_and_grad(lambda q: mean_loss(worst, q, problem(y)))(jnp.asarray(p))
    np.testing.assert_allclose(value, 0.9 - 2 * 0.1, rtol=1e-6)
    np.testing.assert_array_equal(slope, [0, 1, 0])


@pytest.mark.parametrize("field", ["weights", "region"])
def test_a_scalar_loss_sees_zeros_for_values_of_weight_zero(field):
    # ignored values have the largest excess; NaN would reach the gradient of a product
    y = np.array([0.5, 0.1, -9.0, np.nan]).reshape(2, 2, 1)
    p = np.array([0.2, 0.9, 0.4, 7.0]).reshape(2, 2, 1)
    used = jnp.asarray([[1.0, 1.0], [0.0, 0.0]])[..., None]
    prob = problem(y, **{field: used})

    def both(prediction, problem):
        ignored = prediction[1:], problem.measurement[1:]
        return worst(prediction, problem) + 100 * jnp.sum(jnp.abs(jnp.stack(ignored)))

    value, slope = jax.value_and_grad(lambda q: mean_loss(both, q, prob))(jnp.float32(p))
    np.testing.assert_allclose(value, 0.9 - 2 * 0.1, rtol=1e-6)
    np.testing.assert_array_equal(slope.ravel(), [0, 1, 0, 0])


@pytest.mark.parametrize(
    "wrong", [lambda p, problem: p[:1], lambda p, problem: p[..., None], lambda p, problem: p[0]]
)
def test_a_loss_of_another_shape_is_refused(wrong):
    with pytest.raises(InputError, match=r"scalar or has the shape of the measurement \(3, 2\)"):
        mean_loss(wrong, jnp.ones((3, 2)), problem(np.ones((3, 2))))


def test_a_likelihood_is_its_misfit():
    cauchy = Likelihood(
        lambda p, problem: jnp.log1p(((p - problem.measurement) / 0.1) ** 2),
        nll_scale=lambda problem: 2.0 * problem.measurement.size,
        floor=0.5,
    )
    rng = np.random.default_rng(8)
    y, p = rng.random((2, 4, 3, 1)).astype(np.float32)
    prob = problem(y)
    found = cauchy(jnp.asarray(p), prob)
    densities = stats.cauchy.logpdf(y, p, 0.1)
    np.testing.assert_allclose(found, stats.cauchy.logpdf(0, 0, 0.1) - densities, rtol=1e-4)
    np.testing.assert_allclose(mean_loss(cauchy, jnp.asarray(p), prob), np.mean(found), rtol=1e-6)
    assert nll_scale(cauchy, prob) == 24
    assert loss_floor(cauchy) == 0.5


def test_the_floor_is_the_loss_of_an_error_of_a_quarter_of_a_gray_level():
    error = 0.25 / 255
    assert loss_floor(lambda p, problem: p) == pytest.approx(error**2)
    for name in ("gaussian", "tobit", "laplace", "interval"):
        found = loss_floor(LIKELIHOODS[name])
        np.testing.assert_allclose(found, loss(name, [0.5], [0.5 + error]), rtol=1e-3)


def test_the_scale_turns_losses_into_negative_log_likelihoods():
    y = jnp.zeros((5, 4, 1))
    prob = Problem(Identity(), y, 0.1, peak=30.0)
    # the log density of a normal variable: -r^2 / (2 s^2); of a Laplace one: -|r| sqrt(2) / s
    assert np.isclose(nll_scale(losses.gaussian, prob), 20 / (2 * 0.1**2))
    assert np.isclose(nll_scale(losses.tobit, prob._replace(peak=None)), 20 / (2 * 0.1**2))
    assert np.isclose(nll_scale(losses.interval(), prob), 20 / (2 * 0.1**2))
    assert np.isclose(nll_scale(losses.laplace, prob), 20 * np.sqrt(2) / 0.1)
    assert np.isclose(nll_scale(losses.poisson, prob), 20 * 30)
    assert np.isclose(nll_scale(losses.poisson_gauss, prob), 20 * 30)
    waves = prob._replace(measurement=y + 0j)
    assert np.isclose(nll_scale(losses.gaussian, waves), 20 / 0.1**2)
    # |r| of the complex density exp(-|r| / b) / (2 pi b^2) is a gamma variable of shape 2, with E r^2 = 6 b^2.
    radii = np.random.default_rng(0).gamma(2, 1 / nll_scale(losses.laplace, waves) * 20, 100_000)
    assert np.sqrt(np.mean(radii**2)) == pytest.approx(0.1, rel=0.02)
    half = prob._replace(weights=jnp.ones_like(y).at[:, :2].set(0))
    assert np.isclose(nll_scale(losses.gaussian, half), 10 / (2 * 0.1**2))
    margin = prob._replace(region=jnp.ones((5, 4, 1)).at[4].set(0))
    assert np.isclose(nll_scale(losses.gaussian, margin), 16 / (2 * 0.1**2))


def test_the_scale_of_a_plain_function_and_of_photons_without_a_peak_are_refused():
    with pytest.raises(InputError, match=r"losses\.Likelihood"):
        nll_scale(losses.gaussian_misfit, problem([0.5]))
    for photons in (losses.poisson, losses.poisson_gauss):
        with pytest.raises(InputError, match="peak"):
            nll_scale(photons, problem([0.5]))


def tobit_nll(y, p, std):
    """The negative log likelihood of each value, without log(s sqrt(2 pi)) of those between the limits."""
    prob = Problem(Identity(), jnp.asarray(y, jnp.float32), jnp.float32(std))
    p = jnp.broadcast_to(jnp.asarray(p, jnp.float32), prob.measurement.shape)
    return losses.tobit(p, prob) * nll_scale(losses.tobit, prob) / np.size(y)


@pytest.mark.parametrize("p", [-0.3, 0.0, 0.4, 0.95, 1.2])
@pytest.mark.parametrize("std", [0.05, 0.2, 0.5])
def test_the_tobit_likelihood_is_a_density_between_two_probabilities(p, std):
    y = np.linspace(0, 1, 20_001)
    density = np.exp(-np.float64(tobit_nll(y[1:-1], p, std))) / (std * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(density, stats.norm.pdf(y[1:-1], p, std), rtol=1e-3, atol=1e-30)
    at_black, at_white = np.exp(-np.float64(tobit_nll([0.0, 1.0], p, std)))
    np.testing.assert_allclose(at_black, stats.norm.cdf(0, p, std), rtol=1e-4, atol=1e-30)
    np.testing.assert_allclose(at_white, stats.norm.sf(1, p, std), rtol=1e-4, atol=1e-30)
    # The ends of the trapezoids, where the likelihood is a probability, have the next density.
    inside = np.trapezoid(np.concatenate([density[:1], density, density[-1:]]), y)
    assert at_black + inside + at_white == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("std", [0.0, 1 / 255, 0.1, 1.0])
def test_the_tobit_misfit_and_its_gradient_are_those_of_scipy_far_outside_too(std):
    z = np.array([-5000.0, -50.0, -3.0, 0.0, 3.0, 9.9, 10.1, 50.0, 5000.0])
    s = max(std, 1 / 255)
    misfits = -2 * s**2 * stats.norm.logcdf(-z)
    slopes = 2 * s * np.exp(stats.norm.logpdf(z) - stats.norm.logcdf(-z))
    for y, sign in ((0.0, 1), (-0.2, 1), (1.0, -1), (1.3, -1)):
        prob = problem(np.full(z.shape, y))._replace(noise_std=jnp.float32(std))
        limit = min(max(y, 0.0), 1.0)
        p = jnp.asarray(limit + sign * z * s, jnp.float32)
        values = losses.tobit(p, prob)
        found = jax.grad(lambda q, b=prob: losses.tobit(q, b).sum())(p)
        assert (values >= 0).all()
        rounding = 1e-6 / s  # of p, in noise levels
        tolerance = 1e-4 + 8 * rounding
        np.testing.assert_allclose(values, misfits, rtol=tolerance, atol=1e-9)
        np.testing.assert_allclose(found, sign * slopes, rtol=tolerance, atol=1e-9)


def test_the_mean_of_many_clipped_values_maximizes_the_tobit_likelihood_only():
    mean, std, num = 0.95, 0.2, 20_000
    y = np.clip(np.random.default_rng(0).normal(mean, std, num), 0, 1)
    prob = problem(y)._replace(noise_std=jnp.float32(std))

    def fitted(likelihood):
        def total(q):
            p = jnp.full(num, q, jnp.float32)
            return float(mean_loss(likelihood, p, prob))

        return optimize.minimize_scalar(total, bounds=(0, 2), method="bounded").x

    # Fisher information of one value, of the part between the limits and of both probabilities.
    a, b = -mean / std, (1 - mean) / std
    density, below, above = stats.norm.pdf([a, b]), stats.norm.cdf(a), stats.norm.sf(b)
    inside = 1 - below - above + a * density[0] - b * density[1]
    information = (inside + density[0] ** 2 / below + density[1] ** 2 / above) / std**2
    error = 1 / np.sqrt(num * information)
    assert error < 0.002
    assert abs(fitted(losses.tobit) - mean) < 2.5 * error
    assert fitted(losses.gaussian) < mean - 20 * error


def test_without_a_noise_level_values_at_a_limit_have_a_misfit_on_one_side():
    prob = problem([0.0, 0.0, 1.0, 1.0, 0.5])._replace(noise_std=jnp.float32(np.nan))
    found = losses.tobit(jnp.asarray([-0.4, 0.4, 0.6, 1.4, 0.3]), prob)
    np.testing.assert_allclose(found, [0, 0.4**2, 0.4**2, 0, 0.2**2], atol=4e-4)


def test_the_tobit_likelihood_of_complex_values_is_refused():
    prob = problem(0.0)._replace(measurement=jnp.asarray([1 + 2j], jnp.complex64))
    with pytest.raises(InputError, match="complex measurement"):
        losses.tobit(jnp.asarray([1j], jnp.complex64), prob)


@pytest.mark.parametrize(
    ("num_clipped", "is_much"), [(0, False), (4, False), (5, True), (40, True)]
)
def test_the_tobit_likelihood_holds_if_much_was_clipped_in_the_image_without_its_margin(
    num_clipped, is_much
):
    y = np.full((10, 20, 1), 0.5, np.float32)
    y[:5].reshape(-1)[:num_clipped] = np.arange(num_clipped) % 2
    y[5:] = 0
    region = jnp.asarray((np.arange(10) < 5).astype(np.float32))[:, None, None] * jnp.ones(
        (10, 20, 1)
    )
    problem = Problem(Identity(), jnp.asarray(y), 0.1, region=region)
    p = jnp.linspace(-0.2, 1.2, 200).reshape(10, 20, 1)
    found = losses.gaussian_or_tobit(p, problem)
    expected = losses.tobit if is_much else losses.gaussian
    np.testing.assert_array_equal(found, expected(p, problem))


def test_values_of_another_measurement_are_not_clipped_noise():
    mask = jnp.ones((10, 10, 1))
    problem = Problem(Mask(mask), jnp.zeros((10, 10, 1)), 0.1)
    p = jnp.full((10, 10, 1), -0.1)
    np.testing.assert_allclose(losses.gaussian_or_tobit(p, problem), 0.01, rtol=1e-5)
