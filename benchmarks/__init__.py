"""Measurements that anyone can repeat; each file is a command."""

import datetime
import os
import platform
import subprocess
from typing import Any

# PyTorch needs memory on the same device.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax


def about() -> dict[str, Any]:
    """What must stand beside every figure: device, versions, commit and date."""
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
