"""Pictures survive the way in and out; what cannot is refused in words a user can act on."""

import os
import stat
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from dip_jax.errors import InputError
from dip_jax.images.decode import SUFFIXES
from dip_jax.images.read import MIN_SIDE, StoredImage, list_images, read_image, read_mask
from dip_jax.images.write import to_stored, write_image

HEIGHT, WIDTH = 34, 45


def noise(channels, dtype, seed=0):
    """Values over the whole range of a type; gray has no channel axis."""
    rng = np.random.default_rng(seed)
    shape = (HEIGHT, WIDTH) if channels == 1 else (HEIGHT, WIDTH, channels)
    if np.dtype(dtype).kind == "f":
        return rng.random(shape).astype(dtype)
    values = rng.integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)
    if dtype == np.uint16:  # what a passage through 8 bits, in either direction, would change
        values.reshape(-1)[:6] = (0, 1, 257, 258, 65534, 65535)
    return values


def smooth(channels=3):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([y * 5, x * 4, y + x][:channels], axis=-1).astype(np.uint8)


def png_bytes(values, *chunks):
    """Write a PNG from its specification alone: no filter, no interlace."""
    depth = 8 * values.dtype.itemsize
    values = values.reshape(*values.shape[:2], -1)
    height, width, channels = values.shape
    color_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    rows = values.astype(f">u{values.dtype.itemsize}").tobytes()
    stride = len(rows) // height
    lines = b"".join(b"\0" + rows[i * stride : (i + 1) * stride] for i in range(height))
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in [
        (b"IHDR", header),
        *chunks,
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    ]:
        data += struct.pack(">I", len(body)) + name + body
        data += struct.pack(">I", zlib.crc32(name + body))
    return data


