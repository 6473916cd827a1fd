"""The command in separate processes.

The number of threads is fixed (NPROC), because a matrix product may be split among them in another order.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import TINY

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "NPROC": "4",
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache/jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def command(inputs: Sequence[Path], output: Path, *args: str, steps: int = 20) -> list[str]:
    return [
        sys.executable,
        str(ROOT / "tests/batch/folder_driver.py"),
        *(f"--input={path}" for path in inputs),
        f"--output={output}",
        f"--num_steps={steps}",
        "--stop=fixed",
        *(f"--set={value}" for value in TINY),
        *args,
    ]


def run(*args, **options) -> subprocess.CompletedProcess:
    """Runs the command to its end."""
    return run_python(command(*args, **options)[1:])


def run_python(args: list[str]) -> subprocess.CompletedProcess:
    """Runs Python in the environment of the command."""
    return subprocess.run(
        [sys.executable, *args], env=environment(), capture_output=True, text=True, check=False
    )


def start(*args, **options) -> subprocess.Popen:
    """Starts the command."""
    return subprocess.Popen(
        command(*args, **options),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, process: subprocess.Popen, seconds: float = 120) -> None:
    """Waits until a condition holds, while the process runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)
