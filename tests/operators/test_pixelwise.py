import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax.operators.basic import Identity, Mask
from dip_jax.operators.bayer import Bayer, Gray
from dip_jax.operators.blur import Blur
from dip_jax.operators.downsample import Downsample
from dip_jax.operators.from_file import CustomOperator
from dip_jax.operators.jpeg import Coefficients
from dip_jax.operators.pixelwise import is_pixelwise, measured_std
from dip_jax.operators.radon import Radon
from dip_jax.operators.sensing import RandomMatrix, SubsampledFourier


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).random(shape), jnp.float32)


def test_pixelwise_operators_are_declared_so_by_their_class():
    assert all(map(is_pixelwise, (Identity, Mask, Gray, Bayer)))
    others = (
        Blur,
        Coefficients,
        CustomOperator,
        Downsample,
        Radon,
        RandomMatrix,
        SubsampledFourier,
    )
    assert not any(map(is_pixelwise, others))


def test_an_object_may_declare_itself_pixelwise():
    assert is_pixelwise(CustomOperator(jnp.sqrt, False, is_pixelwise=True))
    assert not is_pixelwise(CustomOperator(jnp.sqrt, False))


@pytest.mark.parametrize("operator", [Identity(), Mask(draw(1, 5, 7, 1).round()), Bayer("GRBG")])
def test_a_copied_value_has_exactly_the_std_of_its_pixel(operator):
    mean, std = draw(2, 5, 7, 3), draw(3, 5, 7, 3)
    np.testing.assert_array_equal(measured_std(operator, mean, std), operator(std))


def test_the_std_of_a_curve_is_that_of_its_samples():
    def curve(x):
        return jnp.log(2 - x)  # its slope is negative

    rng = np.random.default_rng(4)
    mean, std = draw(5, 2, 3, 1), 0.01 + 0.02 * draw(6, 2, 3, 1)
    operator = CustomOperator(curve, False, is_pixelwise=True)
    noise = rng.standard_normal((20_000, *mean.shape)).astype(np.float32)
    samples = curve(np.asarray(mean) + np.asarray(std) * noise)
    # Five standard errors of a std of 20,000 samples, plus the second-order term.
    np.testing.assert_allclose(measured_std(operator, mean, std), samples.std(axis=0), rtol=0.04)


def test_a_mixture_of_channels_needs_their_covariance():
    assert measured_std(Gray(), draw(7, 4, 4, 3), draw(8, 4, 4, 3)) is None
