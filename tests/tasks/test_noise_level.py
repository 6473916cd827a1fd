import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import data

from dip_jax.base import Case, Problem
from dip_jax.operators.basic import Identity, Mask
from dip_jax.operators.bayer import Bayer
from dip_jax.operators.downsample import Downsample
from dip_jax.operators.radon import Radon
from dip_jax.operators.sensing import SubsampledFourier
from dip_jax.problem import informative_mask, noise_variance
from dip_jax.tasks.noise_level import estimate_noise_std, with_noise_std

KEY = jax.random.key(0)


def clean(channels=3):
    """A crop of a photograph with little texture, `[96, 80, C]`."""
    crop = data.rocket()[100:196, 200:280].astype(np.float32) / 255
    return crop[..., :channels] * 0.6 + 0.2


def noisy(std, channels=3, seed=0):
    x = clean(channels)
    return (x + std * np.random.default_rng(seed).standard_normal(x.shape)).astype(np.float32)


def case(measurement, operator=None, shape=None, **fields):
    given = {"noise_std": jnp.float32(np.nan), **fields}
    problem = Problem(operator or Identity(), jnp.asarray(measurement), **given)
    return Case("a", problem, shape or measurement.shape)


@pytest.mark.parametrize("level", [5, 15, 25, 50])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_estimate_is_that_of_simulated_noise(level, channels):
    found = 255 * estimate_noise_std(case(noisy(level / 255, channels)))
    # 7 % is five standard errors of a median of 2000 values, and texture adds its own 1.5 gray levels
    assert 0.93 * level < found < 1.07 * np.hypot(level, 1.5)


def test_texture_reads_as_noise():
    assert estimate_noise_std(case(clean())) < 1.5 / 255
    grass = data.grass()[:96, :80, None].astype(np.float32) / 255
    assert 5 / 255 < estimate_noise_std(case(grass)) < 20 / 255


@pytest.mark.parametrize("level", [5, 25])
def test_of_a_masked_picture_only_known_neighbors_count(level):
    mask = (np.random.default_rng(1).random((96, 80, 1)) < 0.5).astype(np.float32)
    given = case(noisy(level / 255) * mask, Mask(jnp.asarray(mask)))
    # a sixteenth of the blocks: 480 in each of three channels
    found = 255 * estimate_noise_std(given)
    error = 5 * 1.17 / np.sqrt(3 * 480)
    assert (1 - error) * level < found < (1 + error) * np.hypot(level, 1.5)


def test_weights_and_margins_are_left_out_too():
    y = noisy(25 / 255)
    weights = np.ones(y.shape, np.float32)
    y[:30], weights[:30] = np.random.default_rng(2).random((30, 80, 3)), 0
    assert abs(255 * estimate_noise_std(case(y, weights=jnp.asarray(weights))) - 25) < 2.5
    region = np.pad(np.ones((96, 80, 1), np.float32), [(0, 32), (0, 0), (0, 0)])
    padded = np.pad(noisy(25 / 255), [(0, 32), (0, 0), (0, 0)])
    assert abs(255 * estimate_noise_std(case(padded, region=jnp.asarray(region))) - 25) < 2.5


def test_a_small_picture_of_a_large_one_is_a_picture():
    given = case(noisy(10 / 255), Downsample(4, "box"), (382, 320, 3))
    assert abs(255 * estimate_noise_std(given) - 10) < 1.5


def unclear():
    rng = np.random.default_rng(0)
    y = noisy(25 / 255)
    sparse = np.zeros((96, 80, 1), np.float32)
    sparse[::2, ::2] = 1
    square = rng.random((96, 96)).astype(np.float32)
    return {
        "photons": case(y, peak=jnp.float32(30)),
        "mosaic": case(y[..., :1], Bayer(), (96, 80, 3)),
        "frequencies": case(
            np.fft.fft2(y, axes=(0, 1)).astype(np.complex64), SubsampledFourier(jnp.ones((96, 80)))
        ),
        "sinogram": case(rng.random((136, 96, 1)).astype(np.float32), Radon(96), (96, 96, 1)),
        "coefficients": case(rng.random(96 * 80 * 3).astype(np.float32), shape=(96, 80, 3)),
        "no neighbors": case(y * sparse, Mask(jnp.asarray(sparse))),
        "few neighbors": case(square[:16, :16, None], Mask(jnp.ones((16, 16, 1)).at[8:].set(0.0))),
    }


@pytest.mark.parametrize("what", sorted(unclear()))
def test_what_cannot_be_told_is_not_guessed(what):
    given = unclear()[what]
    assert np.isnan(estimate_noise_std(given))
    assert with_noise_std(given) is given


def test_the_estimate_goes_into_the_case_with_a_note():
    given = case(noisy(25 / 255))._replace(notes=("first",))
    filled = with_noise_std(given)
    assert float(filled.problem.noise_std) == np.float32(estimate_noise_std(given))
    assert filled.notes[0] == "first"
    assert (
        filled.notes[1]
        == f"noise estimated: {255 * float(filled.problem.noise_std):.1f} gray levels"
    )
    assert with_noise_std(filled) is filled


def test_what_is_known_stays():
    given = case(noisy(25 / 255), noise_std=jnp.float32(0))
    assert with_noise_std(given) is given


def test_what_counts_is_what_depends_on_the_picture():
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
    for name, (problem, counts) in expected.items():
        found = informative_mask(KEY, problem, shape)
        assert found.shape == problem.measurement.shape
        np.testing.assert_array_equal(found, counts, err_msg=name)


def test_an_operator_that_is_not_linear_may_make_zeros_that_count():
    class Dark:
        is_linear = False

        def __call__(self, image):
            return jnp.maximum(image - 2, 0)

    problem = Problem(Dark(), jnp.zeros((8, 6, 1)), 0.1)
    assert informative_mask(KEY, problem, (8, 6, 1)).all()


def test_the_variance_is_that_of_the_parts_added():
    values = jnp.asarray([-0.1, 0.0, 0.5, 1.0])
    plain = Problem(Identity(), values, 0.1)
    np.testing.assert_allclose(noise_variance(plain, values), 0.01, rtol=1e-6)
    photons = plain._replace(peak=jnp.float32(10))
    np.testing.assert_allclose(noise_variance(photons, values), [0.01, 0.01, 0.06, 0.11], rtol=1e-6)
    unknown = photons._replace(noise_std=jnp.nan)
    np.testing.assert_allclose(noise_variance(unknown, values), [0, 0, 0.05, 0.1], rtol=1e-6)
    assert np.isnan(noise_variance(unknown._replace(peak=None), values)).all()
