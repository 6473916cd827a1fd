"""An image survives reading and writing, and a written file takes the format of its template."""

import os
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from dip_jax.images.decoded import Tags
from dip_jax.images.read import StoredImage
from dip_jax.images.write import stored_like, to_stored_values, write_image
from tests.images.image_files import (
    HEIGHT,
    WIDTH,
    noise,
    png_bytes,
    png_values,
    round_trip,
    save_format,
    save_tiff,
    smooth,
)


@pytest.mark.parametrize("channels", [1, 2, 3, 4], ids=["gray", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8 bit", "16 bit"])
def test_a_png_survives_reading_and_writing_exactly(tmp_path, channels, dtype):
    values = noise(channels, dtype)
    path = tmp_path / "in.png"
    path.write_bytes(png_bytes(values))
    stored, target = round_trip(path)
    assert stored.pixels.shape == (HEIGHT, WIDTH, 1 if channels < 3 else 3)
    assert (stored.dtype, stored.low, stored.high) == (dtype, 0, np.iinfo(dtype).max)
    assert (stored.suffix, stored.notes) == (".png", ())
    np.testing.assert_array_equal(png_values(target), values)


def test_a_16_bit_rgb_png_keeps_values_between_the_steps_of_8_bits(tmp_path):
    values = np.full((HEIGHT, WIDTH, 3), 257, np.uint16)
    values[0, 0], values[0, 1] = 258, 65534
    path = tmp_path / "in.png"
    path.write_bytes(png_bytes(values))
    stored, target = round_trip(path, value_range="container")
    expected = np.array([258 / 65535, 65534 / 65535, 257 / 65535], np.float32)
    np.testing.assert_allclose(stored.pixels[0, :3, 1], expected, rtol=1e-7)
    assert png_values(target)[0, :3, 0].tolist() == [258, 65534, 257]


@pytest.mark.parametrize("channels", [1, 2, 3, 4], ids=["gray", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_tiff_survives_reading_and_writing_exactly(tmp_path, channels, dtype):
    values = noise(channels, dtype)
    save_tiff(tmp_path / "in.tif", values)
    stored, target = round_trip(tmp_path / "in.tif")
    assert (stored.dtype, stored.suffix, stored.notes) == (dtype, ".tif", ())
    written = tifffile.imread(target)
    assert written.dtype == dtype
    np.testing.assert_array_equal(written, values)


@pytest.mark.parametrize("channels", [1, 3], ids=["gray", "RGB"])
def test_a_bmp_survives_reading_and_writing_exactly(tmp_path, channels):
    values = noise(channels, np.uint8)
    Image.fromarray(values).save(tmp_path / "in.bmp")
    stored, target = round_trip(tmp_path / "in.bmp")
    assert stored.suffix == ".bmp"
    with Image.open(target) as written:
        assert written.format == "BMP"
        np.testing.assert_array_equal(np.asarray(written), values)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_a_lossy_image_is_written_as_png_with_its_decoded_values(tmp_path, suffix):
    path = save_format(tmp_path / f"in{suffix}")
    _, target = round_trip(path)
    assert target.suffix == ".png"
    np.testing.assert_array_equal(png_values(target), np.asarray(Image.open(path)))


def test_a_bmp_with_alpha_is_written_as_png(tmp_path):
    values = noise(4, np.uint8)
    header = struct.pack("<2sIHHI", b"BM", 122 + values.size, 0, 0, 122)  # with a V4 header
    header += struct.pack("<IiiHHIIiiII", 108, WIDTH, -HEIGHT, 1, 32, 3, values.size, 0, 0, 0, 0)
    header += struct.pack("<IIII", 0xFF, 0xFF00, 0xFF0000, 0xFF000000) + bytes(52)
    (tmp_path / "in.bmp").write_bytes(header + values.tobytes())
    _, target = round_trip(tmp_path / "in.bmp")
    np.testing.assert_array_equal(png_values(target), values)


def test_floats_outside_0_1_are_mapped_there_and_back(tmp_path):
    values = 1203 * noise(3, np.float32) - 303
    save_tiff(tmp_path / "in.tif", values)
    stored, target = round_trip(tmp_path / "in.tif")
    assert -400 < stored.low < -303
    assert 900 < stored.high < 1000
    assert 0 <= stored.pixels.min() < 0.1 < 0.9 < stored.pixels.max() <= 1
    assert stored.notes[0].startswith("values from -3")
    np.testing.assert_allclose(tifffile.imread(target), values, atol=1e-3)


@pytest.mark.parametrize("level", [0.0, 0.5, 7.0])
def test_a_constant_float_image_survives(tmp_path, level):
    values = np.full((HEIGHT, WIDTH), level, np.float32)
    save_tiff(tmp_path / "in.tif", values)
    _, target = round_trip(tmp_path / "in.tif")
    np.testing.assert_array_equal(tifffile.imread(target), values)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_a_color_profile_is_carried_over(tmp_path, suffix):
    profile = bytes(range(256)) * 3
    if suffix == ".tif":
        save_tiff(tmp_path / "in.tif", smooth(), iccprofile=profile)
    else:
        Image.fromarray(smooth()).save(tmp_path / f"in{suffix}", icc_profile=profile)
    stored, target = round_trip(tmp_path / f"in{suffix}")
    assert stored.tags.icc_profile == profile
    with Image.open(target) as written:
        assert written.info["icc_profile"] == profile


def test_a_color_profile_is_carried_over_to_a_16_bit_png(tmp_path):
    profile = bytes(range(256)) * 3
    chunk = (b"iCCP", b"any name\0\0" + zlib.compress(profile))
    (tmp_path / "in.png").write_bytes(png_bytes(noise(3, np.uint16), chunk))
    _, target = round_trip(tmp_path / "in.png")
    with Image.open(target) as written:
        written.verify()  # the checksums
        assert written.info["icc_profile"] == profile


def test_values_are_clipped_and_rounded_not_floored():
    pixels = np.array([-0.1, 0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1, 7], np.float32)
    pixels = pixels.reshape(1, 7, 1)
    assert to_stored_values(pixels, StoredImage(pixels))[0, :, 0].tolist() == [
        0,
        0,
        0,
        1,
        255,
        255,
        255,
    ]


def test_floats_outside_the_range_are_kept():
    pixels = np.array([-1, 0.5, 2], np.float32).reshape(1, 3, 1)
    template = StoredImage(pixels, dtype=np.dtype(np.float32), low=-3.0, high=5.0, suffix=".tif")
    stored = to_stored_values(pixels, template)
    assert stored.dtype == np.float32
    assert stored[0, :, 0].tolist() == [-11, 1, 13]


def test_alpha_is_appended_unchanged():
    pixels = np.full((2, 2, 3), 0.5, np.float32)
    alpha = np.array([[0, 1], [254, 255]], np.uint8)
    stored = to_stored_values(pixels, StoredImage(pixels, alpha))
    assert stored.shape == (2, 2, 4)
    np.testing.assert_array_equal(stored[..., 3], alpha)


def test_a_template_for_another_shape_resizes_alpha_and_drops_a_profile_of_other_channels():
    alpha = np.full((4, 6), 200, np.uint8)
    template = StoredImage(np.ones((4, 6, 3), np.float32), alpha, tags=Tags(b"RGB", (100.0, 50.0)))
    assert stored_like(template, (4, 6, 3)) is template
    larger = stored_like(template, (8, 12, 3))
    assert (larger.pixels.shape, larger.tags.icc_profile) == ((8, 12, 3), b"RGB")
    assert larger.tags.dpi == (200, 100)  # of the same size in inches
    assert larger.alpha.dtype == np.uint8
    np.testing.assert_array_equal(larger.alpha, np.full((8, 12), 200))
    assert stored_like(template, (4, 6, 1)).tags.icc_profile is None


@pytest.mark.parametrize("shape", [(4, 4, 1), (4, 4), (8, 8, 3)])
def test_pixels_that_do_not_fit_the_template_are_an_error(shape):
    template = StoredImage(np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="expected"):
        to_stored_values(np.zeros(shape), template)


def test_a_larger_image_may_be_written_like_one_without_alpha(tmp_path):
    template = StoredImage(np.zeros((4, 4, 3), np.float32))
    write_image(tmp_path / "out.png", np.ones((16, 16, 3)), template)
    np.testing.assert_array_equal(png_values(tmp_path / "out.png"), np.full((16, 16, 3), 255))


def test_a_name_with_another_suffix_is_an_error(tmp_path):
    pixels = np.zeros((4, 4, 1), np.float32)
    with pytest.raises(ValueError, match=r"ending in \.png"):
        write_image(tmp_path / "out.jpg", pixels, StoredImage(pixels))


def test_a_written_file_replaces_the_old_one_and_leaves_no_other(tmp_path):
    path = tmp_path / "out.png"
    path.write_bytes(b"old")
    pixels = np.ones((4, 4, 1), np.float32)
    write_image(path, pixels, StoredImage(pixels))
    assert os.listdir(tmp_path) == ["out.png"]
    np.testing.assert_array_equal(png_values(path), np.full((4, 4), 255))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "out.png"
    path.write_bytes(b"old")
    pixels = np.ones((4, 4, 1), np.float32)

    def fail(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        write_image(path, pixels, StoredImage(pixels))
    assert os.listdir(tmp_path) == ["out.png"]
    assert path.read_bytes() == b"old"


def test_a_failed_write_over_a_folder_leaves_no_file(tmp_path):
    (tmp_path / "out.png").mkdir()
    pixels = np.ones((4, 4, 1), np.float32)
    with pytest.raises(OSError, match=r"out\.png"):
        write_image(tmp_path / "out.png", pixels, StoredImage(pixels))
    assert os.listdir(tmp_path) == ["out.png"]


def test_writing_into_a_missing_folder_is_an_os_error(tmp_path):
    pixels = np.ones((4, 4, 1), np.float32)
    with pytest.raises(OSError, match="gone"):
        write_image(tmp_path / "gone" / "out.png", pixels, StoredImage(pixels))


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".jpg"])
def test_the_resolution_is_kept(tmp_path, suffix):
    Image.fromarray(smooth()).save(tmp_path / f"in{suffix}", dpi=(300, 150))
    _, target = round_trip(tmp_path / f"in{suffix}")
    with Image.open(target) as written:
        np.testing.assert_allclose(np.float64(written.info["dpi"]), (300, 150), rtol=1e-3)


def test_the_resolution_of_an_image_on_its_side_is_turned_with_it(tmp_path):
    values = smooth()
    tifffile.imwrite(
        tmp_path / "in.tif", values, resolution=(40, 20), resolutionunit="CENTIMETER",
        extratags=[(274, "H", 1, 6, True)],
    )  # fmt: skip
    stored, target = round_trip(tmp_path / "in.tif")
    np.testing.assert_allclose(stored.tags.dpi, (50.8, 101.6))
    with Image.open(target) as written:
        np.testing.assert_allclose(np.float64(written.info["dpi"]), (50.8, 101.6), rtol=1e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_gamma_and_the_resolution_of_a_png_are_kept(tmp_path, dtype):
    chunks = [(b"gAMA", struct.pack(">I", 45455)), (b"pHYs", struct.pack(">IIB", 4000, 2000, 1))]
    (tmp_path / "in.png").write_bytes(png_bytes(noise(3, dtype), *chunks))
    _, target = round_trip(tmp_path / "in.png")
    with Image.open(target) as written:
        written.verify()  # the checksums
        assert written.info["gamma"] == pytest.approx(0.45455)
        assert written.info["dpi"] == pytest.approx((101.6, 50.8))


@pytest.mark.parametrize("limit", [HEIGHT * WIDTH - 1, HEIGHT * WIDTH])
def test_a_tiff_that_needs_offsets_of_64_bits_is_a_bigtiff(tmp_path, monkeypatch, limit):
    monkeypatch.setattr("dip_jax.images.encode_tiff._MAX_BYTES", limit)
    values = noise(1, np.uint8)
    save_tiff(tmp_path / "in.tif", values)
    _, target = round_trip(tmp_path / "in.tif")
    with tifffile.TiffFile(target) as written:
        assert written.is_bigtiff == (values.nbytes > limit)
        np.testing.assert_array_equal(written.asarray(), values)


def test_the_pixel_size_of_imagej_is_kept(tmp_path):
    tifffile.imwrite(
        tmp_path / "in.tif", noise(1, np.uint16), imagej=True, resolution=(5, 5), metadata={"unit": "um"}
    )  # fmt: skip
    _, target = round_trip(tmp_path / "in.tif")
    with tifffile.TiffFile(target) as written:
        assert written.imagej_metadata["unit"] == "um"
        assert written.pages.first.tags.valueof("XResolution") == (5, 1)


def test_a_text_beyond_ascii_is_kept(tmp_path):
    text = "pixel size 5 µm"
    save_tiff(tmp_path / "in.tif", smooth(), description=text.encode())
    _, target = round_trip(tmp_path / "in.tif")
    with tifffile.TiffFile(target) as written:
        assert written.pages.first.description == text
