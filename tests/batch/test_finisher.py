"""The calibration at the end of a sampled folder: in one process, in several, and resumed."""

import json

import numpy as np
import pytest

from dip_jax.batch.folder import restore_files
from dip_jax.batch.inputs import InputFiles
from dip_jax.batch.processes import ProcessOptions
from dip_jax.presets import build_config
from tests.batch.image_folders import draw_images
from tests.conftest import TINY

pytestmark = pytest.mark.xdist_group("worker")

SAMPLING = build_config(
    overrides=[
        *TINY,
        "fit.method=sgld",
        "fit.num_steps=40",
        "task.noise_std=0.1",
        "sgld.num_chains=1",
        "sgld.burn_in=20",
        "sgld.thin=2",
        "sgld.held_out_fraction=0.2",
        "run.slots=5",
    ]
)


@pytest.fixture(scope="module")
def sampled_folder(tmp_path_factory):
    """Five sampled images: `source, output, summaries, messages`."""
    root, messages = tmp_path_factory.mktemp("sampled"), []
    draw_images(root / "in", 5)
    summaries = restore_files(
        SAMPLING, root / "out", InputFiles([root / "in"]), on_message=messages.append
    )
    return root / "in", root / "out", summaries, messages


@pytest.mark.slow
def test_a_sampled_folder_is_calibrated_over_its_images(sampled_folder):
    _, output, summaries, messages = sampled_folder
    found = json.loads((output / "conformal.json").read_text())
    num, v, p = (
        np.array([summary[key] for summary in summaries])
        for key in ("num_held_out", "held_out_squared_error", "held_out_predicted_error")
    )
    assert found["num_images"] == 5
    squared = np.average(v, weights=num) / np.average(p**2, weights=num)
    assert (found["std_factor"] or 0) == pytest.approx(max(squared, 0) ** 0.5)
    sentence = f"Calibration over the folder: {found['message']}."
    assert messages[-1] == sentence
    assert messages.count(sentence) == 1


def test_a_resumed_run_calibrates_the_stored_images(sampled_folder):
    source, output, _, _ = sampled_folder
    path, messages = output / "conformal.json", []
    before = path.read_bytes()
    path.unlink()
    restore_files(SAMPLING, output, InputFiles([source]), resume=True, on_message=messages.append)
    assert path.read_bytes() == before
    assert sum("finished earlier, kept" in message for message in messages) == 5
    assert messages[-1].startswith("Calibration over the folder")


@pytest.mark.slow
def test_of_several_processes_the_first_calibrates_all_images(sampled_folder, tmp_path):
    source, output, _, _ = sampled_folder
    messages = {0: [], 1: []}
    for process in (1, 0):
        restore_files(
            SAMPLING,
            tmp_path,
            InputFiles([source]),
            resume=True,
            processes=ProcessOptions(num_processes=2, process_id=process),
            on_message=messages[process].append,
        )
        assert (tmp_path / "conformal.json").exists() == (process == 0)
    assert not any("Calibration" in message for message in messages[1])
    assert messages[0][-1].startswith("Calibration over the folder")
    assert (tmp_path / "conformal.json").read_bytes() == (output / "conformal.json").read_bytes()
