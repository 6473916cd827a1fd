"""The tasks by name: those of this package, and those that users register."""

import contextlib
from collections.abc import Iterator
from typing import Any

from dip_jax.config import TASKS, Config, TaskConfig, add_task_name, replace_fields
from dip_jax.errors import InputError, describe_error
from dip_jax.presets import COMPARISONS, PRESETS, TASK_DEFAULTS, Preset
from dip_jax.tasks.compressed_sensing import COMPRESSED_SENSING
from dip_jax.tasks.ct import CT
from dip_jax.tasks.custom import CUSTOM
from dip_jax.tasks.deblur import DEBLUR
from dip_jax.tasks.dejpeg import DEJPEG
from dip_jax.tasks.demosaic import DEMOSAIC
from dip_jax.tasks.denoise import DENOISE
from dip_jax.tasks.flash import FLASH
from dip_jax.tasks.inpaint import INPAINT
from dip_jax.tasks.invert_features import INVERT_FEATURES
from dip_jax.tasks.maximize_activation import MAXIMIZE_ACTIVATION
from dip_jax.tasks.super_resolve import SUPER_RESOLVE
from dip_jax.tasks.task import Task

_tasks: dict[str, Task] = {
    task.name: task
    for task in (
        DENOISE,
        INPAINT,
        DEJPEG,
        SUPER_RESOLVE,
        FLASH,
        DEBLUR,
        DEMOSAIC,
        COMPRESSED_SENSING,
        CT,
        INVERT_FEATURES,
        MAXIMIZE_ACTIVATION,
        CUSTOM,
    )
}


def task_of(config: TaskConfig) -> Task:
    """Returns the task that a config names."""
    return _tasks[config.name]


def is_built_in(task: Task) -> bool:
    """Whether a task is one of this package, whose operators are tested."""
    return task.name in TASKS


def registered_tasks() -> dict[str, Task]:
    """Returns the tasks that users have registered, by name."""
    return {name: task for name, task in _tasks.items() if not is_built_in(task)}


@contextlib.contextmanager
def reported_errors(config: TaskConfig) -> Iterator[None]:
    """A context in which any error is an `InputError` that names the task, if a user registered it."""
    try:
        yield
    except (InputError, OSError, MemoryError, KeyboardInterrupt):
        raise
    except BaseException as error:  # the user's code may raise anything, and exit
        if is_built_in(task_of(config)):
            raise
        raise InputError(
            f"The task {config.name} fails: {type(error).__name__}: {describe_error(error)}."
        ) from error


def tasks_with_setting(field: str) -> tuple[str, ...]:
    """Returns the names of the tasks that use a field of `TaskConfig` which others do not.

    Example:
      >>> tasks_with_setting("angles")
      ('ct',)
    """
    return tuple(name for name, task in _tasks.items() if field in task.settings)


def tasks_with_side_input(kind: str) -> tuple[str, ...]:
    """Returns the names of the tasks that take a side input.

    Example:
      >>> tasks_with_side_input("mask")[:2]
      ('inpaint', 'compressed_sensing')
    """
    return tuple(name for name, task in _tasks.items() if kind in task.side_inputs)


def require_side_input(task: Task, kind: str) -> None:
    """Checks that a task takes a side input.

    Raises:
      InputError: If it does not. The message names the tasks that do.
    """
    if kind not in task.side_inputs:
        tasks = " or ".join(tasks_with_side_input(kind))
        raise InputError(f"A {kind} belongs to {tasks}, got task {task.name}.")


def tasks_with_code_from_guide() -> tuple[str, ...]:
    """Returns the names of the tasks whose guide is the code of the network."""
    return tuple(name for name, task in _tasks.items() if task.code_from_guide)


def register_task(
    task: Task,
    *,
    preset: dict[str, Any] | None = None,
    about: str = "a registered task",
    overwrite: bool = False,
) -> None:
    """Adds a task, which then works like those of this package, and its default preset.

    The operator of a registered task is checked before each fit, as by `check_operator`.

    Args:
      task: The task.
      preset: Values of the default preset that differ from the default config, by `section.field`; None for those of
        `custom`: all of 3000 steps, with a perturbation of 0.03.
      about: Description of the preset, for the list of presets.
      overwrite: Replace a registered task of the same name.

    Raises:
      InputError: If the name is in use, or the preset has a value that is not allowed.

    Example:
      >>> from dip_jax import build_config
      >>> register_task(Task("my_denoise", noise_std=0.1), preset={"fit.num_steps": 1500})
      >>> build_config("my_denoise").fit.num_steps
      1500
    """
    name = task.name
    is_replaced = overwrite and name in _tasks and not is_built_in(task)
    if not is_replaced and name in (*_tasks, *PRESETS, *COMPARISONS):
        raise InputError(
            f"There is already a task, preset or comparison {name!r}; choose another name for the task."
        )
    overrides = TASK_DEFAULTS if preset is None else dict(preset)
    replace_fields(Config(), overrides)  # raises an error for a wrong value
    add_task_name(name)
    PRESETS[name] = Preset(name, about, "register_task", overrides)
    _tasks[name] = task
