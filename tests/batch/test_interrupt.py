"""A run that gets a request to stop."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from dip_jax.batch.interrupt import interruptible
from tests.batch.command import environment, run, start
from tests.batch.image_folders import assert_same_files

pytestmark = pytest.mark.xdist_group("folder")


SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def without_nohup():
    """The tests may run under `nohup`, which ignores SIGHUP."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, previous)


@pytest.mark.parametrize("signum", SIGNALS)
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
    previous = [signal.getsignal(signum) for signum in SIGNALS]
    with interruptible(print) as interrupt:
        assert signal.getsignal(signal.SIGINT) is not previous[0]
    assert not interrupt()
    assert [signal.getsignal(signum) for signum in SIGNALS] == previous


def test_a_hangup_that_nohup_ignores_stays_ignored():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible(pytest.fail) as interrupt:
            signal.raise_signal(signal.SIGHUP)
            assert not interrupt()
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_a_signal_is_announced_before_the_main_thread_returns_from_a_compilation():
    announced = []
    with interruptible(lambda text: announced.append(time.monotonic())) as interrupt:
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        # Like a compilation, this runs outside of Python.
        hashlib.pbkdf2_hmac("sha256", b"", b"", 1_500_000)
        end = time.monotonic()
        timer.join()
        assert interrupt()
    assert announced[0] < end


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_run_ends_in_order_when_its_terminal_is_lost(tmp_path, is_lost):
    script = """
import fcntl, signal, sys, termios, time
from dip_jax.batch.interrupt import interruptible

fcntl.ioctl(0, termios.TIOCSCTTY, 0)
with interruptible(lambda text: print(text, file=sys.stderr)) as interrupt:
    print("ready", flush=True)
    while not interrupt():
        time.sleep(0.01)
print("saving", file=sys.stderr, flush=True)
open(sys.argv[1], "w").write(signal.Signals(interrupt.signum).name)
"""
    controller, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "state")],
        env=environment(),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    assert os.read(controller, 100).startswith(b"ready")
    if is_lost:
        os.close(controller)  # sends SIGHUP, and each later print fails
    else:
        process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 0
    assert (tmp_path / "state").read_text() == "SIGHUP"
    if not is_lost:
        os.close(controller)


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
