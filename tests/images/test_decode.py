"""Files of every kind are decoded at full depth; unsupported ones are refused with advice."""

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from dip_jax.errors import InputError
from dip_jax.images.decode import SUFFIXES
from dip_jax.images.read import peek_shape, read_image
from dip_jax.images.write import to_stored_values
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
    stored_values,
)


def test_the_content_decides_the_format_when_the_suffix_is_wrong(tmp_path):
    save_format(tmp_path / "in.tif").rename(tmp_path / "in.jpg")
    assert read_image(tmp_path / "in.jpg").suffix == ".tif"


def test_a_suffix_in_capitals_is_accepted(tmp_path):
    save_format(tmp_path / "in.png").rename(tmp_path / "IN.PNG")
    assert read_image(tmp_path / "IN.PNG").pixels.shape == (HEIGHT, WIDTH, 3)


def test_a_palette_is_expanded_to_rgb(tmp_path):
    image = Image.fromarray(smooth()).quantize(16)
    image.save(tmp_path / "in.png")
    stored, target = round_trip(tmp_path / "in.png")
    assert stored.notes == ("palette expanded to RGB",)
    np.testing.assert_array_equal(png_values(target), np.asarray(image.convert("RGB")))


def test_a_palette_with_transparency_is_expanded_to_rgb_and_alpha(tmp_path):
    indices = (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 3).astype(np.uint8)
    image = Image.fromarray(indices)
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / "in.png", transparency=bytes([255, 128, 0]))
    stored, target = round_trip(tmp_path / "in.png")
    np.testing.assert_array_equal(stored.alpha, np.array([255, 128, 0])[indices])
    colors = np.array([[10, 20, 30, 255], [40, 50, 60, 128], [70, 80, 90, 0]])
    np.testing.assert_array_equal(png_values(target), colors[indices])
    assert stored.notes == ("palette expanded to RGBA",)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8 bit", "16 bit"])
def test_a_transparent_color_of_a_png_becomes_alpha(tmp_path, dtype):
    values = noise(3, dtype)
    values[0, 0] = (1, 2, 3)
    transparent = (b"tRNS", struct.pack(">HHH", 1, 2, 3))
    (tmp_path / "in.png").write_bytes(png_bytes(values, transparent))
    stored = read_image(tmp_path / "in.png")
    expected = np.where((values == (1, 2, 3)).all(axis=-1), 0, np.iinfo(dtype).max)
    np.testing.assert_array_equal(stored.alpha, expected)


def test_a_1_bit_png_becomes_8_bit_gray(tmp_path):
    bits = noise(1, np.float32) > 0.5
    Image.fromarray(bits).save(tmp_path / "in.png")
    stored, target = round_trip(tmp_path / "in.png")
    np.testing.assert_array_equal(png_values(target), 255 * bits)
    assert stored.notes == ("1-bit values widened to 8 bits",)


def test_a_1_bit_tiff_becomes_8_bit_gray(tmp_path):
    bits = noise(1, np.float32) > 0.5
    save_tiff(tmp_path / "in.tif", bits)
    stored, target = round_trip(tmp_path / "in.tif")
    np.testing.assert_array_equal(tifffile.imread(target), 255 * bits)
    assert stored.notes == ("1-bit values widened to 8 bits",)


@pytest.mark.parametrize("compression", ["lzw", "zlib", "packbits", "lzma"])
def test_a_compressed_16_bit_rgb_tiff_is_read_exactly(tmp_path, compression):
    values = noise(3, np.uint16)
    save_tiff(tmp_path / "in.tif", values, compression=compression)
    _, target = round_trip(tmp_path / "in.tif")
    np.testing.assert_array_equal(tifffile.imread(target), values)


@pytest.mark.parametrize("channels", [3, 4], ids=["RGB", "RGBA"])
def test_a_tiff_in_planes_is_read_channel_last(tmp_path, channels):
    values = noise(channels, np.uint16)
    save_tiff(tmp_path / "in.tif", np.moveaxis(values, -1, 0).copy(), planarconfig="separate",
              photometric="rgb", extrasamples=["unassalpha"] * (channels - 3))  # fmt: skip
    _, target = round_trip(tmp_path / "in.tif")
    np.testing.assert_array_equal(tifffile.imread(target), values)


