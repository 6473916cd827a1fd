import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from dip_jax.errors import InputError
from dip_jax.operators.blur import Blur, check_kernel, gaussian_kernel, motion_kernel

SCIPY = {"reflect": "mirror", "circular": "wrap"}


def draw(seed, *shape):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


@pytest.mark.parametrize("boundary", ["reflect", "circular"])
@pytest.mark.parametrize(
    ("kernel", "size"),
    [
        ((5, 5), (12, 12)),
        ((4, 4), (9, 7)),
        ((1, 6), (5, 16)),
        ((3, 2), (3, 2)),
        ((9, 8), (9, 11)),
        ((1, 1), (1, 1)),
    ],
)
def test_a_blur_is_scipys_convolution(kernel, size, boundary):
    kernel, image = draw(0, *kernel), draw(1, *size, 3)
    channels = [
        ndimage.convolve(image[..., c].astype(float), kernel, mode=SCIPY[boundary])
        for c in range(3)
    ]
    blurred = jax.jit(Blur.__call__)(Blur(jnp.asarray(kernel), boundary), jnp.asarray(image))
    np.testing.assert_allclose(blurred, np.stack(channels, -1), atol=1e-6 * kernel.size)


@pytest.mark.parametrize("boundary", ["reflect", "circular"])
def test_a_blur_is_the_sum_of_its_definition(boundary):
    kernel, image = draw(2, 4, 3), draw(3, 6, 7, 1)
    expected = np.zeros_like(image)
    padded = np.pad(
        image, ((4, 4), (4, 4), (0, 0)), mode="wrap" if boundary == "circular" else "reflect"
    )
    for a in range(4):
        for b in range(3):
            rows, columns = 4 + 2 - a, 4 + 1 - b
            expected += kernel[a, b] * padded[rows : rows + 6, columns : columns + 7]
    blurred = Blur(jnp.asarray(kernel), boundary)(jnp.asarray(image))
    np.testing.assert_allclose(blurred, expected, atol=1e-5)


def test_an_image_of_one_point_becomes_the_kernel():
    kernel = draw(4, 5, 4)
    image = np.zeros((15, 14, 1), np.float32)
    image[7, 6] = 1
    blurred = Blur(jnp.asarray(kernel))(jnp.asarray(image))
    np.testing.assert_allclose(blurred[5:10, 4:8, 0], kernel, atol=1e-6)
    np.testing.assert_allclose(blurred.sum(), kernel.sum(), rtol=1e-5)


@settings(max_examples=8, deadline=None)
@given(value=st.floats(-2, 2, width=32), seed=st.integers(0, 99))
@pytest.mark.parametrize("boundary", ["reflect", "circular"])
def test_a_blur_of_a_constant_is_the_constant(boundary, value, seed):
    kernel = check_kernel(draw(seed, 5, 4), normalize=True)
    image = jnp.full((9, 8, 1), value, jnp.float32)
    np.testing.assert_allclose(Blur(jnp.asarray(kernel), boundary)(image), value, atol=1e-5)


@settings(max_examples=8, deadline=None)
@given(rows=st.integers(-8, 8), columns=st.integers(-8, 8))
def test_a_circular_blur_moves_with_the_image(rows, columns):
    operator, image = Blur(jnp.asarray(draw(5, 4, 3)), "circular"), draw(6, 9, 8, 1)
    moved = operator(jnp.asarray(np.roll(image, (rows, columns), (0, 1))))
    expected = np.roll(operator(jnp.asarray(image)), (rows, columns), (0, 1))
    np.testing.assert_allclose(moved, expected, atol=1e-5)


def test_a_gaussian_blur_is_scipys():
    image = draw(7, 30, 25, 1)
    kernel = gaussian_kernel(1.3)
    assert kernel.shape == (11, 11)
    expected = ndimage.gaussian_filter(image.astype(float), (1.3, 1.3, 0), mode="mirror")
    np.testing.assert_allclose(Blur(jnp.asarray(kernel))(jnp.asarray(image)), expected, atol=1e-6)


