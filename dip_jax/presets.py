"""Named settings, each with its source, and the way from a name to a complete `Config`."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from dip_jax.config import Config, parse_field, replace_fields, require_choice
from dip_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Preset:
    """A named setting."""

    task: str
    about: str
    source: str
    overrides: dict[str, Any]


_TEXT_NET = {"net.channels_skip": (128,) * 5, "net.upsample": ("nearest",)}
_NO_AVERAGE = {"fit.average": "none", "stop.rule": "fixed"}

PRESETS: dict[str, Preset] = {
    "denoise": Preset(
        "denoise",
        "the 2018 network; stops by itself",
        "Ulyanov et al. 2018, section 3.1",
        {},
    ),
    "denoise_2018": Preset(
        "denoise",
        "as published: 1800 steps, running average",
        "Ulyanov et al. 2018, section 3.1",
        {"fit.num_steps": 1800, "fit.average": "original", "stop.rule": "fixed"},
    ),
    "denoise_small": Preset(
        "denoise",
        "64 channels: a quarter of the work, for pictures up to about 256 x 256",
        "docs/results.md",
        {
            "net.channels_down": (64,) * 5,
            "net.channels_up": (64,) * 5,
        },
    ),
    "demo": Preset(
        "denoise",
        "the demonstration: 64 channels, sized for two CPU cores",
        "docs/results.md",
        {"net.channels_down": (64,) * 5, "net.channels_up": (64,) * 5, "fit.num_steps": 1500},
    ),
    "dejpeg": Preset(
        "dejpeg",
        "narrow at the top, skips at the bottom; stops by itself",
        "Ulyanov et al. 2018, section 3.1 (JPEG)",
        {
            "net.input_depth": 3,
            "net.channels_down": (8, 16, 32, 64, 128),
            "net.channels_up": (8, 16, 32, 64, 128),
            "net.channels_skip": (0, 0, 0, 4, 4),
            "fit.num_steps": 2400,
        },
    ),
    "inpaint": Preset(
        "inpaint",
        "text and other thin masks",
        "Ulyanov et al. 2018, section 3.3 (text)",
        {"fit.num_steps": 6000, "fit.perturbation": 0.03, **_TEXT_NET, **_NO_AVERAGE},
    ),
    "inpaint_random": Preset(
        "inpaint",
        "scattered missing pixels",
        "Ulyanov et al. 2018, section 3.3 (50 % missing)",
        {
            "fit.num_steps": 11000,
            "fit.learning_rate": 0.001,
            "fit.perturbation": 0.03,
            **_NO_AVERAGE,
        },
    ),
    "inpaint_hole": Preset(
        "inpaint",
        "large holes: no skips, six scales, wide kernels",
        "Ulyanov et al. 2018, section 3.3 (library)",
        {
            "net.input_depth": 1,
            "net.channels_down": (16, 32, 64, 128, 128, 128),
            "net.channels_up": (16, 32, 64, 128, 128, 128),
            "net.channels_skip": (0,) * 6,
            "net.kernel_down": (5,),
            "net.conv1x1_up": False,
            "net.upsample": ("nearest",),
            "fit.num_steps": 3000,
            "fit.perturbation": 0.0,
            **_NO_AVERAGE,
        },
    ),
}

DEFAULT_PRESETS = {"denoise": "denoise", "inpaint": "inpaint", "dejpeg": "dejpeg"}


def build_config(
    preset: str | None = None, *, task: str | None = None, overrides: Iterable[str] = ()
) -> Config:
    """Resolves a preset and overrides into a complete config.

    Args:
      preset: A name in `PRESETS`; None for the task's default.
      task: The task; None for the preset's, or `denoise`.
      overrides: `section.field=value` strings, later ones winning; lists are comma-separated.

    Raises:
      InputError: For an unknown name (naming the nearest), a preset of another task, or a value that
        is out of range.
    """
    if task is not None:
        require_choice("task", task, tuple(DEFAULT_PRESETS))
    if preset is None:
        preset = DEFAULT_PRESETS[task or "denoise"]
    require_choice("preset", preset, tuple(PRESETS))
    chosen = PRESETS[preset]
    if task is not None and chosen.task != task:
        raise InputError(f"The preset {preset} is for {chosen.task}, the task is {task}.")
    values: dict[str, Any] = {"task.name": chosen.task, **chosen.overrides}
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise InputError(f"--set expects section.field=value, came {override!r}.")
        values[name.strip()] = parse_field(name.strip(), text.strip())
    return replace_fields(Config(), values)
