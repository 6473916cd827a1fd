"""Reading the files of one image."""

import imageio.v3 as iio
import numpy as np
import pytest

from dip_jax.batch.inputs import InputFiles, list_inputs
from dip_jax.errors import InputError
from dip_jax.presets import build_config


def write(path, image):
    path.parent.mkdir(exist_ok=True)
    iio.imwrite(path, np.rint(255 * image).astype(np.uint8))
    return path


def test_a_change_of_the_mask_is_a_change_of_the_image(tmp_path, image):
    path = write(tmp_path / "x.png", image)
    mask = write(tmp_path / "mask.png", np.eye(40, 36))
    (lazy,) = list_inputs(build_config("inpaint"), InputFiles([path], masks=[mask]))
    before = lazy.digest()
    write(mask, np.eye(40, 36, 1))
    assert lazy.digest() != before


def test_a_reference_is_matched_by_stem_and_needs_the_shape_of_the_image(tmp_path, image):
    images = [write(tmp_path / f"{name}.png", image) for name in ("a", "b", "c")]
    write(tmp_path / "clean" / "a.png", image)
    write(tmp_path / "clean" / "b.png", image[:-1])
    files = InputFiles(images, references=[tmp_path / "clean"])
    good, too_small, missing = list_inputs(build_config(), files)
    np.testing.assert_allclose(good.load().case.reference, image, atol=1 / 255)
    with pytest.raises(InputError, match=r"got \(39, 36, 3\)"):
        too_small.load()
    with pytest.raises(InputError, match="no reference has its stem 'c'"):
        missing.load()


def test_a_reference_without_an_input_is_degraded(tmp_path, image):
    path = write(tmp_path / "x.png", image)
    (lazy,) = list_inputs(build_config(), InputFiles(references=[path]))
    case = lazy.load().case
    assert 0.05 < np.std(case.problem.measurement - case.reference) < 0.15  # 25 / 255, clipped
    again = lazy.load().case
    np.testing.assert_array_equal(again.problem.measurement, case.problem.measurement)


def test_an_array_is_restored_as_a_16_bit_image(tmp_path):
    np.save(tmp_path / "y.npy", np.ones((40, 36), np.complex64))
    config = build_config("compressed_sensing")
    (lazy,) = list_inputs(config, InputFiles([tmp_path / "y.npy"]))
    case, template = lazy.load()
    assert (template.dtype, template.high, template.suffix) == (np.uint16, 65535.0, ".png")
    assert template.pixels.shape == case.shape == (40, 36, 1)
    assert any("100.0% of the frequencies" in note for note in case.notes)
