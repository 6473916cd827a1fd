"""PNG files of 16 bits at full depth, also interlaced ones, and without a word of libpng."""

import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest

from dip_jax.errors import InputError
from dip_jax.images.read import read_image
from tests.images.image_files import noise, png_bytes, png_values, round_trip


def interlaced_png(values, *chunks):
    """Encodes 16 bits with Adam7 by the table in the specification, pixel by pixel."""
    pattern = np.array([
        [1, 6, 4, 6, 2, 6, 4, 6],
        [7, 7, 7, 7, 7, 7, 7, 7],
        [5, 6, 5, 6, 5, 6, 5, 6],
        [7, 7, 7, 7, 7, 7, 7, 7],
        [3, 6, 4, 6, 3, 6, 4, 6],
        [7, 7, 7, 7, 7, 7, 7, 7],
        [5, 6, 5, 6, 5, 6, 5, 6],
        [7, 7, 7, 7, 7, 7, 7, 7],
    ])  # fmt: skip
    values = values.reshape(*values.shape[:2], -1)
    height, width, _ = values.shape
    numbers = np.tile(pattern, (-(-height // 8), -(-width // 8)))[:height, :width]
    lines = b""
    for number in range(1, 8):
        for y in range(height):
            pixels = values[y, numbers[y] == number]
            lines += b"\0" + pixels.astype(">u2").tobytes() if pixels.size else b""
    plain = png_bytes(values[:1, :1], *chunks)
    color_type = plain[25]
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 1)
    return rebuilt(plain, header, zlib.compress(lines))


def rebuilt(data, header, idat):
    """A PNG file with another header and other rows."""
    position, result = 8, data[:8]
    while position < len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        body = data[position + 8 : position + 8 + length]
        position += 12 + length
        body = {b"IHDR": header, b"IDAT": idat}.get(name, body)
        result += struct.pack(">I", len(body)) + name + body
        result += struct.pack(">I", zlib.crc32(name + body))
    return result


@pytest.mark.parametrize("channels", [1, 2, 3, 4], ids=["gray", "LA", "RGB", "RGBA"])
def test_an_interlaced_image_is_read_exactly(tmp_path, channels):
    (tmp_path / "in.png").write_bytes(interlaced_png(noise(channels, np.uint16)))
    _, target = round_trip(tmp_path / "in.png")
    np.testing.assert_array_equal(png_values(target), noise(channels, np.uint16))


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (2, 3), (5, 5)])
def test_passes_without_pixels_have_no_rows(tmp_path, shape):
    values = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape) * 900
    (tmp_path / "in.png").write_bytes(interlaced_png(values))
    pixels = read_image(tmp_path / "in.png", min_side=1, value_range="container").pixels
    np.testing.assert_allclose(pixels[..., 0] * 65535, values, atol=0.01)


def test_the_transparent_color_of_an_interlaced_image_becomes_alpha(tmp_path):
    values = noise(3, np.uint16)
    chunk = (b"tRNS", struct.pack(">HHH", *values[5, 6].tolist()))
    (tmp_path / "in.png").write_bytes(interlaced_png(values, chunk))
    alpha = read_image(tmp_path / "in.png").alpha
    assert np.argwhere(alpha == 0).tolist() == [[5, 6]]


def test_no_library_writes_to_the_terminal(tmp_path):
    bad_profile = (b"iCCP", b"bad\0\0" + zlib.compress(b"no profile"))
    late_background = (b"bKGD", b"\0")
    path = tmp_path / "in.png"
    path.write_bytes(interlaced_png(noise(3, np.uint16), bad_profile, late_background))
    code = f"from dip_jax.images.read import read_image; print(read_image({str(path)!r}).dtype)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("uint16\n", "")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:-30], "ends before its last chunk|wrong checksum"),
        (lambda data: data.replace(b"IDAT\x78", b"IDAT\x79"), "IDAT has a wrong checksum"),
        (lambda data: data[:28] + b"\7" + data[29:], "its content is not an image"),
        (lambda data: rebuilt(data, data[16:29], zlib.compress(b"\0" * 99)), "before its data"),
        (lambda data: rebuilt(data, data[16:28] + b"\2", b""), "header has values"),
        (lambda data: rebuilt(data, bytes(8) + data[24:29], b""), "its content is not an image"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, change, words):
    (tmp_path / "in.png").write_bytes(change(interlaced_png(noise(3, np.uint16))))
    with pytest.raises(InputError, match=words):
        read_image(tmp_path / "in.png")
