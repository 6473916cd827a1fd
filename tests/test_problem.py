import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Problem
from dip_jax.operators.basic import Identity, Mask
from dip_jax.operators.bayer import Bayer
from dip_jax.operators.sensing import SubsampledFourier
from dip_jax.problem import informative_mask, noise_variance

KEY = jax.random.key(0)


def test_a_value_is_informative_if_it_depends_on_the_image():
    rng = np.random.default_rng(0)
    mask = jnp.asarray(rng.random((8, 6, 1)) < 0.5, jnp.float32)
    shape = (8, 6, 3)
    frequencies = jnp.asarray(rng.random((8, 6)) < 0.5, jnp.float32)
    weights = jnp.ones(shape).at[0].set(0.0)
    expected = {
        "all": (Problem(Identity(), jnp.zeros(shape), 0.1), np.ones(shape)),
        "mask": (Problem(Mask(mask), jnp.zeros(shape), 0.1), np.broadcast_to(mask, shape)),
        "fourier": (
            Problem(SubsampledFourier(frequencies), jnp.zeros(shape, jnp.complex64), 0.1),
            np.broadcast_to(frequencies[..., None], shape),
        ),
        "both": (Problem(Mask(mask), jnp.zeros(shape), 0.1, weights=weights), mask * weights),
        "region": (
            Problem(Bayer(), jnp.zeros((8, 6, 1)), 0.1, region=mask),
            np.asarray(mask),
        ),
    }
    for name, (problem, mask_expected) in expected.items():
        found = informative_mask(KEY, problem, shape)
        assert found.shape == problem.measurement.shape
        np.testing.assert_array_equal(found, mask_expected, err_msg=name)


def test_the_zeros_of_a_nonlinear_operator_are_informative():
    class Dark:
        is_linear = False

        def __call__(self, image):
            return jnp.maximum(image - 2, 0)

    problem = Problem(Dark(), jnp.zeros((8, 6, 1)), 0.1)
    assert informative_mask(KEY, problem, (8, 6, 1)).all()


def test_the_variances_of_photons_and_read_out_noise_add_up():
    values = jnp.asarray([-0.1, 0.0, 0.5, 1.0])
    plain = Problem(Identity(), values, 0.1)
    np.testing.assert_allclose(noise_variance(plain, values), 0.01, rtol=1e-6)
    photons = plain._replace(peak=jnp.float32(10))
    np.testing.assert_allclose(noise_variance(photons, values), [0.01, 0.01, 0.06, 0.11], rtol=1e-6)
    unknown = photons._replace(noise_std=jnp.nan)
    np.testing.assert_allclose(noise_variance(unknown, values), [0, 0, 0.05, 0.1], rtol=1e-6)
    assert np.isnan(noise_variance(unknown._replace(peak=None), values)).all()