def png_values(path):
    """Read a PNG from its specification alone: 8 or 16 bits, no interlace, no palette."""
    data, position, packed = path.read_bytes(), 8, b""
    while position < len(data):
        (length,) = struct.unpack_from(">I", data, position)
        name, body = data[position + 4 : position + 8], data[position + 8 :][:length]
        if name == b"IHDR":
            width, height, depth, color_type, *_ = struct.unpack(">IIBBBBB", body)
        packed += body if name == b"IDAT" else b""
        position += 12 + length
    channels = {0: 1, 4: 2, 2: 3, 6: 4}[color_type]
    pixel = channels * depth // 8
    stride = width * pixel
    lines = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, stride + 1).tolist()
    done = [[0] * (pixel + stride)]  # each line behind a pixel of zeros
    for kind, *line in lines:
        above, now = done[-1], [0] * pixel
        for i, byte in enumerate(line):
            a, b, c = now[i], above[i + pixel], above[i]
            paeth = min((a, b, c), key=lambda value: abs(a + b - c - value))
            now.append((byte + (0, a, b, (a + b) // 2, paeth)[kind]) % 256)
        done.append(now)
    raw = np.array([line[pixel:] for line in done[1:]], np.uint8)
    values = raw.view(f">u{depth // 8}").astype(f"u{depth // 8}").reshape(height, width, channels)
    return values[..., 0] if channels == 1 else values


def save_tiff(path, values, **options):
    channels = values.shape[2] if values.ndim == 3 else 1
    defaults = {"photometric": "rgb" if channels > 2 else "minisblack", "metadata": None}
    if channels > 1:
        defaults["planarconfig"] = "contig"
    if channels in (2, 4):
        defaults["extrasamples"] = ["unassalpha"]
    tifffile.imwrite(path, values, **{**defaults, **options})


def round_trip(path):
    """Read a picture and write it again; return the picture and the new file."""
    picture = read_image(path)
    target = path.with_name(f"restored{picture.suffix}")
    write_image(target, picture.pixels, picture)
    return picture, target


def save_form(path, values=None):
    """Save an RGB picture in the form its suffix says."""
    values = smooth() if values is None else values
    if path.suffix in (".tif", ".tiff"):
        save_tiff(path, values)
    else:
        Image.fromarray(values).save(path)
    return path


# ------------------------------------------------------------------ what goes in comes out


@pytest.mark.parametrize("channels", [1, 2, 3, 4], ids=["gray", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8 bit", "16 bit"])
def test_a_png_survives_reading_and_writing_exactly(tmp_path, channels, dtype):
    values = noise(channels, dtype)
    path = tmp_path / "in.png"
    path.write_bytes(png_bytes(values))
    picture, target = round_trip(path)
    assert picture.pixels.shape == (HEIGHT, WIDTH, 1 if channels < 3 else 3)
    assert (picture.dtype, picture.low, picture.high) == (dtype, 0, np.iinfo(dtype).max)
    assert (picture.suffix, picture.notes) == (".png", ())
    np.testing.assert_array_equal(png_values(target), values)


def test_a_16_bit_rgb_png_keeps_what_lies_between_the_steps_of_8_bits(tmp_path):
    values = np.full((HEIGHT, WIDTH, 3), 257, np.uint16)
    values[0, 0], values[0, 1] = 258, 65534
    path = tmp_path / "in.png"
    path.write_bytes(png_bytes(values))
    picture, target = round_trip(path)
    expected = np.array([258 / 65535, 65534 / 65535, 257 / 65535], np.float32)
    np.testing.assert_allclose(picture.pixels[0, :3, 1], expected, rtol=1e-7)
    assert png_values(target)[0, :3, 0].tolist() == [258, 65534, 257]


@pytest.mark.parametrize("channels", [1, 2, 3, 4], ids=["gray", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_tiff_survives_reading_and_writing_exactly(tmp_path, channels, dtype):
    values = noise(channels, dtype)
    save_tiff(tmp_path / "in.tif", values)
    picture, target = round_trip(tmp_path / "in.tif")
    assert (picture.dtype, picture.suffix, picture.notes) == (dtype, ".tif", ())
    written = tifffile.imread(target)
    assert written.dtype == dtype
    np.testing.assert_array_equal(written, values)


@pytest.mark.parametrize("channels", [1, 3], ids=["gray", "RGB"])
def test_a_bmp_survives_reading_and_writing_exactly(tmp_path, channels):
    values = noise(channels, np.uint8)
    Image.fromarray(values).save(tmp_path / "in.bmp")
    picture, target = round_trip(tmp_path / "in.bmp")
    assert picture.suffix == ".bmp"
    with Image.open(target) as written:
        assert written.format == "BMP"
        np.testing.assert_array_equal(np.asarray(written), values)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_a_lossy_picture_is_written_as_png_with_the_values_it_was_decoded_to(tmp_path, suffix):
    path = save_form(tmp_path / f"in{suffix}")
    _, target = round_trip(path)
    assert target.suffix == ".png"
    np.testing.assert_array_equal(png_values(target), np.asarray(Image.open(path)))


def test_pixels_are_float32_in_0_1_in_the_order_height_width_channel(tmp_path):
    values = smooth()
    Image.fromarray(values).save(tmp_path / "in.png")
    pixels = read_image(str(tmp_path / "in.png")).pixels
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, values / 255, atol=1e-7)


def test_the_content_decides_the_form_when_the_suffix_lies(tmp_path):
    save_form(tmp_path / "in.tif").rename(tmp_path / "in.jpg")
    assert read_image(tmp_path / "in.jpg").suffix == ".tif"


def test_a_suffix_in_capitals_is_known(tmp_path):
    save_form(tmp_path / "in.png").rename(tmp_path / "IN.PNG")
    assert read_image(tmp_path / "IN.PNG").pixels.shape == (HEIGHT, WIDTH, 3)


# ------------------------------------------------------------------ palettes, bits, transparency


def test_a_palette_is_expanded_to_rgb(tmp_path):
    image = Image.fromarray(smooth()).quantize(16)
    image.save(tmp_path / "in.png")
    picture, target = round_trip(tmp_path / "in.png")
    assert picture.notes == ("palette expanded to RGB",)
    np.testing.assert_array_equal(png_values(target), np.asarray(image.convert("RGB")))


def test_a_palette_with_transparency_is_expanded_to_rgb_and_alpha(tmp_path):
    indices = (np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 3).astype(np.uint8)
    image = Image.fromarray(indices)
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / "in.png", transparency=bytes([255, 128, 0]))
    picture, target = round_trip(tmp_path / "in.png")
    np.testing.assert_array_equal(picture.alpha, np.array([255, 128, 0])[indices])
    colors = np.array([[10, 20, 30, 255], [40, 50, 60, 128], [70, 80, 90, 0]])
    np.testing.assert_array_equal(png_values(target), colors[indices])
    assert picture.notes == ("palette expanded to RGBA",)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8 bit", "16 bit"])
def test_a_transparent_color_of_a_png_becomes_alpha(tmp_path, dtype):
    values = noise(3, dtype)
    values[0, 0] = (1, 2, 3)
    transparent = (b"tRNS", struct.pack(">HHH", 1, 2, 3))
    (tmp_path / "in.png").write_bytes(png_bytes(values, transparent))
    picture = read_image(tmp_path / "in.png")
    expected = np.where((values == (1, 2, 3)).all(axis=-1), 0, np.iinfo(dtype).max)
    np.testing.assert_array_equal(picture.alpha, expected)


def test_a_1_bit_png_becomes_8_bit_gray(tmp_path):
    bits = noise(1, np.float32) > 0.5
    Image.fromarray(bits).save(tmp_path / "in.png")
    picture, target = round_trip(tmp_path / "in.png")
    np.testing.assert_array_equal(png_values(target), 255 * bits)
    assert picture.notes == ("1-bit values widened to 8 bits",)


def test_a_1_bit_tiff_becomes_8_bit_gray(tmp_path):
    bits = noise(1, np.float32) > 0.5
    save_tiff(tmp_path / "in.tif", bits)
    picture, target = round_trip(tmp_path / "in.tif")
    np.testing.assert_array_equal(tifffile.imread(target), 255 * bits)
    assert picture.notes == ("1-bit values widened to 8 bits",)


def test_a_bmp_with_alpha_is_written_as_png(tmp_path):
    values = noise(4, np.uint8)
    header = struct.pack("<2sIHHI", b"BM", 122 + values.size, 0, 0, 122)  # with a V4 header
    header += struct.pack("<IiiHHIIiiII", 108, WIDTH, -HEIGHT, 1, 32, 3, values.size, 0, 0, 0, 0)
    header += struct.pack("<IIII", 0xFF, 0xFF00, 0xFF0000, 0xFF000000) + bytes(52)
    (tmp_path / "in.bmp").write_bytes(header + values.tobytes())
    _, target = round_trip(tmp_path / "in.bmp")
    np.testing.assert_array_equal(png_values(target), values)


# ------------------------------------------------------------------ the many kinds of TIFF


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


def test_three_samples_called_gray_are_read_as_rgb(tmp_path):
    values = noise(3, np.uint8)
    save_tiff(tmp_path / "in.tif", values, photometric="minisblack", planarconfig="contig")
    _, target = round_trip(tmp_path / "in.tif")
    np.testing.assert_array_equal(tifffile.imread(target), values)


def test_a_big_endian_tiff_is_read_in_the_order_of_this_machine(tmp_path):
    values = noise(1, np.uint16)
    save_tiff(tmp_path / "in.tif", values, byteorder=">")
    picture, target = round_trip(tmp_path / "in.tif")
    assert picture.dtype.isnative
    np.testing.assert_array_equal(tifffile.imread(target), values)


def test_a_bigtiff_is_read(tmp_path):
    values = noise(3, np.uint8)
    save_tiff(tmp_path / "in.tif", values, bigtiff=True)
    np.testing.assert_array_equal(to_stored(*as_read(tmp_path / "in.tif")), values)


def as_read(path):
    picture = read_image(path)
    return picture.pixels, picture


def test_a_jpeg_in_a_tiff_is_read_as_rgb(tmp_path):
    Image.fromarray(smooth()).save(tmp_path / "in.tif", compression="jpeg", quality=95)
    values = to_stored(*as_read(tmp_path / "in.tif"))
    assert np.abs(values.astype(int) - smooth()).mean() < 2


def test_a_palette_tiff_is_expanded_to_rgb(tmp_path):
    image = Image.fromarray(smooth()).quantize(16)
    image.save(tmp_path / "in.tif")
    values = to_stored(*as_read(tmp_path / "in.tif"))
    np.testing.assert_array_equal(values, np.asarray(image.convert("RGB")))


def test_a_tiff_with_0_as_white_looks_the_same_afterwards(tmp_path):
    values = noise(1, np.uint8)
    save_tiff(tmp_path / "in.tif", values, photometric="miniswhite")
    picture, target = round_trip(tmp_path / "in.tif")
    np.testing.assert_array_equal(tifffile.imread(target), 255 - values)
    assert picture.notes == ("0 is white in the file; written with 0 as black",)


def test_12_bit_values_are_widened_to_16_bits(tmp_path):
    values = noise(1, np.uint16)[:, :44] >> 4
    even, odd = values[:, ::2], values[:, 1::2]  # two values to three bytes
    packed = np.stack([even >> 4, (even & 15) << 4 | odd >> 8, odd & 255], axis=-1)
    save_tiff(tmp_path / "in.tif", packed.reshape(HEIGHT, 66).astype(np.uint8))
    with tifffile.TiffFile(tmp_path / "in.tif", mode="r+") as tiff:
        tiff.pages.first.tags["ImageWidth"].overwrite(44)
        tiff.pages.first.tags["BitsPerSample"].overwrite(12)
    picture = read_image(tmp_path / "in.tif")
    assert (picture.dtype, picture.high) == (np.uint16, 65535)
    np.testing.assert_allclose(picture.pixels[..., 0], values / 4095, atol=1e-5)
    assert picture.notes == ("12-bit values widened to 16 bits",)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_become_float32(tmp_path, dtype):
    values = noise(3, dtype)
    save_tiff(tmp_path / "in.tif", values)
    picture, target = round_trip(tmp_path / "in.tif")
    assert picture.dtype == np.float32
    assert picture.notes == (f"{8 * values.itemsize}-bit floats are written as 32-bit floats",)
    np.testing.assert_array_equal(tifffile.imread(target), values.astype(np.float32))


def test_floats_outside_0_1_are_mapped_there_and_back(tmp_path):
    values = 1203 * noise(3, np.float32) - 303
    values[0, 0, :2] = (-303, 900)
    save_tiff(tmp_path / "in.tif", values)
    picture, target = round_trip(tmp_path / "in.tif")
    assert (picture.low, picture.high) == (-303, 900)
    assert (picture.pixels.min(), picture.pixels.max()) == (0, 1)
    assert picture.notes == (
        "values span [-303, 900]; mapped to [0, 1] and back on writing",
    )  # fmt: skip
    np.testing.assert_allclose(tifffile.imread(target), values, atol=1e-4)


@pytest.mark.parametrize("level", [0.0, 0.5, 7.0])
def test_a_constant_float_picture_survives(tmp_path, level):
    values = np.full((HEIGHT, WIDTH), level, np.float32)
    save_tiff(tmp_path / "in.tif", values)
    _, target = round_trip(tmp_path / "in.tif")
    np.testing.assert_array_equal(tifffile.imread(target), values)


# ------------------------------------------------------------------ pages, orientation, profiles


def test_of_a_tiff_with_many_pages_the_first_is_taken(tmp_path):
    pages = np.stack([noise(1, np.uint16, seed) for seed in range(12)])
    tifffile.imwrite(tmp_path / "in.tif", pages, photometric="minisblack")
    picture, target = round_trip(tmp_path / "in.tif")
    assert picture.notes == ("first of 12 pages taken",)
    np.testing.assert_array_equal(tifffile.imread(target), pages[0])


@pytest.mark.parametrize(
    ("suffix", "options"),
    [(".png", {}), (".webp", {"lossless": True}), (".jpg", {"format": "MPO", "quality": 100})],
)
def test_of_an_animation_the_first_frame_is_taken(tmp_path, suffix, options):
    first, second = Image.fromarray(smooth()), Image.fromarray(255 - smooth())
    first.save(tmp_path / f"in{suffix}", save_all=True, append_images=[second], **options)
    picture = read_image(tmp_path / f"in{suffix}")
    assert picture.notes == ("first of 2 pages taken",)
    assert np.abs(to_stored(picture.pixels, picture).astype(int) - smooth()).max() < 9


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright(tmp_path, orientation, suffix):
    path = tmp_path / f"in{suffix}"
    if suffix == ".tif":
        save_tiff(path, smooth(), extratags=[(274, "H", 1, orientation, True)])
    else:
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(smooth()).save(path, exif=exif, lossless=True)
    picture, target = round_trip(path)
    source = Image.fromarray(smooth())
    source.getexif()[274] = orientation
    upright = np.asarray(ImageOps.exif_transpose(source))
    np.testing.assert_array_equal(to_stored(picture.pixels, picture), upright)
    np.testing.assert_array_equal(read_image(target).pixels, picture.pixels)  # and only once
    assert (picture.notes == ()) == (orientation == 1)


def test_a_16_bit_png_is_turned_upright_too(tmp_path):
    values = noise(4, np.uint16)
    exif = Image.Exif()
    exif[274] = 6
    chunk = (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    (tmp_path / "in.png").write_bytes(png_bytes(values, chunk))
    _, target = round_trip(tmp_path / "in.png")
    np.testing.assert_array_equal(png_values(target), np.rot90(values, -1))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_a_color_profile_is_carried_over(tmp_path, suffix):
    profile = bytes(range(256)) * 3
    if suffix == ".tif":
        save_tiff(tmp_path / "in.tif", smooth(), iccprofile=profile)
    else:
        Image.fromarray(smooth()).save(tmp_path / f"in{suffix}", icc_profile=profile)
    picture, target = round_trip(tmp_path / f"in{suffix}")
    assert picture.icc_profile == profile
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


# ------------------------------------------------------------------ what is refused


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
@pytest.mark.parametrize("content", [b"", b"This is a text, not a picture.\n" * 20])
def test_a_text_renamed_to_a_picture_is_refused(tmp_path, suffix, content):
    (tmp_path / f"in{suffix}").write_bytes(content)
    with pytest.raises(InputError, match=r"in\..*expected a picture .*its content is none"):
        read_image(tmp_path / f"in{suffix}")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_a_picture_cut_short_is_refused(tmp_path, suffix, share):
    path = save_form(tmp_path / f"in{suffix}", noise(3, np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match=r"in\..*damaged"):
        read_image(path)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_16_bit_png_cut_short_is_refused(tmp_path, channels):
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


def test_ycbcr_that_no_decoder_turns_into_rgb_is_refused(tmp_path):
    Image.fromarray(smooth()).convert("YCbCr").save(tmp_path / "in.tif")
    with pytest.raises(InputError, match="YCBCR; convert it to RGB"):
        read_image(tmp_path / "in.tif")


def test_more_than_four_channels_are_refused(tmp_path):
    save_tiff(tmp_path / "in.tif", noise(5, np.uint8), photometric="minisblack")
    with pytest.raises(InputError, match="5 channels"):
        read_image(tmp_path / "in.tif")


def test_a_volume_is_refused(tmp_path):
    volume = np.zeros((2, 64, 64), np.uint8)
    tifffile.imwrite(tmp_path / "in.tif", volume, photometric="minisblack", volumetric=True)
    with pytest.raises(InputError, match="2 deep"):
        read_image(tmp_path / "in.tif")


def test_colors_multiplied_by_alpha_are_refused(tmp_path):
    save_tiff(tmp_path / "in.tif", noise(4, np.uint8), extrasamples=["assocalpha"])
    with pytest.raises(InputError, match="save it with unassociated alpha"):
        read_image(tmp_path / "in.tif")


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.uint32, np.complex64])
def test_other_numbers_are_refused(tmp_path, dtype):
    save_tiff(tmp_path / "in.tif", np.ones((HEIGHT, WIDTH), dtype))
    with pytest.raises(InputError, match=f"it holds {np.dtype(dtype)}; convert it to"):
        read_image(tmp_path / "in.tif")


def test_values_that_are_not_finite_are_counted_and_refused(tmp_path):
    values = noise(3, np.float32)
    values[0, 0, 0], values[1, 1, 1], values[2, 2, 2] = np.nan, np.inf, -np.inf
    save_tiff(tmp_path / "in.tif", values)
    with pytest.raises(InputError, match=r"in\.tif.*3 are NaN or infinite"):
        read_image(tmp_path / "in.tif")


def test_a_float64_too_large_for_float32_is_refused(tmp_path):
    values = noise(1, np.float64)
    values[0, 0] = 1e300
    save_tiff(tmp_path / "in.tif", values)
    with pytest.raises(InputError, match="1 are NaN or infinite"):
        read_image(tmp_path / "in.tif")


@pytest.mark.parametrize("shape", [(MIN_SIDE - 1, 50), (50, MIN_SIDE - 1)])
def test_a_picture_too_small_for_the_network_is_refused(tmp_path, shape):
    Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / "in.png")
    with pytest.raises(InputError, match=f"at least 33 .* {shape[1]} x {shape[0]}"):
        read_image(tmp_path / "in.png")


def test_the_smallest_picture_is_read(tmp_path):
    Image.fromarray(np.zeros((33, 33), np.uint8)).save(tmp_path / "in.png")
    assert read_image(tmp_path / "in.png").pixels.shape == (33, 33, 1)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_picture_too_large_is_refused_before_it_is_decoded(tmp_path, suffix):
    path = save_form(tmp_path / f"in{suffix}", noise(3, np.uint8))
    data = path.read_bytes()
    if suffix != ".webp":  # whose header is read only where the file is whole
        path.write_bytes(data[: int(0.9 * len(data))])  # decoding would fail
    with pytest.raises(InputError, match=r"at most 1,529 pixels, it has 1,530.*--max_pixels"):
        read_image(path, max_pixels=HEIGHT * WIDTH - 1)


def test_a_picture_of_exactly_the_largest_size_is_read(tmp_path):
    path = save_form(tmp_path / "in.png")
    assert read_image(path, max_pixels=HEIGHT * WIDTH).pixels.shape == (HEIGHT, WIDTH, 3)


def test_a_huge_header_is_refused_without_a_warning(tmp_path):
    data = bytearray(png_bytes(noise(3, np.uint16)))
    data[16:24] = struct.pack(">II", 30_000, 30_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "in.png").write_bytes(data)
    with pytest.raises(InputError, match="100,000,000 pixels, it has 900,000,000"):
        read_image(tmp_path / "in.png")


def test_the_guard_of_pillow_neither_stops_a_picture_nor_is_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow warns above 100, fails above 200
    path = save_form(tmp_path / "in.png")
    assert read_image(path).pixels.shape == (HEIGHT, WIDTH, 3)
    path.write_bytes(b"no picture")
    with pytest.raises(InputError):
        read_image(path)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_refusal_hides_the_decoder_behind_it(tmp_path):
    (tmp_path / "in.png").write_bytes(b"no picture")
    with pytest.raises(InputError) as caught:
        read_image(tmp_path / "in.png")
    assert caught.value.__suppress_context__


# ------------------------------------------------------------------ masks


def black_and_white():
    """A mask with a hole, as booleans: True is known."""
    known = np.ones((HEIGHT, WIDTH), bool)
    known[5:20, 8:30] = False
    return known


@pytest.mark.parametrize("white", [1, 200, 255])
def test_a_mask_is_1_where_white_and_0_where_black(tmp_path, white):
    known = black_and_white()
    Image.fromarray((white * known).astype(np.uint8)).save(tmp_path / "mask.png")
    mask, notes = read_mask(tmp_path / "mask.png", (HEIGHT, WIDTH))
    assert (mask.dtype, notes) == (np.float32, ())
    np.testing.assert_array_equal(mask, known)


@pytest.mark.parametrize("kind", ["1 bit", "RGB", "16 bit", "float"])
def test_a_mask_may_come_in_many_forms(tmp_path, kind):
    known = black_and_white()
    path = tmp_path / ("mask.tif" if kind == "float" else "mask.png")
    if kind == "1 bit":
        Image.fromarray(known).save(path)
    elif kind == "RGB":
        Image.fromarray(np.stack([255 * known.astype(np.uint8)] * 3, -1)).save(path)
    elif kind == "16 bit":
        path.write_bytes(png_bytes(65535 * known.astype(np.uint16)))
    else:
        save_tiff(path, known.astype(np.float32))
    np.testing.assert_array_equal(read_mask(path, (HEIGHT, WIDTH))[0], known)


def test_a_mask_of_another_size_is_refused_with_both_sizes(tmp_path):
    Image.fromarray(black_and_white()).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match=r"mask\.png.*45 x 35 .* it has 45 x 34"):
        read_mask(tmp_path / "mask.png", (HEIGHT + 1, WIDTH))


def test_a_mask_all_black_is_refused(tmp_path):
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match="all black: nothing would be known"):
        read_mask(tmp_path / "mask.png", (HEIGHT, WIDTH))


def test_a_mask_all_white_is_refused(tmp_path):
    Image.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match="all white: there is nothing to fill in"):
        read_mask(tmp_path / "mask.png", (HEIGHT, WIDTH))


def test_a_few_gray_pixels_are_thresholded_and_counted(tmp_path):
    values = 255 * black_and_white().astype(np.uint8)
    values[0, :4] = (3, 127, 128, 250)
    Image.fromarray(values).save(tmp_path / "mask.png")
    mask, notes = read_mask(tmp_path / "mask.png", (HEIGHT, WIDTH))
    assert mask[0, :4].tolist() == [0, 0, 1, 1]
    assert notes == ("4 gray pixels of the mask thresholded at one half",)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_a_mask_may_be_lossy(tmp_path, mode, suffix):
    known = black_and_white()
    image = Image.fromarray(255 * known.astype(np.uint8)).convert(mode)
    image.save(tmp_path / f"mask{suffix}", quality=90)
    mask, _ = read_mask(tmp_path / f"mask{suffix}", (HEIGHT, WIDTH))
    np.testing.assert_array_equal(mask, known)


def test_a_photograph_is_no_mask(tmp_path):
    Image.fromarray(smooth(1)[..., 0]).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match=r"\d+% of its pixels are neither; is this a mask\?"):
        read_mask(tmp_path / "mask.png", (HEIGHT, WIDTH))


