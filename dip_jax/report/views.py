"""Images for browsers: what the page of a run shows of each image, as files of 8 bits."""

import numpy as np
from PIL import Image

from dip_jax.base import Case, Result
from dip_jax.images.read import StoredImage
from dip_jax.report.manifest import Manifest
from dip_jax.report.png import save_jpeg, save_png
from dip_jax.report.sheet import degraded_image, displayed
from dip_jax.storage.paths import AnyPath

THUMBNAIL_SIDE, THUMBNAIL_GAP = 160, 4  # pixels
_DEGRADED, _REFERENCE, _RESTORED, _THUMBNAIL = (
    "degraded.png",
    "reference.png",
    "restored_8bit.png",
    "thumbnail.jpg",
)


def view_names(case: Case, template: StoredImage) -> list[str]:
    """The names of the files that `write_views` writes."""
    names = [_DEGRADED, _THUMBNAIL]
    if case.reference is not None:
        names.append(_REFERENCE)
    if not _is_displayed_alike(template):
        names.append(_RESTORED)
    return names


def write_views(files: Manifest, case: Case, result: Result, template: StoredImage) -> None:
    """Writes the degraded image, the reference, and the restored image where its own file is not displayed alike.

    `thumbnail.jpg` has the degraded and the restored image side by side.

    Args:
      files: The record of the image.
      case: The case that was restored.
      result: Its result.
      template: The stored image whose file type, depth and range `restored.*` has.

    Raises:
      OSError: If a file cannot be written.
    """
    degraded = degraded_image(case)
    images = {_DEGRADED: degraded, _RESTORED: result.image}
    if case.reference is not None:
        images[_REFERENCE] = case.reference
    for name in view_names(case, template):
        if name in images:
            write_view(files.path(name), images[name])
    save_jpeg(files.path(_THUMBNAIL), _side_by_side([degraded, result.image]))


def write_view(path: AnyPath, image: np.ndarray) -> None:
    """Writes an image `[H, W, C]` in [0, 1] as a PNG of 8 bits, gray or RGB, as the sheet shows it."""
    save_png(path, to_pillow(image))


def to_pillow(image: np.ndarray) -> Image.Image:
    """The part of an image `[H, W, C]` in [0, 1] that is drawn, in 8 bits."""
    return Image.fromarray(np.rint(255 * displayed(image)).astype(np.uint8))


def _is_displayed_alike(template: StoredImage) -> bool:
    """Whether a browser shows a file like the template as it shows the other images of this module."""
    return (
        template.suffix == ".png"
        and template.dtype == np.uint8
        and (template.low, template.high) == (0, 255)
        and template.pixels.shape[-1] in (1, 3)
        and not template.tags.icc_profile
        and not template.tags.gamma
    )


def _side_by_side(images: list[np.ndarray]) -> Image.Image:
    small = [to_pillow(image).convert("RGB") for image in images]
    for image in small:
        image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), reducing_gap=2)
    pitch = max(image.width for image in small) + THUMBNAIL_GAP
    size = (pitch * len(small) - THUMBNAIL_GAP, max(image.height for image in small))
    joined = Image.new("RGB", size, "white")
    for i, image in enumerate(small):
        joined.paste(image, (i * pitch, 0))
    return joined
