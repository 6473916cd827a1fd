import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dip_jax.errors import InputError
from dip_jax.operators.bayer import PATTERNS, Bayer, Gray


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


def test_the_luma_of_a_gray_image_is_the_image():
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
def test_on_a_canvas_the_image_has_the_same_measurement(operator):
    image = draw(3, 5, 7, 3)
    canvas = np.pad(image, ((0, 3), (0, 1), (0, 0)))
    on_canvas = operator.pad(8, 8)(jnp.asarray(canvas))
    np.testing.assert_array_equal(on_canvas[:5, :7], operator(jnp.asarray(image)))


@pytest.mark.parametrize("operator", [Gray(), Bayer()])
def test_a_gray_image_is_refused(operator):
    with pytest.raises(InputError, match=r"got \[4, 4, 1\]"):
        operator(jnp.ones((4, 4, 1)))


def test_an_unknown_pattern_is_refused():
    with pytest.raises(InputError, match="got 'RGBG'"):
        Bayer("RGBG")(jnp.ones((4, 4, 3)))
