"""The folder of one image."""

import dataclasses
import json

import numpy as np
import pytest

from dip_jax.config import from_json
from dip_jax.images.read import StoredImage, read_image
from dip_jax.presets import build_config
from dip_jax.report import image as module
from dip_jax.report.image import report_image
from dip_jax.report.summary import read_summary

FIT = build_config("denoise_single")
SGLD = build_config(overrides=["fit.method=sgld"])
VIEWS = {"degraded.png", "reference.png", "thumbnail.jpg"}
FILES = {
    *VIEWS,
    *("restored.png", "config.json", "metrics.jsonl", "curve.png", "sheet.png", "summary.json"),
}


@pytest.fixture
def template(case) -> StoredImage:
    return StoredImage(case.reference)


def test_a_fit_has_nine_files(tmp_path, case, result, template):
    summary = report_image(tmp_path / "x", case, result, FIT, template, digest="abc")
    folder = tmp_path / "x" / "photo"
    assert {path.name for path in folder.iterdir()} == FILES
    assert read_summary(folder) == summary
    assert summary["digest"] == "abc"
    assert summary["notes"] == ["of the case", "of the result"]
    assert from_json((folder / "config.json").read_text()) == FIT
    stored = read_image(folder / "restored.png").pixels
    np.testing.assert_allclose(stored, np.clip(result.image, 0, 1), atol=0.5 / 255 + 1e-6)


def test_the_notes_of_a_posterior_come_last(tmp_path, case, sampled, template):
    summary = report_image(tmp_path, case, sampled, SGLD, template)
    assert summary["notes"][:2] == ["of the case", "of the result"]
    assert "held-out measurements" in summary["notes"][-1]
    assert summary["num_chains"] == 2
    assert FILES | {"std.png", "traces.png", "calibration.png"} <= {
        path.name for path in (tmp_path / "photo").iterdir()
    }


def test_files_of_an_earlier_run_are_replaced(tmp_path, case, result, sampled, template):
    report_image(tmp_path, case, sampled, SGLD, template._replace(suffix=".tif"))
    (tmp_path / "photo/.restored.tif.0.dip_jax-part").write_text("left by a killed process")
    mine = {"mine.txt", "restored.psd", "std.npy"}
    for name in mine:
        (tmp_path / "photo" / name).write_text("mine")
    report_image(tmp_path, case, result, FIT, template)
    assert {path.name for path in (tmp_path / "photo").iterdir()} == FILES | mine


def test_a_folder_whose_writing_failed_has_no_summary(
    tmp_path, case, result, template, monkeypatch
):
    report_image(tmp_path, case, result, FIT, template)

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(module, "draw_sheet", fail)
    with pytest.raises(OSError, match="disk full"):
        report_image(tmp_path, case, result, FIT, template)
    assert read_summary(tmp_path / "photo") is None


def test_every_tenth_step_and_the_last_are_logged_without_missing_values(
    tmp_path, case, result, template
):
    report_image(tmp_path, case, result, FIT, template)
    lines = [
        json.loads(line) for line in (tmp_path / "photo/metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines] == [0, 10, 20, 24]
    assert set(lines[0]) == {"step", "loss", "psnr", "psnr_average"}  # no signal yet
    assert set(lines[1]) == {*lines[0], "signal_wmv"}
    assert lines[1]["loss"] == round(0.1 / 11, 7)


def test_the_log_of_several_networks_counts_them_from_one(tmp_path, case, seeds, template):
    config = dataclasses.replace(FIT, fit=dataclasses.replace(FIT.fit, num_seeds=3))
    report_image(tmp_path, case, seeds, config, template)
    lines = [
        json.loads(line) for line in (tmp_path / "photo/metrics.jsonl").read_text().splitlines()
    ]
    expected = [(n, s) for n in (1, 2, 3) for s in (0, 10, 20, 24)]
    assert [(line["network"], line["step"]) for line in lines] == expected
