"""Folders of pictures as the command restores them: many devices, many processes, killed and taken up.

What a run writes must not depend on how it was laid out, so these tests compare bytes. The number of
threads is fixed (NPROC) because a matrix product may be split among them in another order.
"""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from dip_jax.batch import folder as folder_module
from dip_jax.batch import processes as presence
from dip_jax.batch import worker as folder_run
from dip_jax.batch.folder import restore_files
from dip_jax.batch.inputs import list_inputs
from dip_jax.errors import InputError
from dip_jax.presets import build_config
from dip_jax.report.run_pages import write_pages
from dip_jax.report.summary import read_summary
from tests.conftest import TINY

# One worker has them all: the runs that several tests look at are made once.
pytestmark = pytest.mark.xdist_group("folder")

ROOT = Path(__file__).parents[2]
WRITTEN = ("restored.png", "metrics.jsonl", "curve.png", "sheet.png")


def draw(folder: Path, number: int, *, alike: bool = False) -> list[str]:
    """Draws pictures of three shapes, gray and RGB (or all alike), a corrupt and a diverging one."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    shapes = [(40, 36), (36, 40), (44, 44)] if not alike else [(40, 36)] * 3
    names = []
    for i in range(number - 2):
        rows, columns = np.mgrid[: shapes[i % 3][0], : shapes[i % 3][1]] / 40
        waves = [np.sin((3 + i % 5) * rows + k) * np.cos(4 * columns + i) for k in range(3)]
        image = 0.5 + 0.4 * np.stack(waves, -1) + 0.08 * rng.standard_normal((*rows.shape, 3))
        image = image[..., 0] if i % 4 == 3 and not alike else image
        names.append(f"picture-{i:02d}")
        stored = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
        iio.imwrite(folder / f"{names[-1]}.png", stored)
    whole = (folder / f"{names[0]}.png").read_bytes()
    (folder / "corrupt.png").write_bytes(whole[: len(whole) // 2])
    (folder / "diverging.png").write_bytes(whole)
    return names


def pictures(root: Path, number: int = 3) -> tuple[Path, Path, list[str]]:
    """Draws good pictures of one shape: `source, output, names`."""
    names = draw(root / "in", number + 2, alike=True)
    for name in ("corrupt", "diverging"):
        (root / "in" / f"{name}.png").unlink()
    return root / "in", root / "out", names


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "NPROC": "4",
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache/jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def command(source: Path, output: Path, *args: str, steps: int = 20) -> list[str]:
    return [
        sys.executable,
        str(ROOT / "tests/batch/folder_driver.py"),
        f"--input={source}",
        f"--output={output}",
        f"--num_steps={steps}",
        "--stop=fixed",
        *(f"--set={value}" for value in TINY),
        *args,
    ]


def run(*args, **more) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*args, **more), env=environment(), capture_output=True, text=True, check=False
    )


def start(*args, **more) -> subprocess.Popen:
    return subprocess.Popen(
        command(*args, **more),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_same_files(a: Path, b: Path, names: list[str]) -> None:
    """But for config.json, which also says how the work was laid out."""
    for name in names:
        for file in WRITTEN:
            one, other = ((folder / name / file).read_bytes() for folder in (a, b))
            assert one == other, f"{name}/{file}"


def assert_nothing_half_written(folder: Path) -> None:
    """Every file that is there under its own name can be read."""
    for path in folder.rglob("*"):
        if path.name.endswith(".part") or ".dip_jax" in path.parts or not path.is_file():
            continue
        if path.suffix == ".png":
            assert iio.imread(path).ndim
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            assert [json.loads(line) for line in path.read_text().splitlines()]


SUMMARY = {
    "status": "done",
    "stop_step": 1,
    "psnr": None,
    "psnr_measurement": None,
    "ssim": None,
    "seconds": 1.0,
    "error": None,
}


def statuses(output: Path) -> dict[str, str]:
    return {s["name"]: s["status"] for s in json.loads((output / "summary.json").read_text())}


@pytest.fixture(scope="module", params=[8, pytest.param(24, marks=pytest.mark.slow)])
def many(request, tmp_path_factory):
    """A folder restored on four devices: `source, output, names, process`."""
    root = tmp_path_factory.mktemp("many")
    names = draw(root / "in", request.param)
    process = run(root / "in", root / "out", "--cpu_devices=4")
    return root / "in", root / "out", names, process


def test_a_folder_with_a_corrupt_and_a_diverging_picture_is_restored_but_for_these(many):
    _, output, names, process = many
    assert process.returncode == 1, process.stderr
    expected = dict.fromkeys(names, "done") | {"corrupt": "failed", "diverging": "diverged"}
    assert statuses(output) == expected
    assert f"{len(names) + 2} pictures: {len(names)} done" in process.stdout
    assert "corrupt: failed: " in process.stdout
    assert "cut short" in read_summary(output / "corrupt")["error"]
    assert read_summary(output / "diverging")["num_rollbacks"] >= 10
    assert [path.name for path in (output / ".dip_jax").iterdir()] == ["manifest.json"]


def test_the_runs_own_page_and_table_have_every_picture(many):
    _, output, names, _ = many
    lines = (output / "summary.csv").read_text().splitlines()
    assert lines[0].startswith("name,task,status,num_steps")
    assert len(lines) == 1 + len(names) + 2
    page = (output / "index.html").read_text()
    for name in (*names, "corrupt", "diverging"):
        assert name in page
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert links
    assert all((output / link).exists() for link in links)
    assert iio.imread(output / "contact-1.png").shape[0] > 100


SINGLES = """
import sys, jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[4]))
from pathlib import Path
from dip_jax.errors import InputError
from dip_jax.batch.folder import restore_files
from dip_jax.config import from_json
from dip_jax.engine.slots import Slots
source, output, wanted = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split(",")
for name in wanted:
    config = from_json((source.parent / "out" / name / "config.json").read_text())
    restore_files(config, output / name, inputs=[source / f"{name}.png"])
