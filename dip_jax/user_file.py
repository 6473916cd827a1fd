"""Runs a Python file of the user, such as that of an operator or a plugin."""

import contextlib
import hashlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import jax

from dip_jax.errors import InputError, describe_error

_modules: dict[tuple[Path, str], ModuleType] = {}


def run_user_file(path: str, *, flag: str) -> tuple[ModuleType, str]:
    """Runs a file of the user, unless this process has run the same content before.

    Args:
      path: The file; `~` is the home folder.
      flag: The flag that names the file, for messages.

    Returns:
      The module, and the checksum (SHA-256) of its file.

    Raises:
      InputError: If there is no such file, or it cannot be read, raises an error, exits, or turns 64-bit floats on.

    Example:
      >>> import pathlib, tempfile
      >>> file = pathlib.Path(tempfile.mkdtemp(), "mine.py")
      >>> _ = file.write_text("number = 3")
      >>> module, _ = run_user_file(str(file), flag="--operator")
      >>> module.number
      3
    """
    file = Path(os.path.expanduser(path))
    if not file.is_file():
        raise InputError(f"{flag}: there is no file {str(file)!r}.")
    try:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{flag}: {file} cannot be read: {describe_error(error)}.") from None
    key = file.resolve(), digest
    if key not in _modules:
        _modules[key] = _run(file, f"_dip_jax_user_{file.stem}_{digest[:8]}", flag)
    return _modules[key], digest


def _run(file: Path, name: str, flag: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise InputError(f"{flag} expects a Python file (.py), got {file}.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(file.resolve().parent)
    sys.path.insert(0, folder)  # as `python path.py` does
    has_x64 = jax.config.values["jax_enable_x64"]
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except InputError as error:  # e.g. of `register_task`
        raise InputError(f"{flag}: {file}: {describe_error(error)}") from None
    except BaseException as error:  # the user's code may raise anything, and exit
        raise InputError(
            f"{flag}: {file} cannot be run: {type(error).__name__}: {describe_error(error)}."
        ) from None
    finally:
        with contextlib.suppress(ValueError):  # the file may change the list too
            sys.path.remove(folder)
    if jax.config.values["jax_enable_x64"] != has_x64:
        jax.config.update("jax_enable_x64", has_x64)
        raise InputError(
            f"{flag}: {file} sets jax_enable_x64, which would change the whole fit; remove that line. The "
            "images are float32."
        )
    return module
