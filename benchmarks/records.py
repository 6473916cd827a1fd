"""Clean images, PSNR and files of rows, which several benchmarks share."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from skimage import data

from dip_jax.errors import InputError
from dip_jax.images.read import read_image

# For each name, the image, and the top and left of a crop with structure.
SOURCES: dict[str, tuple[Callable[[], np.ndarray], int, int]] = {
    "astronaut": (data.astronaut, 10, 130),
    "chelsea": (data.chelsea, 50, 130),
    "coffee": (data.coffee, 90, 180),
    "rocket": (data.rocket, 100, 220),
    "motorcycle": (lambda: data.stereo_motorcycle()[0], 150, 250),
    "camera": (data.camera, 60, 130),
}


def clean_images(
    side: int, names: Sequence[str] = tuple(SOURCES), references: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Returns clean images `[side, side, C]` by name, color images first.

    Args:
      side: Height and width.
      names: Images of scikit-image. They are crops of twice the side, halved, if the image is large
        enough.
      references: Paths of other images, which replace those of scikit-image. Their centers are
        cropped.
    """
    images = {}
    for path in references:
        pixels = read_image(path).pixels
        top, left = ((n - side) // 2 for n in pixels.shape[:2])
        images[Path(path).stem] = pixels[top : top + side, left : left + side]
    for name in () if references else names:
        if name not in SOURCES:
            raise InputError(f"Unknown image {name!r}. Known: {', '.join(SOURCES)}.")
        read, top, left = SOURCES[name]
        pixels = read()
        pixels = pixels.reshape(*pixels.shape[:2], -1).astype(np.float32) / 255
        factor = 2 if min(pixels.shape[:2]) >= 2 * side else 1
        # The corner moves if the crop would not fit.
        top, left = (
            max(0, min(first, n - factor * side))
            for first, n in zip((top, left), pixels.shape[:2], strict=True)
        )
        crop = pixels[top : top + factor * side, left : left + factor * side]
        images[name] = crop.reshape(side, factor, side, factor, -1).mean(axis=(1, 3))
    return dict(sorted(images.items(), key=lambda item: -item[1].shape[-1]))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Returns the rows of a file, without a last line that was cut off."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Appends a row to a file, and flushes it to disk."""
    text = path.read_text() if path.exists() else ""
    with path.open("a") as file:
        if text and not text.endswith("\n"):  # an earlier run was killed while writing
            file.write("\n")
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """Returns the PSNR in dB of an image in [0, 1]."""
    return float(-10 * np.log10(np.mean((image - reference) ** 2)))


def rounded(value: Any, digits: int) -> float | None:
    """Returns a rounded number; None if it is not finite, which JSON cannot store."""
    return round(float(value), digits) if np.isfinite(value) else None
