"""The settings of a run in a few words: the nearest preset, and the fields that differ from it."""

import functools
import shlex
from typing import NamedTuple

from dip_jax.config import Config, field_names
from dip_jax.presets import PRESETS, build_config


class RunSettings(NamedTuple):
    """The settings of a run."""

    preset: str
    """The nearest preset of the task."""
    changes: tuple[tuple[str, str], ...]
    """Names and values of the fields that differ from it."""

    @property
    def command(self) -> str:
        """The command with these settings, without the images and the flags of files.

        Example:
          >>> RunSettings("preset fast", (("fit.num_steps", "50"),)).command
          'dip-jax IMAGE --preset=fast --set=fit.num_steps=50'
        """
        kind, _, name = self.preset.partition(" ")
        changes = (f"--set={name}={value}" for name, value in self.changes)
        return f"dip-jax IMAGE {shlex.join([f'--{kind}={name}', *changes])}"

    def __str__(self) -> str:
        """The settings as text."""
        return ", ".join([self.preset, *(f"{name}={value}" for name, value in self.changes)])


def describe_settings(config: Config) -> RunSettings:
    """Describes settings by the preset of their task from which the fewest fields differ.

    The fields of `run`, except the seed, change no result and are left out.

    Args:
      config: The settings.

    Example:
      >>> str(describe_settings(build_config("inpaint", overrides=["fit.num_steps=50", "run.seed=3"])))
      'preset inpaint, fit.num_steps=50, run.seed=3'
    """
    values = _values(config)
    found = []
    for name, preset in PRESETS.items():
        if preset.task == config.task.name:
            defaults = _values(build_config(name))
            changes = [(key, value) for key, value in values.items() if defaults[key] != value]
            found.append((len(changes), f"preset {name}", changes))
    if not found:  # the task of a plugin, without a preset
        defaults = _values(Config())
        changes = [(key, value) for key, value in values.items() if defaults[key] != value]
        found.append((len(changes), f"task {config.task.name}", changes))
    _, preset_name, changes = min(found, key=lambda item: item[0])
    return RunSettings(preset_name, tuple((key, _text(value)) for key, value in changes))


def _values(config: Config) -> dict[str, object]:
    return {
        f"{section}.{field}": getattr(getattr(config, section), field)
        for section, field in _fields()
    }


@functools.cache
def _fields() -> list[tuple[str, str]]:
    split = [(section, field) for section, _, field in (n.partition(".") for n in field_names())]
    return [item for item in split if item[0] != "run" or item[1] == "seed"]


def _text(value: object) -> str:
    """A value as `--set` reads it."""
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
