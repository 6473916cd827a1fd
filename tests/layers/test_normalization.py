"""Normalization and its gradients agree with the plain formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax.layers.normalization import ACTIVATIONS, normalize, normalize_groups


def plain(x, scale, bias, activation):
    """The formula in two passes, for automatic differentiation."""
    mean = x.mean((0, 1), keepdims=True)
    var = ((x - mean) ** 2).mean((0, 1), keepdims=True)
    y = (x - mean) / jnp.sqrt(var + 1e-5)
    return ACTIVATIONS[activation](y * scale[None, None] + bias[None, None])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_values_and_gradients_are_those_of_the_plain_formula(activation, double):
    rng = np.random.default_rng(0)
    x = jnp.array(3 + 2 * rng.standard_normal((6, 7, 4)))
    scale, bias = jnp.array(rng.random(4)), jnp.array(rng.standard_normal(4))
    dy = jnp.array(rng.standard_normal(x.shape))
    ours, transpose = jax.vjp(lambda *a: normalize(*a, activation), x, scale, bias)
    theirs, their_transpose = jax.vjp(lambda *a: plain(*a, activation), x, scale, bias)
    np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-9)
    for a, b in zip(transpose(dy), their_transpose(dy), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-8)


def test_each_channel_has_its_scale_and_bias():
    x = jax.random.normal(jax.random.key(0), (32, 32, 3)) * 5 + 1
    y = normalize(x, jnp.array([0.5, 1.0, 2.0]), jnp.array([0.0, -1.0, 3.0]), "none")
    np.testing.assert_allclose(y.std((0, 1)), [0.5, 1, 2], rtol=1e-4)
    np.testing.assert_allclose(y.mean((0, 1)), [0, -1, 3], atol=1e-5)


def test_a_constant_channel_becomes_its_bias_and_not_nan():
    x = jnp.full((8, 8, 1), 3.3)
    y, transpose = jax.vjp(lambda v: normalize(v, jnp.ones(1), jnp.full(1, 0.25), "none"), x)
    # the rounding of the mean, times 1 / sqrt(1e-5)
    np.testing.assert_allclose(y, 0.25, atol=1e-3)
    assert jnp.isfinite(transpose(jnp.ones_like(x))[0]).all()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("leaky_relu", -1.0, -0.2),
        ("leaky_relu", 2.0, 2.0),
        ("swish", 1.0, 1 / (1 + np.exp(-1))),
        ("elu", -1.0, np.expm1(-1)),
        ("relu", -1.0, 0.0),
        ("none", -1.0, -1.0),
    ],
)
def test_activations_are_the_named_functions(name, value, expected):
    np.testing.assert_allclose(ACTIVATIONS[name](jnp.float32(value)), expected, rtol=1e-6)


def test_groups_are_normalized_as_by_numpy():
    rng = np.random.default_rng(0)
    x = rng.normal(2, 3, (6, 5, 12)).astype(np.float32)
    scale, bias = rng.normal(size=(2, 12)).astype(np.float32)
    found = normalize_groups(
        jnp.asarray(x), jnp.asarray(scale), jnp.asarray(bias), "none", num_groups=8
    )
    expected = np.empty_like(x)
    for first in range(0, 12, 3):  # gcd(12, 8) = 4 groups
        group = x[..., first : first + 3].astype(np.float64)
        expected[..., first : first + 3] = (group - group.mean()) / np.sqrt(group.var() + 1e-5)
    np.testing.assert_allclose(found, expected * scale + bias, rtol=1e-4, atol=1e-5)
    alone = normalize_groups(
        jnp.asarray(x), jnp.asarray(scale), jnp.asarray(bias), "elu", num_groups=12
    )
    single = normalize(jnp.asarray(x), jnp.asarray(scale), jnp.asarray(bias), "elu")
    np.testing.assert_allclose(alone, single, rtol=1e-4, atol=1e-5)
