"""The files about a whole run."""

import csv
import json
import re
from urllib.parse import unquote

import pytest

from dip_jax.base import Status
from dip_jax.presets import build_config
from dip_jax.report import run_pages
from dip_jax.report.run_pages import write_pages
from dip_jax.report.summarize import failure_summary
from dip_jax.report.summary import Summary


@pytest.fixture
def summaries() -> list[Summary]:
    config = build_config("denoise")
    failed = failure_summary("broken", config, "the file is <cut> short")
    done = {
        **failed,
        "name": "x/50 % & more",
        "status": Status.DONE,
        "error": None,
        "stop_step": 1234,
        "psnr": 28.126,
        "psnr_measurement": 20.5,
        "ssim": 0.81234,
        "seconds": 12.34,
    }
    return [done, failed, {**done, "name": "plain", "psnr": None, "ssim": None}]


def test_every_column_of_the_table_is_a_key_of_a_summary():
    assert set(run_pages._COLUMNS) <= Summary.__required_keys__


def test_the_table_and_the_summary_have_every_image(tmp_path, summaries):
    write_pages(tmp_path, summaries)
    assert json.loads((tmp_path / "summary.json").read_text()) == summaries
    with (tmp_path / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["x/50 % & more", "broken", "plain"]
    assert [row["status"] for row in rows] == ["done", "failed", "done"]
    assert rows[0]["psnr"] == "28.126"
    assert rows[1]["psnr"] == ""
    assert rows[1]["error"] == "the file is <cut> short"


def test_the_page_shows_numbers_links_and_errors(tmp_path, summaries):
    write_pages(tmp_path, summaries)
    page = (tmp_path / "index.html").read_text()
    assert "<title>dip_jax: 3 images</title>" in page
    assert "<p>2 done, 1 failed</p>" in page
    for header in ("image", "step of the estimate", "degraded (dB)", "restored (dB)"):
        assert f"<th>{header}<" in page
    cells = re.findall(r"<td>([^<\n]*)", page)
    assert cells[:7] == ["x/50 % &amp; more", "done", "1234", "20.50", "28.13", "0.812", "12.3"]
    assert "the file is &lt;cut&gt; short" in page
    links = [unquote(link) for link in re.findall(r'(?:src|href)="([^"]+)"', page)]
    files = ("sheet.png", "sheet.png", "curve.png")
    assert links == [f"{name}/{file}" for name in ("x/50 % & more", "plain") for file in files]


def test_a_single_image_is_counted_in_the_singular(tmp_path, summaries):
    write_pages(tmp_path, summaries[:1])
    assert "<h1>1 image</h1>" in (tmp_path / "index.html").read_text()


def test_images_that_failed_are_not_on_the_contact_sheets(tmp_path, summaries):
    write_pages(tmp_path, summaries[1:2])
    assert not (tmp_path / "contact-1.png").exists()
    write_pages(tmp_path, summaries)
    assert (tmp_path / "contact-1.png").exists()