from dip_jax.batch.inputs import list_inputs
from dip_jax.report.run_pages import write_pages
from dip_jax.engine.canvas import pad_case
(entry,) = list_inputs(config, inputs=[source / f"{name}.png"])
print(Slots(pad_case(entry.load().case, 16), config).text())
"""


@pytest.fixture(scope="module")
def singles(many, tmp_path_factory):
    """Pictures of it restored alone: `output, names, compiled text`."""
    source, _, names, _ = many
    output = tmp_path_factory.mktemp("singles")
    wanted = [names[0], names[3]] if len(names) < 10 else names  # one of them gray
    process = subprocess.run(
        [sys.executable, "-c", SINGLES, str(source), str(output), ",".join(wanted), "4"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return output, wanted, process.stdout


def test_each_picture_is_what_it_is_alone(many, singles):
    _, output, _, _ = many
    alone, wanted, _ = singles
    for name in wanted:
        assert_same_files(output, alone / name, [name])


def test_the_step_on_four_devices_has_no_collective(singles):
    text = singles[2]
    assert "num_partitions=4" in text
    collectives = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-(permute|broadcast)"
    assert not re.search(collectives, text)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def hosts(source: Path, output: Path, *args: str, **more) -> list[subprocess.Popen]:
    """Two processes with two devices each."""
    port = free_port()
    who = ["--cpu_devices=2", f"--coordinator=localhost:{port}", "--num_processes=2", *args]
    return [start(source, output, *who, f"--process_id={i}", **more) for i in range(2)]


@pytest.mark.slow
def test_two_processes_write_the_same_files(many, tmp_path):
    source, output, names, _ = many
    processes = hosts(source, tmp_path / "out")
    said = [process.communicate(timeout=300) for process in processes]
    # Each answers for its own share, and process 0 for all.
    shares = {"corrupt": 0, "diverging": 1}
    expected = [1, int(1 in shares.values())]
    assert [process.returncode for process in processes] == expected, said
    assert statuses(tmp_path / "out") == statuses(output)
    assert_same_files(output, tmp_path / "out", names)
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {path.name for path in output.iterdir()}


def test_processes_that_are_refused_are_all_refused(many, tmp_path):
    source, output, _, _ = many
    processes = hosts(source, output)
    for process in processes:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 2
        assert "holds another run" in err


@pytest.mark.slow
def test_a_process_that_dies_takes_only_its_share(tmp_path):
    source, out, names = pictures(tmp_path, 8)
    processes = hosts(source, out, steps=300)
    # Process 0, of all: it is the one by which the others found each other.
    wait_for(lambda: (out / ".dip_jax/processes/1").exists(), processes[0])
    time.sleep(1)
    processes[0].kill()
    processes[0].communicate()
    _, err = processes[1].communicate(timeout=300)
    assert processes[1].returncode == 0, err
    finished = {name for name in names if read_summary(out / name) is not None}
    assert finished >= set(names[1::2])
    assert len(finished) < len(names)
    resumed = run(source, out, "--cpu_devices=2", "--resume", steps=300)
    assert resumed.returncode == 0, resumed.stderr
    assert statuses(out) == dict.fromkeys(names, "done")
    assert resumed.stderr.count("finished earlier, kept") == len(finished)


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Four pictures on two devices, left alone: `source, output, names`."""
    root = tmp_path_factory.mktemp("undisturbed")
    source, output, names = pictures(root, 4)
    process = run(source, output, "--cpu_devices=2", steps=150)
    assert process.returncode == 0, process.stderr
    return source, output, names


