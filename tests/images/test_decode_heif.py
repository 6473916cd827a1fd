"""HEIC and AVIF files: orientation once, full depth, and advice where a decoder is missing."""

import io
import sys

import imagecodecs
import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageOps, features

from dip_jax.errors import InputError
from dip_jax.images.read import peek_shape, read_image
from tests.images.image_files import (
    HEIGHT,
    WIDTH,
    noise,
    png_values,
    round_trip,
    save_format,
    save_heif,
    smooth,
    stored_values,
)


def exif_of(orientation):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", orientation
    return exif


def upright(orientation):
    image = Image.fromarray(smooth())
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("suffix", [".heic", ".heif", ".avif"])
def test_an_image_is_written_as_png(tmp_path, suffix):
    path = save_format(tmp_path / f"in{suffix}")
    _, target = round_trip(path)
    assert peek_shape(path) == (HEIGHT, WIDTH, 3)
    tolerance = 0 if suffix != ".avif" else 30
    np.testing.assert_allclose(png_values(target).astype(int), smooth(), atol=tolerance)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_heic_image_is_turned_once_though_its_exif_data_repeat_the_orientation(
    tmp_path, orientation
):
    path = tmp_path / "in.heic"
    image = pillow_heif.from_pillow(Image.fromarray(smooth()))
    image.info["exif"] = exif_of(orientation).tobytes()
    save_heif(path, image)
    stored, target = round_trip(path)
    assert peek_shape(path) == stored.pixels.shape
    np.testing.assert_array_equal(png_values(target), upright(orientation))
    with Image.open(target) as written:
        assert dict(written.getexif()) == {0x010F: "Maker", 0x0112: 1}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_avif_image_is_turned_once(tmp_path, orientation):
    path = tmp_path / "in.avif"
    options = {"quality": 100, "subsampling": "4:4:4", "exif": exif_of(orientation)}
    Image.fromarray(smooth()).save(path, **options)
    _, target = round_trip(path)
    difference = png_values(target).astype(int) - upright(orientation)
    assert np.abs(difference).max() < 5
    np.testing.assert_array_equal(read_image(target).pixels, read_image(path).pixels)


def ten_bits():
    return noise(3, np.uint16) >> 6


def save_ten_bits(path):
    if path.suffix == ".avif":
        path.write_bytes(imagecodecs.avif_encode(ten_bits(), bitspersample=10, level=100))
        return
    data = (ten_bits() << 6).tobytes()
    save_heif(path, pillow_heif.from_bytes(mode="RGB;16", size=(WIDTH, HEIGHT), data=data))


@pytest.mark.parametrize("suffix", [".heic", ".avif"])
def test_10_bits_are_kept(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(pillow_heif.options, "SAVE_HDR_TO_12_BIT", False)
    save_ten_bits(tmp_path / f"in{suffix}")
    stored, target = round_trip(tmp_path / f"in{suffix}", value_range="container")
    assert (stored.dtype, stored.notes[0]) == (np.uint16, "10-bit values widened to 16 bits")
    np.testing.assert_array_equal(np.rint(png_values(target) / 65535 * 1023), ten_bits())


@pytest.mark.parametrize("suffix", [".heic", ".avif"])
def test_gray_and_alpha_are_kept(tmp_path, suffix):
    values = np.dstack([smooth(), smooth(1)])
    image = Image.fromarray(values)
    path = tmp_path / f"in{suffix}"
    if suffix == ".heic":
        save_heif(path, pillow_heif.from_pillow(image))
    else:
        image.save(path, quality=100, subsampling="4:4:4")
    alpha = read_image(path).alpha
    np.testing.assert_allclose(alpha.astype(int), smooth(1)[..., 0], atol=1)


def test_gray_heic_has_one_channel(tmp_path):
    save_heif(tmp_path / "in.heic", pillow_heif.from_pillow(Image.fromarray(smooth(1)[..., 0])))
    np.testing.assert_array_equal(stored_values(tmp_path / "in.heic"), smooth(1))
    assert peek_shape(tmp_path / "in.heic") == (HEIGHT, WIDTH, 1)


@pytest.mark.parametrize("suffix", [".heic", ".avif"])
def test_the_content_decides_when_the_suffix_is_wrong(tmp_path, suffix):
    path = save_format(tmp_path / f"in{suffix}").rename(tmp_path / "in.jpg")
    assert read_image(path).pixels.shape == (HEIGHT, WIDTH, 3)


def test_without_pillow_heif_one_sentence_tells_how_to_install_it(tmp_path, monkeypatch):
    path = save_format(tmp_path / "in.heic").rename(tmp_path / "in.jpg")
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(InputError, match=r"got HEIC, .*`pip install pillow-heif`"):
        read_image(path)


def test_a_pillow_without_avif_is_answered_with_advice(tmp_path, monkeypatch):
    save_format(tmp_path / "in.avif")
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(InputError, match=r"got AVIF, .*`pip install --upgrade pillow`"):
        read_image(tmp_path / "in.avif")


def test_one_of_several_images_may_be_chosen(tmp_path):
    images = pillow_heif.from_pillow(Image.fromarray(smooth()))
    images.add_from_pillow(Image.fromarray(255 - smooth()))
    buffer = io.BytesIO()
    save_heif(buffer, images)
    (tmp_path / "in.heic").write_bytes(buffer.getvalue())
    assert read_image(tmp_path / "in.heic").notes == ("first of 2 pages taken",)
    second = read_image(tmp_path / "in.heic", page=1)
    np.testing.assert_allclose(second.pixels, 1 - smooth() / 255, atol=0.01)
    assert second.notes == ()
    with pytest.raises(InputError, match=r"from 1 to 2, .*, got 3"):
        read_image(tmp_path / "in.heic", page=2)