def test_gray_up_to_one_pixel_in_twenty_is_a_mask_still(tmp_path):
    values = np.zeros((40, 50), np.uint8)
    values[:20] = 255
    values[30, :50] = values[31, :50] = 128  # 100 of 2000
    Image.fromarray(values).save(tmp_path / "mask.png")
    read_mask(tmp_path / "mask.png", (40, 50))
    values[32, 0] = 128
    Image.fromarray(values).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match="is this a mask"):
        read_mask(tmp_path / "mask.png", (40, 50))


def test_a_red_mask_is_refused(tmp_path):
    values = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    values[..., 0] = 255 * black_and_white()
    Image.fromarray(values).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match=r"its color channels differ; .*save it as gray"):
        read_mask(tmp_path / "mask.png", (HEIGHT, WIDTH))


def test_the_alpha_of_a_mask_is_ignored_with_a_note(tmp_path):
    known = black_and_white()
    values = np.stack([255 * known, 99 * np.ones_like(known)], axis=-1).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "mask.png")
    mask, notes = read_mask(tmp_path / "mask.png", (HEIGHT, WIDTH))
    np.testing.assert_array_equal(mask, known)
    assert notes == ("alpha of the mask ignored",)


def test_a_mask_is_turned_upright(tmp_path):
    known = black_and_white()
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(255 * known.astype(np.uint8)).save(tmp_path / "mask.png", exif=exif)
    mask, _ = read_mask(tmp_path / "mask.png", (WIDTH, HEIGHT))
    np.testing.assert_array_equal(mask, np.rot90(known, -1))


