"""The figure `sheet.png`: the degraded image, the restored image and the reference side by side."""

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

from dip_jax.base import Case, Result
from dip_jax.metrics import psnr_on_host
from dip_jax.report.png import DPI, save_png
from dip_jax.storage.paths import AnyPath

_TITLE_SIZE = 9  # points
_TITLE_HEIGHT, _GAP = 24, 8  # pixels
_MIN_SIDE = 300  # pixels; smaller images are enlarged to about that


def draw_sheet(path: AnyPath, case: Case, result: Result) -> None:
    """Draws the images of a restoration pixel for pixel, small ones enlarged by a whole factor.

    Args:
      path: The PNG to write.
      case: The case that was restored; its guide and its reference are drawn if it has them.
      result: Its result.
    """
    panels = [(case.preview_name, degraded_image(case)), ("restored", result.image)]
    if case.reference is not None:
        panels = [(f"{t}, {psnr_on_host(x, case.reference):.2f} dB", x) for t, x in panels]
        panels.append(("reference", case.reference))
    if case.problem.code_image is not None:
        panels.insert(0, ("guide", np.asarray(case.problem.code_image)))
    zoom = max(1, round(_MIN_SIDE / max(case.shape[:2])))
    height, width = (zoom * side for side in case.shape[:2])
    pitch = max(width, *(_title_width(title) for title, _ in panels)) + _GAP
    total_width, total_height = len(panels) * pitch, height + _TITLE_HEIGHT
    figure = Figure(figsize=(total_width / DPI, total_height / DPI))
    for i, (title, image) in enumerate(panels):
        left = i * pitch + (pitch - width) // 2
        axis = figure.add_axes((left / total_width, 0, width / total_width, height / total_height))
        axis.imshow(
            displayed(image),
            cmap="gray",  # ignored for RGB
            vmin=0,
            vmax=1,
            interpolation="none",
        )
        axis.axis("off")
        axis.set_title(title, fontsize=_TITLE_SIZE, pad=4)
    save_png(path, figure)


def displayed(image: np.ndarray) -> np.ndarray:
    """The part of an image `[H, W, C]` that is drawn, in [0, 1]: gray `[H, W]` or RGB, the first bands of more."""
    return np.clip(image[..., 0] if image.shape[-1] < 3 else image[..., :3], 0, 1)


def degraded_image(case: Case) -> np.ndarray:
    """The degraded image `[H, W, C]`: the preview, or the measurement if there is no preview."""
    return np.asarray(case.problem.measurement) if case.preview is None else case.preview


def _title_width(title: str) -> int:
    """Pixels."""
    return math.ceil(TextPath((0, 0), title, size=_TITLE_SIZE).get_extents().width * DPI / 72)
