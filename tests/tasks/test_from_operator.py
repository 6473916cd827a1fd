import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax import case_from_operator
from dip_jax.errors import InputError
from dip_jax.losses import gaussian, mean_loss
from dip_jax.operators.blur import Blur


def rows(image):
    return image[::2]


def test_the_case_of_a_function_has_its_measurement_and_the_adjoint_as_preview():
    image = np.random.default_rng(0).random((8, 6, 2), np.float32)
    case = case_from_operator("a", image[::2], rows, (8, 6, 2), noise_std=0.1, reference=image)
    assert case.problem.operator.is_linear
    np.testing.assert_array_equal(case.problem.measurement, image[::2])
    assert case.problem.noise_std == np.float32(0.1)
    expected = np.zeros_like(image)
    expected[::2] = image[::2]
    np.testing.assert_allclose(case.preview, expected / expected.max(), rtol=1e-6)


def test_a_function_that_is_not_linear_is_detected():
    case = case_from_operator("a", np.ones((4, 4, 1)), lambda x: x**2, (4, 4, 1))
    assert not case.problem.operator.is_linear
    assert np.isnan(case.problem.noise_std)


def test_an_operator_is_taken_as_it_is():
    blur = Blur(jnp.full((3, 3), 1 / 9))
    assert case_from_operator("a", np.ones((8, 8, 1)), blur, (8, 8, 1)).problem.operator is blur


@pytest.mark.parametrize(
    ("operator", "measurement", "match"),
    [
        (rows, np.ones((3, 6, 2)), "shape"),
        (lambda image: jnp.sign(image), np.ones((8, 6, 2)), "derivative|gradient"),
    ],
)
def test_a_measurement_or_a_function_that_does_not_fit_is_refused(operator, measurement, match):
    with pytest.raises(InputError, match=match):
        case_from_operator("a", measurement, operator, (8, 6, 2))


def test_values_of_weight_zero_may_be_nan_and_weights_are_broadcast():
    y = np.ones((4, 6, 3), np.float32)
    y[0, 0] = np.nan
    weights = np.ones((4, 6, 1))
    weights[0, 0] = 0
    case = case_from_operator("a", y, lambda x: 0.5 * x, (4, 6, 3), weights=weights)
    assert case.problem.weights.shape == (4, 6, 3)
    assert case.problem.measurement[0, 0].tolist() == [0, 0, 0]
    loss = mean_loss(gaussian, jnp.zeros((4, 6, 3)), case.problem)
    np.testing.assert_allclose(loss, 1.0)


class NoTree:
    is_linear = True

    def __call__(self, image):
        return image[::2]


def declared(image):
    return image[::2]


declared.is_linear = True


@pytest.mark.parametrize("operator", [NoTree(), declared])
def test_an_operator_that_is_no_tree_of_arrays_is_a_function_with_its_attributes(operator):
    case = case_from_operator("a", np.ones((4, 6, 2)), operator, (8, 6, 2))
    assert case.problem.operator.is_linear
    assert jax.tree.leaves(case.problem.operator) == []


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"measurement": np.ones((8, 6, 2), np.uint8)}, "divide by the white"),
        ({"measurement": np.full((8, 6, 2), np.nan)}, "finite"),
        ({"measurement": np.ones((8, 6, 2)) * 1j}, "complex"),
        ({"weights": np.ones((3, 2))}, "broadcast"),
        ({"reference": np.ones((5, 5))}, "reference of shape"),
        ({"operator": 3}, "function of an image"),
    ],
)
def test_an_array_that_does_not_fit_is_refused(arguments, match):
    given = {"measurement": np.ones((8, 6, 2)), "operator": lambda x: x, "shape": (8, 6, 2)}
    with pytest.raises(InputError, match=match):
        case_from_operator("a", **given | arguments)
