"""The sections of a config: dataclasses that check and parse their fields. No JAX.

The annotation of a field is the single source of its type and, if it is a `Literal`, of its
choices. `number` adds a range.
"""

import ast
import dataclasses
import difflib
import inspect
import itertools
import math
import numbers
import reprlib
import sys
import textwrap
import types
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args, get_origin

from dip_jax.errors import InputError

_LARGEST_INTEGER = 2**32 - 1  # JAX counts in 32 bits
_shortened = reprlib.Repr()
_shortened.maxstring = _shortened.maxlong = _shortened.maxother = 80


def number(default: Any, low: float, high: float = math.inf, *, open_low: bool = False) -> Any:
    """Returns a dataclass field whose value, or each item of it, lies in [low, high].

    Args:
      default: The default value of the field.
      low: The least value.
      high: The greatest value.
      open_low: Excludes `low` itself.
    """
    return dataclasses.field(default=default, metadata={"range": (low, high, open_low)})


@dataclasses.dataclass(frozen=True)
class Section:
    """A group of settings. An instance checks the types, choices and ranges of its fields."""

    SECTION: ClassVar[str] = ""
    """Name of the group in a `Config`."""

    def __post_init__(self) -> None:
        """Checks each field on its own.

        Raises:
          InputError: For the first field whose value is not allowed.
        """
        for field in dataclasses.fields(self):
            _check(f"{self.SECTION}.{field.name}", getattr(self, field.name), field)


def shorten(value: Any) -> str:
    """Returns the `repr` of a value for a message; only the ends of a long one.

    Example:
      >>> len(shorten("1" * 1000))
      80
    """
    return _shortened.repr(value)


def nearest(name: str, choices: Sequence[str]) -> str | None:
    """Returns the choice that a mistyped or abbreviated name most likely means; None if none is similar.

    Args:
      name: A name, or `section.field`.
      choices: The valid names.

    Example:
      >>> fields = ("fit.b2", "fit.learning_rate", "fit.num_steps")
      >>> nearest("fit.lr", fields), nearest("steps", fields), nearest("admaw", ("adamaxw", "adamw"))
      ('fit.learning_rate', 'fit.num_steps', 'adamw')
    """
    section, _, short = name.casefold().rpartition(".")
    in_section = [choice for choice in choices if section in ("", choice.rpartition(".")[0])]
    for choice in in_section:
        words = choice.rpartition(".")[2].split("_")
        if sorted(short) == sorted("_".join(words)) or short == "".join(w[0] for w in words if w):
            return choice
    for choice in in_section:
        if short in choice.rpartition(".")[2].split("_"):
            return choice
    similar = difflib.get_close_matches(name, choices, n=1, cutoff=0.4)
    return similar[0] if similar else None


