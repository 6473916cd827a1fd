"""The figure `sheet.png`: the degraded image, the restored image and the reference side by side."""

import math
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath

from dip_jax.base import Case, Result
from dip_jax.metrics import psnr_on_host
from dip_jax.report.png import DPI, save_png
from dip_jax.storage.paths import AnyPath

_TITLE_SIZE = 9  # points
_TITLE_HEIGHT, _GAP = 24, 8  # pixels
_MIN_SIDE = 300  # pixels; smaller images are enlarged to about that
_DETAIL_SIDE = 128  # pixels of the shorter side from which on a sheet has a detail and an error map
_MAX_CROP, _MAX_ZOOM = 160, 6  # pixels of a detail, and its factor


class _Panel(NamedTuple):
    title: str
    image: np.ndarray
    """`[H, W]` or `[H, W, 3]`."""
    limit: float = 1.0
    """Value that is drawn brightest."""
    colors: str = "gray"


def draw_sheet(path: AnyPath, case: Case, result: Result) -> None:
    """Draws the images of a restoration pixel for pixel, small ones enlarged by a whole factor.

    Large images have an enlarged detail below, where the restored image varies most, and, with a reference, a map of the
    error.

    Args:
      path: The PNG to write.
      case: The case that was restored; its guide and its reference are drawn if it has them.
      result: Its result.
    """
    panels = [_Panel(*panel) for panel in _images(case, result)]
    height, width = case.shape[:2]
    has_detail = min(height, width) >= _DETAIL_SIDE
    if has_detail and case.reference is not None:
        panels.append(_error_panel(result.image, case.reference))
    zoom = max(1, round(_MIN_SIDE / max(height, width)))
    pitch = max(zoom * width, *(_title_width(panel.title) for panel in panels)) + _GAP
    total_width, total_height = len(panels) * pitch, zoom * height + _TITLE_HEIGHT
    crop, crop_zoom = _detail(result.image) if has_detail else ((slice(0), slice(0)), 0)
    detail_side = crop_zoom * (crop[0].stop - crop[0].start if has_detail else 0)
    if has_detail:
        total_height += _GAP + detail_side
    figure = Figure(figsize=(total_width / DPI, total_height / DPI))

    def draw(
        panel: _Panel, image: np.ndarray, left: float, bottom: float, size: tuple[int, int]
    ) -> Axes:
        box = (
            left / total_width,
            bottom / total_height,
            size[1] / total_width,
            size[0] / total_height,
        )
        axis = figure.add_axes(box)
        axis.imshow(
            image, cmap=panel.colors, vmin=0, vmax=panel.limit, interpolation="none"
        )  # RGB has no colormap
        axis.axis("off")
        return axis

    bottom = total_height - _TITLE_HEIGHT - zoom * height
    for i, panel in enumerate(panels):
        size = (zoom * height, zoom * width)
        axis = draw(panel, panel.image, i * pitch + (pitch - size[1]) // 2, bottom, size)
        axis.set_title(panel.title, fontsize=_TITLE_SIZE, pad=4)
        if has_detail and panel.image.shape[:2] == (height, width):
            axis.add_patch(_frame(crop))
            left = i * pitch + (pitch - detail_side) // 2
            draw(panel, panel.image[crop], left, 0, (detail_side, detail_side))
    save_png(path, figure)


def _images(case: Case, result: Result) -> list[tuple[str, np.ndarray]]:
    """The titles and the images to draw."""
    images = [(case.preview_name, degraded_image(case)), ("restored", result.image)]
    if case.reference is not None:
        images = [(f"{t}, {psnr_on_host(x, case.reference):.2f} dB", x) for t, x in images]
        images.append(("reference", case.reference))
    if case.problem.code_image is not None:
        images.insert(0, ("guide", np.asarray(case.problem.code_image)))
    return [(title, displayed(image)) for title, image in images]


def _error_panel(image: np.ndarray, reference: np.ndarray) -> _Panel:
    """The root mean square of the error over the channels; its brightest color is the 99.8 % quantile."""
    error = 255 * np.sqrt(np.mean(np.square(image - reference, dtype=np.float64), axis=-1))
    limit = max(float(np.quantile(error, 0.998)), 1e-3)
    return _Panel(f"error, up to {limit:.0f} of 255", error, limit, "magma")


def _detail(image: np.ndarray) -> tuple[tuple[slice, slice], int]:
    """The square of an image that is shown enlarged, where it varies most, and the factor."""
    height, width = image.shape[:2]
    side = min(min(height, width) // 4, _MAX_CROP)
    zoom = max(1, min(min(height, width) // side, _MAX_ZOOM))
    gray = displayed(image).reshape(height, width, -1).mean(axis=-1)
    rows, columns = (range(0, size - side + 1, max(side // 2, 1)) for size in (height, width))
    squares = [(slice(i, i + side), slice(j, j + side)) for i in rows for j in columns]
    return max(squares, key=lambda square: float(gray[square].std())), zoom


def _frame(crop: tuple[slice, slice]) -> Rectangle:
    top, left = crop[0].start, crop[1].start
    side = crop[0].stop - top
    corner = (left - 0.5, top - 0.5)
    return Rectangle(corner, side, side, fill=False, ec="#ffcc00", lw=1)


def displayed(image: np.ndarray) -> np.ndarray:
    """The part of an image `[H, W, C]` that is drawn, in [0, 1]: gray `[H, W]` or RGB, the first bands of more."""
    return np.clip(image[..., 0] if image.shape[-1] < 3 else image[..., :3], 0, 1)


def degraded_image(case: Case) -> np.ndarray:
    """The degraded image `[H, W, C]`: the preview, or the measurement if there is no preview."""
    return np.asarray(case.problem.measurement) if case.preview is None else case.preview


def _title_width(title: str) -> int:
    """Pixels."""
    return math.ceil(TextPath((0, 0), title, size=_TITLE_SIZE).get_extents().width * DPI / 72)
