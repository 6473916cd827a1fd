"""A task of the user as a user runs it: `--plugin=mine.py --task=mine`."""

import json
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from tests.conftest import TINY, smooth_image

pytestmark = pytest.mark.usefixtures("registered")

ROOT = Path(__file__).parents[1]
QUICK = [*(f"--set={value}" for value in TINY), "--num_steps=3", "--set=run.chunk=3"]
PLUGIN = """
import dip_jax

def even_rows(image):
    return image[::2]

dip_jax.register_task(
    dip_jax.Task(
        "striped",
        operator=lambda *_: dip_jax.operators.CustomOperator(even_rows, is_linear=True),
        shape=lambda config, measured, side_inputs: (2 * measured[0], *measured[1:]),
    ),
    about="every other row",
)
"""
FAILING = """
import dip_jax

dip_jax.register_task(dip_jax.Task("fails", shape=lambda *_: {}["side"]))
dip_jax.register_task(dip_jax.Task("nothing", shape=lambda *_: None))
"""
TASK = ("--plugin=mine.py", "--task=striped", *QUICK)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder, with a plugin and images."""
    (tmp_path / "mine.py").write_text(PLUGIN)
    stored = np.rint(smooth_image() * 255).astype(np.uint8)
    stored = np.repeat(stored, 2, axis=0)
    (tmp_path / "photos").mkdir()
    for number in range(2):
        iio.imwrite(tmp_path / f"photos/{number}.png", np.roll(stored, number, axis=0))
    iio.imwrite(tmp_path / "field.png", stored[::2])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())["task"]


def test_a_folder_is_degraded_restored_and_resumed_by_a_plugin(run, folder):
    args = (*TASK, "--reference=photos")
    status, _, messages = run(*args, "--output=out")
    assert status == 0, messages
    assert iio.imread(folder / "out/1/restored.png").shape == (80, 36, 3)
    first = (folder / "out/1/summary.json").read_bytes()
    (plugin,) = settings(folder / "out")["plugins"]
    assert plugin.startswith("mine.py#sha256=")
    status, _, messages = run(*args, "--output=out", "--resume")
    assert status == 0
    assert "finished earlier, kept" in messages
    assert (folder / "out/1/summary.json").read_bytes() == first
    assert run(*args, "--output=other")[0] == 0
    assert (
        iio.imread("other/1/restored.png").tobytes() == iio.imread("out/1/restored.png").tobytes()
    )


def test_a_measurement_is_restored_and_planned(run, folder):
    status, output, messages = run(*TASK, "--input=field.png", "--plan")
    assert status == 0, messages
    assert "1 image" in output
    status, _, messages = run(*TASK, "--input=field.png", "--output=out")
    assert status == 0, messages
    assert iio.imread(folder / "out/field/restored.png").shape == (80, 36, 3)


def test_two_processes_divide_a_folder(run, folder):
    args = (*TASK, "--reference=photos", "--output=out", "--resume", "--num_processes=2")
    for process in (1, 0):
        status, _, messages = run(*args, f"--process_id={process}")
        assert status == 0, messages
    names = {s["name"] for s in json.loads((folder / "out/summary.json").read_text())}
    assert names == {"0", "1"}


@pytest.mark.slow
def test_a_run_is_resumed_only_with_its_plugin_unchanged(run, folder):
    args = (*TASK, "--input=field.png", "--output=out")
    assert run(*args)[0] == 0

    def resume_in_another_process(*arguments: str) -> str:
        process = subprocess.run(
            [sys.executable, ROOT / "main.py", *arguments, "--resume"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert process.returncode == 2
        return process.stderr

    (folder / "mine.py").write_text(PLUGIN.replace("image[::2]", "0.5 * image[::2]"))
    errors = resume_in_another_process(*args)
    assert "holds a run with task.plugins = ['mine.py#sha256=" in errors
    errors = resume_in_another_process("--input=field.png", "--output=out")
    assert "Unknown task 'striped'" in errors
    assert "add '--plugin=mine.py'" in errors


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--plugin=no.py", "--task=striped"], "--plugin: there is no file 'no.py'"),
        (["--plugin=mine.py", "--task=stripd"], "Did you mean 'striped'?"),
        (["--plugin=mine.py", "--plugin=same.py", "--task=striped"], "already a task, preset or c"),
        (["--plugin=exits.py", "--task=striped"], "cannot be run: SystemExit: 0"),
        (["--plugin=empty.py", "--task=denoise"], "registers no task"),
        (["--task=striped"], "Unknown task 'striped'"),
        ([*TASK, "--mask=field.png"], "--mask belongs to inpaint and compressed_sensing"),
        (
            [*TASK, "--operator=mine.py:even_rows"],
            "An operator belongs to custom, got task striped",
        ),
        (["--plugin=fails.py", "--task=fails", *QUICK], "The task fails fails: KeyError: 'side'"),
        (["--plugin=fails.py", "--task=nothing", *QUICK], "The task nothing fails: TypeError"),
        ([*TASK, "--set=fit.code=image", "--set=net.input_depth=3"], "fit.code=image belongs to"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_reported_in_a_sentence_and_nothing_is_written(run, folder, args, words):
    (folder / "same.py").write_text(PLUGIN + "# the same name\n")
    (folder / "exits.py").write_text("import sys\nsys.exit(0)\n")
    (folder / "empty.py").write_text("")
    (folder / "fails.py").write_text(FAILING)
    status, _, errors = run(*args, "--input=field.png", "--output=out")
    assert status == 2
    assert words in errors
    assert len(errors.strip().splitlines()) == 1
    assert not (folder / "out").exists()


@pytest.mark.slow
def test_the_presets_of_a_plugin_are_listed(run, folder):
    status, output, _ = run("--plugin=mine.py", "--list_presets")
    assert status == 0
    assert "striped*" in output
    assert "every other row" in output