def meanings(section: type["Section"]) -> dict[str, str]:
    """Returns the description of each field of a section: the text under it in the source."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in itertools.pairwise(body.body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            found[ast.unparse(field.target)] = inspect.cleandoc(ast.literal_eval(text.value))
    return found


def describe_field(field: dataclasses.Field) -> str:
    """Describes the type and the range of a field.

    Example:
      >>> @dataclasses.dataclass(frozen=True)
      ... class Example(Section):
      ...     rate: float = number(0.1, 0, 1, open_low=True)
      >>> describe_field(dataclasses.fields(Example)[0])
      'a number, more than 0 and at most 1'
    """
    kind = describe_type(field.type)
    return f"{kind}, {_bounds(field)}" if "range" in field.metadata else kind


def _bounds(field: dataclasses.Field) -> str:
    low, high, open_low = field.metadata["range"]
    bounds = f"more than {low:g}" if open_low else f"at least {low:g}"
    return bounds + ("" if math.isinf(high) else f" and at most {high:g}")


def require_choice(subject: str, value: str, choices: tuple[str, ...]) -> None:
    """Checks that `value` is one of `choices`.

    Args:
      subject: The noun for the value in the message.
      value: The value.
      choices: The allowed values.

    Raises:
      InputError: If it is none of them. The message names the most similar choice.

    Example:
      >>> require_choice("task", "inpant", ("denoise", "inpaint"))
      Traceback (most recent call last):
      dip_jax.errors.InputError: Unknown task 'inpant'. Did you mean 'inpaint'? Known: denoise, inpaint.
    """
    if value in choices:
        return
    similar = nearest(str(value), choices)
    hint = f" Did you mean {similar!r}?" if similar else ""
    listed = f" Known: {', '.join(choices)}." if len(choices) <= 12 else ""
    raise InputError(f"Unknown {subject} {shorten(value)}.{hint}{listed}")


def parse(name: str, field: dataclasses.Field, text: str) -> Any:
    """Parses `text` as a value of a field; the items of a tuple are separated by commas.

    Args:
      name: `section.field`, for the message.
      field: The field.
      text: The text, e.g. of a flag.

    Raises:
      InputError: If the text is not of that type.
    """
    kind: Any = field.type
    if isinstance(kind, types.UnionType):  # an optional value
        if text.lower() == "none":
            return None
        kind = next(k for k in get_args(kind) if k is not types.NoneType)
    try:
        if get_origin(kind) is tuple:
            parts = text.strip("()[] ").split(",")
            return tuple(_parse_scalar(get_args(kind)[0], p.strip()) for p in parts if p.strip())
        return _parse_scalar(kind, text)
    except (ValueError, KeyError):
        raise InputError(f"{name} expects {describe_type(kind)}, got {shorten(text)}.") from None


def describe_type(kind: Any) -> str:
    """Describes the type of a field.

    Example:
      >>> describe_type(float | None)
      'a number or none'
      >>> describe_type(tuple[int, ...])
      'integers, separated by commas'
    """
    if isinstance(kind, types.UnionType):
        return " or ".join(describe_type(k) for k in get_args(kind))
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        plurals = {int: "integers", float: "numbers"}
        items = plurals.get(item, f"values, each {describe_type(item)}")
        return f"{items}, separated by commas"
    return {
        bool: "true or false",
        int: "an integer",
        float: "a number",
        str: "text",
        types.NoneType: "none",
    }[kind]


def _parse_scalar(kind: Any, text: str) -> Any:
    if get_origin(kind) is Literal:
        return text  # the section checks the choice
    if kind is bool:
        return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
    return kind(text)


def _check(name: str, value: Any, field: dataclasses.Field) -> None:
    kind: Any = field.type
    if not _has_type(value, kind):
        raise InputError(f"{name} expects {describe_type(kind)}, got {shorten(value)}.")
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
    for item in value if isinstance(value, tuple) else (value,):
        if get_origin(kind) is Literal:
            require_choice(f"value for {name}:", item, get_args(kind))
        if "range" in field.metadata and item is not None:
            low, high, open_low = field.metadata["range"]
            if not (low <= item <= high) or (open_low and item == low):
                raise InputError(f"{name} must be {_bounds(field)}, got {shorten(item)}.")
        kinds = (kind, *get_args(kind))
        if float in kinds and item is not None and not abs(item) <= sys.float_info.max:
            raise InputError(f"{name} expects a finite number, got {shorten(item)}.")
        if int in kinds and item is not None and item > _LARGEST_INTEGER:
            raise InputError(f"{name} must be at most {_LARGEST_INTEGER}, got {shorten(item)}.")


def _has_type(value: Any, kind: Any) -> bool:
    """Whether a value has the type of a field; for a `Literal`, whether it is text."""
    if isinstance(kind, types.UnionType):
        return any(_has_type(value, k) for k in get_args(kind))
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        return isinstance(value, tuple) and all(_has_type(v, item) for v in value)
    if get_origin(kind) is Literal:
        return isinstance(value, str)
    if kind in (int, float):  # in Python, a bool is an int
        number_type = numbers.Integral if kind is int else numbers.Real
        return isinstance(value, number_type) and not isinstance(value, bool)
    return isinstance(value, kind)
