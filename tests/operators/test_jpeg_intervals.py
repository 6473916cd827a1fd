import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from dip_jax.images.jpeg_file import read_jpeg
from dip_jax.operators.jpeg_intervals import (
    MIN_MATCHING_FRACTION,
    coefficients_of,
    fraction_kept,
    intervals,
    matching_fraction,
    project,
)
from tests.images.jpeg_files import astronaut, save


@jax.jit
def measure(operator, image):
    return operator(image)


@pytest.mark.parametrize("quality", [10, 50, 90])
@pytest.mark.parametrize(
    ("subsampling", "channels", "size"),
    [("4:2:0", 3, (93, 85)), ("4:4:4", 3, (93, 85)), ("4:2:2", 3, (81, 97)), ("4:2:0", 3, (82, 90)),
     ("4:4:0", 3, (90, 81)), ("4:4:4", 1, (93, 85))],
)  # fmt: skip
def test_the_saved_image_lies_within_the_intervals(tmp_path, subsampling, channels, size, quality):
    path = tmp_path / "a.jpg"
    pixels = astronaut(*size, channels)
    save(path, pixels, quality, subsampling)
    file = read_jpeg(path)
    y, tolerance = intervals(file)
    assert y.dtype == tolerance.dtype == np.float32
    gap = (
        np.abs(measure(coefficients_of(file), jnp.asarray(pixels, jnp.float32) / 255) - y)
        - tolerance
    )
    # The encoder rounds colors to gray levels; a gray image has none.
    levels = 0.2 if channels == 1 else 2.5 if subsampling == "4:4:0" else 1.5
    assert np.mean(gap <= levels / 255) > 0.999
    assert gap.max() < 4 / 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_file_describes_the_upright_image(tmp_path, orientation):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = save(path, astronaut(), 75, exif=exif)
    file = read_jpeg(path)
    assert file.shape == decoded.shape
    assert matching_fraction(file, decoded) > MIN_MATCHING_FRACTION
    assert fraction_kept(file, decoded) > 0.99
    if orientation == 6:  # as a phone stores an upright photo
        assert fraction_kept(file, project(file, decoded)) > 0.999


@pytest.mark.parametrize(
    ("quality", "least"), [(10, 0.999), (30, 0.999), (50, 0.999), (75, 0.999), (90, 0.995)]
)
@pytest.mark.parametrize(("subsampling", "channels"), [("4:4:4", 1), ("4:2:0", 3), ("4:4:4", 3)])
def test_a_projected_image_has_the_coefficients_of_the_file(
    tmp_path, subsampling, channels, quality, least
):
    path = tmp_path / "a.jpg"
    save(path, astronaut(93, 85, channels), quality, subsampling)
    file = read_jpeg(path)
    blurred = scipy.ndimage.gaussian_filter(astronaut(93, 85, channels) / 255.0, (1, 1, 0))
    estimate = project(file, blurred)
    assert estimate.dtype == np.float32
    assert estimate.min() >= 0
    assert estimate.max() <= 1
    assert fraction_kept(file, blurred) < 0.997
    assert fraction_kept(file, estimate) > least


def test_an_image_inside_the_intervals_does_not_change(tmp_path):
    path = tmp_path / "a.jpg"
    pixels = astronaut(64, 64, 1)
    save(path, pixels, 30)
    estimate = project(read_jpeg(path), pixels / 255, margin=0.0)
    # A few coefficients lie outside, by the encoder's rounding.
    np.testing.assert_allclose(estimate, pixels / 255, atol=0.2 / 255)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0", "4:4:0"])
def test_an_image_that_is_saved_again_keeps_all_coefficients(tmp_path, subsampling):
    path = tmp_path / "a.jpg"
    save(path, astronaut(), 60, subsampling)
    assert fraction_kept(read_jpeg(path), astronaut() / 255) == 1.0


@pytest.mark.parametrize("quality", [10, 50, 90])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_a_files_own_pixels_match_and_shifted_ones_do_not(tmp_path, subsampling, quality):
    path = tmp_path / "a.jpg"
    decoded = save(path, astronaut(), quality, subsampling)
    file = read_jpeg(path)
    assert matching_fraction(file, decoded) > MIN_MATCHING_FRACTION
    assert matching_fraction(file, np.roll(decoded, 1, axis=0)) < MIN_MATCHING_FRACTION
    assert matching_fraction(file, decoded[:-1]) == 0
