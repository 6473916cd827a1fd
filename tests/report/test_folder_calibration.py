"""The calibration of a folder, computed from the summaries of its images."""

import ast
import inspect
import json
import math

import numpy as np
import pytest

from dip_jax.base import Status
from dip_jax.presets import build_config
from dip_jax.report import folder_calibration as module
from dip_jax.report.folder_calibration import (
    FolderSummary,
    ImageCalibration,
    summarize_folder,
    write_folder_calibration,
)
from dip_jax.report.manifest import Manifest
from dip_jax.report.run_pages import write_pages
from dip_jax.report.summarize import failure_summary
from dip_jax.report.summary import Summary, read_summary, write_summary

CONFIG = build_config(overrides=["fit.method=sgld"])


def sampled_summaries(number: int, *, factor: float = 1.2) -> list[Summary]:
    """Summaries of sampled images whose errors are about `factor` times as large as predicted."""
    draw, found = np.random.default_rng(0), []
    for i in range(number):
        predicted = float(draw.uniform(0.02, 0.04))
        v = (factor * predicted) ** 2 * float(draw.uniform(0.8, 1.2))
        failed = failure_summary(f"image {i}", CONFIG, "")
        found.append(
            {
                **failed,
                "status": Status.DONE,
                "error": None,
                "num_held_out": 300 + i,
                "held_out_squared_error": v,
                "held_out_squared_error_std": 0.1 * predicted**2,
                "held_out_predicted_error": predicted,
            }
        )
    return found


def test_the_factor_is_that_of_the_pooled_measurements():
    summaries = sampled_summaries(12)
    found = summarize_folder(summaries)
    num, v, p = (
        np.array([summary[key] for summary in summaries])
        for key in ("num_held_out", "held_out_squared_error", "held_out_predicted_error")
    )
    factor = np.sqrt(np.average(v, weights=num) / np.average(p**2, weights=num))
    assert found["std_factor"] == pytest.approx(factor)
    assert found["std_factor_low"] < factor < found["std_factor_high"]
    assert (found["num_images"], found["num_held_out"]) == (12, num.sum())
    assert found["region_factor"] == pytest.approx(np.sqrt(max(v / p**2)))
    assert found["noise_fraction"] == pytest.approx(0.01 / np.var(v / p**2, ddof=1))
    assert found["message"].startswith(
        f"the predicted deviations of 12 images must be multiplied by {factor:.2f} ("
    )
    assert list(found["images"]) == [summary["name"] for summary in summaries]
    scores = [image["score"] for image in found["images"].values()]
    np.testing.assert_allclose(scores, v / p**2)
    bounds = [image["region_factor"] for image in found["images"].values()]
    assert bounds.count(found["region_factor"]) == 11
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_images_that_failed_or_were_not_checked_do_not_take_part():
    summaries = sampled_summaries(6)
    expected = summarize_folder(summaries)
    one = summaries[0]
    others = [
        failure_summary("failed", CONFIG, "out of memory"),
        {**one, "name": "diverged", "status": Status.DIVERGED},
        {**one, "name": "interrupted", "status": Status.INTERRUPTED},
        {**one, "name": "unchecked", "held_out_squared_error": None},
        {key: value for key, value in one.items() if key != "held_out_squared_error"},
    ]
    assert summarize_folder([*summaries, *others]) == expected
    assert expected["region_factor"] is None  # six images are too few for 90 %
    assert all(image["region_factor"] is None for image in expected["images"].values())


def test_less_than_five_images_are_not_calibrated(tmp_path):
    assert summarize_folder(sampled_summaries(4)) is None
    assert summarize_folder(sampled_summaries(5)) is not None


def test_an_estimated_error_that_is_not_positive_gives_no_factor():
    summaries = [{**s, "held_out_squared_error": -1e-4} for s in sampled_summaries(10)]
    found = summarize_folder(summaries)
    assert found["std_factor"] is found["region_factor"] is None
    assert found["std_factor_high"] == 0
    json.dumps(found, allow_nan=False)


def test_the_calibration_of_stored_summaries_is_the_same(tmp_path):
    summaries = sampled_summaries(6)
    for summary in summaries:
        write_summary(Manifest(tmp_path, summary["name"]), summary)
    stored = [read_summary(tmp_path / summary["name"]) for summary in summaries]
    assert summarize_folder(stored) == summarize_folder(summaries)


def test_the_file_is_removed_if_there_is_nothing_to_calibrate(tmp_path):
    path = tmp_path / "conformal.json"
    found = write_folder_calibration(Manifest(tmp_path), sampled_summaries(5))
    assert json.loads(path.read_text()) == found
    assert write_folder_calibration(Manifest(tmp_path), sampled_summaries(4)) is None
    assert not path.exists()
    path.write_text("mine")
    write_folder_calibration(Manifest(tmp_path), sampled_summaries(4))
    assert path.read_text() == "mine"
    with pytest.raises(FileExistsError, match="not recorded as a file of dip_jax"):
        write_folder_calibration(Manifest(tmp_path), sampled_summaries(5))


def test_the_page_of_a_run_states_the_factor(tmp_path):
    message = write_pages(tmp_path, sampled_summaries(12))
    assert message.startswith("Calibration over the folder: the predicted deviations of 12 images")
    assert f'<p class="notice">{message}</p>' in (tmp_path / "index.html").read_text()
    assert write_pages(tmp_path, sampled_summaries(3)) == ""
    assert "Calibration over" not in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize("schema", [FolderSummary, ImageCalibration])
def test_every_key_of_the_file_is_documented(schema):
    (body,) = (
        node.body
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.ClassDef) and node.name == schema.__name__
    )
    texts = [node for node in body[1:] if isinstance(node, ast.Expr)]
    assert len(texts) == len(schema.__annotations__)
    found = summarize_folder(sampled_summaries(5))
    content = found if schema is FolderSummary else found["images"]["image 0"]
    assert set(content) == set(schema.__annotations__)


def test_the_factor_of_the_file_times_the_predicted_errors_is_the_pooled_error():
    summaries = sampled_summaries(8, factor=0.5)
    found = summarize_folder(summaries)
    scaled = [
        {**s, "held_out_predicted_error": found["std_factor"] * s["held_out_predicted_error"]}
        for s in summaries
    ]
    assert summarize_folder(scaled)["std_factor"] == pytest.approx(1)
    assert math.isclose(found["std_factor"], 0.5, rel_tol=0.1)