def test_a_mask_may_be_small_but_not_too_large(tmp_path):
    values = np.array([[0, 255], [255, 255]], np.uint8)
    Image.fromarray(values).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png", (2, 2))[0].sum() == 3
    with pytest.raises(InputError, match="--max_pixels"):
        read_mask(tmp_path / "mask.png", (2, 2), max_pixels=3)


# ------------------------------------------------------------------ writing


def test_values_are_clipped_and_rounded_not_floored():
    pixels = np.array([-0.1, 0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1, 7], np.float32)
    pixels = pixels.reshape(1, 7, 1)
    assert to_stored(pixels, StoredImage(pixels))[0, :, 0].tolist() == [0, 0, 0, 1, 255, 255, 255]


def test_floats_are_clipped_to_the_range_of_the_file():
    pixels = np.array([-1, 0.5, 2], np.float32).reshape(1, 3, 1)
    like = StoredImage(pixels, dtype=np.dtype(np.float32), low=-3.0, high=5.0, suffix=".tif")
    stored = to_stored(pixels, like)
    assert stored.dtype == np.float32
    assert stored[0, :, 0].tolist() == [-3, 1, 5]


def test_alpha_is_appended_untouched():
    pixels = np.full((2, 2, 3), 0.5, np.float32)
    alpha = np.array([[0, 1], [254, 255]], np.uint8)
    stored = to_stored(pixels, StoredImage(pixels, alpha))
    assert stored.shape == (2, 2, 4)
    np.testing.assert_array_equal(stored[..., 3], alpha)


