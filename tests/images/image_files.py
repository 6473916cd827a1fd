"""Image files for tests: arrays to write, and PNG by its specification alone."""

import struct
import zlib

import numpy as np
import pillow_heif
import tifffile
from astropy.io import fits
from PIL import Image

from dip_jax.images.read import read_image
from dip_jax.images.write import to_stored_values, write_image

HEIGHT, WIDTH = 34, 45


def noise(channels, dtype, seed=0):
    """Values over the whole range of a type; gray has no channel axis."""
    rng = np.random.default_rng(seed)
    shape = (HEIGHT, WIDTH) if channels == 1 else (HEIGHT, WIDTH, channels)
    if np.dtype(dtype).kind == "f":
        return rng.random(shape).astype(dtype)
    values = rng.integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)
    if dtype == np.uint16:  # a conversion to 8 bits, in either direction, would change these
        values.reshape(-1)[:6] = (0, 1, 257, 258, 65534, 65535)
    return values


def smooth(channels=3):
    """A smooth uint8 image `[H, W, channels]`."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([y * 5, x * 4, y + x][:channels], axis=-1).astype(np.uint8)


def png_bytes(values, *chunks):
    """Encodes a PNG from its specification alone: no filter, no interlace."""
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
    """Decodes a PNG file from its specification alone: 8 or 16 bits, no interlace, no palette."""
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
    done = [[0] * (pixel + stride)]  # each line follows a pixel of zeros
    for kind, *line in lines:
        above, current = done[-1], [0] * pixel
        for i, byte in enumerate(line):
            a, b, c = current[i], above[i + pixel], above[i]
            paeth = min((a, b, c), key=lambda value: abs(a + b - c - value))
            current.append((byte + (0, a, b, (a + b) // 2, paeth)[kind]) % 256)
        done.append(current)
    raw = np.array([line[pixel:] for line in done[1:]], np.uint8)
    values = raw.view(f">u{depth // 8}").astype(f"u{depth // 8}").reshape(height, width, channels)
    return values[..., 0] if channels == 1 else values


def save_tiff(path, values, **options):
    """Saves a TIFF file; `options` are those of tifffile."""
    channels = values.shape[2] if values.ndim == 3 else 1
    defaults = {"photometric": "rgb" if channels > 2 else "minisblack", "metadata": None}
    if channels > 1:
        defaults["planarconfig"] = "contig"
    if channels in (2, 4):
        defaults["extrasamples"] = ["unassalpha"]
    tifffile.imwrite(path, values, **{**defaults, **options})


def round_trip(path, **options):
    """Reads an image and writes it again; returns the stored image and the new file."""
    stored = read_image(path, **options)
    target = path.with_name(f"restored{stored.suffix}")
    write_image(target, stored.pixels, stored)
    return stored, target


def stored_values(path):
    """Reads an image and converts it back to the values of its file."""
    stored = read_image(path)
    return to_stored_values(stored.pixels, stored)


def save_format(path, values=None):
    """Saves an RGB image without loss, if possible, in the format of its suffix; returns the path."""
    values = smooth() if values is None else values
    if path.suffix in (".tif", ".tiff"):
        save_tiff(path, values)
    elif path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".npz":
        np.savez(path, values)
    elif path.suffix in (".fits", ".fit", ".fts"):
        fits.PrimaryHDU(np.moveaxis(values, -1, 0)).writeto(path)
    elif path.suffix in (".heic", ".heif"):
        save_heif(path, pillow_heif.from_pillow(Image.fromarray(values)))
    else:
        Image.fromarray(values).save(path)
    return path


def save_heif(path, image):
    """Saves an image of pillow-heif without loss."""
    image.save(path, quality=-1, chroma=444, matrix_coefficients=0)
