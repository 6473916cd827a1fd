import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax import codes
from dip_jax.architectures.skip import SKIP
from dip_jax.base import Problem
from dip_jax.config import NetConfig
from dip_jax.errors import InputError
from dip_jax.nets import code_size
from dip_jax.operators.basic import Identity


def draw(code, shape, *, image=None, seed=0):
    problem = Problem(Identity(), jnp.zeros(shape), 0.1, code_image=image)
    return np.asarray(code(jax.random.key(seed), shape, problem))


def test_uniform_and_normal_codes_have_their_moments():
    n = 64 * 64 * 8
    uniform = draw(codes.uniform(), (64, 64, 8))
    assert 0 <= uniform.min() < 0.001 < 0.099 < uniform.max() <= 0.1
    assert abs(uniform.mean() - 0.05) < 5 * 0.1 / np.sqrt(12 * n)
    normal = draw(codes.normal(0.2), (64, 64, 8))
    assert abs(normal.std() - 0.2) < 5 * 0.2 / np.sqrt(2 * n)
    assert abs(normal.mean()) < 5 * 0.2 / np.sqrt(n)


def test_noise_depends_on_the_key_and_is_proportional_to_its_scale():
    for build in (codes.uniform, codes.normal):
        default, larger = (draw(code, (6, 5, 2)) for code in (build(), build(0.3)))
        np.testing.assert_allclose(larger, 3 * default, rtol=1e-6)
        assert not np.array_equal(default, draw(build(), (6, 5, 2), seed=1))


def test_a_meshgrid_runs_from_0_to_1_along_columns_then_rows():
    grid = draw(codes.meshgrid(), (3, 5, 2))
    np.testing.assert_allclose(grid[1, :, 0], [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(grid[:, 2, 1], [0, 0.5, 1])
    assert draw(codes.meshgrid(), (1, 5, 2)).max() == 1  # a signal of one row


def test_a_fourier_code_consists_of_plane_waves_of_the_requested_frequencies():
    waves = draw(codes.fourier(2.0), (65, 65, 512)).astype(np.float64)
    sines, cosines = waves[..., :256], waves[..., 256:]
    np.testing.assert_allclose(sines**2 + cosines**2, 1, atol=1e-4)
    # the phase between neighbors is 2 pi f / 64, f ~ N(0, 2^2) for both directions
    for axis in (0, 1):
        z = cosines + 1j * sines
        step = np.angle(np.take(z, 1, axis) / np.take(z, 0, axis))[0]
        frequencies = step * 64 / (2 * np.pi)
        assert abs(frequencies.std() - 2) < 5 * 2 / np.sqrt(2 * 256)
    assert np.abs(waves[0, 0, 256:] - 1).max() < 1e-5  # phase 0 at the corner


def test_an_image_is_the_code_and_its_border_is_repeated_if_the_code_is_larger():
    image = np.random.default_rng(0).random((4, 5, 3)).astype(np.float32)
    np.testing.assert_array_equal(draw(codes.image(), (4, 5, 3), image=jnp.asarray(image)), image)
    larger = draw(codes.image(), (7, 6, 3), image=jnp.asarray(image))
    np.testing.assert_array_equal(larger[1:5, 0:5], image)
    np.testing.assert_array_equal(larger[0, :5], image[0])
    np.testing.assert_array_equal(larger[6, 5], image[3, 4])


@pytest.mark.parametrize("skips", [(4, 4, 4), (0, 0, 0), (0, 0, 4)])
@pytest.mark.parametrize("downsample", ["stride", "avg"])
@pytest.mark.parametrize("size", [33, 41, 100])
def test_an_image_in_the_code_lies_under_the_output(skips, downsample, size):
    # The output is as large as the code, so both are cropped equally.
    fields = {"channels_down": (4,) * 3, "channels_up": (4,) * 3, "downsample": (downsample,)}
    config = NetConfig(input_depth=3, channels_skip=skips, **fields)
    side = code_size(config, size)
    code = jax.ShapeDtypeStruct((side, side, 3), jnp.float32)
    image, _ = jax.eval_shape(SKIP.module(config, 3).init_with_output, jax.random.key(0), code)
    assert image.shape == (side, side, 3)


@pytest.mark.parametrize(
    ("code", "shape", "image", "words"),
    [
        (codes.meshgrid(), (4, 4, 3), None, "input_depth=2"),
        (codes.fourier(), (4, 4, 3), None, "even"),
        (codes.image(), (4, 4, 3), None, "guide"),
        (codes.image(), (4, 4, 2), np.zeros((4, 4, 3), np.float32), "input_depth=3"),
        (codes.image(), (3, 4, 3), np.zeros((4, 4, 3), np.float32), "larger"),
    ],
)
def test_a_code_that_does_not_exist_is_refused(code, shape, image, words):
    with pytest.raises(InputError, match=words):
        draw(code, shape, image=image)
