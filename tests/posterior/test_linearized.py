"""The linearized posterior agrees with the formulas of linear models in NumPy, and its products with differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax.base import Net, Problem
from dip_jax.config import NetConfig
from dip_jax.errors import InputError
from dip_jax.nets import build_net
from dip_jax.operators import Identity, from_function
from dip_jax.posterior import jacobian_product, linearized_posterior

SHAPE = (5, 4, 2)


def linear_net(num_weights):
    """f(w) = J w, and J `[40, num_weights]`; two arrays of weights with unequal priors."""
    jacobian = np.random.default_rng(0).normal(size=(np.prod(SHAPE), num_weights)) / 8

    def init(key):
        return {"a": jnp.full(3, 2.0), "b": jnp.full(num_weights - 3, 0.5)}

    def apply(params, code):
        return (jacobian @ jnp.concatenate([params["a"], params["b"]])).reshape(SHAPE)

    variances = np.concatenate([np.full(3, 4.0), np.full(num_weights - 3, 0.25)])
    return Net(init, apply, SHAPE, SHAPE), jacobian, variances


def exact(jacobian, variances, rows, row_variances):
    """Standard deviation of the image, and the effective dimension, by inverting H."""
    b = rows / np.sqrt(row_variances)[:, None]
    covariance = np.linalg.inv(b.T @ b + np.diag(1 / variances))
    image = jacobian @ covariance @ jacobian.T
    return np.sqrt(np.diag(image)).reshape(SHAPE), np.trace(b @ covariance @ b.T)


def check(found, std, dimension, num_samples):
    assert found.residual < 1e-4
    # Five standard errors, the last of a mean of squares of about `dimension` values.
    np.testing.assert_allclose(found.std, std, rtol=5 / np.sqrt(2 * num_samples))
    assert np.mean(found.std**2) == pytest.approx(np.mean(std**2), rel=0.12)
    error = 5 * np.sqrt(2 * dimension / num_samples)
    assert found.effective_dimension == pytest.approx(dimension, abs=error)


@pytest.mark.parametrize("num_weights", [12, 60])
def test_samples_of_a_linear_network_have_the_posterior_covariance(num_weights, double):
    net, jacobian, variances = linear_net(num_weights)
    measurement = jnp.zeros(SHAPE)
    weights = jnp.asarray(np.random.default_rng(1).random(SHAPE) < 0.6, float)
    problem = Problem(Identity(), measurement, 0.3, weights=weights)
    rows = jacobian[np.asarray(weights).ravel() > 0]
    expected = exact(jacobian, 2.5 * variances, rows, np.full(len(rows), 0.09))
    found = linearized_posterior(
        net,
        net.init(None),
        measurement,
        problem,
        key=jax.random.key(0),
        num_samples=400,
        prior_scale=2.5,
        tolerance=1e-6,
    )
    assert found.samples.shape == (400, *SHAPE)
    check(found, *expected, 400)


def test_a_nonlinear_operator_with_complex_values_is_linearized_at_the_output(double):
    net, jacobian, variances = linear_net(12)
    phases = np.exp(1j * np.random.default_rng(2).random(SHAPE))

    def square(image):
        return phases * image**2

    params = net.init(None)
    problem = Problem(
        from_function(square, shape=SHAPE, is_linear=False), jnp.zeros(SHAPE, complex), 0.3
    )
    output = np.asarray(net.apply(params, None)).ravel()
    rows = phases.ravel()[:, None] * 2 * output[:, None] * jacobian
    rows = np.concatenate([rows.real, rows.imag])
    std, dimension = exact(jacobian, variances, rows, np.full(len(rows), 0.045))
    found = linearized_posterior(
        net,
        params,
        jnp.zeros(SHAPE),
        problem,
        key=jax.random.key(0),
        num_samples=400,
        prior_scale=1.0,
        tolerance=1e-6,
    )
    check(found, std, dimension, 400)


def test_the_scale_of_the_prior_has_the_largest_evidence(double):
    net, jacobian, variances = linear_net(12)
    rng = np.random.default_rng(3)
    w = np.sqrt(3.0 * variances) * rng.normal(size=12)
    y = jacobian @ w + 0.1 * rng.normal(size=len(jacobian))

    def log_evidence(scale):
        covariance = scale * (jacobian * variances) @ jacobian.T + 0.01 * np.eye(len(y))
        return -(np.linalg.slogdet(covariance)[1] + y @ np.linalg.solve(covariance, y)) / 2

    scales = np.geomspace(0.1, 30, 2000)
    best = scales[np.argmax([log_evidence(scale) for scale in scales])]
    # The weights of the fit must not matter: the model is linear, so only the measurement counts.
    params = {"a": jnp.full(3, 5.0), "b": jnp.full(9, -1.0)}
    problem = Problem(Identity(), jnp.asarray(y.reshape(SHAPE)), 0.1)
    found = linearized_posterior(
        net,
        params,
        jnp.zeros(SHAPE),
        problem,
        key=jax.random.key(0),
        num_samples=400,
        num_updates=20,
        tolerance=1e-6,
    )
    # The effective dimension, about 11, is the mean of four chi-squared numbers.
    assert found.prior_scale == pytest.approx(best, rel=4 * np.sqrt(2 / 11 / 4))
    log_ratio = log_evidence(best) - log_evidence(found.prior_scale)
    assert log_ratio < 1.0


def test_an_unknown_noise_level_is_rejected():
    net, _, _ = linear_net(12)
    problem = Problem(Identity(), jnp.zeros(SHAPE), np.nan)
    with pytest.raises(InputError, match="known noise level"):
        linearized_posterior(net, net.init(None), jnp.zeros(SHAPE), problem, key=jax.random.key(0))


TINY_SKIP = NetConfig(
    channels_down=(16, 4),
    channels_up=(16, 4),
    channels_skip=(2, 2),
    input_depth=16,
    downsample=("stride", "max"),
    activation="swish",
)


def tiny_skip():
    net = build_net(TINY_SKIP, (33, 33, 3))
    params = net.init(jax.random.key(0))
    return net, params, jax.random.uniform(jax.random.key(1), net.code_shape)


def test_the_jacobian_of_a_network_of_this_package_is_that_of_differences(double):
    net, params, code = tiny_skip()
    params, code = jax.tree.map(lambda x: x.astype(float), (params, code))
    keys = iter(jax.random.split(jax.random.key(2), 100))
    v = jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape, float), params)
    with pytest.raises(TypeError, match="forward-mode"):  # which is why jacobian_product exists
        jax.jvp(lambda w: net.apply(w, code), (params,), (v,))

    @jax.jit
    def compute(params, v):
        return jacobian_product(lambda w: net.apply(w, code), params, v)

    apply = jax.jit(net.apply)
    step = 1e-6
    after, before = (
        apply(jax.tree.map(jnp.add, params, jax.tree.map(lambda d, e=e: e * d, v)), code)
        for e in (step, -step)
    )
    expected = (after - before) / (2 * step)
    error = np.linalg.norm(compute(params, v) - expected) / np.linalg.norm(expected)
    assert error < 1e-6


@pytest.mark.slow
def test_conjugate_gradients_solve_the_systems_of_a_network():
    net, params, code = tiny_skip()
    reference = net.apply(params, code)
    noise = 0.1 * jax.random.normal(jax.random.key(3), reference.shape)
    hidden = jnp.zeros(reference.shape).at[:, 20:].set(1.0)
    problem = Problem(Identity(), reference + noise, 0.1, weights=1 - hidden)
    build = functools.partial(
        linearized_posterior, net, params, code, problem, key=jax.random.key(4), num_samples=2
    )
    found = build(num_updates=1)
    assert found.residual < 1.5e-2
    unsolved = build(prior_scale=found.prior_scale, iterations=2)
    assert unsolved.residual > 10 * found.residual
    assert found.prior_scale > 0
    assert 1 < found.effective_dimension < 33 * 20 * 3
    assert np.isfinite(found.std).all()
    # Hidden pixels are less certain than measured ones, and no pixel is less certain than its noise level permits.
    assert found.std[:, 25:].mean() > found.std[:, :15].mean()
    assert found.std[:, :20].mean() < 0.1
