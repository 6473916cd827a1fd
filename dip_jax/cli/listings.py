"""The lists of presets and of settings, within 80 columns."""

import dataclasses
import math
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from dip_jax.config import SECTIONS, Config, task_names
from dip_jax.fields import describe_field, meanings, require_choice
from dip_jax.presets import PRESETS, Preset, build_config

_WIDTH = 79
_PRESET_SHAPE = (256, 256, 3)


def list_settings(section: str | None = None) -> str:
    """Lists the settings of a section, or of all: name, default, type, bounds and meaning.

    Args:
      section: The name of a section of `Config`, or `section.field`; None for all sections.

    Raises:
      InputError: If there is no such section or field.
    """
    name, _, field = (section or "").partition(".")
    if name:
        require_choice("section", name, tuple(SECTIONS))
    if field:
        fields = tuple(f.name for f in dataclasses.fields(SECTIONS[name]))
        require_choice(f"field of {name}", field, fields)
    names = [name] if name else list(SECTIONS)
    parts = [part for n in names for part in _section(n, field)]
    parts.append("Change a setting with --set SECTION.FIELD=VALUE; a preset changes defaults.")
    return "\n\n".join(parts) + "\n"


def _section(name: str, only: str) -> Iterator[str]:
    section = SECTIONS[name]
    about = (section.__doc__ or "").strip().partition("\n\n")[0]
    yield _wrap(f"{name.upper()}: {about}", indent="")
    texts = meanings(section)
    for field in dataclasses.fields(section):
        if only in ("", field.name):
            yield "\n".join(
                [
                    f"  {name}.{field.name}={_show(field.default)}",
                    _wrap(f"({describe_field(field)})", indent="      "),
                    _wrap(texts[field.name], indent="      "),
                ]
            )


def _show(value: Any) -> str:
    """A default as one types it; quotes show an empty text or tuple."""
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value) or "''"


def list_presets(task: str | None = None) -> str:
    """Lists the presets of a task, or of all, with their cost on this machine and their source.

    Args:
      task: The name of a task; None for all.

    Raises:
      InputError: If there is no such task.
    """
    if task is not None:
        require_choice("task", task, task_names())
    names = [task] if task is not None else task_names()
    parts = []
    for name in names:
        presets = [p for p in PRESETS if PRESETS[p].task == name]
        parts += [f"{name.upper()}", *(_preset(p, PRESETS[p]) for p in presets)]
    parts.append(
        _wrap(
            "* the default of its task. The time is a coarse forecast for all networks and steps of one image of "
            f"256 x 256 on this machine ({_device()}); --plan measures it.",
            indent="",
        )
    )
    return "\n\n".join(parts) + "\n"


def _device() -> str:
    import jax

    return jax.devices()[0].device_kind


def _preset(name: str, preset: Preset) -> str:
    config = build_config(name)
    mark = "*" * (preset.task == name)
    networks = f"{config.num_networks} x " if config.num_networks > 1 else ""
    head = (
        f"  {name + mark:32} {networks + config.net.kind:18} {config.fit.num_steps:6,} steps "
        f"{_minutes(config):>12}"
    )
    return "\n".join([head, _wrap(f"{preset.about} ({preset.source})", indent="      ")])


def _minutes(config: Config) -> str:
    """The forecast time of one image, if all steps are run."""
    from dip_jax.cli.cost import forecast_seconds, network_work, probe_machine

    work = network_work(config.net, _PRESET_SHAPE)
    seconds = config.num_fits * config.fit.num_steps * forecast_seconds(work, probe_machine())
    return f"{math.ceil(seconds / 60)} min"


def _wrap(text: str, *, indent: str) -> str:
    """The text in lines of at most 79 columns; a list keeps a line for each item."""
    paragraphs = re.split(r"\n(?:\n|(?=\* ))", text)
    return "\n".join(
        textwrap.fill(
            " ".join(paragraph.replace("`", "").split()),
            _WIDTH,
            initial_indent=indent,
            subsequent_indent=indent + "  " * paragraph.startswith("* "),
            break_on_hyphens=False,
        )
        for paragraph in paragraphs
    )