def test_three_samples_labeled_gray_are_read_as_rgb(tmp_path):
    values = noise(3, np.uint8)
    save_tiff(tmp_path / "in.tif", values, photometric="minisblack", planarconfig="contig")
    _, target = round_trip(tmp_path / "in.tif")
    np.testing.assert_array_equal(tifffile.imread(target), values)


def test_a_big_endian_tiff_is_read_in_the_order_of_this_machine(tmp_path):
    values = noise(1, np.uint16)
    save_tiff(tmp_path / "in.tif", values, byteorder=">")
    stored, target = round_trip(tmp_path / "in.tif")
    assert stored.dtype.isnative
    np.testing.assert_array_equal(tifffile.imread(target), values)


def test_a_bigtiff_is_read(tmp_path):
    values = noise(3, np.uint8)
    save_tiff(tmp_path / "in.tif", values, bigtiff=True)
    np.testing.assert_array_equal(stored_values(tmp_path / "in.tif"), values)


def test_a_jpeg_in_a_tiff_is_read_as_rgb(tmp_path):
    Image.fromarray(smooth()).save(tmp_path / "in.tif", compression="jpeg", quality=95)
    values = stored_values(tmp_path / "in.tif")
    assert np.abs(values.astype(int) - smooth()).mean() < 2


def test_a_palette_tiff_is_expanded_to_rgb(tmp_path):
    image = Image.fromarray(smooth()).quantize(16)
    image.save(tmp_path / "in.tif")
    values = stored_values(tmp_path / "in.tif")
    np.testing.assert_array_equal(values, np.asarray(image.convert("RGB")))


def test_a_tiff_with_0_as_white_looks_the_same_afterwards(tmp_path):
    values = noise(1, np.uint8)
    save_tiff(tmp_path / "in.tif", values, photometric="miniswhite")
    stored, target = round_trip(tmp_path / "in.tif")
    np.testing.assert_array_equal(tifffile.imread(target), 255 - values)
    assert stored.notes == ("0 is white in the file; written with 0 as black",)


def test_12_bit_values_are_widened_to_16_bits(tmp_path):
    values = noise(1, np.uint16)[:, :44] >> 4
    even, odd = values[:, ::2], values[:, 1::2]  # two values to three bytes
    packed = np.stack([even >> 4, (even & 15) << 4 | odd >> 8, odd & 255], axis=-1)
    save_tiff(tmp_path / "in.tif", packed.reshape(HEIGHT, 66).astype(np.uint8))
    with tifffile.TiffFile(tmp_path / "in.tif", mode="r+") as tiff:
        tiff.pages.first.tags["ImageWidth"].overwrite(44)
        tiff.pages.first.tags["BitsPerSample"].overwrite(12)
    stored = read_image(tmp_path / "in.tif")
    assert (stored.dtype, stored.high) == (np.uint16, 65535)
    np.testing.assert_allclose(stored.pixels[..., 0], values / 4095, atol=1e-5)
    assert stored.notes == ("12-bit values widened to 16 bits",)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.int16, np.int32, np.uint32])
def test_other_numbers_keep_their_type_and_values(tmp_path, dtype):
    # float32, in which pixels are computed, tells 2^24 values apart
    scale = 1 if np.dtype(dtype).kind == "f" else min(np.iinfo(dtype).max, 2**20)
    values = np.asarray(scale * noise(3, np.float32), dtype)
    save_tiff(tmp_path / "in.tif", values)
    stored, target = round_trip(tmp_path / "in.tif")
    assert stored.dtype == dtype
    rtol = 1e-6 if dtype == np.float64 else 0
    np.testing.assert_allclose(tifffile.imread(target), values, rtol=rtol, atol=rtol)


def test_the_first_page_of_a_tiff_is_read(tmp_path):
    pages = np.stack([noise(1, np.uint16, seed) for seed in range(12)])
    tifffile.imwrite(tmp_path / "in.tif", pages, photometric="minisblack")
    stored, target = round_trip(tmp_path / "in.tif")
    assert stored.notes == ("first of 12 pages taken",)
    np.testing.assert_array_equal(tifffile.imread(target), pages[0])


@pytest.mark.parametrize(
    ("suffix", "options"),
    [(".png", {}), (".webp", {"lossless": True}), (".jpg", {"format": "MPO", "quality": 100})],
)
def test_the_first_frame_of_an_animation_is_read(tmp_path, suffix, options):
    first, second = Image.fromarray(smooth()), Image.fromarray(255 - smooth())
    first.save(tmp_path / f"in{suffix}", save_all=True, append_images=[second], **options)
    stored = read_image(tmp_path / f"in{suffix}")
    assert stored.notes == ("first of 2 pages taken",)
    assert np.abs(to_stored_values(stored.pixels, stored).astype(int) - smooth()).max() < 9