def test_a_terminated_run_ends_with_75_and_is_taken_up_bit_for_bit(undisturbed, tmp_path):
    source, output, names = undisturbed
    args = (source, tmp_path / "out", "--cpu_devices=2", "--set=run.chunk=10")
    process = start(*args, steps=150)
    try:
        assert "in work" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        clock = time.monotonic()
        said, err = process.communicate(timeout=60)
        assert time.monotonic() - clock < 8  # a chunk, a checkpoint, the end of the process
    finally:
        process.kill()
    assert process.returncode == 75, err
    assert "--resume" in said
    assert len(list((tmp_path / "out/.dip_jax/checkpoints").iterdir())) == 2
    resumed = run(*args, "--resume", steps=150)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on from step" in resumed.stderr
    assert_same_files(output, tmp_path / "out", names)
    assert [path.name for path in (tmp_path / "out/.dip_jax").iterdir()] == ["manifest.json"]


@pytest.mark.slow
def test_a_run_that_is_killed_ten_times_ends_with_the_same_bytes(undisturbed, tmp_path):
    source, output, names = undisturbed
    out = tmp_path / "out"
    # Other settings of how the work is laid out must not matter.
    args = (source, out, "--cpu_devices=2", "--checkpoint_every=0", "--set=run.chunk=3")
    chance = random.Random(0)
    written: dict[str, int] = {}
    for i in range(10):
        process = start(*args, *(["--resume"] if i else []), steps=150)
        # A process takes seconds to begin: wait for it, so that most moments are in the work.
        wait_for(lambda: (out / "config.json").exists(), process)
        time.sleep(chance.uniform(0, 9))
        process.kill()
        process.communicate()
        assert_nothing_half_written(out)
        for name in names:
            summary = out / name / "summary.json"
            if name in written:  # what was finished is not touched again
                assert summary.stat().st_mtime_ns == written[name]
            elif summary.exists():
                written[name] = summary.stat().st_mtime_ns
    resumed = run(*args, "--resume", steps=150)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_files(output, out, names)
    assert not list(out.rglob("*.part"))


# ---- in this process: what goes wrong with one picture ----


@pytest.fixture
def config():
    return build_config(overrides=[*TINY, "fit.num_steps=6"])


