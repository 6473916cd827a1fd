import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax.errors import InputError
from dip_jax.operators import Identity, Mask, adjoint, check_operator


def some_mask(height=9, width=7):
    return Mask(jnp.asarray(np.random.default_rng(0).random((height, width, 1)) > 0.4, jnp.float32))


class Broken:
    """An operator made from any function."""

    def __init__(self, function, is_linear=True):
        self.function, self.is_linear = function, is_linear

    def __call__(self, image):
        return self.function(image)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (9, 7), (5, 16)])
@pytest.mark.parametrize("kind", ["identity", "mask"])
def test_the_adjoint_passes_the_dot_product_test(kind, size, channels):
    operator = Identity() if kind == "identity" else some_mask(*size)
    rng = np.random.default_rng(1)
    x, y = (jnp.float32(rng.standard_normal((*size, channels))) for _ in range(2))
    left = jnp.vdot(operator(x), y)
    np.testing.assert_allclose(
        left, jnp.vdot(x, adjoint(operator, x.shape)(y)), rtol=1e-4, atol=1e-5
    )
    check_operator(operator, x.shape)


def test_a_mask_keeps_the_known_and_zeroes_the_missing():
    mask = np.array([[1, 0], [0, 1]], np.float32)[..., None]
    image = np.arange(1, 13, dtype=np.float32).reshape(2, 2, 3)
    expected = image.copy()
    expected[0, 1] = expected[1, 0] = 0
    np.testing.assert_array_equal(Mask(jnp.asarray(mask))(jnp.asarray(image)), expected)


def test_operators_are_trees_and_can_be_stacked():
    masks = [some_mask(), some_mask()]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *masks)
    image = jnp.ones((2, 9, 7, 1))
    y = jax.vmap(lambda operator, x: operator(x))(stacked, image)
    np.testing.assert_array_equal(y[1], masks[1](image[1]))


@jax.custom_vjp
def _lies(x):
    return 2 * x


_lies.defvjp(lambda x: (2 * x, None), lambda _, dy: (1.5 * dy,))


@pytest.mark.parametrize(
    ("operator", "words"),
    [
        (Broken(lambda x: x + 1), r"differs .* by 0\.\d+"),
        (Broken(lambda x: x**2), r"differs .* by \d"),
        (Broken(lambda x: x / 0), "63 values of 63"),
        (Broken(lambda x: (x * 3).astype(jnp.int32)), "int32"),
        (Broken(lambda x: x.reshape(3)), "failed on an image"),
        (Broken(lambda x: (x, x)), "one array"),
        (Broken(lambda x: undefined(x)), "NameError"),  # noqa: F821
        (Broken(lambda x: jnp.sqrt(x - x), is_linear=False), "gradient"),
    ],
)
def test_a_broken_operator_is_refused_with_the_number(operator, words):
    shape = (9, 7, 1)
    with pytest.raises(InputError, match=words):
        check_operator(operator, shape)


def test_a_custom_gradient_that_lies_is_refused():
    with pytest.raises(InputError, match=r"differ by 0\.\d+ .* gradient is wrong"):
        check_operator(Broken(_lies), (4, 4, 1))


def test_an_operator_that_is_not_linear_and_says_so_passes():
    assert check_operator(Broken(lambda x: jnp.sqrt(x + 1), is_linear=False), (9, 7, 1)) is None


def test_an_operator_that_is_not_linear_has_no_adjoint():
    with pytest.raises(InputError, match="not linear"):
        adjoint(Broken(jnp.sqrt, is_linear=False), (4, 4, 1))


def test_complex_measurements_pass_the_contract_and_have_a_true_adjoint():
    def fourier(x):
        return jnp.fft.fft2(x, axes=(0, 1))

    check_operator(Broken(fourier), (8, 6, 1))
    # The adjoint of the unnormalised transform is its inverse, times the number of pixels.
    x = jnp.asarray(np.random.default_rng(0).random((8, 6, 1)), jnp.float32)
    np.testing.assert_allclose(adjoint(Broken(fourier), x.shape)(fourier(x)), 48 * x, rtol=1e-4)


def test_operators_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        some_mask().mask = None