@pytest.mark.parametrize("suffix", [".png", ".webp", ".avif"])
def test_a_frame_of_an_animation_may_be_chosen(tmp_path, suffix):
    frames = [Image.fromarray(values) for values in (smooth(), 255 - smooth(), smooth() // 2)]
    options = {"lossless": True} if suffix == ".webp" else {"quality": 100, "duration": 100}
    frames[0].save(tmp_path / f"in{suffix}", save_all=True, append_images=frames[1:], **options)
    for page, frame in enumerate(frames):
        stored = read_image(tmp_path / f"in{suffix}", page=page)
        assert stored.notes == ()
        assert np.abs(255 * stored.pixels - np.asarray(frame, np.float32)).mean() < 3
    with pytest.raises(InputError, match=r"expected a page from 1 to 3, .*, got 4; change --page"):
        read_image(tmp_path / f"in{suffix}", page=3)


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".npy"])
def test_a_file_of_one_image_has_page_1(tmp_path, suffix):
    path = save_format(tmp_path / f"in{suffix}")
    assert read_image(path, page=0).notes == ()
    with pytest.raises(InputError, match=r"from 1 to 1, .*, got 2"):
        read_image(path, page=1)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_upright(tmp_path, orientation, suffix):
    path = tmp_path / f"in{suffix}"
    if suffix == ".tif":
        save_tiff(path, smooth(), extratags=[(274, "H", 1, orientation, True)])
    else:
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(smooth()).save(path, exif=exif, lossless=True)
    stored, target = round_trip(path)
    source = Image.fromarray(smooth())
    source.getexif()[274] = orientation
    upright = np.asarray(ImageOps.exif_transpose(source))
    np.testing.assert_array_equal(to_stored_values(stored.pixels, stored), upright)
    np.testing.assert_array_equal(read_image(target).pixels, stored.pixels)  # and only once
    assert (stored.notes == ()) == (orientation == 1)


def test_a_16_bit_png_is_turned_upright_too(tmp_path):
    values = noise(4, np.uint16)
    exif = Image.Exif()
    exif[274] = 6
    chunk = (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    (tmp_path / "in.png").write_bytes(png_bytes(values, chunk))
    _, target = round_trip(tmp_path / "in.png")
    np.testing.assert_array_equal(png_values(target), np.rot90(values, -1))


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"gone\.png: .*cannot be opened \(No such file"):
        read_image(tmp_path / "gone.png")


def test_a_folder_is_refused(tmp_path):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match=r"folder\.png: .*cannot be opened \(Is a directory"):
        read_image(tmp_path / "folder.png")


@pytest.mark.parametrize("name", ["in.gif", "in.txt", "in"])
def test_an_unknown_suffix_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"GIF89a")
    with pytest.raises(InputError, match=r"in.*expected a name ending in one of \.png, \.jpg"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"This is a text, not an image.\n" * 20])
def test_a_text_renamed_to_an_image_is_refused(tmp_path, suffix, content):
    (tmp_path / f"in{suffix}").write_bytes(content)
    with pytest.raises(InputError, match=r"in\..*expected an image .*its content is not an image"):
        read_image(tmp_path / f"in{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("fraction", [0.02, 0.5, 0.9])
def test_a_truncated_image_is_refused(tmp_path, suffix, fraction):
    path = save_format(tmp_path / f"in{suffix}", noise(3, np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: int(fraction * len(data))])
    with pytest.raises(InputError, match=r"in\..*damaged"):
        read_image(path)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_truncated_16_bit_png_is_refused(tmp_path, channels):
    data = png_bytes(noise(channels, np.uint16))
    (tmp_path / "in.png").write_bytes(data[:-30])
    with pytest.raises(InputError, match=r"in\.png.*cut short"):
        read_image(tmp_path / "in.png")


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "jpeg"])
def test_a_tiff_that_lacks_its_last_bytes_is_refused(tmp_path, compression):
    save_tiff(tmp_path / "in.tif", smooth(), compression=compression, rowsperstrip=16)
    data = (tmp_path / "in.tif").read_bytes()
    (tmp_path / "in.tif").write_bytes(data[:-5])
    with pytest.raises(InputError, match=r"in\.tif.*cut short"):
        read_image(tmp_path / "in.tif")


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_is_refused(tmp_path, suffix):
    Image.fromarray(smooth()).convert("CMYK").save(tmp_path / f"in{suffix}")
    with pytest.raises(InputError, match=r"(CMYK|SEPARATED); convert it to RGB"):
        read_image(tmp_path / f"in{suffix}")