@pytest.mark.parametrize("shape", [(4, 4, 1), (4, 4), (8, 8, 3)])
def test_pixels_that_do_not_fit_the_picture_are_an_error(shape):
    like = StoredImage(np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8))
    with pytest.raises(ValueError, match="expected"):
        to_stored(np.zeros(shape), like)


def test_a_larger_picture_may_be_written_like_one_without_alpha(tmp_path):
    like = StoredImage(np.zeros((4, 4, 3), np.float32))
    write_image(tmp_path / "out.png", np.ones((16, 16, 3)), like)
    np.testing.assert_array_equal(png_values(tmp_path / "out.png"), np.full((16, 16, 3), 255))


def test_a_name_of_another_form_is_an_error(tmp_path):
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


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path):
    pixels = np.ones((4, 4, 1), np.float32)
    write_image(tmp_path / "out.png", pixels, StoredImage(pixels))
    (tmp_path / "other").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("out.png", "other")]
    assert modes[0] == modes[1]


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


def test_a_name_taken_by_a_folder_leaves_nothing_behind(tmp_path):
    (tmp_path / "out.png").mkdir()
    pixels = np.ones((4, 4, 1), np.float32)
    with pytest.raises(OSError, match=r"out\.png"):
        write_image(tmp_path / "out.png", pixels, StoredImage(pixels))
    assert os.listdir(tmp_path) == ["out.png"]