def test_blurs_with_different_kernels_run_under_vmap():
    kernels, images = jnp.asarray(draw(8, 3, 4, 5)), jnp.asarray(draw(9, 3, 9, 8, 2))
    batched = jax.jit(jax.vmap(lambda operator, image: operator(image)))(Blur(kernels), images)
    single = Blur(kernels[1])(images[1])
    np.testing.assert_allclose(batched[1], single, atol=1e-5)


def test_a_kernel_larger_than_the_image_is_refused_with_both_sizes():
    with pytest.raises(InputError, match="11 x 3, the image 9 x 8"):
        Blur(jnp.ones((11, 3)))(jnp.ones((9, 8, 1)))


def test_an_unknown_boundary_is_refused():
    with pytest.raises(InputError, match="got 'zero'"):
        Blur(jnp.ones((3, 3)), "zero")(jnp.ones((9, 8, 1)))


def test_a_horizontal_motion_is_a_mean_of_neighbors():
    np.testing.assert_allclose(motion_kernel(9, 0), np.full((1, 9), 1 / 9), rtol=1e-6)
    np.testing.assert_allclose(motion_kernel(9, 90), np.full((9, 1), 1 / 9), rtol=1e-6)
    np.testing.assert_array_equal(motion_kernel(1, 33), [[1]])


def test_a_motion_of_45_degrees_rises_to_the_right():
    kernel = motion_kernel(7, 45)
    rows, columns = np.mgrid[: kernel.shape[0], : kernel.shape[1]]
    middle = kernel.shape[0] // 2
    assert np.sum(kernel * (rows - middle) * (columns - middle)) < 0
    np.testing.assert_allclose(motion_kernel(7, -45), kernel[::-1], atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(length=st.floats(1, 20), angle=st.floats(-360, 360))
def test_a_motion_is_symmetric_and_keeps_the_brightness(length, angle):
    kernel = motion_kernel(length, angle)
    np.testing.assert_allclose(kernel.sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-6)
    np.testing.assert_allclose(kernel, motion_kernel(length, angle + 180), atol=1e-5)
    assert kernel.shape[0] % 2 == kernel.shape[1] % 2 == 1
    assert max(kernel.shape) <= length + 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: gaussian_kernel(0), "got 0"),
        (lambda: gaussian_kernel(float("nan")), "got nan"),
        (lambda: motion_kernel(0.5, 0), "length 0.5"),
        (lambda: motion_kernel(5, float("inf")), "angle inf"),
    ],
)
def test_impossible_kernels_are_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (np.ones(3), r"got float64 \[3\]"),
        (np.ones((0, 3)), r"got float64 \[0, 3\]"),
        (np.full((2, 2), "a"), "must be an array of numbers"),
        (np.full((2, 2), 0.25j), "must be real"),
        (np.array([[1, np.nan]]), "1 values of 2"),
        (-np.ones((2, 2)), "got -4, which cannot be scaled"),
        (np.array([[1.0, -1.0]]), "got 0, which cannot be scaled"),
    ],
)
def test_an_array_that_is_not_a_kernel_is_refused(kernel, words, normalize):
    with pytest.raises(InputError, match=words):
        check_kernel(kernel, normalize=normalize)


def test_a_kernel_that_changes_the_brightness_is_refused_with_its_sum_and_a_remedy():
    with pytest.raises(InputError, match=r"got 9\b.*--set task.normalize_kernel=true"):
        check_kernel(np.ones((3, 3)))


def test_a_kernel_is_normalized_on_request():
    kernel = check_kernel(np.full((3, 3), 255, np.uint8), normalize=True)
    np.testing.assert_allclose(kernel, 1 / 9, rtol=1e-6)
    assert kernel.dtype == np.float32
    nearly = np.full((2, 2), 0.2501)
    np.testing.assert_array_equal(check_kernel(nearly), nearly.astype(np.float32))
