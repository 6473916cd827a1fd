import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax.operators.basic import Identity, Mask


def random_mask(seed, height=9, width=7):
    mask = np.random.default_rng(seed).random((height, width, 1)) > 0.4
    return Mask(jnp.asarray(mask, jnp.float32))


def test_the_identity_returns_the_image():
    image = jnp.arange(12.0).reshape(2, 2, 3)
    np.testing.assert_array_equal(Identity()(image), image)


def test_a_mask_keeps_the_known_and_zeroes_the_missing_pixels():
    mask = np.array([[1, 0], [0, 1]], np.float32)[..., None]
    image = np.arange(1, 13, dtype=np.float32).reshape(2, 2, 3)
    expected = image.copy()
    expected[0, 1] = expected[1, 0] = 0
    np.testing.assert_array_equal(Mask(jnp.asarray(mask))(jnp.asarray(image)), expected)


def test_the_margin_of_a_padded_mask_is_missing():
    mask = random_mask(0, 5, 7)
    padded = mask.pad(8, 9)
    np.testing.assert_array_equal(padded.mask, np.pad(mask.mask, [(0, 3), (0, 2), (0, 0)]))


def test_operators_are_pytrees_and_can_be_stacked():
    masks = [random_mask(0), random_mask(1)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *masks)
    image = jnp.ones((2, 9, 7, 1))
    y = jax.vmap(lambda operator, x: operator(x))(stacked, image)
    np.testing.assert_array_equal(y[1], masks[1](image[1]))


def test_operators_are_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        random_mask(0).mask = None