def test_writing_into_a_missing_folder_is_an_os_error(tmp_path):
    pixels = np.ones((4, 4, 1), np.float32)
    with pytest.raises(OSError, match="gone"):
        write_image(tmp_path / "gone" / "out.png", pixels, StoredImage(pixels))


# ------------------------------------------------------------------ lists


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.JPG", "c.tif", "notes.txt", "._b.png", "[1].png"):
        (tmp_path / name).touch()
    (tmp_path / "inner.png").mkdir()
    (tmp_path / "inner.png" / "d.png").touch()
    return tmp_path


def names(paths):
    return [path.name for path in paths]


def test_a_folder_stands_for_its_pictures_in_order(folder):
    assert names(list_images([folder])) == ["[1].png", "a.JPG", "b.png", "c.tif"]


def test_a_glob_stands_for_the_pictures_it_matches(folder):
    assert names(list_images([f"{folder}/*.png"])) == ["[1].png", "b.png"]
    assert names(list_images([f"{folder}/?.*"])) == ["a.JPG", "b.png", "c.tif"]
    assert names(list_images([f"{folder}/**/d.png"])) == ["d.png"]


def test_a_file_stands_for_itself_even_if_its_name_looks_like_a_glob(folder):
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
def test_a_path_that_stands_for_no_picture_is_refused_by_name(folder, path):
    (folder / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        list_images([folder, folder / path])
    assert str(caught.value).startswith(str(folder / path))
