"""What several measurements share: clean pictures, and files of lines that a killed run goes on with."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from skimage import data

from dip_jax.base import InputError
from dip_jax.images.read import read_image

# Name to the picture and the top and left of a crop that has something to see.
SOURCES: dict[str, tuple[Callable[[], np.ndarray], int, int]] = {
    "astronaut": (data.astronaut, 10, 130),
    "chelsea": (data.chelsea, 50, 130),
    "coffee": (data.coffee, 90, 180),
    "rocket": (data.rocket, 100, 220),
    "motorcycle": (lambda: data.stereo_motorcycle()[0], 150, 250),
    "camera": (data.camera, 60, 130),
}


def clean_pictures(
    side: int, names: Sequence[str] = tuple(SOURCES), references: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Name to clean picture `[side, side, C]`, color first, so that alike ones share a program.

    Pictures of scikit-image are halved, crops of twice the side, as far as they are large enough;
    of `references`, paths of other pictures, the center is taken as it is.
    """
    found = {}
    for path in references:
        pixels = read_image(path).pixels
        top, left = ((n - side) // 2 for n in pixels.shape[:2])
        found[Path(path).stem] = pixels[top : top + side, left : left + side]
    for name in () if references else names:
        if name not in SOURCES:
            raise InputError(f"Unknown picture {name!r}. Known: {', '.join(SOURCES)}.")
        read, top, left = SOURCES[name]
        pixels = read()
        pixels = pixels.reshape(*pixels.shape[:2], -1).astype(np.float32) / 255
        factor = 2 if min(pixels.shape[:2]) >= 2 * side else 1
        # As near to the given corner as the crop fits.
        top, left = (
            max(0, min(first, n - factor * side))
            for first, n in zip((top, left), pixels.shape[:2], strict=True)
        )
        crop = pixels[top : top + factor * side, left : left + factor * side]
        found[name] = crop.reshape(side, factor, side, factor, -1).mean(axis=(1, 3))
    return dict(sorted(found.items(), key=lambda item: -item[1].shape[-1]))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines that are there; a last one that was cut off does not count."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Adds a line, to the disk."""
    text = path.read_text() if path.exists() else ""
    with path.open("a") as file:
        if text and not text.endswith("\n"):  # the last run was killed while it wrote
            file.write("\n")
        file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())


def figure(value: Any, digits: int) -> float | None:
    """A rounded number; NaN, which is no JSON, as None."""
    return round(float(value), digits) if np.isfinite(value) else None
