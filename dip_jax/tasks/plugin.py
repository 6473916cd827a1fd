"""Plugins: files of the user that register tasks."""

from dip_jax.errors import InputError
from dip_jax.tasks.registry import registered_tasks
from dip_jax.user_file import run_user_file

_loaded: set[str] = set()  # a file runs only once in each process


def load_plugin(path: str) -> str:
    """Runs a file that registers tasks.

    Args:
      path: The file; it calls `dip_jax.register_task`.

    Returns:
      An item of `task.plugins`: the path, and the checksum of the file. A changed plugin is another setting, so its run
      is not resumed.

    Raises:
      InputError: If the file cannot be run (`run_user_file`), or registers no task.
    """
    before = registered_tasks()
    _, digest = run_user_file(path, flag="--plugin")
    item = f"{path}#sha256={digest}"
    if item not in _loaded and registered_tasks() == before:
        raise InputError(
            f"--plugin: {path} registers no task; call dip_jax.register_task(dip_jax.Task(...)) in it."
        )
    _loaded.add(item)
    return item
