"""The files about a whole run: `summary.json`, `summary.csv`, `conformal.json`, `index.html`, contact sheets."""

import collections
import csv
import io
from collections.abc import Sequence
from urllib.parse import quote

import jinja2

from dip_jax.report.contact_sheets import write_contact_sheets
from dip_jax.report.folder_calibration import write_folder_calibration
from dip_jax.report.manifest import Manifest
from dip_jax.report.summary import Summary, write_run_summary
from dip_jax.storage.atomic import write_text
from dip_jax.storage.paths import AnyPath

_COLUMNS = (
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
)

_PAGE = jinja2.Template(
    """<!doctype html>
<html lang="en">
<meta charset="utf-8">
{% set title = images|length ~ " image" ~ ("s" if images|length != 1 else "") -%}
<title>dip_jax: {{ title }}</title>
<style>
body { font: 15px/1.4 system-ui, sans-serif; margin: 2em; color: #222 }
table { border-collapse: collapse }
th, td { padding: .3em .8em; text-align: right; border-bottom: 1px solid #ddd; vertical-align: top }
th:first-child, td:first-child { text-align: left }
td img { max-width: 30em; max-height: 14em }
.failed, .diverged { color: #b00 }
.error { text-align: left; max-width: 30em }
</style>
<h1>{{ title }}</h1>
<p>{% for status, number in counts.items() %}{{ number }} {{ status }}{{ ", " if not loop.last }}{% endfor %}</p>
{% if message %}<p>{{ message }}</p>
{% endif -%}
<table>
<tr><th>image<th>status<th>step of the estimate<th>degraded (dB)<th>restored (dB)<th>SSIM<th>time (s)<th></tr>
{% for image in images -%}
<tr class="{{ image.status }}"><td>{{ image.name }}<td>{{ image.status }}
<td>{{ image.stop_step if image.stop_step is not none }}
<td>{{ "%.2f"|format(image.psnr_measurement) if image.psnr_measurement is not none }}
<td>{{ "%.2f"|format(image.psnr) if image.psnr is not none }}
<td>{{ "%.3f"|format(image.ssim) if image.ssim is not none }}
<td>{{ "%.1f"|format(image.seconds) if image.seconds is not none }}
{% if image.error -%}
<td class="error">{{ image.error }}
{%- else -%}
<td><a href="{{ image.path }}/sheet.png"><img loading="lazy" alt="degraded and restored image" src="{{ image.path }}/sheet.png"></a>
<a href="{{ image.path }}/curve.png">curve</a>
{%- endif %}
{% endfor -%}
</table>
""",
    autoescape=True,
)


def write_pages(
    folder: AnyPath, summaries: Sequence[Summary], *, earlier: Sequence[Summary] = ()
) -> str:
    """Writes all files about a whole run.

    Args:
      folder: The output folder of the run, with the folder of each image.
      summaries: The summary of each image of the run. Only these calibrate each other.
      earlier: The summaries of images that earlier runs wrote into the same folder; the page also shows them.

    Returns:
      A sentence about the standard deviations of all images; empty if they are not calibrated.

    Raises:
      OSError: If a file cannot be written.
    """
    all_summaries = [*earlier, *summaries]
    write_run_summary(folder, all_summaries)
    files = Manifest(folder)
    write_text(files.path("summary.csv"), _csv(all_summaries))
    calibration = write_folder_calibration(files, summaries)
    message = ""
    if calibration is not None:
        message = f"Calibration over the folder: {calibration['message']}."
    counts = collections.Counter(summary["status"] for summary in all_summaries)
    images = [{**summary, "path": quote(summary["name"])} for summary in all_summaries]
    write_text(
        files.path("index.html"), _PAGE.render(images=images, counts=counts, message=message)
    )
    write_contact_sheets(folder, [s for s in all_summaries if not s["error"]])
    return message


def _csv(summaries: Sequence[Summary]) -> str:
    table = io.StringIO()
    writer = csv.DictWriter(table, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(summaries)
    return table.getvalue()
