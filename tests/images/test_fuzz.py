"""Mutated files: every reader returns an image or raises an `InputError`, soon and without much memory."""

import io
import time

import numpy as np
import pillow_heif
import psutil
import pytest
import tifffile
from astropy.io import fits
from PIL import Image

from dip_jax.errors import InputError
from dip_jax.images.array_file import read_array
from dip_jax.images.jpeg_file import read_jpeg
from dip_jax.images.read import peek_shape, read_image, read_mask
from dip_jax.images.side_inputs import read_guide, read_kernel
from tests.images.image_files import HEIGHT, WIDTH, noise, png_bytes, smooth

MAX_SECONDS, MAX_BYTES = 10.0, 1_000_000_000
MAX_PIXELS = 1_000_000


def encoded(save, *args, **options) -> bytes:
    buffer = io.BytesIO()
    save(buffer, *args, **options)
    return buffer.getvalue()


def seeds() -> dict[str, list[bytes]]:
    """Valid files by suffix."""
    color, gray = Image.fromarray(smooth()), Image.fromarray(smooth(1)[..., 0])
    alpha = Image.fromarray(noise(4, np.uint8))
    tiffs = [
        encoded(tifffile.imwrite, noise(channels, dtype), photometric=kind, compression=compression)
        for channels, kind in ((1, "minisblack"), (3, "rgb"))
        for dtype in (np.uint8, np.uint16, np.int16, np.float32, np.float64)
        for compression in (None, "deflate")
    ]
    compressed = fits.CompImageHDU(noise(1, np.int16))
    return {
        ".png": [
            encoded(color.save, "PNG"),
            encoded(gray.save, "PNG", dpi=(300, 300)),
            encoded(alpha.save, "PNG"),
            encoded(color.convert("P").save, "PNG", transparency=3),
            png_bytes(noise(3, np.uint16)),
        ],
        ".jpg": [
            encoded(color.save, "JPEG", quality=80),
            encoded(color.save, "JPEG", progressive=True, subsampling=0),
            encoded(gray.save, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"),
        ],
        ".webp": [encoded(color.save, "WEBP"), encoded(alpha.save, "WEBP", lossless=True)],
        ".bmp": [encoded(color.save, "BMP")],
        ".tif": [*tiffs, encoded(color.save, "TIFF", compression="tiff_lzw")],
        ".npy": [
            encoded(np.save, noise(1, np.float32)),
            encoded(np.save, 1j * noise(3, np.float32)),
        ],
        ".npz": [encoded(np.savez_compressed, noise(3, np.uint8))],
        ".fits": [
            encoded(fits.PrimaryHDU(noise(1, np.int16)).writeto),
            encoded(fits.HDUList([fits.PrimaryHDU(), compressed]).writeto),
        ],
        ".avif": [encoded(color.save, "AVIF")],
        ".heic": [encoded(pillow_heif.from_pillow(color).save)],
    }


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Changes, inserts, repeats or removes bytes, more often near the start, where headers are."""
    values = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        size = max(len(values), 1)
        position = int(size * rng.random() ** rng.choice((1, 4)))
        match rng.integers(6):
            case 0 | 1:
                values[position : position + 1] = bytes([rng.integers(256)])
            case 2:  # a length or an offset
                values[position : position + 4] = rng.choice(
                    [b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"]
                )
            case 3:
                del values[position:]
            case 4:
                values[position:position] = values[position : position + int(rng.integers(64))]
            case 5:
                del values[position : position + int(rng.integers(64))]
    return bytes(values)


def read_everything(path) -> int:
    """Calls every reader of a file; returns how many of them accepted it."""
    peek_shape(path)  # never raises
    readers = [
        lambda: read_image(path, max_pixels=MAX_PIXELS),
        lambda: read_mask(path, (HEIGHT, WIDTH), max_pixels=MAX_PIXELS),
        lambda: read_guide(path, (HEIGHT, WIDTH), max_pixels=MAX_PIXELS),
        lambda: read_kernel(path, max_pixels=MAX_PIXELS),
    ]
    if path.suffix in (".npy", ".npz"):
        readers.append(lambda: read_array(path))
    if path.suffix == ".jpg":
        readers.append(lambda: read_jpeg(path))
    accepted = 0
    for read in readers:
        try:
            read()
            accepted += 1
        except InputError:
            pass
    return accepted


@pytest.mark.filterwarnings("ignore")  # of the decoders
@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_mutated_file_is_read_or_refused(tmp_path, count, monkeypatch):
    files = [(suffix, data) for suffix, group in seeds().items() for data in group]
    for suffix, data in files:
        (tmp_path / f"seed{suffix}").write_bytes(data)
        assert read_everything(tmp_path / f"seed{suffix}") > 0
    before, accepted = psutil.Process().memory_info().rss, 0
    for number in range(count):
        rng = np.random.default_rng(number)
        suffix, data = files[number % len(files)]
        path = tmp_path / f"{number}{suffix}"
        path.write_bytes(mutate(data, rng))
        start = time.perf_counter()
        try:
            accepted += read_everything(path) > 0
        except Exception as error:
            raise AssertionError(f"mutation {number} of a {suffix} file: {error!r}") from error
        assert time.perf_counter() - start < MAX_SECONDS, number
        path.unlink()
    assert psutil.Process().memory_info().rss - before < MAX_BYTES
    assert 0.05 * count < accepted < 0.95 * count
    assert list(tmp_path.glob("[0-9]*")) == []