def test_what_cannot_be_written_is_that_pictures_failure(config, tmp_path):
    source, out, names = pictures(tmp_path)
    out.mkdir()
    (out / names[1]).write_text("a file where its folder should be")
    found = restore_files(config, out, inputs=[source], overwrite=True)
    assert {s["name"]: s["status"] for s in found} == {
        names[0]: "done",
        names[1]: "failed",
        names[2]: "done",
    }
    assert "cannot be written" in found[1]["error"]


def test_a_full_disk_stops_the_run_and_what_was_written_is_whole(config, tmp_path, monkeypatch):
    source, out, names = pictures(tmp_path, 12)
    real, calls = folder_run.report_picture, []

    def full(*args, **more):
        calls.append(args[0])
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(*args, **more)

    monkeypatch.setattr(folder_run, "report_picture", full)
    with pytest.raises(OSError, match="is full; make room, run again with --resume"):
        restore_files(config, out, inputs=[source])
    assert_nothing_half_written(out)
    monkeypatch.undo()
    finished = [name for name in names if read_summary(out / name)]
    assert names[0] in finished
    assert names[1] not in finished
    assert len(calls) < len(names)  # the last ones were not even fitted
    told = []
    found = restore_files(config, out, inputs=[source], resume=True, on_message=told.append)
    assert {s["status"] for s in found} == {"done"}
    assert sum("finished earlier" in text for text in told) == len(finished)


@pytest.mark.slow
def test_a_picture_that_changed_since_is_restored_anew(config, tmp_path):
    source, out, names = pictures(tmp_path)
    restore_files(config, out, inputs=[source])
    first = {name: (out / name / "restored.png").read_bytes() for name in names}
    path = source / f"{names[1]}.png"
    iio.imwrite(path, 255 - iio.imread(path))
    told = []
    restore_files(config, out, inputs=[source], resume=True, on_message=told.append)
    assert f"{names[1]}: its files changed since it was restored; starting anew" in told
    changed = [n for n in names if (out / n / "restored.png").read_bytes() != first[n]]
    assert changed == [names[1]]


def test_progress_counts_the_folder(config, tmp_path):
    source, out, names = pictures(tmp_path)
    seen = []
    restore_files(config, out, inputs=[source], on_progress=seen.append)
    assert {p.num_images for p in seen} == {len(names)}
    done = [p.num_done for p in seen]
    assert done == sorted(done)
    assert all(p.num_done + len(p.pictures.names) <= len(names) for p in seen)
    assert all(p.seconds_left >= 0 for p in seen)


def test_a_share_has_every_item_once():
    items = list(range(11))
    shares = [folder_module.hosts.Share(i, 3).of(items) for i in range(3)]
    assert sorted(item for share in shares for item in share) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.slow
def test_processes_that_do_not_meet_need_to_resume_and_take_their_shares(config, tmp_path):
    source, out, names = pictures(tmp_path, 3)
    with pytest.raises(InputError, match="add --resume, or --coordinator"):
        restore_files(config, out, inputs=[source], num_processes=2, process_id=1)
    with pytest.raises(InputError, match="from 0 to 1"):
        restore_files(config, out, inputs=[source], num_processes=2, process_id=2, resume=True)
    share = {"num_processes": 2, "resume": True}
    found = restore_files(config, out, inputs=[source], process_id=1, **share)
    assert [s["name"] for s in found] == [names[1]]
    assert not (out / "summary.json").exists()
    found = restore_files(config, out, inputs=[source], process_id=0, **share)
    assert [s["name"] for s in found] == names
    assert {s["status"] for s in found} == {"done"}
    assert statuses(out) == dict.fromkeys(names, "done")


@pytest.mark.slow
def test_a_silent_process_is_not_waited_for(config, tmp_path, monkeypatch):
    source, out, _ = pictures(tmp_path, 3)
    monkeypatch.setattr(presence, "_SILENCE_SECONDS", 0.3)
    told = []
    found = restore_files(
        config,
        out,
        inputs=[source],
        num_processes=2,
        process_id=0,
        resume=True,
        on_message=told.append,
    )
    assert "Process 1 is silent; it is not waited for." in told
    assert [s["status"] for s in found] == ["done", "interrupted", "done"]
    assert "run again with --resume" in found[1]["error"]


