"""Finding image files."""

from pathlib import Path

import pytest
from PIL import Image

from dip_jax.errors import InputError
from dip_jax.images.find import list_images


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.JPG", "c.tif", "notes.txt", "._b.png", "[1].png"):
        (tmp_path / name).touch()
    (tmp_path / "inner.png").mkdir()
    (tmp_path / "inner.png" / "d.png").touch()
    return tmp_path


def names(paths):
    return [path.name for path in paths]


def test_a_folder_means_its_images_in_order(folder):
    assert names(list_images([folder])) == ["[1].png", "a.JPG", "b.png", "c.tif"]


def test_a_glob_means_the_images_it_matches(folder):
    assert names(list_images([f"{folder}/*.png"])) == ["[1].png", "b.png"]
    assert names(list_images([f"{folder}/?.*"])) == ["a.JPG", "b.png", "c.tif"]
    assert names(list_images([f"{folder}/**/d.png"])) == ["d.png"]


def test_a_file_means_itself_even_if_its_name_looks_like_a_glob(folder):
    assert list_images([folder / "[1].png"]) == [folder / "[1].png"]


def test_a_folder_whose_name_looks_like_a_glob_is_listed(folder):
    (folder / "[2]").mkdir()
    (folder / "[2]" / "e.png").touch()
    assert names(list_images([folder / "[2]"])) == ["e.png"]


def test_duplicates_are_listed_once_in_the_order_given(folder, monkeypatch):
    monkeypatch.chdir(folder)
    paths = list_images(["c.tif", "*.tif", "./b.png", folder])
    assert names(paths) == ["c.tif", "b.png", "[1].png", "a.JPG"]
    assert paths[0] == Path("c.tif")


@pytest.mark.parametrize("path", ["gone.png", "*.bmp", "empty", "*.txt"])
def test_a_path_that_matches_no_image_is_refused_by_name(folder, path):
    (folder / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        list_images([folder, folder / path])
    assert str(caught.value).startswith(str(folder / path))


def test_a_tilde_is_the_home_folder_where_no_shell_expands_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    Image.new("L", (40, 40)).save(tmp_path / "a.png")
    assert list_images(["~/a.png"]) == list_images(["~"]) == [tmp_path / "a.png"]
