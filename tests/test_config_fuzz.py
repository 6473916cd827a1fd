"""Random settings: every text becomes a valid config or an `InputError` of one line."""

import contextlib
import dataclasses
import json
import sys
import types
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dip_jax import config as config_module
from dip_jax.config import (
    TASKS,
    Config,
    field_names,
    from_json,
    parse_field,
    replace_fields,
    to_json,
)
from dip_jax.errors import InputError
from dip_jax.presets import PRESETS, build_config

COUNTS = [100, pytest.param(5_000, marks=pytest.mark.slow)]
MAX_MILLISECONDS = 10_000
MAX_CHARACTERS = 1000
FIELDS = {
    f"{section.name}.{field.name}": field
    for section in dataclasses.fields(Config)
    for field in dataclasses.fields(section.type)
}


def options(count: int) -> settings:
    return settings(max_examples=count, deadline=MAX_MILLISECONDS, derandomize=True)


words = st.text(st.characters(exclude_categories=()), max_size=20)  # surrogates too


# ---- valid values ----


def valid_values(field: dataclasses.Field) -> st.SearchStrategy[Any]:
    """Values that a field accepts, if the other fields agree."""
    if field.name == "name":  # of the task
        return st.sampled_from(TASKS)
    low, high, _ = field.metadata.get("range", (-sys.float_info.max, sys.float_info.max, False))
    return _values_of(field.type, max(low, -1e300), min(high, 1e300))


def _values_of(kind: Any, low: float, high: float) -> st.SearchStrategy[Any]:
    if isinstance(kind, types.UnionType):
        return st.one_of(*(_values_of(k, low, high) for k in get_args(kind)))
    if kind == tuple[str, ...]:  # the text joins them with commas
        elements = words.filter(lambda word: word and word == word.strip() and "," not in word)
        return st.lists(elements, max_size=6).map(tuple)
    if get_origin(kind) is tuple:
        return st.lists(_values_of(get_args(kind)[0], low, high), max_size=6).map(tuple)
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if kind is int:
        limit = int(min(high, 2**32 - 1))
        return st.integers(int(low), min(limit, int(low) + 300)) | st.integers(int(low), limit)
    if kind is float:
        return st.floats(low, high)
    return {bool: st.booleans(), str: words, types.NoneType: st.none()}[kind]


