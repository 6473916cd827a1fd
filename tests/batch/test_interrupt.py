"""A run that gets a request to stop."""

import signal
import threading
import time

import pytest

from dip_jax.batch.interrupt import interruptible
from tests.batch.command import run, start
from tests.batch.image_folders import assert_same_files

pytestmark = pytest.mark.xdist_group("folder")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_request_and_the_next_one_acts_as_before(signum):
    previous, messages = signal.getsignal(signum), []
    with interruptible(messages.append) as interrupt:
        assert not interrupt()
        signal.raise_signal(signum)
        assert interrupt()
        assert interrupt.is_from_keyboard == (signum == signal.SIGINT)
        assert signal.getsignal(signum) is previous
    assert len(messages) == 1
    assert "being saved" in messages[0]


def test_handlers_are_restored_if_no_signal_arrived():
    previous = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)]
    with interruptible(print) as interrupt:
        assert signal.getsignal(signal.SIGINT) is not previous[0]
    assert not interrupt()
    assert [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)] == previous


def test_outside_the_main_thread_signals_are_not_handled():
    previous, requests = signal.getsignal(signal.SIGINT), []

    def work():
        with interruptible(print) as interrupt:
            requests.append((interrupt(), signal.getsignal(signal.SIGINT) is previous))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert requests == [(False, True)]


def test_a_terminated_run_ends_with_75_and_is_resumed_bit_for_bit(many, tmp_path):
    source, output, names, _ = many
    names = [names[i] for i in (0, 1, 4)]  # RGB images of one canvas: two slots share a program
    inputs = [source / f"{name}.png" for name in names]
    args = (inputs, tmp_path / "out", "--cpu_devices=2", "--set=run.chunk=10")
    process = start(*args, steps=150)
    try:
        assert any("in progress" in line for line in iter(process.stderr.readline, ""))
        process.send_signal(signal.SIGTERM)
        clock = time.monotonic()
        stdout, stderr = process.communicate(timeout=60)
        assert time.monotonic() - clock < 8  # a chunk, a checkpoint, the end of the process
    finally:
        process.kill()
    assert process.returncode == 75, stderr
    assert "--resume" in stdout
    assert len(list((tmp_path / "out/.dip_jax/checkpoints").iterdir())) == 2
    resumed = run(*args, "--resume", steps=150)
    assert resumed.returncode == 0, resumed.stderr
    assert "from step" in resumed.stderr
    assert_same_files(output, tmp_path / "out", names)
    assert [path.name for path in (tmp_path / "out/.dip_jax").iterdir()] == ["manifest"]
