from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.measure import block_reduce

from dip_jax.errors import InputError
from dip_jax.layers.resize import downsample_lanczos
from dip_jax.operators.downsample import FILTERS, Downsample


def draw(seed, *shape):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


@jax.jit
def shrink(operator, image):
    return operator(image)


def pillow(image, width, height):
    """Pillow's BICUBIC, channel by channel, in floating point."""
    channels = [
        Image.fromarray(image[..., c]).resize((width, height), Image.Resampling.BICUBIC)
        for c in range(image.shape[2])
    ]
    return np.stack([np.asarray(channel) for channel in channels], -1)


@pytest.mark.parametrize("lobes", [2, 3])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_lanczos_equals_the_reference_implementation_of_2018(factor, lobes):
    golden = np.load(Path(__file__).parents[1] / "data" / "downsampler.npz")
    image = jnp.asarray(golden["image"])
    small = shrink(Downsample(factor, f"lanczos{lobes}"), image)
    np.testing.assert_allclose(small, golden[f"lanczos{lobes}_x{factor}"], atol=3e-6)
    if factor == 4:
        expected = jax.jit(downsample_lanczos, static_argnums=(1, 2))(image, factor, lobes)
        np.testing.assert_allclose(small, expected, atol=3e-6)


@pytest.mark.parametrize("shape", [(24, 12, 3), (6, 30, 1)])
@pytest.mark.parametrize("factor", [2, 3, 4, 6])
def test_bicubic_is_that_of_pillow_also_at_the_border(factor, shape):
    shape = (shape[0] * factor // 2, shape[1] * factor // 2, shape[2])
    image = draw(0, *shape)
    expected = pillow(image, shape[1] // factor, shape[0] // factor)
    np.testing.assert_allclose(shrink(Downsample(factor, "bicubic"), image), expected, atol=1e-5)


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_box_is_the_mean_of_each_block(factor):
    image = draw(1, 6 * factor, 4 * factor, 3)
    expected = block_reduce(image, (factor, factor, 1), np.mean)
    np.testing.assert_allclose(shrink(Downsample(factor, "box"), image), expected, atol=1e-6)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(("factor", "shape"), [(2, (9, 7)), (4, (5, 18)), (5, (3, 3))])
def test_a_side_that_the_factor_does_not_divide_is_extended_by_its_border(factor, shape, name):
    image, operator = draw(2, *shape, 2), Downsample(factor, name)
    margins = [(0, -side % factor) for side in shape]
    extended = np.pad(image, [*margins, (0, 0)], mode="edge")
    small = shrink(operator, image)
    assert small.shape == (-(-shape[0] // factor), -(-shape[1] // factor), 2)
    np.testing.assert_allclose(small, shrink(operator, extended), atol=1e-6)


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize("name", FILTERS)
def test_every_filter_is_centered_on_its_block(name, factor):
    # A straight line keeps its value at the middle of each block, away from the border.
    ramp = np.arange(12.0 * factor, dtype=np.float32)[:, None, None] * np.ones(
        (1, 2, 1), np.float32
    )
    small = shrink(Downsample(factor, name), ramp)[3:-3, 0, 0]
    expected = np.arange(3, 9) * factor + (factor - 1) / 2
    np.testing.assert_allclose(small, expected, rtol=1e-5)


@settings(max_examples=5, deadline=None)
@given(value=st.floats(-2, 2, width=32))
@pytest.mark.parametrize("name", FILTERS)
def test_a_reduced_constant_is_the_constant(name, value):
    small = shrink(Downsample(3, name), np.full((4, 7, 1), value, np.float32))
    np.testing.assert_allclose(small, value, atol=1e-5)


def test_a_reduction_runs_under_jit_and_vmap():
    images, operator = jnp.asarray(draw(3, 2, 9, 8, 3)), Downsample(3, "bicubic")
    batched = jax.jit(jax.vmap(operator))(images)
    np.testing.assert_allclose(batched[1], shrink(operator, images[1]), atol=1e-6)
    assert jax.tree.leaves(operator) == []


def test_a_factor_of_1_and_an_unknown_filter_are_refused():
    with pytest.raises(InputError, match="got 1"):
        Downsample(1)(jnp.ones((4, 4, 1)))
    with pytest.raises(InputError, match="got 'gauss'"):
        Downsample(2, "gauss")(jnp.ones((4, 4, 1)))
