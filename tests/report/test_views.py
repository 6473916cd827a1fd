"""The images for browsers."""

import io

import numpy as np
import pytest
from PIL import Image

from dip_jax.images.decoded import Tags
from dip_jax.images.read import StoredImage
from dip_jax.report.manifest import Manifest, is_image_file
from dip_jax.report.views import view_names, write_views


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def write(folder, case, result, template) -> dict[str, np.ndarray]:
    write_views(Manifest(folder), case, result, template)
    found = {path.name: pixels(path) for path in folder.iterdir() if path.is_file()}
    assert set(found) == set(view_names(case, template))
    assert all(map(is_image_file, found))
    return found


def to_bytes(image) -> np.ndarray:
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)


def test_the_degraded_image_and_the_reference_have_eight_bits(tmp_path, case, result):
    found = write(tmp_path, case, result, StoredImage(case.reference))
    assert set(found) == {"degraded.png", "reference.png", "thumbnail.jpg"}
    np.testing.assert_array_equal(found["degraded.png"], to_bytes(case.problem.measurement))
    np.testing.assert_array_equal(found["reference.png"], to_bytes(case.reference))


def test_a_small_thumbnail_has_both_images_pixel_for_pixel(tmp_path, case, result):
    flat = np.full(case.shape, 0.25, np.float32)
    found = write(
        tmp_path, case._replace(preview=flat), result._replace(image=2 * flat), StoredImage(flat)
    )
    thumbnail = found["thumbnail.jpg"].astype(int)
    assert thumbnail.shape == (40, 36 + 4 + 36, 3)
    assert abs(thumbnail[:, :36] - 64).max() <= 8  # JPEG
    assert abs(thumbnail[:, 40:] - 128).max() <= 8


def test_the_thumbnail_of_a_large_image_is_small(tmp_path, case, result):
    large = np.zeros((300, 700, 1), np.float32)
    case = case._replace(preview=large, reference=None)
    found = write(tmp_path, case, result._replace(image=large), StoredImage(large))
    assert found["thumbnail.jpg"].shape == (69, 324, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"suffix": ".tif"},
        {"suffix": ".npy", "dtype": np.dtype(np.float32), "low": 0, "high": 1},
        {"dtype": np.dtype(np.uint16), "high": 65535},
        {"low": 10},
        {"tags": Tags(icc_profile=b"profile")},
        {"tags": Tags(gamma=0.5)},
    ],
)
def test_what_a_browser_shows_otherwise_gets_a_file_of_eight_bits(tmp_path, case, result, changes):
    template = StoredImage(case.reference)._replace(**changes)
    found = write(tmp_path, case, result, template)
    np.testing.assert_array_equal(found["restored_8bit.png"], to_bytes(result.image))


@pytest.mark.parametrize("bands", [1, 2, 5])
def test_images_of_any_number_of_bands_are_shown(tmp_path, case, result, bands):
    image = np.random.default_rng(0).random((12, 10, bands)).astype(np.float32)
    case = case._replace(preview=image, reference=None)
    found = write(tmp_path, case, result._replace(image=image), StoredImage(image))
    expected = image[..., 0] if bands < 3 else image[..., :3]
    np.testing.assert_array_equal(found["degraded.png"], to_bytes(expected))
    assert ("restored_8bit.png" in found) == (bands != 1)


def test_equal_images_give_equal_bytes(tmp_path, case, result):
    template = StoredImage(case.reference)
    for folder in ("a", "b"):
        write(tmp_path / folder, case, result, template)
    for path in (tmp_path / "a").glob("*.*g"):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
        Image.open(io.BytesIO(path.read_bytes())).verify()
