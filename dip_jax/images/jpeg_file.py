"""What a JPEG file says beyond its pixels: quantized coefficients, tables, how it is turned.

A JPEG file holds, of every 8x8 block of every component, the 64 cosine coefficients c in multiples of a
step q: k = round(c / q). `read_jpeg` reads k and q; `save_again` says what k another picture would have
in such a file. What follows for the picture is in `jpeg`.

References:
  ITU-T T.81, 1992; the Independent JPEG Group's libjpeg, through the library jpeglib.
"""

import tempfile
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from dip_jax.errors import InputError

SUBSAMPLINGS = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2), "4:4:0": (2, 1)}
"""How many luma rows and columns share one value of chroma."""

# Exif's orientation: whether rows and columns of the upright picture are swapped in the file, and then
# in which order the upright picture's rows and columns are run through.
_TURNS = {
    1: (False, 1, 1),
    2: (False, 1, -1),
    3: (False, -1, -1),
    4: (False, -1, 1),
    5: (True, 1, 1),
    6: (True, 1, -1),
    7: (True, -1, -1),
    8: (True, -1, 1),
}
_lock = threading.Lock()  # jpeglib does not promise to bear threads


class JpegFile(NamedTuple):
    """What a JPEG file says, as it is stored; K components are gray, or luma and two of chroma."""

    height: int
    """Rows of the stored picture; the upright one's columns, where the orientation swaps them."""
    width: int
    """Columns of the stored picture."""
    subsampling: str
    """One of `SUBSAMPLINGS`; `4:4:4` for gray."""
    orientation: int
    """As Exif numbers them; 1 is upright."""
    tables: np.ndarray
    """q, the quantization steps, int `[K, 8, 8]` in gray levels; vertical frequency first."""
    coefficients: tuple[np.ndarray, ...]
    """k of each component, int16 `[rows of blocks, columns of blocks, 8, 8]`."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of the upright picture, as `read_image` gives it."""
        swapped = _TURNS[self.orientation][0]
        sides = (self.width, self.height) if swapped else (self.height, self.width)
        return (*sides, len(self.tables))


def read_jpeg(path: str | Path) -> JpegFile:
    """Reads the quantized coefficients of a JPEG file, baseline or progressive, gray or YCbCr.

    Raises:
      InputError: If the file is missing, damaged, or of a kind whose coefficients are not read.
    """
    try:
        with Image.open(path, formats=("JPEG",)) as picture:
            picture.load()  # refuses a file that ends too early, which jpeglib fills with zeros
            orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
        return _read(path, orientation if orientation in _TURNS else 1)
    except (MemoryError, InputError):
        raise
    except UnidentifiedImageError:
        raise _refusal(path, "it is none") from None
    except Exception as error:  # whatever a damaged file makes of two decoders
        raise _refusal(path, f"it cannot be read ({type(error).__name__}: {error})") from None


def _read(path: str | Path, orientation: int) -> JpegFile:
    jpeglib = _jpeglib()
    with _lock:
        stored = jpeglib.read_dct(str(path))
        kind = stored.jpeg_color_space.name.removeprefix("JCS_")
        if kind not in ("GRAYSCALE", "YCbCr"):
            raise _refusal(path, f"its colors are {kind}")
        stored.load()
    components = (stored.Y,) if kind == "GRAYSCALE" else (stored.Y, stored.Cb, stored.Cr)
    subsampling = "4:4:4"
    if len(components) == 3:
        factors = np.asarray(stored.samp_factor)
        ratios = (factors.max(axis=0) / factors).tolist()
        names = [name for name, ratio in SUBSAMPLINGS.items() if list(ratio) == ratios[1]]
        if ratios[0] != [1, 1] or ratios[1] != ratios[2] or not names:
            raise _refusal(path, f"its sampling factors are {factors.tolist()}")
        (subsampling,) = names
    tables = np.stack([stored.get_component_qt(k) for k in range(len(components))]).astype(int)
    coefficients = tuple(np.asarray(component, np.int16) for component in components)
    return JpegFile(stored.height, stored.width, subsampling, orientation, tables, coefficients)


def _jpeglib() -> Any:
    try:
        import jpeglib
    except ModuleNotFoundError:  # it is not built for every machine
        raise InputError(
            "Reading the coefficients of a JPEG file needs the library jpeglib, which is not installed; use "
            "--set task.jpeg=decoded."
        ) from None
    return jpeglib


def _refusal(path: str | Path, came: str) -> InputError:
    return InputError(
        f"{path}: expected a JPEG file of 8 bits, gray or YCbCr with chroma "
        f"{', '.join(SUBSAMPLINGS)}, but {came}; use `--set task.jpeg=decoded` or save it anew"
    )


def save_again(file: JpegFile, image: np.ndarray) -> JpegFile:
    """Saves and reads again; libjpeg 6b and libjpeg-turbo (Pillow) make the same coefficients."""
    jpeglib = _jpeglib()
    pixels = np.rint(np.clip(to_stored(image, file.orientation), 0, 1) * 255).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "again.jpg"
        with _lock:
            picture = jpeglib.from_spatial(np.ascontiguousarray(pixels))
            if pixels.shape[-1] == 3:
                picture.samp_factor = np.array([SUBSAMPLINGS[file.subsampling], (1, 1), (1, 1)])
            picture.write_spatial(str(path), qt=file.tables)
        return _read(path, file.orientation)


def to_stored(image: Any, orientation: int) -> Any:
    """Turns an upright image, of numpy or JAX, to how it lies in the file."""
    swapped, rows, columns = _TURNS[orientation]
    image = image[::rows, ::columns]
    return image.swapaxes(0, 1) if swapped else image


def to_upright(image: Any, orientation: int) -> Any:
    """The inverse of `to_stored`."""
    swapped, rows, columns = _TURNS[orientation]
    image = image.swapaxes(0, 1) if swapped else image
    return image[::rows, ::columns]
