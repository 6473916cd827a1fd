"""Every setting of a run: frozen dataclasses, overrides by name, JSON.

A `Config` is complete: together with the pictures and the versions it determines the result. This
file imports no JAX, so that a wrong flag is answered at once.
"""

import dataclasses
import difflib
import json
import math
import types
import typing
from typing import Any

from dip_jax.errors import InputError


def _choice(*names: str, default: str | tuple[str, ...]) -> Any:
    return dataclasses.field(default=default, metadata={"choices": names})


def _number(default: Any, low: float, high: float = math.inf, *, open_low: bool = False) -> Any:
    return dataclasses.field(default=default, metadata={"range": (low, high, open_low)})


@dataclasses.dataclass(frozen=True)
class TaskConfig:
    """What was done to the picture."""

    name: str = _choice("denoise", "inpaint", "dejpeg", default="denoise")
    """The damage; see `tasks`."""
    noise_std: float | None = _number(None, 0, 1)
    """Standard deviation of the noise in [0, 1] units; None for unknown (0 for inpainting)."""
    known_share: float = _number(0.5, 0, 1, open_low=True)
    """Share of the pixels that a simulated (Bernoulli) inpainting mask keeps."""
    paste_known: bool = True
    """Put the known pixels back into the answer of an inpainting without noise."""


@dataclasses.dataclass(frozen=True)
class NetConfig:
    """The skip network (hourglass with skips). Lists run over the scales, the finest first.

    References:
      Ulyanov, Vedaldi and Lempitsky, Deep Image Prior, 2018, supplementary material, figure 21.
    """

    kind: str = _choice("skip", default="skip")
    """Which network."""
    input_depth: int = _number(32, 1)
    """Channels of the code."""
    channels_down: tuple[int, ...] = _number((128,) * 5, 1)
    """Channels of the encoder; its length is the number of scales."""
    channels_up: tuple[int, ...] = _number((128,) * 5, 1)
    """Channels of the decoder."""
    channels_skip: tuple[int, ...] = _number((4,) * 5, 0)
    """Channels of the skip connections; 0 leaves one out."""
    kernel_down: tuple[int, ...] = _number((3,), 1, 7)
    """Kernel sides of the encoder: 1, 3, 5 or 7; one value serves all scales."""
    kernel_up: tuple[int, ...] = _number((3,), 1, 7)
    """Kernel sides of the decoder; one value serves all scales."""
    kernel_skip: int = _number(1, 1, 7)
    """Kernel side of the skip connections."""
    conv1x1_up: bool = True
    """A 1x1 convolution at the end of each decoder scale."""
    downsample: tuple[str, ...] = _choice(
        "stride", "avg", "max", "lanczos2", "lanczos3", default=("stride",)
    )
    """How each scale halves the image; one value serves all scales."""
    upsample: tuple[str, ...] = _choice("bilinear", "nearest", default=("bilinear",))
    """How each scale doubles it; one value serves all scales."""
    padding: str = _choice("reflect", "zero", default="reflect")
    """What convolutions see beyond the border."""
    activation: str = _choice("leaky_relu", "swish", "elu", "relu", "none", default="leaky_relu")
    """The non-linearity."""
    bias: bool = True
    """Biases in the convolutions (those before a normalisation have no effect)."""
    sigmoid: bool = True
    """A sigmoid at the end, so that images lie in [0, 1]."""
    scale_init: str = _choice("uniform", "one", default="uniform")
    """Where normalisation scales start: U(0, 1), as the PyTorch of 2018 did, or at one."""
    sides_per_octave: int = _number(16, 0)
    """Sides are rounded up to so many per octave, so that pictures share a program; 0 rounds nothing."""
    lowering: str = _choice("auto", "winograd", "patches", "vendor", default="auto")
    """How convolutions are computed; `auto` chooses per platform. See `convolution`."""

    def __post_init__(self) -> None:
        """Checks what no single field can."""
        scales = len(self.channels_down)
        if scales == 0:
            raise InputError("net.channels_down needs at least one value, came none.")
        for name in ("channels_up", "channels_skip"):
            if len(getattr(self, name)) != scales:
                raise InputError(
                    f"net.{name} needs {scales} values, one per scale as net.channels_down has, came "
                    f"{len(getattr(self, name))}."
                )
        for name in ("kernel_down", "kernel_up", "downsample", "upsample"):
            values = getattr(self, name)
            if len(values) not in (1, scales):
                raise InputError(f"net.{name} needs 1 or {scales} values, came {len(values)}.")
        for side in (*self.kernel_down, *self.kernel_up, self.kernel_skip):
            if side % 2 == 0:
                raise InputError(f"Kernel sides must be 1, 3, 5 or 7, came {side}.")

    @property
    def num_scales(self) -> int:
        """How often the image is halved."""
        return len(self.channels_down)

    def per_scale(self, name: str) -> tuple[Any, ...]:
        """The field `name` with one value for each scale."""
        values = getattr(self, name)
        return values * self.num_scales if len(values) == 1 else values


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """How the network is fitted to the measurement."""

    num_steps: int = _number(3000, 1)
    """Optimisation steps at most; a stopping rule may end earlier."""
    optimizer: str = "adam"
    """The name of any optimiser in optax."""
    learning_rate: float = _number(0.01, 0, open_low=True)
    """Its learning rate, constant."""
    code_scale: float = _number(0.1, 0, open_low=True)
    """The code is drawn from U(0, code_scale)."""
    perturbation: float = _number(1 / 30, 0)
    """Standard deviation of the fresh normal noise that each step adds to the code."""
    average: str = _choice("original", "corrected", "none", default="corrected")
    """Running average of the outputs: as in 2018 (it starts at the first output), or bias-corrected."""
    average_decay: float = _number(0.99, 0, 0.999999)
    """Decay of the running average per step."""
    guard_ratio: float = _number(10**0.5, 1, open_low=True)
    """A step whose loss is this many times its recent level is undone (2018: 5 dB)."""
    guard_every: int = _number(20, 1)
    """Steps between the snapshots that the guard returns to."""
    guard_limit: int = _number(10, 1)
    """Returns to the same snapshot after which the fit has diverged."""


