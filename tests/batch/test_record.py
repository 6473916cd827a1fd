"""The outcome of each image, shared by threads."""

import errno
import json

from dip_jax.batch import record as record_module
from dip_jax.batch.record import RunRecord
from dip_jax.report.summary import read_summary


def test_a_failed_image_is_recorded_in_its_folder(config, tmp_path):
    record = RunRecord(tmp_path, config, saves_summaries=False)
    record.fail("a", "it broke")
    assert read_summary(tmp_path / "a") == record.summaries()["a"]
    assert record.summaries()["a"]["error"] == "it broke"
    assert record.num_steps() == []


def test_the_summary_of_the_run_is_saved_periodically(config, tmp_path, monkeypatch):
    record = RunRecord(tmp_path, config, saves_summaries=True)
    record.fail("a", "")
    assert not (tmp_path / "summary.json").exists()
    monkeypatch.setattr(record_module, "_SAVE_SECONDS", 0.0)
    record.fail("b", "")
    names = [summary["name"] for summary in json.loads((tmp_path / "summary.json").read_text())]
    assert names == ["a", "b"]


def test_once_the_disk_is_full_every_error_counts_as_a_full_disk(config, tmp_path):
    record = RunRecord(tmp_path, config, saves_summaries=False)
    assert not record.note_disk_full(ValueError("another"))
    assert not record.disk_is_full
    assert record.note_disk_full(OSError(errno.ENOSPC, "No space left on device"))
    assert record.disk_is_full
    assert record.note_disk_full(ValueError("another"))


def test_the_periodic_summary_keeps_the_images_of_earlier_runs(config, tmp_path, monkeypatch):
    monkeypatch.setattr(record_module, "_SAVE_SECONDS", 0.0)
    for name in "ab":
        RunRecord(tmp_path, config, saves_summaries=True).fail(name, "")
    names = [summary["name"] for summary in json.loads((tmp_path / "summary.json").read_text())]
    assert names == ["a", "b"]
