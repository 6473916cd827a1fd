"""Contact sheets: pages `contact-1.png` and so on with the small sheets of all images of a run."""

import io
import re
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from dip_jax.report.manifest import Manifest
from dip_jax.report.png import save_png
from dip_jax.report.summary import Summary
from dip_jax.storage.paths import AnyPath, read_bytes

_CELL = (400, 180)  # width and height of a sheet, pixels
_CAPTION_HEIGHT, _GAP = 16, 8
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
    """One page: the sheet of each image, with its name and PSNR below."""
    num_columns = min(_COLUMNS, len(summaries))
    num_rows = -(-len(summaries) // num_columns)
    width, height = _CELL[0] + _GAP, _CELL[1] + _CAPTION_HEIGHT + _GAP
    page = Image.new("RGB", (num_columns * width + _GAP, num_rows * height + _GAP), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for i, summary in enumerate(summaries):
        left, top = _GAP + i % num_columns * width, _GAP + i // num_columns * height
        try:
            data = read_bytes(folder / summary["name"] / "sheet.png")
            with Image.open(io.BytesIO(data)) as sheet:
                sheet.thumbnail(_CELL)
                page.paste(sheet.convert("RGB"), (left, top))
        except OSError:  # an unreadable sheet must not prevent the page
            draw.text((left, top), "no sheet", "gray", font)
        draw.text((left, top + _CELL[1]), _caption(summary, font), "black", font)
    return page


def _caption(summary: Summary, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Name and PSNR; a long name is shortened to the width of the cell."""
    name, psnr = summary["name"], summary["psnr"]
    decibels = "" if psnr is None else f"  {psnr:.2f} dB"
    shown, length = name, len(name)
    while length and font.getlength(shown + decibels) > _CELL[0]:
        length -= 1
        shown = name[:length] + "..."
    return shown + decibels
