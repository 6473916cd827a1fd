"""The files about a whole run."""

import csv
import json

import pytest

from dip_jax.base import Status
from dip_jax.presets import build_config
from dip_jax.report.run_pages import write_pages
from dip_jax.report.summarize import failure_summary
from dip_jax.report.summary import Summary


@pytest.fixture
def summaries() -> list[Summary]:
    config = build_config("denoise")
    failed = failure_summary("broken", config, "the file is <cut> short")
    done = {**failed, "name": "x/50 % & more", "status": Status.DONE, "error": None, "psnr": 28.126}
    return [done, failed, {**done, "name": "plain", "psnr": None, "ssim": None}]


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


def test_images_that_failed_are_not_on_the_contact_sheets(tmp_path, summaries):
    write_pages(tmp_path, summaries[1:2])
    assert not (tmp_path / "contact-1.png").exists()
    write_pages(tmp_path, summaries)
    assert (tmp_path / "contact-1.png").exists()
