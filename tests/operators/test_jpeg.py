import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dip_jax.errors import InputError
from dip_jax.images.jpeg_file import read_jpeg
from dip_jax.operators.checks import adjoint, check_operator
from dip_jax.operators.jpeg import Coefficients, Jpeg, standard_tables
from dip_jax.operators.jpeg_intervals import project
from tests.images.jpeg_files import SUBSAMPLING_NAMES, astronaut, save


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


@jax.jit
def apply(operator, image):
    return operator(image)


class Compiled:
    """An operator whose operations are compiled together, as in a fit, and not one by one."""

    def __init__(self, operator):
        self.operator, self.is_linear = operator, operator.is_linear

    def __call__(self, image):
        return apply(self.operator, image)


def unit(pixels):
    return jnp.asarray(pixels, jnp.float32) / 255


def test_the_coefficients_of_luma_are_scipys_cosine_transform():
    pixels = astronaut(40, 48, 3)
    luma = np.asarray(pixels / 255 @ np.array([0.299, 0.587, 0.114])).reshape(5, 8, 6, 8)
    expected = scipy.fft.dctn(luma, axes=(1, 3), norm="ortho").swapaxes(1, 2)
    found = apply(Coefficients("4:4:4"), unit(pixels))[: luma.size]
    np.testing.assert_allclose(found, expected.ravel(), atol=2e-6)


@pytest.mark.parametrize("size", [slow((16, 16)), (33, 47), slow((40, 22))])
@pytest.mark.parametrize(
    ("subsampling", "channels"), [("4:4:4", 1), *[(name, 3) for name in SUBSAMPLING_NAMES]]
)
def test_the_adjoint_of_the_coefficients_passes_the_dot_product_test(subsampling, size, channels):
    operator = Coefficients(subsampling, orientation=6)
    rng = np.random.default_rng(0)
    x = jnp.float32(rng.standard_normal((*size, channels)))
    y = apply(operator, x)
    v = jnp.float32(rng.standard_normal(y.shape))
    left, right = jnp.vdot(y, v), jnp.vdot(x, jax.jit(adjoint(operator, x.shape))(v))
    assert abs(left - right) < 1e-4 * jnp.linalg.norm(y) * jnp.linalg.norm(v)
    if size == (33, 47) and subsampling in ("4:4:4", "4:2:0"):
        check_operator(Compiled(operator), x.shape)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), rows=st.sampled_from([8, 24]), columns=st.sampled_from([16]))
def test_on_whole_blocks_of_gray_the_coefficients_keep_the_norm(seed, rows, columns):
    x = np.random.default_rng(seed).standard_normal((rows, columns, 1)).astype(np.float32)
    norm = np.linalg.norm(apply(Coefficients(), jnp.asarray(x)))
    np.testing.assert_allclose(norm, np.linalg.norm(x), rtol=1e-5)


def test_an_unknown_subsampling_is_refused():
    with pytest.raises(InputError, match=r"4:4:0, got '4:1:1'"):
        Coefficients("4:1:1")(jnp.zeros((8, 8, 3)))


@pytest.mark.parametrize("quality", [1, 10, 50, 95, 100])
def test_the_standard_tables_are_those_of_pillow(quality):
    buffer = io.BytesIO()
    Image.fromarray(astronaut()).save(buffer, "JPEG", quality=quality)
    tables = Image.open(buffer).quantization
    found = standard_tables(quality)
    np.testing.assert_array_equal(found[0].ravel(), tables[0])
    np.testing.assert_array_equal(found[1], found[2])
    np.testing.assert_array_equal(found[2].ravel(), tables[1])
    assert standard_tables(quality, 1).shape == (1, 8, 8)


@pytest.mark.parametrize("quality", [0, 101])
def test_a_quality_outside_1_to_100_is_refused(quality):
    with pytest.raises(InputError, match="1 to 100"):
        standard_tables(quality)


@pytest.mark.parametrize("quality", [slow(10), 50, slow(90)])
@pytest.mark.parametrize(
    ("subsampling", "channels"), [("4:4:4", 1), *[(name, 3) for name in SUBSAMPLING_NAMES]]
)
def test_compression_is_that_of_pillow(tmp_path, subsampling, channels, quality):
    path = tmp_path / "a.jpg"
    pixels = astronaut(93, 85, channels)
    decoded = save(path, pixels, quality, subsampling)
    file = read_jpeg(path)
    operator = Jpeg(jnp.asarray(file.tables, jnp.float32), subsampling)
    # Where a coefficient of the original is at the border of two intervals, the encoder's integers decide.
    gap = 255 * np.abs(apply(operator, unit(pixels)) - decoded)
    assert gap.mean() < (1.2 if channels == 3 else 0.5)
    # Away from the borders there is only the decoder's rounding.
    gap = 255 * np.abs(apply(operator, jnp.asarray(project(file, decoded))) - decoded)
    assert gap.max() < (3 if channels == 3 else 1)


def test_hard_rounding_has_the_gradient_of_the_identity():
    tables = jnp.asarray(standard_tables(50, 1), jnp.float32)
    x = jnp.asarray(0.3 + 0.4 * np.random.default_rng(0).random((16, 24, 1)), jnp.float32)
    weights = jnp.asarray(np.random.default_rng(1).random(x.shape), jnp.float32)
    gradient = jax.grad(lambda x: jnp.sum(weights * apply(Jpeg(tables), x)))(x)
    np.testing.assert_allclose(gradient, weights, atol=1e-5)


def test_soft_rounding_is_that_of_shin_and_song():
    # A constant block has one coefficient that is not zero: c = 8 (x - 128 / 255) 255 / q.
    value, q = 0.55, 160
    c = 8 * (value * 255 - 128) / q
    expected = ((round(c) + (c - round(c)) ** 3) * q / 8 + 128) / 255
    operator = Jpeg(jnp.full((1, 8, 8), q, jnp.float32), soft=True)
    image = jnp.full((8, 8, 1), value, jnp.float32)
    np.testing.assert_allclose(apply(operator, image), expected, rtol=1e-5)
    slope = jax.grad(lambda x: apply(operator, x).mean())(image).sum()
    np.testing.assert_allclose(slope, 3 * (c - round(c)) ** 2, rtol=1e-3)


@pytest.mark.parametrize("soft", [False, True])
def test_compression_keeps_the_contract(soft):
    tables = jnp.asarray(standard_tables(20), jnp.float32)
    assert check_operator(Compiled(Jpeg(tables, soft=soft)), (33, 35, 3)) is None


def test_a_second_compression_changes_little():
    tables = jnp.asarray(standard_tables(30, 1), jnp.float32)
    once = apply(Jpeg(tables), unit(astronaut(64, 64, 1)))
    twice = apply(Jpeg(tables), once)
    assert jnp.mean(jnp.abs(twice - once) < 1e-4) > 0.9