@pytest.mark.parametrize("name", ["index.html", "summary.csv"])
def test_files_of_somebody_else_are_not_written_over(config, tmp_path, name):
    source, out, _ = pictures(tmp_path, 1)
    out.mkdir()
    (out / name).write_text("mine")
    (out / "checkpoints").mkdir()
    for resume in (False, True):
        with pytest.raises(InputError, match="nothing is overwritten unasked"):
            restore_files(config, out, inputs=[source], resume=resume)
    restore_files(config, out, inputs=[source], overwrite=True)
    assert (out / "checkpoints").exists()


def test_images_called_as_contact_sheets_survive_a_run_into_their_own_folder(config, tmp_path):
    source, _, names = pictures(tmp_path, 1)
    image = (source / f"{names[0]}.png").read_bytes()
    for number in (2, 3):
        (source / f"contact-{number}.png").write_bytes(image)
    restore_files(config, source, inputs=[source / "contact-2.png", source / "contact-3.png"])
    assert all((source / f"contact-{number}.png").read_bytes() == image for number in (2, 3))


def test_a_contact_sheet_never_overwrites_a_file_that_no_run_wrote(config, tmp_path):
    source, out, _ = pictures(tmp_path, 1)
    out.mkdir()
    (out / "contact-1.png").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"contact-1.png was not written by dip_jax"):
            restore_files(config, out, inputs=[source], overwrite=overwrite)
    assert (out / "contact-1.png").read_text() == "mine"


def test_contact_sheets_of_an_earlier_larger_run_are_removed_by_its_record(tmp_path):
    summaries = [{**SUMMARY, "name": str(number)} for number in range(40)]
    write_pages(tmp_path, summaries)
    (tmp_path / "contact-7.png").write_text("mine")
    assert (tmp_path / "contact-2.png").exists()
    write_pages(tmp_path, summaries[:1])
    assert not (tmp_path / "contact-2.png").exists()
    assert (tmp_path / "contact-7.png").read_text() == "mine"
    write_pages(tmp_path, summaries[:1])  # its own sheet is its to overwrite


def test_what_is_overwritten_does_not_pass_for_a_result_of_the_new_run(config, tmp_path):
    source, out, names = pictures(tmp_path, 2)
    restore_files(config, out, inputs=[source])
    other = build_config(overrides=[*TINY, "fit.num_steps=5"])
    with pytest.raises(InputError, match=r"fit.num_steps = 6, not 5"):
        restore_files(other, out, inputs=[source], resume=True)
    entries = list_inputs(other, inputs=[source])
    folder_module._prepare(entries, other, out, overwrite=True, resume=False)
    assert [read_summary(out / name) for name in names] == [None, None]


@pytest.mark.slow
def test_pictures_called_as_the_runs_own_files_are_kept_apart(config, tmp_path):
    source, out, names = pictures(tmp_path, 1)
    path = source / f"{names[0]}.png"
    for name in ("checkpoints", "processes"):
        (source / f"{name}.png").write_bytes(path.read_bytes())
    restore_files(config, out, inputs=[source])
    for name in ("checkpoints", "processes"):
        assert (out / name / "restored.png").exists()


def test_a_picture_that_cannot_be_held_is_that_pictures_failure(config, tmp_path, monkeypatch):
    source, out, names = pictures(tmp_path, 3)
    entries = list_inputs(config, inputs=[source])

    def too_large():
        raise MemoryError

    entries[1] = entries[1]._replace(load=too_large)
    found = folder_module.restore_inputs(entries, config, out)
    assert [s["status"] for s in found] == ["done", "failed", "done"]
    assert "out of memory" in found[1]["error"]
    assert [read_summary(out / name)["status"] for name in names] == ["done", "failed", "done"]
