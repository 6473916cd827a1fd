"""Contact sheets: pages `contact-1.png` and so on with the thumbnails of all images of a run."""

import io
import re
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from dip_jax.report.manifest import Manifest
from dip_jax.report.png import save_png
from dip_jax.report.summary import Summary
from dip_jax.report.views import THUMBNAIL_GAP, THUMBNAIL_SIDE
from dip_jax.storage.paths import AnyPath, read_bytes

_CELL = (
    2 * THUMBNAIL_SIDE + THUMBNAIL_GAP,
    THUMBNAIL_SIDE,
)  # width and height of a thumbnail, pixels
_CAPTION_HEIGHT, _GAP = 18, 12
_COLUMNS, _ROWS = 3, 12


def contact_sheet_names(num_images: int) -> list[str]:
    """The file names of the contact sheets of `num_images` images, in order.

    Example:
      >>> contact_sheet_names(40)
      ['contact-1.png', 'contact-2.png']
    """
    num_pages = -(-num_images // (_COLUMNS * _ROWS))
    return [f"contact-{page + 1}.png" for page in range(num_pages)]


def write_contact_sheets(folder: AnyPath, summaries: Sequence[Summary]) -> None:
    """Writes as many pages as needed, and removes the surplus pages of an earlier run.

    Args:
      folder: The output folder of the run, with the folder of each image.
      summaries: The summaries of the restored images.
    """
    manifest, names = Manifest(folder), contact_sheet_names(len(summaries))
    manifest.reserve(names)
    for name in list(manifest):
        if re.fullmatch(r"contact-\d+\.png", name) and name not in names:
            manifest.remove(name)
    per_page = _COLUMNS * _ROWS
    for number, name in enumerate(names):
        page = draw_contact_sheet(folder, summaries[number * per_page : (number + 1) * per_page])
        save_png(manifest.path(name), page)


def draw_contact_sheet(folder: AnyPath, summaries: Sequence[Summary]) -> Image.Image:
    """One page: the thumbnail of each image, with its name and PSNR directly below its row."""
    num_columns = min(_COLUMNS, len(summaries))
    thumbnails = [_thumbnail(folder / summary["name"]) for summary in summaries]
    starts = range(0, len(summaries), num_columns)
    heights = [max(image.height for image in thumbnails[i : i + num_columns]) for i in starts]
    width = num_columns * (_CELL[0] + _GAP) + _GAP
    page = Image.new(
        "RGB", (width, sum(heights) + len(heights) * (_CAPTION_HEIGHT + _GAP) + _GAP), "white"
    )
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    top = _GAP
    for start, height in zip(starts, heights, strict=True):
        for column in range(min(num_columns, len(summaries) - start)):
            image, left = thumbnails[start + column], _GAP + column * (_CELL[0] + _GAP)
            page.paste(image, (left, top + height - image.height))
            draw.text(
                (left, top + height + 2), _caption(summaries[start + column], font), "black", font
            )
        top += height + _CAPTION_HEIGHT + _GAP
    return page


def _thumbnail(folder: AnyPath) -> Image.Image:
    """The thumbnail of an image, enlarged by a whole factor if it is small."""
    try:
        with Image.open(io.BytesIO(read_bytes(folder / "thumbnail.jpg"))) as opened:
            image = opened.convert("RGB")
    except OSError:  # an unreadable thumbnail must not prevent the page
        image = Image.new("RGB", (_CELL[0], 20), "white")
        ImageDraw.Draw(image).text((0, 0), "no thumbnail", "gray", ImageFont.load_default(12))
        return image
    image.thumbnail(_CELL)
    factor = max(1, min(_CELL[0] // image.width, _CELL[1] // image.height))
    return image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)


def _caption(summary: Summary, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Name and PSNR; a long name is shortened to the width of the cell."""
    name, psnr = summary["name"], summary["psnr"]
    decibels = "" if psnr is None else f"  {psnr:.2f} dB"
    shown, length = name, len(name)
    while length and font.getlength(shown + decibels) > _CELL[0]:
        length -= 1
        shown = name[:length] + "..."
    return shown + decibels