def as_text(value: Any) -> str:
    """A value as a user writes it in an override."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def as_numpy(value: Any) -> Any:
    """The value with a type that a user of the library may pass."""
    if isinstance(value, int) and not isinstance(value, bool):
        return np.int64(value)
    return np.float64(value) if isinstance(value, float) else value


# ---- texts ----

hostile_numbers = st.sampled_from(
    ["NaN", "Infinity", "-Infinity", "1e999", "1e-999", "-0", "0x10", "1" * 400, "9" * 5000]
)
numbers = st.one_of(
    hostile_numbers,
    st.integers(-2, 40).map(str),
    st.integers().map(str),
    st.floats().map(repr),
)


def choices(kind: Any) -> list[str]:
    """All texts that occur in the annotation of a field."""
    found = [arg for arg in get_args(kind) if isinstance(arg, str)]
    return found + [text for arg in get_args(kind) for text in choices(arg)]


names_of_choices = st.sampled_from(sorted({c for f in FIELDS.values() for c in choices(f.type)}))
scalar_texts = st.one_of(words, numbers, names_of_choices, st.sampled_from(["none", "true", "0"]))


def as_object(members: list[tuple[str, str]]) -> str:
    """JSON of an object, whose names may repeat."""
    return "{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in members) + "}"


def as_array(texts: list[str]) -> str:
    return f"[{', '.join(texts)}]"


json_values = st.recursive(
    st.one_of(
        numbers, (words | names_of_choices).map(json.dumps), st.sampled_from(["null", "true"])
    ),
    lambda inner: (
        st.lists(inner, max_size=6).map(as_array)
        | st.lists(st.tuples(words, inner), max_size=3).map(as_object)
    ),
    max_leaves=8,
) | st.integers(1, 100_000).map(lambda depth: "[" * depth + "]" * depth)


@st.composite
def config_texts(draw) -> str:
    """A `config.json` in which some values, names and characters are others."""
    config = json.loads(to_json(build_config(draw(st.sampled_from(sorted(PRESETS))))))
    members = {
        section: [(name, json.dumps(value)) for name, value in fields.items()]
        for section, fields in config.items()
    }
    for _ in range(draw(st.integers(0, 3))):
        section, name = draw(st.sampled_from(field_names())).split(".")
        if draw(st.booleans()):
            value = json.dumps(draw(valid_values(FIELDS[f"{section}.{name}"])))
        else:
            value = draw(json_values)
        others = [member for member in members[section] if member[0] != name]
        is_replaced = draw(st.booleans())  # otherwise the name repeats
        members[section] = others if is_replaced else members[section]
        members[section].append((draw(st.just(name) | st.just(name) | words), value))
    listed = [(name, as_object(fields)) for name, fields in members.items()]
    if draw(st.integers(0, 3)) == 0:
        listed.append((draw(st.sampled_from(sorted(members)) | words), draw(json_values)))
    text = as_object(listed)
    if draw(st.integers(0, 2)) == 0:
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, len(text)) | st.just(start))
        text = text[:start] + draw(words) + text[end:]
    return text


@st.composite
def override_texts(draw) -> str:
    """An override: a valid one, or with any name, any value, or another separator."""
    name = draw(st.sampled_from(field_names()))
    if draw(st.booleans()):
        return f"{name}={as_text(draw(valid_values(FIELDS[name])))}"
    name = draw(st.just(name) | st.tuples(words, words).map(".".join))
    value = draw(scalar_texts | st.lists(scalar_texts, max_size=6).map(",".join))
    return name + draw(st.sampled_from(["=", " = ", ""])) + value


# ---- tests ----


def config_or_none(build: Callable[[], Config]) -> Config | None:
    """A config that keeps its law, or None after an `InputError` with a readable message."""
    try:
        config = build()
    except InputError as error:
        message = str(error)
        assert message.isprintable(), "one line, in characters that every terminal has"
        assert 10 < len(message) < MAX_CHARACTERS
        return None
    assert_survives_json(config)
    return config


def assert_survives_json(config: Config) -> None:
    text = to_json(config)
    assert from_json(text) == config
    assert to_json(from_json(text)) == text
    json.loads(text, parse_constant=pytest.fail)  # no NaN, which other programs cannot read


@pytest.mark.parametrize("count", COUNTS)
def test_a_mutated_config_file_is_a_valid_config_or_refused_in_one_line(count):
    accepted = []

    @options(count)
    @given(config_texts())
    def check(text):
        accepted.append(config_or_none(lambda: from_json(text)) is not None)

    check()
    assert 0.05 < np.mean(accepted) < 0.95


@pytest.mark.parametrize("count", COUNTS)
def test_a_random_override_is_a_valid_config_or_refused_in_one_line(count):
    accepted = []

    @options(count)
    @given(st.lists(override_texts(), min_size=1, max_size=3))
    def check(overrides):
        accepted.append(config_or_none(lambda: build_config(overrides=overrides)) is not None)

    check()
    assert 0.05 < np.mean(accepted) < 0.95


@pytest.mark.parametrize("count", COUNTS)
def test_every_valid_config_survives_json_and_every_value_survives_its_text(count):
    changed = set()

    @options(count)
    @given(st.data())
    def check(data):
        config, of_numpy = Config(), Config()
        names = st.lists(st.sampled_from(field_names()), min_size=1, max_size=16)
        for name in data.draw(names):
            value = data.draw(valid_values(FIELDS[name]), label=name)
            if not isinstance(value, str):
                assert parse_field(name, as_text(value)) == value
            with contextlib.suppress(InputError):  # values that contradict each other
                config = replace_fields(config, {name: value})
                of_numpy = replace_fields(of_numpy, {name: as_numpy(value)})
                section, field = name.split(".")
                assert getattr(getattr(config, section), field) == value
                changed.add(name)
        assert_survives_json(config)
        assert to_json(of_numpy) == to_json(config)

    check()
    assert len(changed) > 0.5 * len(field_names())  # the names are drawn at random


@pytest.mark.parametrize("depth", [10, 1000, 3000, 100_000])
@pytest.mark.parametrize("opening", ["[", '{"fit": ', '{"fit": {"num_steps": ['])
def test_deep_json_is_refused(depth, opening):
    with pytest.raises(InputError, match=r"config\.json written by dip_jax"):
        from_json(opening * depth)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("task.angles", (0.0, float("nan"))),
        ("task.peak", float("inf")),
        ("fit.learning_rate", 10**400),
        ("fit.tv_weight", float("inf")),
    ],
)
def test_a_number_that_is_not_finite_is_refused(name, value):
    with pytest.raises(InputError, match=f"{name} expects a finite number"):
        replace_fields(Config(), {name: value})


def test_an_integer_beyond_32_bits_is_refused_before_it_overflows_in_a_fit():
    with pytest.raises(
        InputError, match=r"stop\.window must be at most 4294967295, got 4294967296"
    ):
        replace_fields(Config(), {"stop.window": 2**32})


def test_the_longest_chain_is_counted_soon_and_a_longer_one_is_refused():
    longest = {"fit.method": "sgld", "fit.num_steps": 10_000_000, "sgld.thin": 1}
    config = replace_fields(Config(), longest)
    # every step after the burn-in of 35 %
    assert config.sgld.samples(10_000_000).num_samples == 6_499_999
    with pytest.raises(InputError, match=r"fit\.num_steps must be at least 1 and at most 1e"):
        replace_fields(Config(), {**longest, "fit.num_steps": 10_000_001})


def test_a_long_value_is_shortened_in_the_message():
    with pytest.raises(InputError) as raised:
        build_config(overrides=[f"fit.num_steps={'1' * 1_000_000}x"])
    assert len(str(raised.value)) < 200
    assert str(raised.value).endswith("11x'.")


def test_the_sections_of_a_config_are_those_that_fields_are_drawn_from():
    assert set(FIELDS) == set(field_names())
    assert {f.type for f in dataclasses.fields(Config)} == set(config_module.SECTIONS.values())
