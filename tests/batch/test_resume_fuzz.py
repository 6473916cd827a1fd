"""Damaged output folders: `--resume` restores the same images or ends with a sentence, whatever was damaged."""

import json
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
from hypothesis import given, settings
from PIL import Image

from dip_jax.batch.processes import Heartbeats, Partition
from dip_jax.engine.restore import restore_many
from dip_jax.report.manifest import Manifest
from dip_jax.report.summary import read_summary
from tests.batch.image_folders import draw_images
from tests.conftest import TINY, sharing_programs
from tests.engine.cases import stop_after
from tests.file_damage import OUTSIDE, damages, relative_names

pytestmark = [
    pytest.mark.xdist_group("worker"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # of orbax
]

MAX_SECONDS, MAX_BYTES = 10.0, 1_000_000_000
QUICK = [*(f"--set={value}" for value in TINY), "--num_steps=12", "--set=run.chunk=5"]
DAMAGED_FILES = ("config.json", "summary.json", "metrics.jsonl")


class Unfinished(NamedTuple):
    """A run whose first image is finished and whose second one is in progress."""

    source: Path
    output: Path
    names: list[str]
    restored: dict[str, bytes]
    """The restored images of a run that was not interrupted."""

    def damaged_names(self) -> list[str]:
        """The files and folders that a run reads when it is resumed."""
        names = relative_names(self.output)
        return [n for n in names if n.startswith(".dip_jax") or Path(n).name in DAMAGED_FILES]


def stop_in_the_second_image(cases, config, *, store, **options):
    """Restores the first image, and saves checkpoints of the second one."""
    first, second = cases
    yield from restore_many([first], config, store=store)
    yield from restore_many([second], config, store=store, **stop_after(2))


@pytest.fixture(scope="module", autouse=True)
def quick_runs():
    """Programs are compiled once, and figures are not drawn."""
    with pytest.MonkeyPatch.context() as patched, sharing_programs():
        for name in ("draw_curve", "draw_sheet"):
            patched.setattr(
                f"dip_jax.report.image.{name}",
                lambda path, case, result: Image.new("RGB", (8, 8)).save(path),
            )
        yield


@pytest.fixture(scope="module")
def unfinished(run, tmp_path_factory) -> Unfinished:
    root = tmp_path_factory.mktemp("unfinished")
    names = draw_images(root / "in", 2)
    args = [f"--input={root / 'in'}", *QUICK]
    assert run(*args, f"--output={root / 'whole'}")[0] == 0
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("dip_jax.batch.worker.restore_many", stop_in_the_second_image)
        assert run(*args, f"--output={root / 'out'}", "--checkpoint_every=0")[0] == 75
    heartbeats = root / "out/.dip_jax/processes"
    heartbeats.mkdir()
    (heartbeats / "1").write_text("3")
    restored = {name: (root / "whole" / name / "restored.png").read_bytes() for name in names}
    return Unfinished(root / "in", root / "out", names, restored)


def copy(unfinished: Unfinished, root: Path) -> Path:
    """A copy of the unfinished folder, next to a file that is none of its business."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(unfinished.output, root / "out")
    (root / OUTSIDE).write_text("mine")
    return root / "out"


def resume(run, unfinished: Unfinished, output: Path) -> tuple[int, str, str]:
    return run(f"--input={unfinished.source}", f"--output={output}", *QUICK, "--resume")


def read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


@pytest.mark.parametrize("count", [20, pytest.param(2_000, marks=pytest.mark.slow)])
def test_a_damaged_run_is_resumed_to_the_same_images_or_ends_with_a_sentence(
    run, unfinished, tmp_path, count
):
    process, statuses = psutil.Process(), set()
    before = process.memory_info().rss

    @settings(max_examples=count, deadline=None, derandomize=True)
    @given(damages(unfinished.damaged_names()))
    def check(applied):
        output = copy(unfinished, tmp_path / "copy")
        for damage in applied:
            damage.apply(output)
        was_restored = {name: read(output / name / "restored.png") for name in unfinished.names}
        start = time.perf_counter()
        status, text, errors = resume(run, unfinished, output)
        assert time.perf_counter() - start < MAX_SECONDS
        statuses.add(status)
        assert (output.parent / OUTSIDE).read_text() == "mine"
        assert "Traceback" not in text + errors
        if status == 2:
            (sentence,) = errors.splitlines()
            assert sentence.startswith("dip-jax: ")
        elif status == 1:  # a folder that lies where a file belongs
            assert "failed" in text or errors.splitlines()[-1].startswith("dip-jax: ")
        else:
            assert status == 0
            for name, expected in unfinished.restored.items():
                is_kept = f"{name}: finished earlier, kept" in errors
                if not is_kept or was_restored[name] == expected:
                    assert read(output / name / "restored.png") == expected

    check()
    assert {0, 2} <= statuses
    assert process.memory_info().rss - before < MAX_BYTES


def test_without_a_readable_checkpoint_an_image_starts_anew_with_a_message(
    run, unfinished, tmp_path
):
    output = copy(unfinished, tmp_path / "copy")
    files = [p for p in (output / ".dip_jax/checkpoints").rglob("*") if p.is_file()]
    for path in files:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    status, _, errors = resume(run, unfinished, output)
    assert status == 0
    assert f"{unfinished.names[1]}: the checkpoint of step 6 cannot be read" in errors
    assert "resumed from step" not in errors
    for name, expected in unfinished.restored.items():
        assert read(output / name / "restored.png") == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "finished"},
        {"status": []},
        {"psnr": "high"},
        {"psnr": [1.0]},
        {"notes": 3},
        {"notes": [None]},
        {"stops": {"held_out": {"fired": True}}},
        {"value_range": {"low": 0}},
        {"name": None},
        {"num_samples": "many"},
    ],
    ids=json.dumps,
)
def test_a_summary_with_a_value_of_another_type_does_not_count(unfinished, tmp_path, changes):
    summary = json.loads((unfinished.output / unfinished.names[0] / "summary.json").read_text())
    path = tmp_path / "summary.json"
    path.write_text(json.dumps({**summary, "of a later version": [None]}))
    assert read_summary(tmp_path)["psnr_best"] == summary["psnr_best"]
    path.write_text(json.dumps({**summary, **changes}))
    assert read_summary(tmp_path) is None


@pytest.mark.parametrize("text", ["[" * 100_000, "null", "3", "[]", '"text"', "\xff"])
def test_a_file_that_is_no_summary_does_not_count(tmp_path, text):
    (tmp_path / "summary.json").write_text(text, encoding="latin-1")
    assert read_summary(tmp_path) is None


def test_an_image_with_a_damaged_summary_is_restored_again(run, unfinished, tmp_path):
    output, name = copy(unfinished, tmp_path / "copy"), unfinished.names[0]
    path = output / name / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "psnr": "high"}))
    status, _, errors = resume(run, unfinished, output)
    assert status == 0
    assert "finished earlier" not in errors
    assert read_summary(path.parent)["psnr"] is None
    assert read(output / name / "restored.png") == unfinished.restored[name]


def test_heartbeats_that_cannot_be_read_are_those_of_a_silent_process(tmp_path, monkeypatch):
    monkeypatch.setattr("dip_jax.batch.processes._SILENCE_SECONDS", 0.1)
    (tmp_path / "1").mkdir()
    (tmp_path / "2").write_bytes(b"\xff")
    (tmp_path / "3").symlink_to(tmp_path / "3")
    (tmp_path / "4").write_text("done")
    messages = []
    Heartbeats(tmp_path, Partition(0, 5)).wait_for_others(
        lambda process: False, should_stop=lambda: False, on_message=messages.append
    )
    assert sorted(text.split()[1] for text in messages) == ["1", "2", "3"]


# ---- records ----


@pytest.fixture
def write_record(tmp_path):
    """Writes the record of an image next to a file outside, as another program would."""
    (tmp_path / OUTSIDE).write_text("mine")
    output = tmp_path / "out"
    Manifest(output, "image").path("restored.png").write_text("ours")
    (path,) = (output / ".dip_jax/manifest").iterdir()

    def write_record(content) -> Manifest:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return Manifest(output, "image")

    return write_record


@pytest.mark.parametrize("name", ["../{}", "{root}/{}", "image/../../{}", "{root}/out/../{}"])
def test_a_record_that_names_a_file_outside_of_the_folder_does_not_remove_it(
    write_record, tmp_path, name
):
    write_record([name.format(OUTSIDE, root=tmp_path)]).remove_others()
    assert (tmp_path / OUTSIDE).read_text() == "mine"


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, [1, "image/restored.png"], ["\ud800"], ["a\0b"], [""], ["."]],
    ids=["deep", "number", "surrogate", "zero", "empty", "folder"],
)
def test_names_in_a_record_that_no_run_writes_are_ignored(write_record, tmp_path, content):
    record = write_record(content)
    record.path("sheet.png").write_text("ours")
    record.remove_others()
    assert list(Manifest(tmp_path / "out", "image")) == ["image/sheet.png"]


@pytest.mark.parametrize("name", ["config.json", "summary.json", "image-00/summary.json"])
def test_an_empty_folder_that_has_the_name_of_a_file_is_refused_at_the_start(
    run, unfinished, tmp_path, name
):
    output = copy(unfinished, tmp_path / "copy")
    (output / name).unlink()
    (output / name).mkdir()
    status, _, errors = resume(run, unfinished, output)
    assert status == 2
    assert f"{name} is not recorded as a file of dip_jax" in errors


def test_a_config_that_is_a_broken_link_is_refused_in_a_sentence(run, unfinished, tmp_path):
    output = copy(unfinished, tmp_path / "copy")
    (output / "config.json").unlink()
    (output / "config.json").symlink_to("nothing")
    assert resume(run, unfinished, output)[0] == 2