def test_lab_is_refused(tmp_path):
    save_tiff(tmp_path / "in.tif", smooth(), photometric="cielab")
    with pytest.raises(InputError, match="CIELAB; convert it to RGB"):
        read_image(tmp_path / "in.tif")


def test_ycbcr_that_no_decoder_converts_to_rgb_is_refused(tmp_path):
    Image.fromarray(smooth()).convert("YCbCr").save(tmp_path / "in.tif")
    with pytest.raises(InputError, match="YCBCR; convert it to RGB"):
        read_image(tmp_path / "in.tif")


@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
def test_bands_are_channels(tmp_path, planarconfig):
    values = noise(5, np.uint8)
    stacked = values if planarconfig == "contig" else np.moveaxis(values, -1, 0)
    options = {"photometric": "minisblack", "planarconfig": planarconfig}
    tifffile.imwrite(tmp_path / "in.tif", stacked, **options)
    stored, target = round_trip(tmp_path / "in.tif")
    assert "5 bands" in stored.notes[0]
    np.testing.assert_array_equal(tifffile.imread(target), values)


def test_a_volume_is_refused(tmp_path):
    volume = np.zeros((2, 64, 64), np.uint8)
    tifffile.imwrite(tmp_path / "in.tif", volume, photometric="minisblack", volumetric=True)
    with pytest.raises(InputError, match="2 planes deep"):
        read_image(tmp_path / "in.tif")


def test_colors_multiplied_by_alpha_are_refused(tmp_path):
    save_tiff(tmp_path / "in.tif", noise(4, np.uint8), extrasamples=["assocalpha"])
    with pytest.raises(InputError, match="save it with unassociated alpha"):
        read_image(tmp_path / "in.tif")


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.complex64])
def test_other_types_of_numbers_are_refused(tmp_path, dtype):
    save_tiff(tmp_path / "in.tif", np.ones((HEIGHT, WIDTH), dtype))
    with pytest.raises(InputError, match=f"got {np.dtype(dtype)}; convert it to"):
        read_image(tmp_path / "in.tif")


def test_values_that_are_not_finite_are_unknown(tmp_path):
    values = noise(3, np.float32)
    values[0, 0, 0], values[1, 1, 1], values[2, 2, 2] = np.nan, np.inf, -np.inf
    save_tiff(tmp_path / "in.tif", values)
    stored = read_image(tmp_path / "in.tif")
    np.testing.assert_array_equal(stored.is_known, np.isfinite(values))
    assert np.isfinite(stored.pixels).all()
    assert stored.notes == ("3 values are missing (NaN, infinite or no data); they are filled in",)
    values[:] = np.nan
    save_tiff(tmp_path / "in.tif", values)
    with pytest.raises(InputError, match="no value is a finite number"):
        read_image(tmp_path / "in.tif")


def test_values_that_gdal_marks_as_no_data_are_unknown(tmp_path):
    values = (1000 * noise(1, np.float32)).astype(np.int16)
    values[3:5] = -9999
    tag = (42113, "s", 0, "-9999", True)
    tifffile.imwrite(tmp_path / "in.tif", values, photometric="minisblack", extratags=[tag])
    stored = read_image(tmp_path / "in.tif")
    np.testing.assert_array_equal(stored.is_known[..., 0], values != -9999)
    assert -100 < stored.low < stored.high < 1100


@pytest.mark.filterwarnings("ignore:File may have been truncated")  # of astropy
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_image_too_large_is_refused_before_it_is_decoded(tmp_path, suffix):
    path = save_format(tmp_path / f"in{suffix}", noise(3, np.uint8))
    data = path.read_bytes()
    if suffix not in (".webp", ".npz"):  # their headers can be read only from a whole file
        path.write_bytes(data[: int(0.9 * len(data))])  # decoding would fail
    with pytest.raises(InputError, match=r"at most 1,529 pixels, got 1,530.*--max_pixels"):
        read_image(path, max_pixels=HEIGHT * WIDTH - 1)


