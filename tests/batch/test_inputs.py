"""The images of a run: their names, and the files that belong to them."""

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from dip_jax.batch.inputs import InputFiles, list_inputs, unique_names
from dip_jax.errors import InputError
from dip_jax.keys import image_key
from dip_jax.presets import build_config


def write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(exist_ok=True)
    iio.imwrite(path, np.rint(255 * image).astype(np.uint8))
    return path


def test_names_are_stems_and_equal_stems_get_folders_and_suffixes():
    paths = [
        Path(p) for p in ("/a/b/x.png", "/a/c/x.png", "/a/c/x.jpg", "/a/b/y.v2.png", "/a/z.png")
    ]
    names = unique_names(paths)
    assert list(names) == ["b/x", "c/png/x", "c/jpg/x", "y.v2", "z"]
    assert list(names.values()) == paths


def test_an_image_in_the_common_folder_keeps_its_plain_name():
    assert list(unique_names([Path("/a/x.png"), Path("/a/b/x.png")])) == ["x", "b/x"]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["Photo.png", "photo.png"], ["case-1/Photo", "case-2/photo"]),
        (["photo.PNG", "photo.png"], ["case-1/photo", "case-2/photo"]),
        (["a/Photo.png", "photo.jpg"], ["a/Photo", "photo"]),
        (["index.html.png", "Contact-3.png.png"], ["images/index.html", "images/Contact-3.png"]),
        ([".dip_jax.png", "restored.png"], ["images/.dip_jax", "restored"]),
        (["samples.png", "a/samples.png"], ["samples", "images/a/samples"]),
    ],
)
def test_names_meet_neither_each_other_nor_files_of_a_run(paths, names):
    assert list(unique_names([Path(path) for path in paths])) == names


def test_images_that_cannot_be_told_apart_are_refused_not_dropped():
    paths = [Path(p) for p in ("/a/p.png", "/a/p.jpg", "/a/png/p.png")]
    with pytest.raises(InputError, match="'p' cannot be told apart"):
        unique_names(paths)


def test_random_numbers_do_not_depend_on_other_images_of_the_stem():
    keys = [str(image_key(0, name)) for name in ("x", "b/x", "c/png/x")]
    assert len(set(keys)) == 1


def test_an_image_is_not_read_before_its_turn(tmp_path, image):
    path = write(tmp_path / "x.png", image)
    (lazy,) = list_inputs(build_config(), InputFiles([tmp_path]))
    assert lazy.shape == (40, 36, 3)
    before = lazy.digest()
    assert lazy.digest() == before
    write(path, 1 - image)
    assert lazy.digest() != before
    np.testing.assert_allclose(lazy.load().case.problem.measurement, 1 - image, atol=1 / 255 + 1e-6)


def test_a_single_mask_belongs_to_all_images_and_several_are_matched_by_stem(tmp_path, image):
    config = build_config("inpaint")
    images = [write(tmp_path / f"{name}.png", image) for name in ("a", "b")]
    masks = [write(tmp_path / "masks" / f"{s}.png", np.eye(40, 36, k)) for k, s in enumerate("ac")]
    one_for_all = list_inputs(config, InputFiles(images, masks=masks[:1]))
    a, b = (np.asarray(lazy.load().case.problem.operator.mask) for lazy in one_for_all)
    np.testing.assert_array_equal(a, b)
    matched = list_inputs(config, InputFiles(images, masks=masks))
    np.testing.assert_array_equal(a, matched[0].load().case.problem.operator.mask)
    with pytest.raises(InputError, match="no mask has its stem 'b'"):
        matched[1].load()


def test_a_name_that_is_not_utf8_is_refused_at_once(tmp_path, image):
    path = tmp_path / "gr\udcfc.png"
    write(tmp_path / "x.png", image)
    try:
        (tmp_path / "x.png").rename(path)
    except (OSError, UnicodeError):
        pytest.skip("this file system takes only UTF-8")
    with pytest.raises(InputError, match="file name in UTF-8"):
        list_inputs(build_config(), InputFiles([tmp_path]))


def test_a_run_without_images_is_refused():
    with pytest.raises(InputError, match="Nothing to restore"):
        list_inputs(build_config(), InputFiles())


def test_an_array_has_the_shape_of_its_header(tmp_path):
    np.save(tmp_path / "y.npy", np.zeros((57, 32, 1), np.float32))
    (tmp_path / "z.npy").write_bytes(b"no array")
    files = InputFiles([tmp_path / "y.npy", tmp_path / "z.npy"])
    shapes = [lazy.shape for lazy in list_inputs(build_config("ct"), files)]
    assert shapes == [(57, 32, 1), None]
