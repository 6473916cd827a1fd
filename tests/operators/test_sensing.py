import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dip_jax.errors import InputError
from dip_jax.operators.checks import adjoint
from dip_jax.operators.sensing import (
    RandomMatrix,
    SubsampledFourier,
    random_frequencies,
    random_matrix,
)

KEY = jax.random.key(0)


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(8, 6, 1), (7, 5, 3)])
def test_the_measured_frequencies_are_numpys(shape):
    image, mask = draw(0, *shape), random_frequencies(KEY, shape, 0.4)
    y = SubsampledFourier(jnp.asarray(mask))(jnp.asarray(image))
    expected = np.fft.fft2(image.astype(float), axes=(0, 1), norm="ortho") * mask[..., None]
    np.testing.assert_allclose(y, expected, atol=1e-5)
    assert y.dtype == jnp.complex64


@pytest.mark.parametrize(("height", "width", "channels"), [(1, 1, 1), (8, 12, 3), (7, 5, 1)])
def test_all_frequencies_together_keep_the_energy(height, width, channels):
    image = jnp.asarray(draw(1, height, width, channels))
    y = SubsampledFourier(jnp.ones((height, width)))(image)
    np.testing.assert_allclose(jnp.sum(jnp.abs(y) ** 2), jnp.sum(image**2), rtol=1e-4)


def test_the_adjoint_of_all_frequencies_is_the_inverse():
    image, operator = jnp.asarray(draw(2, 6, 9, 3)), SubsampledFourier(jnp.ones((6, 9)))
    np.testing.assert_allclose(adjoint(operator, image.shape)(operator(image)), image, atol=1e-5)


def test_a_frequency_mask_of_another_size_is_refused():
    with pytest.raises(InputError, match=r"\[6, 9\].*got \[9, 6\]"):
        SubsampledFourier(jnp.ones((6, 9)))(jnp.ones((9, 6, 1)))


@settings(max_examples=20, deadline=None)
@given(fraction=st.floats(0.001, 1), seed=st.integers(0, 9))
@pytest.mark.parametrize(("height", "width"), [(1, 1), (9, 14), (16, 5)])
def test_random_frequencies_have_exactly_the_requested_fraction(height, width, fraction, seed):
    mask = random_frequencies(jax.random.key(seed), (height, width), fraction)
    assert mask.shape == (height, width)
    assert set(np.unique(mask)) <= {0, 1}
    assert mask.sum() == max(1, round(fraction * height * width))
    assert mask[0, 0] == 1


def test_the_lowest_frequencies_are_certain_and_high_ones_are_rare():
    shape = (32, 48)
    masks = [random_frequencies(jax.random.key(seed), shape, 0.2) for seed in range(20)]
    mean = np.mean(masks, axis=0)
    radius = np.hypot(np.fft.fftfreq(32)[:, None], np.fft.fftfreq(48)[None, :])
    lowest = np.argsort(radius, axis=None)[: round(0.2 * 32 * 48) // 5]
    assert mean.ravel()[lowest].min() == 1
    rings = [mean[(radius >= r) & (radius < r + 0.15)].mean() for r in (0, 0.15, 0.3, 0.45)]
    assert rings == sorted(rings, reverse=True)
    assert not np.array_equal(masks[0], masks[1])
    np.testing.assert_array_equal(masks[0], random_frequencies(jax.random.key(0), shape, 0.2))


@pytest.mark.parametrize("fraction", [0, -0.5, 1.5, float("nan")])
def test_an_impossible_fraction_is_refused(fraction):
    with pytest.raises(InputError, match=f"got {fraction}"):
        random_frequencies(KEY, (4, 4), fraction)


def test_random_sums_are_the_product_with_the_matrix():
    matrix, image = random_matrix(KEY, 11, (4, 5, 3)), draw(3, 4, 5, 3)
    assert matrix.shape == (11, 60)
    y = RandomMatrix(matrix)(jnp.asarray(image))
    np.testing.assert_allclose(y, np.asarray(matrix, float) @ image.ravel(), atol=1e-5)


def test_a_random_matrix_has_the_promised_variance_and_depends_on_its_key():
    matrix = np.asarray(random_matrix(KEY, 200, (20, 20, 1)), float)
    np.testing.assert_allclose(matrix.var() * 200, 1, rtol=0.03)
    np.testing.assert_allclose(matrix.mean() * np.sqrt(200), 0, atol=0.02)
    np.testing.assert_array_equal(matrix, random_matrix(KEY, 200, (20, 20, 1)))
    assert not np.array_equal(matrix, random_matrix(jax.random.key(1), 200, (20, 20, 1)))


def test_a_matrix_that_would_fill_the_memory_is_refused_with_its_size():
    with pytest.raises(InputError, match=r"196608 values needs 15\.7 GB"):
        random_matrix(KEY, 20000, (256, 256, 3))
    with pytest.raises(InputError, match="got 0"):
        random_matrix(KEY, 0, (4, 4, 1))


def test_an_image_of_another_size_than_that_of_the_matrix_is_refused():
    with pytest.raises(InputError, match=r"16 values, but the image \[4, 5, 1\] has 20"):
        RandomMatrix(random_matrix(KEY, 3, (4, 4, 1)))(jnp.ones((4, 5, 1)))
