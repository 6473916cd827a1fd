"""The quantized coefficients, the tables and the orientation of a JPEG file.

For every 8x8 block of every component, a JPEG file stores the 64 cosine coefficients c as multiples
of a step q: k = round(c / q). `read_jpeg` reads k and q. `recompress` computes the k of another
image in such a file. `operators.jpeg` has the measurement that follows from them.

References:
  ITU-T T.81, 1992; the Independent JPEG Group's libjpeg, through the library jpeglib.
"""

import tempfile
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import UnidentifiedImageError

from dip_jax.errors import InputError
from dip_jax.images.jpeg_end import complete_jpeg
from dip_jax.images.open_pillow import JPEG_MAGIC, open_image, read_start

SUBSAMPLINGS = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2), "4:4:0": (2, 1)}
"""Numbers of luma rows and columns per value of chroma."""

# By Exif orientation: whether the file swaps rows and columns, and the direction (1 or -1) in which
# it stores the rows and columns of the upright image.
_ORIENTATIONS = {
    1: (False, 1, 1),
    2: (False, 1, -1),
    3: (False, -1, -1),
    4: (False, -1, 1),
    5: (True, 1, 1),
    6: (True, 1, -1),
    7: (True, -1, -1),
    8: (True, -1, 1),
}
_lock = threading.Lock()  # jpeglib is not documented as thread-safe


class JpegFile(NamedTuple):
    """The content of a JPEG file, in its orientation, with K components: gray, or Y, Cb and Cr."""

    height: int
    """Rows of the stored image: columns of the upright one if the orientation swaps them."""
    width: int
    """Columns of the stored image."""
    subsampling: str
    """One of `SUBSAMPLINGS`; `4:4:4` for gray."""
    orientation: int
    """Exif orientation; 1 is upright."""
    tables: np.ndarray
    """q, the quantization steps, int `[K, 8, 8]` in gray levels; vertical frequency first."""
    coefficients: tuple[np.ndarray, ...]
    """k of each component, int16 `[rows of blocks, columns of blocks, 8, 8]`."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of the upright image, as `read_image` returns it."""
        swapped = _ORIENTATIONS[self.orientation][0]
        sides = (self.width, self.height) if swapped else (self.height, self.width)
        return (*sides, len(self.tables))


def read_jpeg(path: str | Path) -> JpegFile:
    """Reads the quantized coefficients of a baseline or progressive JPEG file, gray or YCbCr.

    Args:
      path: The file; it may lack its end marker.

    Raises:
      InputError: If the file is missing, damaged, or of another kind of JPEG.
    """
    try:
        with Path(path).open("rb") as file:
            if not read_start(file).startswith(JPEG_MAGIC):
                raise _refusal(path, "it is not one")
            image = open_image(file)
            orientation = image.metadata(index=0, exclude_applied=False).get("Orientation", 1)
            orientation = orientation if orientation in _ORIENTATIONS else 1
            try:
                image.read(index=0)  # refuses a truncated file; jpeglib would fill it with zeros
            except OSError:
                data = complete_jpeg(Path(path).read_bytes())
                if data is None:
                    raise
                with tempfile.TemporaryDirectory() as folder:
                    copy = Path(folder) / "complete.jpg"
                    copy.write_bytes(data)
                    return _read(copy, orientation, path)
        return _read(path, orientation, path)
    except (MemoryError, InputError):
        raise
    except UnidentifiedImageError:
        raise _refusal(path, "it is not one") from None
    except Exception as error:  # the two decoders may raise anything on a damaged file
        raise _refusal(path, f"it cannot be read ({type(error).__name__}: {error})") from None


def recompress(file: JpegFile, image: np.ndarray) -> JpegFile:
    """Saves an image with the tables and the subsampling of a JPEG file and reads it again.

    libjpeg 6b and libjpeg-turbo (Pillow) produce the same coefficients.

    Args:
      file: The file whose tables, subsampling and orientation the new one takes.
      image: `[H, W, C]`, upright; clipped to [0, 1] and rounded to 8 bits.
    """
    jpeglib = _jpeglib()
    stored = to_file_orientation(image, file.orientation)
    pixels = np.rint(np.clip(stored, 0, 1) * 255).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "again.jpg"
        with _lock:
            spatial = jpeglib.from_spatial(np.ascontiguousarray(pixels))
            if pixels.shape[-1] == 3:
                spatial.samp_factor = np.array([SUBSAMPLINGS[file.subsampling], (1, 1), (1, 1)])
            spatial.write_spatial(str(path), qt=file.tables)
        return _read(path, file.orientation, path)


def to_file_orientation(image: Any, orientation: int) -> Any:
    """Turns an upright image to the Exif orientation of its file.

    Args:
      image: `[H, W, ...]`, of numpy or JAX.
      orientation: Exif orientation, 1 to 8.

    Example:
      >>> import numpy as np
      >>> to_file_orientation(np.array([[1, 2, 3], [4, 5, 6]]), 6)
      array([[3, 6],
             [2, 5],
             [1, 4]])
    """
    swapped, rows, columns = _ORIENTATIONS[orientation]
    image = image[::rows, ::columns]
    return image.swapaxes(0, 1) if swapped else image


def to_upright(image: Any, orientation: int) -> Any:
    """Turns an image from the Exif orientation of its file; inverts `to_file_orientation`."""
    swapped, rows, columns = _ORIENTATIONS[orientation]
    image = image.swapaxes(0, 1) if swapped else image
    return image[::rows, ::columns]


def _read(file: str | Path, orientation: int, path: str | Path) -> JpegFile:
    """Reads the coefficients in `file`; messages name `path`."""
    jpeglib = _jpeglib()
    with _lock:
        dct = jpeglib.read_dct(str(file))
        kind = dct.jpeg_color_space.name.removeprefix("JCS_")
        if kind not in ("GRAYSCALE", "YCbCr"):
            raise _refusal(path, f"its colors are {kind}")
        dct.load()
    components = (dct.Y,) if kind == "GRAYSCALE" else (dct.Y, dct.Cb, dct.Cr)
    subsampling = "4:4:4"
    if len(components) == 3:
        factors = np.asarray(dct.samp_factor)
        ratios = (factors.max(axis=0) / factors).tolist()
        names = [name for name, ratio in SUBSAMPLINGS.items() if list(ratio) == ratios[1]]
        if ratios[0] != [1, 1] or ratios[1] != ratios[2] or not names:
            raise _refusal(path, f"its sampling factors are {factors.tolist()}")
        (subsampling,) = names
    tables = np.stack([dct.get_component_qt(k) for k in range(len(components))]).astype(int)
    coefficients = tuple(np.asarray(component, np.int16) for component in components)
    return JpegFile(dct.height, dct.width, subsampling, orientation, tables, coefficients)


def _jpeglib() -> Any:
    try:
        import jpeglib
    except ModuleNotFoundError:
        raise InputError(
            "Reading the coefficients of a JPEG file needs the library jpeglib; install it with `pip install jpeglib`, "
            "or, where it is not available, restore the decoded image with --preset=dejpeg_unguided --set "
            "task.jpeg=decoded."
        ) from None
    return jpeglib


def _refusal(path: str | Path, fault: str) -> InputError:
    return InputError(
        f"{path}: expected a JPEG file of 8 bits, gray or YCbCr with chroma "
        f"{', '.join(SUBSAMPLINGS)}, but {fault}; use `--set task.jpeg=decoded` or save it anew"
    )