def test_an_image_of_exactly_the_largest_size_is_read(tmp_path):
    path = save_format(tmp_path / "in.png")
    assert read_image(path, max_pixels=HEIGHT * WIDTH).pixels.shape == (HEIGHT, WIDTH, 3)


def test_a_huge_header_is_refused_without_a_warning(tmp_path):
    data = bytearray(png_bytes(noise(3, np.uint16)))
    data[16:24] = struct.pack(">II", 30_000, 30_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "in.png").write_bytes(data)
    with pytest.raises(InputError, match="100,000,000 pixels, got 900,000,000"):
        read_image(tmp_path / "in.png")
    assert peek_shape(tmp_path / "in.png") == (30_000, 30_000, 3)


@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_the_shape_of_a_png_is_that_of_its_upright_image_and_no_pixel_is_read(
    tmp_path, orientation
):
    path = tmp_path / "in.png"
    exif = Image.Exif()
    if orientation is not None:
        exif[271], exif[274] = "Maker", orientation
    Image.fromarray(smooth()).save(path, exif=exif)
    shape = read_image(path).pixels.shape
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"IDAT") + 4])
    assert peek_shape(path) == shape


def test_a_palette_that_is_missing_is_named(tmp_path):
    Image.fromarray(smooth()).quantize(16).save(tmp_path / "in.png")
    data = (tmp_path / "in.png").read_bytes()
    start = data.index(b"PLTE") - 4
    (size,) = struct.unpack_from(">I", data, start)
    (tmp_path / "in.png").write_bytes(data[:start] + data[start + 12 + size :])
    with pytest.raises(InputError, match="lacks its palette"):
        read_image(tmp_path / "in.png")


@pytest.mark.parametrize("kind", ["GIF", "ICO", "PPM", "TGA", "PCX"])
def test_a_format_that_only_pillow_knows_is_refused(tmp_path, kind):
    Image.fromarray(smooth()).save(tmp_path / "in.png", kind)
    with pytest.raises(InputError, match="but its content is"):
        read_image(tmp_path / "in.png")


def test_the_limit_of_pillow_neither_stops_an_image_nor_is_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow warns above 100, fails above 200
    path = save_format(tmp_path / "in.png")
    assert read_image(path).pixels.shape == (HEIGHT, WIDTH, 3)
    path.write_bytes(b"no image")
    with pytest.raises(InputError):
        read_image(path)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_refusal_hides_the_error_of_the_decoder(tmp_path):
    (tmp_path / "in.png").write_bytes(b"no image")
    with pytest.raises(InputError) as caught:
        read_image(tmp_path / "in.png")
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"GIF89a" + bytes(20), "GIF"),
        (b"\0\0\0\x18ftypisom" + bytes(20), "a video"),
        (b"  \n<!DOCTYPE html><html>", "a web page or XML"),
        (b"PK\x03\x04" + bytes(20), "a ZIP archive"),
        (b"nonsense nonsense", "not an image, or is damaged"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, content, kind):
    (tmp_path / "photo.jpg").write_bytes(content)
    with pytest.raises(InputError, match=f"its content is {kind}"):
        read_image(tmp_path / "photo.jpg")


def test_a_raw_mosaic_is_gray(tmp_path):
    values = noise(1, np.uint16)
    tifffile.imwrite(tmp_path / "raw.tif", values, photometric="cfa")
    np.testing.assert_array_equal(stored_values(tmp_path / "raw.tif")[..., 0], values)


def test_the_command_shows_no_raw_text_of_the_libraries(tmp_path):
    image = Image.fromarray(smooth())
    bad_exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x0f\0\x02\0\0\0\x63\0\0\0\x63"
    image.save(tmp_path / "metadata.jpg", exif=bad_exif)
    save_format(tmp_path / "short.fits")
    save_format(tmp_path / "short.tif")
    for name in ("short.fits", "short.tif"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
    script = f"""
import pathlib
from dip_jax.cli import command
from dip_jax.errors import InputError
from dip_jax.images.read import peek_shape, read_image
command._prepare_process()
for path in sorted(pathlib.Path({str(tmp_path)!r}).iterdir()):
    try:
        peek_shape(path)
        print(read_image(path).dtype)
    except InputError as error:
        print(len(str(error).splitlines()))
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    assert (done.stdout.split(), done.stderr) == (["uint8", "1", "1"], "")
