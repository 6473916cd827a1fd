"""One process over its images: errors of single images, a full disk, changed files, progress."""

import errno
import math
import shutil

import imageio.v3 as iio
import numpy as np
import pytest

from dip_jax.batch import writer
from dip_jax.batch.folder import restore_files, restore_inputs
from dip_jax.batch.inputs import InputFiles, list_inputs
from dip_jax.report.saved_run import load_run
from dip_jax.report.summary import read_summary
from tests.batch.image_folders import Run, assert_files_are_complete, draw_images

pytestmark = [pytest.mark.xdist_group("worker"), pytest.mark.usefixtures("shared_programs")]


@pytest.fixture(scope="module")
def hostile_run(config, tmp_path_factory) -> Run:
    """A run into a folder with foreign files; two of its images have errors."""
    root = tmp_path_factory.mktemp("hostile")
    source, out, names = root / "in", root / "out", draw_images(root / "in", 3)
    (out / "checkpoints").mkdir(parents=True)

    def too_large():
        raise MemoryError

    inputs = list_inputs(config, InputFiles([source]))
    load = inputs[1].load

    def block_the_folder():
        (out / names[1]).write_text("a file in the place of the folder, written during the run")
        return load()

    inputs[1] = inputs[1]._replace(load=block_the_folder)
    inputs[2] = inputs[2]._replace(load=too_large)
    progress = []
    summaries = restore_inputs(config, out, inputs, overwrite=True, on_progress=progress.append)
    return Run(source, out, names, summaries, progress)


def test_an_error_of_one_image_is_recorded_and_the_others_are_restored(hostile_run):
    _, out, names, summaries, _ = hostile_run
    assert [s["name"] for s in summaries] == names
    assert [s["status"] for s in summaries] == ["done", "failed", "failed"]
    assert read_summary(out / names[0])["status"] == "done"


def test_an_image_that_cannot_be_written_has_failed(hostile_run):
    assert "cannot be written" in hostile_run.summaries[1]["error"]


def test_an_image_that_does_not_fit_into_memory_has_failed(hostile_run):
    assert "out of memory" in hostile_run.summaries[2]["error"]
    assert read_summary(hostile_run.output / hostile_run.names[2])["status"] == "failed"


def test_an_overwriting_run_leaves_foreign_files_and_folders(hostile_run):
    out, names = hostile_run.output, hostile_run.names
    assert (out / "checkpoints").is_dir()
    assert (out / names[1]).read_text().startswith("a file in the place")


def test_a_full_disk_stops_the_run_and_written_files_are_complete(config, tmp_path, monkeypatch):
    source, out, names = tmp_path / "in", tmp_path / "out", draw_images(tmp_path / "in", 6)
    report_image, calls = writer.report_image, []

    def full(*args, **options):
        calls.append(args[0])
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return report_image(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "report_image", full)
        patch.setattr(writer, "_MAX_WAITING", 1)
        with pytest.raises(OSError, match="is full; make room, run again with --resume"):
            restore_files(config, out, InputFiles([source]))
    assert_files_are_complete(out)
    finished = [name for name in names if read_summary(out / name)]
    assert names[0] in finished
    assert names[1] not in finished
    assert len(calls) < len(names)  # the last ones were not fitted
    messages = []
    summaries = restore_files(
        config, out, InputFiles([source]), resume=True, on_message=messages.append
    )
    assert {s["status"] for s in summaries} == {"done"}
    assert sum("finished earlier" in text for text in messages) == len(finished)


def test_an_image_that_changed_since_is_restored_again(config, finished_run, tmp_path):
    source, out, names = tmp_path / "in", tmp_path / "out", finished_run.names
    shutil.copytree(finished_run.source, source)
    shutil.copytree(finished_run.output, out)
    first = {name: (out / name / "restored.png").read_bytes() for name in names}
    path = source / f"{names[1]}.png"
    iio.imwrite(path, 255 - iio.imread(path))
    messages = []
    restore_files(config, out, InputFiles([source]), resume=True, on_message=messages.append)
    assert f"{names[1]}: its files changed since it was restored; starting anew" in messages
    assert sum("finished earlier, kept" in text for text in messages) == 2
    changed = [n for n in names if (out / n / "restored.png").read_bytes() != first[n]]
    assert changed == [names[1]]


def test_a_missing_input_file_does_not_undo_a_finished_image(config, finished_run, tmp_path):
    source, out, names = tmp_path / "in", tmp_path / "out", finished_run.names
    shutil.copytree(finished_run.source, source)
    shutil.copytree(finished_run.output, out)
    inputs = list_inputs(config, InputFiles([source]))
    (source / f"{names[2]}.png").unlink()
    before = (out / names[2] / "summary.json").read_bytes()
    messages = []
    summaries = restore_inputs(config, out, inputs, resume=True, on_message=messages.append)
    assert {s["status"] for s in summaries} == {"done"}
    assert any("cannot be read any more" in text for text in messages)
    assert (out / names[2] / "summary.json").read_bytes() == before


def test_the_progress_counts_the_images_of_the_folder(finished_run):
    progress, names = finished_run.progress, finished_run.names
    assert {p.num_images for p in progress} == {len(names)}
    done = [p.num_done for p in progress]
    assert done == sorted(done)
    assert all(p.num_done + len(p.in_progress.names) <= len(names) for p in progress)
    assert progress[0].in_progress.phase == "compiling"
    assert all(p.seconds_left >= 0 or math.isnan(p.in_progress.steps_per_second) for p in progress)


def test_the_output_folder_is_read_back(config, finished_run):
    run = load_run(finished_run.output)
    assert [saved.summary for saved in run.values()] == finished_run.summaries
    assert list(run) == finished_run.names
    for name, saved in run.items():
        stored = iio.imread(finished_run.output / name / "restored.png")
        np.testing.assert_array_equal(saved.values, stored)
        np.testing.assert_allclose(saved.image, stored / 255, atol=1e-6)
        assert saved.config == config
        assert saved.curve["step"].tolist() == [0, 5]
