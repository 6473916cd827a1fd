"""Guides and kernels are read, or refused with the reason."""

import imageio.v3 as iio
import numpy as np
import pytest

from dip_jax.errors import InputError
from dip_jax.images.side_inputs import read_guide, read_kernel


def to_uint8(image):
    return np.rint(image * 255).astype(np.uint8)


def test_a_gray_guide_is_repeated_to_three_channels(tmp_path, image):
    iio.imwrite(tmp_path / "g.png", to_uint8(image[..., 0]))
    guide, _ = read_guide(tmp_path / "g.png", (40, 36))
    assert guide.shape == (40, 36, 3)
    np.testing.assert_allclose(guide, np.repeat(image[..., :1], 3, -1), atol=1 / 255)


def test_a_guide_of_another_size_is_refused_with_both_sizes(tmp_path, image):
    iio.imwrite(tmp_path / "g.png", to_uint8(image))
    with pytest.raises(InputError, match=r"36 x 41 .* 36 x 40"):
        read_guide(tmp_path / "g.png", (41, 36))


def test_a_kernel_is_unchanged_from_an_array_and_scaled_from_an_image(tmp_path):
    kernel = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]], np.float32)
    np.save(tmp_path / "k.npy", kernel)
    np.testing.assert_array_equal(read_kernel(tmp_path / "k.npy")[0], kernel)
    iio.imwrite(tmp_path / "k.png", (60 * kernel).astype(np.uint8))
    read, notes = read_kernel(tmp_path / "k.png")
    np.testing.assert_allclose(read, kernel / 16, rtol=1e-6)
    assert "scaled to sum 1" in notes[-1]


def test_a_file_that_is_not_a_kernel_is_refused(tmp_path):
    iio.imwrite(tmp_path / "k.png", np.zeros((3, 3), np.uint8))
    with pytest.raises(InputError, match="black"):
        read_kernel(tmp_path / "k.png")
    np.save(tmp_path / "k.npy", np.zeros((3, 3, 3)))
    with pytest.raises(InputError, match=r"\(3, 3, 3\)"):
        read_kernel(tmp_path / "k.npy")
