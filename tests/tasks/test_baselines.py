import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from skimage.data import shepp_logan_phantom
from skimage.transform import resize

from dip_jax.errors import InputError
from dip_jax.operators.bayer import PATTERNS, Bayer
from dip_jax.operators.radon import Radon
from dip_jax.tasks.baselines import (
    demosaic_bilinear,
    denoising_baselines,
    filtered_back_projection,
    upsample_bicubic,
)


def draw(seed, *shape):
    return np.random.default_rng(seed).random(shape).astype(np.float32)


@pytest.mark.parametrize("channels", [1, 3])
def test_bicubic_enlargement_is_that_of_pillow_cropped(channels):
    image = draw(4, 5, 6, channels) * 1.5 - 0.25
    enlarged = upsample_bicubic(image, 3, (14, 17, channels))
    channels = [
        Image.fromarray(image[..., c]).resize((18, 15), Image.Resampling.BICUBIC)
        for c in range(image.shape[2])
    ]
    np.testing.assert_array_equal(enlarged, np.stack(channels, -1)[:14, :17])
    assert enlarged.dtype == np.float32
    assert enlarged.min() < 0  # not clipped


def test_an_enlargement_that_does_not_cover_the_image_is_refused():
    with pytest.raises(InputError, match="is 10 x 12, which does not cover 11 x 12"):
        upsample_bicubic(np.ones((5, 6, 1)), 2, (11, 12))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_demosaicing_keeps_measured_values_and_constants(pattern):
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


def test_demosaicing_takes_the_mean_of_the_nearest_neighbors():
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
    with pytest.raises(InputError, match="got 'RGBG'"):
        demosaic_bilinear(np.ones((4, 4, 1)), "RGBG")
    with pytest.raises(InputError, match=r"got \[1, 4, 1\]"):
        demosaic_bilinear(np.ones((1, 4, 1)), "RGGB")
    with pytest.raises(InputError, match=r"got \[4, 4, 3\]"):
        demosaic_bilinear(np.ones((4, 4, 3)), "RGGB")


def test_filtered_back_projection_recovers_the_image():
    phantom = resize(shepp_logan_phantom(), (64, 64), anti_aliasing=True).astype(np.float32)
    image = np.stack([phantom, 0.5 * phantom], -1)
    sinogram = np.asarray(Radon(90)(jnp.asarray(image)))
    found = filtered_back_projection(sinogram, (64, 64, 2))
    assert found.shape == image.shape
    assert found.dtype == np.float32
    assert np.sqrt(np.mean((found - image) ** 2)) < 0.06


def test_a_sinogram_of_another_size_is_refused_with_the_expected_one():
    with pytest.raises(InputError, match=r"\[12, angles, C\].*got \[11, 4, 1\]"):
        filtered_back_projection(np.ones((11, 4, 1)), (8, 8))


def test_denoising_baselines_reduce_the_noise_and_keep_the_shape():
    rows, columns = np.mgrid[0:48, 0:40] / 48
    clean = (0.5 + 0.3 * np.sin(5 * rows) * np.cos(4 * columns))[..., None]
    noisy = clean + 0.1 * np.random.default_rng(6).standard_normal(clean.shape)
    images = denoising_baselines(noisy.astype(np.float32))
    assert set(images) == {"total variation", "non-local means"}
    for image in images.values():
        assert image.shape == clean.shape
        assert np.mean((image - clean) ** 2) < 0.5 * np.mean((noisy - clean) ** 2)
