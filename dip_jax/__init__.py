"""dip_jax: Deep Image Prior restoration in JAX. Restores a damaged picture without training data.

The public names are loaded when they are first used, so that importing the package costs nothing and the
command answers a wrong flag before JAX is there.
"""

import importlib
from typing import Any

from dip_jax._version import __version__

_HOME = {
    "Case": "base",
    "CheckpointStore": "engine.checkpoint",
    "Config": "config",
    "InputError": "errors",
    "Problem": "base",
    "Result": "base",
    "adjoint": "operators.basic",
    "build_case": "tasks.cases",
    "build_config": "presets",
    "build_net": "nets",
    "check_operator": "operators.basic",
    "num_params": "nets",
    "params_from_torch": "nets",
    "read_mask": "images.read",
    "read_picture": "images.read",
    "restore": "engine.restore",
    "restore_files": "batch.folder",
    "restore_many": "engine.restore",
    "simulate_case": "tasks.simulate",
    "write_picture": "images.write",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    """Loads a public name from its module."""
    if name not in _HOME:
        raise AttributeError(f"module 'dip_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"dip_jax.{_HOME[name]}"), name)
