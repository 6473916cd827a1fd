"""Resizing agrees with numpy, scikit-image, JAX and golden numbers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.measure import block_reduce

from dip_jax.layers.resize import downsample_lanczos, lanczos_kernel, pool, upsample
from tests.layers.reference import draw


def test_nearest_upsampling_repeats_pixels():
    x = draw(0, 3, 5, 2)
    np.testing.assert_array_equal(
        upsample(jnp.float32(x), "nearest"), np.float32(x).repeat(2, 0).repeat(2, 1)
    )


def test_bilinear_upsampling_is_jax_image_resize_and_so_is_its_gradient():
    x, dy = jnp.float32(draw(0, 3, 5, 2)), jnp.float32(draw(1, 6, 10, 2))
    ours, transpose = jax.vjp(lambda v: upsample(v, "bilinear"), x)
    theirs, their_transpose = jax.vjp(lambda v: jax.image.resize(v, (6, 10, 2), "bilinear"), x)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    np.testing.assert_allclose(transpose(dy)[0], their_transpose(dy)[0], atol=1e-5)


@pytest.mark.parametrize(("mode", "function"), [("avg", np.mean), ("max", np.max)])
def test_pooling_is_block_reduce_and_drops_an_odd_border(mode, function):
    x = draw(0, 7, 8, 2)
    expected = block_reduce(x[:6], (2, 2, 1), function)
    np.testing.assert_allclose(pool(jnp.float32(x), mode), expected, rtol=1e-5)


def test_the_gradient_of_max_pooling_goes_to_the_first_of_equal_pixels():
    x = np.float32([[1, 5, 3, 3, 9], [4, 5, 3, 2, 9], [9, 9, 9, 9, 9]])[..., None]
    grad = jax.grad(lambda v: jnp.sum(pool(v, "max") * jnp.array([[[2.0], [7.0]]])))(x)
    np.testing.assert_array_equal(grad[..., 0], [[0, 2, 7, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
    one_row = jax.grad(lambda v: jnp.sum(pool(v, "max", (1,))))(x)
    np.testing.assert_array_equal(
        one_row[..., 0], [[0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [1, 0, 1, 0, 0]]
    )


@pytest.mark.parametrize(
    "resample",
    [
        lambda x, **axes: upsample(x, "nearest", **axes),
        lambda x, **axes: upsample(x, "bilinear", **axes),
        lambda x, **axes: pool(x, "avg", **axes),
        lambda x, **axes: pool(x, "max", **axes),
        lambda x, **axes: downsample_lanczos(x, 2, 2, **axes),
    ],
    ids=["nearest", "bilinear", "avg", "max", "lanczos"],
)
def test_axes_can_be_resized_one_after_the_other_and_rows_do_not_mix(resample):
    x = jnp.float32(draw(0, 6, 9, 2))

    @jax.jit
    def compute(x):
        columns = resample(x, axes=(1,))
        return columns, resample(columns, axes=(0,)), resample(x), resample(x[2:3], axes=(1,))

    columns, one_by_one, both, row = compute(x)
    np.testing.assert_allclose(one_by_one, both, atol=1e-6)
    np.testing.assert_allclose(columns[2:3], row, atol=1e-6)


def test_lanczos_taps_are_the_published_ones():
    taps = lanczos_kernel(4, 2)[8:]
    expected = [0.239711, 0.183115, 0.098658, 0.024594, -0.014878, -0.020384, -0.009752, -0.001065]
    np.testing.assert_allclose(taps, expected, atol=1e-6)
    np.testing.assert_allclose(
        lanczos_kernel(2, 2)[4:], [0.434303, 0.1165, -0.04194, -0.008863], atol=1e-6
    )


def test_unknown_resampling_modes_are_refused():
    with pytest.raises(ValueError, match="upsample"):
        upsample(jnp.ones((2, 2, 1)), "cubic")
    with pytest.raises(ValueError, match="pool"):
        pool(jnp.ones((2, 2, 1)), "median")


@pytest.mark.parametrize("lobes", [2, 3])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_lanczos_reduction_agrees_with_golden_numbers(factor, lobes):
    golden = np.load(Path(__file__).parents[1] / "data" / "downsampler.npz")
    expected = golden[f"lanczos{lobes}_x{factor}"]
    reduced = jax.jit(downsample_lanczos, static_argnums=(1, 2))(golden["image"], factor, lobes)
    np.testing.assert_allclose(reduced, expected, atol=3e-6)  # sums of up to 48 x 48 terms
