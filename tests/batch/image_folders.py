"""Folders of images for the tests of this room, and comparisons of output folders."""

import json
from pathlib import Path
from typing import NamedTuple

import imageio.v3 as iio
import numpy as np

from dip_jax.batch.progress import FolderProgress
from dip_jax.report.summary import Summary

COMPARED = ("restored.png", "metrics.jsonl", "curve.png", "sheet.png")


class Run(NamedTuple):
    """A run that several tests check."""

    source: Path
    output: Path
    names: list[str]
    summaries: list[Summary]
    progress: list[FolderProgress]


def draw_images(folder: Path, number: int, *, shapes=((40, 36),), gray: int | None = None):
    """Draws RGB images of the given shapes in turn, every fourth gray from number `gray`; returns names."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    names = []
    for i in range(number):
        height, width = shapes[i % len(shapes)]
        rows, columns = np.mgrid[:height, :width] / 40
        waves = [np.sin((3 + i % 5) * rows + k) * np.cos(4 * columns + i) for k in range(3)]
        image = 0.5 + 0.4 * np.stack(waves, -1) + 0.08 * rng.standard_normal((height, width, 3))
        if gray is not None and i % 4 == gray:
            image = image[..., 0]
        names.append(f"image-{i:02d}")
        stored = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
        iio.imwrite(folder / f"{names[-1]}.png", stored)
    return names


def draw_mixed_images(folder: Path, number: int) -> list[str]:
    """Draws images of three shapes on one canvas, gray and RGB, plus a corrupt and a diverging one.

    Returns the names of the good ones.
    """
    names = draw_images(folder, number - 2, shapes=((40, 36), (39, 35), (39, 36)), gray=3)
    good = (folder / f"{names[0]}.png").read_bytes()
    (folder / "corrupt.png").write_bytes(good[: len(good) // 2])
    (folder / "diverging.png").write_bytes(good)
    return names


def statuses(output: Path) -> dict[str, str]:
    """The status of each image by name, from the `summary.json` of a run."""
    return {s["name"]: s["status"] for s in json.loads((output / "summary.json").read_text())}


def assert_same_files(a: Path, b: Path, names: list[str]) -> None:
    """Asserts equal files, except for config.json, which also has the layout of the run."""
    for name in names:
        for file in COMPARED:
            one, other = ((folder / name / file).read_bytes() for folder in (a, b))
            assert one == other, f"{name}/{file}"


def assert_files_are_complete(folder: Path) -> None:
    """Asserts that every file under its final name can be read."""
    for path in folder.rglob("*"):
        if path.name.endswith(".part") or ".dip_jax" in path.parts or not path.is_file():
            continue
        if path.suffix == ".png":
            assert iio.imread(path).ndim
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            assert [json.loads(line) for line in path.read_text().splitlines()]
