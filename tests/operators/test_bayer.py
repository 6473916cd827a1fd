import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dip_jax.errors import InputError
from dip_jax.operators.bayer import PATTERNS, Bayer, Gray
from dip_jax.tasks.baselines import demosaic_bilinear


def draw(seed, *shape):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def test_gray_is_the_luma_of_bt_601():
    image = draw(0, 7, 5, 3)
    expected = image.astype(float) @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(Gray()(jnp.asarray(image))[..., 0], expected, atol=1e-6)
    # Pillow's conversion to L is the same, rounded to 8 bits.
    levels = np.round(255 * image).astype(np.uint8)
    by_pillow = np.asarray(Image.fromarray(levels).convert("L"))
    ours = 255 * Gray()(jnp.asarray(levels, jnp.float32) / 255)[..., 0]
    np.testing.assert_allclose(ours, by_pillow, atol=0.51)


def test_gray_of_gray_is_the_same():
    image = np.repeat(draw(1, 4, 6, 1), 3, axis=-1)
    np.testing.assert_allclose(Gray()(jnp.asarray(image)), image[..., :1], atol=1e-6)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("shape", [(4, 6), (5, 3), (1, 1)])
def test_a_bayer_mosaic_keeps_at_each_pixel_the_channel_of_its_filter(pattern, shape):
    image = draw(2, *shape, 3)
    expected = np.zeros((*shape, 1), np.float32)
    for i in range(shape[0]):
        for j in range(shape[1]):
            expected[i, j, 0] = image[i, j, "RGB".index(pattern[2 * (i % 2) + j % 2])]
    np.testing.assert_array_equal(Bayer(pattern)(jnp.asarray(image)), expected)


@pytest.mark.parametrize("operator", [Gray(), Bayer("GBRG")])
def test_on_a_canvas_the_picture_is_measured_as_before(operator):
    image = draw(3, 5, 7, 3)
    canvas = np.pad(image, ((0, 3), (0, 1), (0, 0)))
    on_canvas = operator.pad(8, 8)(jnp.asarray(canvas))
    np.testing.assert_array_equal(on_canvas[:5, :7], operator(jnp.asarray(image)))


@pytest.mark.parametrize("operator", [Gray(), Bayer()])
def test_a_gray_picture_has_no_color_to_lose(operator):
    with pytest.raises(InputError, match=r"came \[4, 4, 1\]"):
        operator(jnp.ones((4, 4, 1)))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_demosaicing_keeps_what_was_measured_and_constants(pattern):
    image = draw(4, 6, 7, 3)
    mosaic = np.asarray(Bayer(pattern)(jnp.asarray(image)))
    filled = demosaic_bilinear(mosaic, pattern)
    np.testing.assert_allclose(Bayer(pattern)(jnp.asarray(filled)), mosaic, rtol=1e-6)
    constant = np.broadcast_to(np.float32([0.2, 0.5, 0.9]), (5, 4, 3))
    mosaic = np.asarray(Bayer(pattern)(jnp.asarray(constant)))
    np.testing.assert_allclose(demosaic_bilinear(mosaic, pattern), constant, rtol=1e-6)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_demosaicing_reproduces_straight_lines_inside(pattern):
    rows, columns = np.mgrid[0:8, 0:9]
    planes = [0.1 + 0.03 * rows + 0.02 * k * columns for k in range(3)]
    image = np.stack(planes, -1).astype(np.float32)
    filled = demosaic_bilinear(np.asarray(Bayer(pattern)(jnp.asarray(image))), pattern)
    np.testing.assert_allclose(filled[1:-1, 1:-1], image[1:-1, 1:-1], atol=1e-6)


def test_demosaicing_takes_the_mean_of_the_nearest():
    mosaic = draw(5, 6, 6, 1)
    filled, m = demosaic_bilinear(mosaic, "RGGB"), mosaic[..., 0]
    np.testing.assert_allclose(
        filled[2, 2, 1], (m[1, 2] + m[3, 2] + m[2, 1] + m[2, 3]) / 4, rtol=1e-6
    )
    np.testing.assert_allclose(
        filled[2, 2, 2], (m[1, 1] + m[1, 3] + m[3, 1] + m[3, 3]) / 4, rtol=1e-6
    )
    np.testing.assert_allclose(filled[2, 3, 0], (m[2, 2] + m[2, 4]) / 2, rtol=1e-6)


def test_a_wrong_mosaic_or_pattern_is_refused():
    with pytest.raises(InputError, match="came 'RGBG'"):
        Bayer("RGBG")(jnp.ones((4, 4, 3)))
    with pytest.raises(InputError, match="came 'RGBG'"):
        demosaic_bilinear(np.ones((4, 4, 1)), "RGBG")
    with pytest.raises(InputError, match=r"came \[1, 4, 1\]"):
        demosaic_bilinear(np.ones((1, 4, 1)), "RGGB")
    with pytest.raises(InputError, match=r"came \[4, 4, 3\]"):
        demosaic_bilinear(np.ones((4, 4, 3)), "RGGB")
