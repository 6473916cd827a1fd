"""Benchmarks. Most files are commands: `python -m benchmarks.FILE --help`."""

import datetime
import os
import platform
import subprocess
from typing import Any

# Leaves device memory for PyTorch.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax


def environment() -> dict[str, Any]:
    """Device, versions, commit and date, which each reported number needs."""
    try:
        git = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
        )
        commit = git.stdout.strip()
    except FileNotFoundError:
        commit = ""
    return {
        "device": jax.devices()[0].device_kind,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "commit": commit,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
