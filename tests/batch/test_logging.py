"""The logs of a run in its output folder."""

import signal
import sys
import warnings
from unittest import mock

import pytest

from dip_jax.batch.folder import restore_files
from dip_jax.batch.inputs import InputFiles
from dip_jax.batch.processes import ProcessOptions
from dip_jax.config import replace_fields
from dip_jax.errors import InputError
from dip_jax.report.loggers import log_folder
from tests.batch.image_folders import assert_same_files, draw_images

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # TensorBoard imports modules that are deprecated
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

pytestmark = [pytest.mark.xdist_group("worker"), pytest.mark.usefixtures("shared_programs")]


@pytest.fixture
def logged(config):
    """The settings of the runs, with logs."""
    return replace_fields(config, {"run.log": "tensorboard", "run.log_every": 4})


def logged_steps(output):
    """The steps of the logged losses, by network."""
    events = EventMultiplexer(size_guidance={"scalars": 0})
    events.AddRunsFromDirectory(str(log_folder(output)))
    events.Reload()
    return {run: [event.step for event in events.Scalars(run, "loss")] for run in events.Runs()}


def test_each_image_is_logged_and_its_files_are_those_of_a_run_without_logs(
    logged, finished_run, tmp_path
):
    restore_files(logged, tmp_path, InputFiles([finished_run.source]))
    assert logged_steps(tmp_path) == {name: [4, 6] for name in finished_run.names}
    assert_same_files(finished_run.output, tmp_path, finished_run.names)


def test_a_resumed_run_keeps_the_logs_and_an_overwriting_one_starts_anew(logged, tmp_path):
    names, output = draw_images(tmp_path / "in", 2), tmp_path / "out"
    restore_files(logged, output, InputFiles([tmp_path / "in" / f"{names[0]}.png"]))
    everything = InputFiles([tmp_path / "in"])
    restore_files(logged, output, everything, resume=True)
    assert logged_steps(output) == {name: [4, 6] for name in names}
    second = InputFiles([tmp_path / "in" / f"{names[1]}.png"])
    restore_files(logged, output, second, overwrite=True)
    assert logged_steps(output) == {name: [4, 6] for name in names}


def test_an_error_of_the_log_ends_no_restoration(logged, finished_run, tmp_path):
    messages = []
    error = OSError(28, "No space left on device")
    with mock.patch("tensorboardX.record_writer.RecordWriter.write", side_effect=error):
        summaries = restore_files(
            logged, tmp_path, InputFiles([finished_run.source]), on_message=messages.append
        )
    assert [summary["error"] for summary in summaries] == [None] * 3
    assert [m for m in messages if "logging" in m] == [
        f"logging ended, the run continues ({error})"
    ]
    assert_same_files(finished_run.output, tmp_path, finished_run.names)


def test_without_the_package_nothing_is_written(logged, finished_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InputError, match=r"expects the package tensorboardX"):
        restore_files(logged, tmp_path / "out", InputFiles([finished_run.source]))
    assert not (tmp_path / "out").exists()


def test_each_process_logs_its_own_images(logged, tmp_path):
    names, output = draw_images(tmp_path / "in", 3), tmp_path / "out"
    for process_id, logged_names in ((1, names[1:2]), (0, names)):
        restore_files(
            logged,
            output,
            InputFiles([tmp_path / "in"]),
            resume=True,
            processes=ProcessOptions(num_processes=2, process_id=process_id),
        )
        assert logged_steps(output) == {name: [4, 6] for name in logged_names}


def test_an_interrupted_image_continues_its_log(logged, tmp_path):
    (name,), output = draw_images(tmp_path / "in", 1), tmp_path / "out"
    files = InputFiles([tmp_path / "in"])

    def interrupt_at_4(progress):
        if progress.in_progress.steps == (4,):
            signal.raise_signal(signal.SIGINT)

    (summary,) = restore_files(logged, output, files, on_progress=interrupt_at_4)
    assert (summary["status"], summary["num_steps"]) == ("interrupted", 4)
    assert logged_steps(output) == {name: [4]}
    (summary,) = restore_files(logged, output, files, resume=True)
    assert summary["status"].is_finished
    assert logged_steps(output) == {name: [4, 6]}
