"""Fields of a config: their choices, ranges and types, and how a value is checked and parsed. No JAX."""

import dataclasses
import difflib
import math
import numbers
import types
import typing
from typing import Any

from dip_jax.errors import InputError


def choice(*names: str, default: str | tuple[str, ...]) -> Any:
    """A dataclass field whose value, or each item of it, is one of `names`."""
    return dataclasses.field(default=default, metadata={"choices": names})


def number(default: Any, low: float, high: float = math.inf, *, open_low: bool = False) -> Any:
    """A dataclass field whose value, or each item of it, lies in [low, high], or (low, high] if `open_low`."""
    return dataclasses.field(default=default, metadata={"range": (low, high, open_low)})


@dataclasses.dataclass(frozen=True)
class Section:
    """A group of settings. Building one checks the type, choice and range of every field."""

    SECTION: typing.ClassVar[str] = ""
    """The name of the group in a `Config`."""

    def __post_init__(self) -> None:
        """Checks each field on its own.

        Raises:
          InputError: For the first field whose value is not allowed.
        """
        for field in dataclasses.fields(self):
            _check(f"{self.SECTION}.{field.name}", getattr(self, field.name), field)


def require_choice(subject: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises an `InputError` that names the nearest choice unless `value` is one of `choices`."""
    if value in choices:
        return
    near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = f" Known: {', '.join(choices)}." if len(choices) <= 12 else ""
    raise InputError(f"Unknown {subject} {value!r}.{hint}{listed}")


def parse(name: str, field: dataclasses.Field, text: str) -> Any:
    """Parses `text` as the type of `field`; items of a tuple are separated by commas.

    Raises:
      InputError: If the text is not of that type.
    """
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
        raise InputError(f"{name} expects {describe_type(kind)}, got {text!r}.") from None


def describe_type(kind: Any) -> str:
    """The type of a field in words, e.g. `integers, separated by commas`."""
    words = {bool: "true or false", int: "an integer", float: "a number", str: "text"}
    if isinstance(kind, types.UnionType):
        return " or ".join(describe_type(k) for k in typing.get_args(kind))
    if kind is types.NoneType:
        return "none"
    if typing.get_origin(kind) is tuple:
        plural = {int: "integers", float: "numbers", str: "words"}
        return f"{plural[typing.get_args(kind)[0]]}, separated by commas"
    return words[kind]


def _check(name: str, value: Any, field: dataclasses.Field) -> None:
    if not _has_type(value, field.type):
        raise InputError(f"{name} expects {describe_type(field.type)}, got {value!r}.")
    for item in value if isinstance(value, tuple) else (value,):
        if "choices" in field.metadata:
            require_choice(f"value for {name}:", item, field.metadata["choices"])
        if "range" in field.metadata and item is not None:
            low, high, open_low = field.metadata["range"]
            if not (low <= item <= high) or (open_low and item == low):
                least = f"more than {low:g}" if open_low else f"at least {low:g}"
                most = "" if math.isinf(high) else f" and at most {high:g}"
                raise InputError(f"{name} must be {least}{most}, got {item}.")


def _has_type(value: Any, kind: Any) -> bool:
    if isinstance(kind, types.UnionType):
        return any(_has_type(value, k) for k in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        return isinstance(value, tuple) and all(_has_type(v, item) for v in value)
    if kind in (int, float):  # a bool is an int in Python, but never a number of steps
        number_type = numbers.Integral if kind is int else numbers.Real
        return isinstance(value, number_type) and not isinstance(value, bool)
    return isinstance(value, kind)
