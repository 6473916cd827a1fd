"""Several processes that restore one folder."""

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dip_jax.batch import processes
from dip_jax.batch.folder import restore_files
from dip_jax.batch.inputs import InputFiles
from dip_jax.batch.processes import Heartbeats, Partition, ProcessOptions
from dip_jax.errors import InputError
from dip_jax.report.summary import read_summary
from tests.batch.command import environment, run, start, wait_for
from tests.batch.image_folders import assert_same_files, draw_images, statuses

pytestmark = pytest.mark.xdist_group("folder")


def test_partitions_have_every_item_once():
    items = list(range(11))
    partitions = [Partition(i, 3).of(items) for i in range(3)]
    assert sorted(item for partition in partitions for item in partition) == items
    assert max(map(len, partitions)) - min(map(len, partitions)) <= 1


def test_a_single_process_writes_no_heartbeat(tmp_path):
    heartbeats = Heartbeats(tmp_path / "beats", Partition())
    with heartbeats.beating():
        pass
    heartbeats.wait_for_others(pytest.fail, should_stop=pytest.fail, on_message=pytest.fail)
    assert not (tmp_path / "beats").exists()


def test_process_0_waits_until_the_others_are_done(tmp_path):
    with Heartbeats(tmp_path, Partition(1, 3)).beating():
        wait_until_beating(tmp_path / "1")
    # Process 2 has no heartbeat, because it ended before process 0 started.
    asked = []
    Heartbeats(tmp_path, Partition(0, 3)).wait_for_others(
        lambda process: not asked.append(process),
        should_stop=lambda: False,
        on_message=pytest.fail,
    )
    assert asked == [2]


def wait_until_beating(path: Path) -> None:
    end = time.monotonic() + 10
    while not path.exists():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_interrupt_ends_the_wait(tmp_path):
    calls = []
    Heartbeats(tmp_path, Partition(0, 2)).wait_for_others(
        calls.append, should_stop=lambda: True, on_message=calls.append
    )
    assert calls == []  # neither asked for the others nor said that they are silent


def test_a_silent_process_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_SILENCE_SECONDS", 0.05)
    (tmp_path / "1").write_text("0")
    messages = []
    Heartbeats(tmp_path, Partition(0, 2)).wait_for_others(
        pytest.fail, should_stop=lambda: False, on_message=messages.append
    )
    assert messages == ["Process 1 sent no heartbeat for 0.05 s; continuing without it."]