@dataclasses.dataclass(frozen=True)
class StopConfig:
    """When to stop, judged without the reference; see `stopping`."""

    rule: str = _choice("wmv", "fixed", default="wmv")
    """`fixed` runs all steps; `wmv` stops at the minimum of the windowed variance."""
    window: int = _number(100, 2)
    """wmv: outputs in the window."""
    patience: float = _number(0.5, 0, open_low=True)
    """wmv: a minimum is confirmed after this share of its step (never less than two windows and the lag of the average)."""
    num_pixels: int = _number(4096, 1)
    """wmv: pixels on which the variance is measured, a fixed random subset."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """How the work is laid out; nothing here changes what is computed but `seed`."""

    seed: int = _number(0, 0, 2**32 - 1)
    """Every random number follows from it and from the picture's name."""
    chunk: int = _number(100, 1)
    """Steps per dispatch at most; they adapt so that a dispatch lasts about three seconds."""
    share: str = _choice("auto", "map", "vmap", "unroll", default="auto")
    """How pictures share a device: one after the other, side by side, or each with code of its own."""
    slots: int | None = _number(None, 1)
    """Pictures that share a device; None for 1 on CPU and 8 elsewhere, fewer where memory is short."""
    refill: bool = True
    """Give a slot to the next picture at once; otherwise wait until all slots are done."""
    checkpoint_every: float = _number(5.0, 0)
    """Minutes between checkpoints of the pictures in work."""
    checkpoint_keep: int = _number(2, 1)
    """How many of the newest checkpoints stay."""
    max_memory: float | None = _number(None, 0, open_low=True)
    """Memory in GB that a run may need; None for what the machine has."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run: one section for each question."""

    task: TaskConfig = TaskConfig()
    net: NetConfig = NetConfig()
    fit: FitConfig = FitConfig()
    stop: StopConfig = StopConfig()
    run: RunConfig = RunConfig()


SECTIONS = tuple(field.name for field in dataclasses.fields(Config))


def replace_fields(config: Config, values: dict[str, Any]) -> Config:
    """Returns `config` with fields replaced, given as `{"section.field": value}`, and checked."""
    sections: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for name, value in values.items():
        _field(name)
        section, field = name.split(".")
        sections[section][field] = value
    replaced = {}
    for section, fields in sections.items():
        old = getattr(config, section)
        replaced[section] = dataclasses.replace(old, **fields) if fields else old
    config = Config(**replaced)
    check(config)
    return config


def field_names() -> tuple[str, ...]:
    """All valid `section.field` names."""
    return tuple(
        f"{section.name}.{field.name}"
        for section in dataclasses.fields(Config)
        for field in dataclasses.fields(type(section.default))  # type: ignore[arg-type]
    )


def _field(name: str) -> dataclasses.Field:
    require_choice("config field", name, field_names())
    section, field = name.split(".")
    cls = type(getattr(Config(), section))
    return next(f for f in dataclasses.fields(cls) if f.name == field)


def require_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises an `InputError` that names the nearest choice unless `value` is one of `choices`."""
    if value in choices:
        return
    near = difflib.get_close_matches(value, choices, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = f" Known: {', '.join(choices)}." if len(choices) <= 12 else ""
    raise InputError(f"Unknown {what} {value!r}.{hint}{listed}")


def parse_field(name: str, text: str) -> Any:
    """Reads `text` as the type of the field `name` (`section.field`); lists are comma-separated."""
    field = _field(name)
    kind: Any = field.type
    if isinstance(kind, types.UnionType):  # an optional value
        if text.lower() == "none":
            return None
        kind = next(k for k in typing.get_args(kind) if k is not types.NoneType)
    try:
        if typing.get_origin(kind) is tuple:
            item = typing.get_args(kind)[0]
            return tuple(item(part) for part in text.strip("()[] ").split(",") if part.strip())
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        return kind(text)
    except (ValueError, KeyError):
        raise InputError(f"{name} expects {kind}, came {text!r}.") from None


def check(config: Config) -> None:
    """Raises an `InputError` for the first field whose value is out of its range."""
    for name in field_names():
        metadata = _field(name).metadata
        section, field = name.split(".")
        value = getattr(getattr(config, section), field)
        items = value if isinstance(value, tuple) else (value,)
        for item in items:
            if "choices" in metadata:
                require_choice(f"value for {name}:", item, metadata["choices"])
            if "range" in metadata and item is not None:
                low, high, open_low = metadata["range"]
                if not (low <= item <= high) or (open_low and item == low):
                    least = f"more than {low:g}" if open_low else f"at least {low:g}"
                    most = "" if math.isinf(high) else f" and at most {high:g}"
                    raise InputError(f"{name} must be {least}{most}, came {item}.")


def to_json(config: Config) -> str:
    """The whole config as JSON text."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """Reads what `to_json` wrote.

    Raises:
      InputError: For text that is no such JSON, or has unknown fields or values out of range.
    """
    try:
        loaded = json.loads(text)
        values = {
            f"{section}.{field}": tuple(value) if isinstance(value, list) else value
            for section, fields in loaded.items()
            for field, value in fields.items()
        }
        return replace_fields(Config(), values)
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"Expected a config.json as this program writes it: {error}.") from None
