from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
from PIL import Image

from dip_jax.batch.inputs import list_inputs, unique_names
from dip_jax.errors import InputError
from dip_jax.images.read import peek_shape, read_image
from dip_jax.keys import image_key
from dip_jax.presets import build_config


def test_stems_are_names_and_equal_ones_get_what_tells_them_apart():
    paths = [
        Path(p) for p in ("/a/b/x.png", "/a/c/x.png", "/a/c/x.jpg", "/a/b/y.v2.png", "/a/z.png")
    ]
    names = unique_names(paths)
    assert list(names) == ["b/x", "c/png/x", "c/jpg/x", "y.v2", "z"]
    assert list(names.values()) == paths


def test_a_picture_in_the_folder_above_keeps_its_plain_name():
    assert list(unique_names([Path("/a/x.png"), Path("/a/b/x.png")])) == ["x", "b/x"]


def test_pictures_that_cannot_be_told_apart_are_refused_not_dropped():
    paths = [Path(p) for p in ("/a/p.png", "/a/p.jpg", "/a/png/p.png")]
    with pytest.raises(InputError, match="'p' cannot be told apart"):
        unique_names(paths)


def test_random_numbers_do_not_depend_on_who_else_has_the_stem():
    keys = [str(image_key(0, name)) for name in ("x", "b/x", "c/png/x")]
    assert len(set(keys)) == 1


def test_an_entry_reads_nothing_before_its_turn_and_notices_a_change(tmp_path, picture):
    path = tmp_path / "x.png"
    iio.imwrite(path, (picture * 255).astype(np.uint8))
    (entry,) = list_inputs(build_config(), inputs=[tmp_path])
    assert entry.shape == (40, 36, 3)
    before = entry.digest()
    assert entry.digest() == before
    iio.imwrite(path, 255 - (picture * 255).astype(np.uint8))
    assert entry.digest() != before
    np.testing.assert_allclose(
        entry.load().case.problem.measurement, 1 - picture, atol=1 / 255 + 1e-6
    )


def test_a_change_of_the_mask_is_a_change(tmp_path, picture):
    iio.imwrite(tmp_path / "x.png", (picture * 255).astype(np.uint8))
    mask = tmp_path / "mask.png"
    iio.imwrite(mask, (np.eye(40, 36) * 255).astype(np.uint8))
    (entry,) = list_inputs(build_config("inpaint"), inputs=[tmp_path / "x.png"], masks=[mask])
    before = entry.digest()
    iio.imwrite(mask, (np.eye(40, 36, 1) * 255).astype(np.uint8))
    assert entry.digest() != before


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1"])
def test_a_header_tells_the_shape_that_reading_gives(tmp_path, picture, mode):
    path = tmp_path / "x.png"
    Image.fromarray((picture * 255).astype(np.uint8)).convert(mode).save(path)
    assert peek_shape(path) == read_image(path).pixels.shape


@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3), (40, 50, 4)])
def test_a_header_of_tiff_tells_it_too(tmp_path, shape):
    path = tmp_path / "x.tif"
    photometric = "rgb" if len(shape) == 3 else "minisblack"
    tifffile.imwrite(path, np.zeros(shape, np.uint16), photometric=photometric)
    assert peek_shape(path) == read_image(path).pixels.shape


def test_a_header_of_a_turned_picture_tells_it_upright(tmp_path, picture):
    path = tmp_path / "x.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray((picture * 255).astype(np.uint8)).save(path, exif=exif)
    assert peek_shape(path) == read_image(path).pixels.shape == (36, 40, 3)


def test_a_header_that_is_none_tells_nothing(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"no picture")
    assert peek_shape(path) is None


def test_a_name_that_is_no_text_is_refused_at_once(tmp_path, picture):
    path = tmp_path / "gr\udcfc.png"
    iio.imwrite(tmp_path / "x.png", (picture * 255).astype(np.uint8))
    try:
        (tmp_path / "x.png").rename(path)
    except (OSError, UnicodeError):
        pytest.skip("this file system knows only text")
    with pytest.raises(InputError, match="not UTF-8"):
        list_inputs(build_config(), inputs=[tmp_path])