def test_independent_processes_need_to_resume_and_valid_numbers(config, finished_run, tmp_path):
    files = InputFiles([finished_run.source])
    with pytest.raises(InputError, match="add --resume, or --coordinator"):
        restore_files(
            config, tmp_path, files, processes=ProcessOptions(num_processes=2, process_id=1)
        )
    with pytest.raises(InputError, match="from 0 to 1"):
        restore_files(
            config,
            tmp_path,
            files,
            resume=True,
            processes=ProcessOptions(num_processes=2, process_id=2),
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_independent_processes_restore_their_partitions(config, tmp_path):
    source, out, names = tmp_path / "in", tmp_path / "out", draw_images(tmp_path / "in", 3)

    def restore(process_id):
        return restore_files(
            config,
            out,
            InputFiles([source]),
            resume=True,
            processes=ProcessOptions(num_processes=2, process_id=process_id),
        )

    assert [s["name"] for s in restore(1)] == [names[1]]
    assert not (out / "summary.json").exists()
    summaries = restore(0)
    assert [s["name"] for s in summaries] == names
    assert {s["status"] for s in summaries} == {"done"}
    assert statuses(out) == dict.fromkeys(names, "done")


@pytest.mark.slow
def test_the_images_of_a_silent_process_are_left_for_resume(config, tmp_path, monkeypatch):
    source, out, _ = tmp_path / "in", tmp_path / "out", draw_images(tmp_path / "in", 3)
    monkeypatch.setattr(processes, "_SILENCE_SECONDS", 0.3)
    messages = []
    summaries = restore_files(
        config,
        out,
        InputFiles([source]),
        resume=True,
        processes=ProcessOptions(num_processes=2, process_id=0),
        on_message=messages.append,
    )
    assert "Process 1 sent no heartbeat for 0.3 s; continuing without it." in messages
    assert [s["status"] for s in summaries] == ["done", "interrupted", "done"]
    assert "run again with --resume" in summaries[1]["error"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start_two(source: Path, output: Path, **options) -> list[subprocess.Popen]:
    """Two processes with two devices each, connected by a rendezvous."""
    port = free_port()
    common = ["--cpu_devices=2", f"--coordinator=localhost:{port}", "--num_processes=2"]
    return [start([source], output, *common, f"--process_id={i}", **options) for i in range(2)]


@pytest.mark.slow
def test_after_a_rendezvous_each_process_keeps_its_devices_and_what_it_compiles(tmp_path):
    script = """
import sys
import jax
from dip_jax.batch.processes import ProcessOptions, rendezvous
from dip_jax.engine import program_cache

port, number, folder = sys.argv[1:]
names = ("jax_platforms", "jax_cuda_visible_devices", "jax_rocm_visible_devices")
before = [jax.config.values[name] for name in names]
with rendezvous(ProcessOptions(True, f"localhost:{port}", 2, int(number))):
    pass
assert [jax.config.values[name] for name in names] == before
assert (jax.process_index(), jax.process_count()) == (0, 1)
program_cache.cache_exports(program_cache.Path(folder) / "traced")
jax.config.update("jax_compilation_cache_dir", folder)
jax.jit(lambda x: x @ x + 1)(jax.numpy.ones((8, 8))).block_until_ready()
shape = jax.ShapeDtypeStruct((3,), "float32")
program_cache.build_program("text", lambda: (jax.numpy.add, None), lambda info: (shape, shape))
"""
    port, started = free_port(), []
    for i in range(2):
        slurm = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
        slurm |= {"SLURM_PROCID": f"{i}", "SLURM_LOCALID": f"{i + 3}"}
        arguments = [sys.executable, "-c", script, str(port), str(i), str(tmp_path / f"{i}")]
        started.append(
            subprocess.Popen(
                arguments, env=environment() | slurm, stderr=subprocess.PIPE, text=True
            )
        )
    for i, process in enumerate(started):
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert list((tmp_path / f"{i}").glob("jit_*")), "JAX's cache"
        assert list((tmp_path / f"{i}/traced").glob("*.program")), "the exported program"


@pytest.mark.slow
def test_two_processes_write_the_same_files(many, tmp_path):
    source, output, names, _ = many
    started = start_two(source, tmp_path / "out", steps=150)
    printed = [process.communicate(timeout=300) for process in started]
    # The exit status of a process is that of its partition, and for process 0 that of the run.
    partition_of = {"corrupt": 0, "diverging": 1}
    expected = [1, int(1 in partition_of.values())]
    assert [process.returncode for process in started] == expected, printed
    assert statuses(tmp_path / "out") == statuses(output)
    assert_same_files(output, tmp_path / "out", names)
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {path.name for path in output.iterdir()}


@pytest.mark.slow
def test_if_the_folder_is_refused_all_processes_are_refused(tmp_path):
    draw_images(tmp_path / "in", 1)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/summary.json").write_text("[]")
    for process in start_two(tmp_path / "in", tmp_path / "out"):
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == 2, stderr
        assert "summary.json is not recorded as a file of dip_jax" in stderr
    assert json.loads((tmp_path / "out/summary.json").read_text()) == []


@pytest.mark.slow
def test_if_a_process_dies_only_its_images_are_affected(tmp_path):
    source, out, names = tmp_path / "in", tmp_path / "out", draw_images(tmp_path / "in", 8)
    started = start_two(source, out, steps=300)
    # Process 0 dies, although the others found each other through it.
    wait_for(lambda: (out / ".dip_jax/processes/1").exists(), started[0])
    time.sleep(1)
    started[0].kill()
    started[0].communicate()
    _, stderr = started[1].communicate(timeout=300)
    assert started[1].returncode == 0, stderr
    finished = {name for name in names if read_summary(out / name) is not None}
    assert finished >= set(names[1::2])
    assert len(finished) < len(names)
    resumed = run([source], out, "--cpu_devices=2", "--resume", steps=300)
    assert resumed.returncode == 0, resumed.stderr
    assert statuses(out) == dict.fromkeys(names, "done")
    assert resumed.stderr.count("finished earlier, kept") == len(finished)
