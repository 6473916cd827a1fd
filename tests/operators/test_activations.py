"""Activations of a classifier obey the contract of operators."""

import jax.numpy as jnp
import numpy as np
import pytest
from skimage.transform import downscale_local_mean

from dip_jax.classifiers.efficientnet_lite import activations, up_to
from dip_jax.classifiers.weights import load_weights
from dip_jax.operators import Activations, UnitActivation, check_operator

LAYER = "block1"


@pytest.fixture(scope="module")
def weights():
    return up_to(load_weights(), LAYER)


def test_activations_are_divided_by_their_scale(weights, image):
    operator = Activations(weights, jnp.float32(4), LAYER)
    check_operator(operator, image.shape)
    expected = np.asarray(activations(weights, jnp.asarray(image), LAYER)) / 4
    np.testing.assert_allclose(operator(jnp.asarray(image)), expected, atol=1e-6)


def test_a_unit_is_the_mean_of_a_channel_over_positions_and_sizes(weights, image):
    whole = image[:40, :32]
    half = np.asarray(downscale_local_mean(whole, (2, 2, 1)), np.float32)
    channels = [np.asarray(activations(weights, jnp.asarray(x), LAYER)) for x in (whole, half)]
    one, two = (UnitActivation(weights, jnp.int32(3), LAYER, n) for n in (1, 2))
    assert one(jnp.asarray(whole)).shape == (1,)
    np.testing.assert_allclose(one(jnp.asarray(whole))[0], channels[0][..., 3].mean(), rtol=1e-5)
    expected = np.mean([y[..., 3].mean() for y in channels])
    # Halving weighs nearer pixels more than the mean of four does.
    np.testing.assert_allclose(two(jnp.asarray(whole))[0], expected, rtol=0.05)
