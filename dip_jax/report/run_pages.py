"""What a run leaves for a person who looks at the whole folder: a table, a page, contact sheets.

`summary.json` and `summary.csv` have an entry per picture; `index.html` shows them with their sheets and
curves; `contact-1.png` and so on show the sheets small, many to a page.
"""

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from PIL import Image, ImageDraw, ImageFont

from dip_jax.errors import InputError
from dip_jax.images.atomic import write_text
from dip_jax.report.figures import save_png
from dip_jax.report.manifest import Manifest

_COLUMNS = [
    "name",
    "task",
    "status",
    "num_steps",
    "stop_step",
    "psnr",
    "ssim",
    "psnr_measurement",
    "loss",
    "num_rollbacks",
    "seconds",
    "seconds_per_step",
    "error",
]
_CELL, _CAPTION, _GAP = (400, 180), 16, 8
_ACROSS, _DOWN = 3, 12

_PAGE = jinja2.Template(
    """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>dip_jax: {{ pictures|length }} pictures</title>
<style>
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em; color: #222 }
table { border-collapse: collapse }
th, td { padding: .3em .8em; text-align: right; border-bottom: 1px solid #ddd; vertical-align: top }
th:first-child, td:first-child { text-align: left }
td img { max-width: 30em; max-height: 14em }
.failed, .diverged { color: #b00 }
.error { text-align: left; max-width: 30em }
</style>
<h1>{{ pictures|length }} pictures</h1>
<p>{% for status, number in counts.items() %}{{ number }} {{ status }}{{ ", " if not loop.last }}{% endfor %}</p>
<table>
<tr><th>picture<th>status<th>answer at step<th>damaged dB<th>restored dB<th>SSIM<th>seconds<th></tr>
{% for p in pictures -%}
<tr class="{{ p.status }}"><td>{{ p.name }}<td>{{ p.status }}
<td>{{ p.stop_step if p.stop_step is not none }}
<td>{{ "%.2f"|format(p.psnr_measurement) if p.psnr_measurement is not none }}
<td>{{ "%.2f"|format(p.psnr) if p.psnr is not none }}
<td>{{ "%.3f"|format(p.ssim) if p.ssim is not none }}
<td>{{ "%.1f"|format(p.seconds) if p.seconds is not none }}
{% if p.error -%}
<td class="error">{{ p.error }}
{%- else -%}
<td><a href="{{ p.path }}/sheet.png"><img loading="lazy" alt="before and after" src="{{ p.path }}/sheet.png"></a>
<a href="{{ p.path }}/curve.png">curve</a>
{%- endif %}
{% endfor -%}
</table>
""",
    autoescape=True,
)


def write_summary(folder: Path, summaries: Sequence[dict[str, Any]]) -> None:
    """Writes `summary.json`: a list with one entry per picture."""
    write_text(folder / "summary.json", json.dumps(list(summaries), indent=2) + "\n")


def write_pages(folder: Path, summaries: Sequence[dict[str, Any]]) -> None:
    """Writes everything about the whole run into `folder`.

    Args:
      folder: The run's folder, with a folder per picture in it.
      summaries: An entry per picture, as in its own `summary.json`.
    """
    write_summary(folder, summaries)
    table = io.StringIO()
    writer = csv.DictWriter(table, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(summaries)
    write_text(folder / "summary.csv", table.getvalue())
    counts: dict[str, int] = {}
    for summary in summaries:
        counts[summary["status"]] = counts.get(summary["status"], 0) + 1
    pictures = [{**summary, "path": quote(summary["name"])} for summary in summaries]
    write_text(folder / "index.html", _PAGE.render(pictures=pictures, counts=counts))
    _write_contact_sheets(folder, [s for s in summaries if not s["error"]])


def contact_sheets(num_images: int) -> list[str]:
    """The names of the contact sheets of so many images, in order."""
    return [f"contact-{page + 1}.png" for page in range(-(-num_images // (_ACROSS * _DOWN)))]


def require_free_contact_sheets(folder: Path, num_images: int) -> None:
    """Refuses an output folder that holds other files under the names of the contact sheets.

    Raises:
      InputError: If a contact sheet would overwrite a file that no run wrote.
    """
    manifest = Manifest(folder)
    for name in contact_sheets(num_images):
        if (folder / name).exists() and name not in manifest:
            raise InputError(
                f"{folder / name} was not written by dip_jax, and a contact sheet would overwrite it: move it, "
                "or choose another --output."
            )


def _write_contact_sheets(folder: Path, summaries: Sequence[dict[str, Any]]) -> None:
    """Writes the sheets of all images, small, on as many pages as needed.

    Pages that an earlier, larger run left are removed by its record; other files stay.
    """
    manifest, pages = Manifest(folder), contact_sheets(len(summaries))
    for name in list(manifest):
        if re.fullmatch(r"contact-\d+\.png", name) and name not in pages:
            manifest.remove(name)
    manifest.add(pages)
    per_page = _ACROSS * _DOWN
    for number, name in enumerate(pages):
        page = draw_contact_sheet(folder, summaries[number * per_page : (number + 1) * per_page])
        save_png(folder / name, page)


def draw_contact_sheet(folder: Path, summaries: Sequence[dict[str, Any]]) -> Image.Image:
    """Draws one page: each picture's sheet, small, with its name and PSNR below."""
    across = min(_ACROSS, len(summaries))
    down = -(-len(summaries) // across)
    width, height = _CELL[0] + _GAP, _CELL[1] + _CAPTION + _GAP
    page = Image.new("RGB", (across * width + _GAP, down * height + _GAP), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for i, summary in enumerate(summaries):
        left, top = _GAP + i % across * width, _GAP + i // across * height
        try:
            with Image.open(folder / summary["name"] / "sheet.png") as sheet:
                sheet.thumbnail(_CELL)
                page.paste(sheet.convert("RGB"), (left, top))
        except OSError:  # one that cannot be read must not cost the page
            draw.text((left, top), "no sheet", "gray", font)
        caption = summary["name"]
        if summary["psnr"] is not None:
            caption += f"  {summary['psnr']:.2f} dB"
        draw.text((left, top + _CELL[1]), caption[:60], "black", font)
    return page
