import contextlib
import logging
import os
import pickle
import zlib

import jax
import numpy as np
import pytest

from dip_jax import programs
from dip_jax.base import picture_key
from dip_jax.presets import build_config
from dip_jax.programs import build_program, keep_texts
from dip_jax.simulation import simulate_case
from dip_jax.slots import Slots


@pytest.fixture
def folder(tmp_path):
    keep_texts(tmp_path / "traced")
    yield tmp_path / "traced"
    keep_texts(None)


@pytest.fixture
def traced(monkeypatch):
    """How often a program has been traced."""
    calls = []
    trace = Slots._trace
    monkeypatch.setattr(Slots, "_trace", lambda self, case: calls.append(1) or trace(self, case))
    return calls


def make(picture, config, name="a"):
    key = jax.random.fold_in(picture_key(0, name), 1)
    return simulate_case(key, config.task, name, picture)


def settings(tiny, *more):
    return build_config(overrides=[*tiny, "fit.num_steps=12", "run.chunk=5", *more])


def run(case, config):
    """The slot after five steps, what was logged, and how much memory is used again."""
    place = Slots(case, config)
    place.put(0, case)
    logs = place.advance(5)
    memory = place._program.compiled.memory_analysis()
    assert memory.alias_size_in_bytes > 0
    return place.save(0), logs, memory.alias_size_in_bytes


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_program_from_its_text_gives_the_same_bits_untraced(picture, tiny, folder, traced):
    config = settings(tiny)
    case = make(picture, config)
    keep_texts(None)
    plain = run(case, config)
    assert len(traced) == 1
    keep_texts(folder)
    assert_same(run(case, config), plain)
    assert len(traced) == 2
    assert_same(run(case, config), plain)
    assert len(traced) == 2


class StoppedError(Exception):
    pass


@pytest.fixture
def name(folder, monkeypatch):
    """Where the text of a case's program would be kept; nothing is compiled."""

    def name(case, config):
        def stop(form, *_):
            raise StoppedError(programs._path(form))

        with monkeypatch.context() as patched:
            patched.setattr("dip_jax.slots.build_program", stop)
            with pytest.raises(StoppedError) as caught:
                Slots(case, config)
        (path,) = caught.value.args
        return path

    return name


def test_neither_the_seed_nor_the_picture_needs_a_program_of_its_own(picture, tiny, name):
    config, other = settings(tiny), settings(tiny, "run.seed=1")
    first = name(make(picture, config), config)
    assert first.suffix == ".program"
    assert name(make(1 - picture, other, "b"), other) == first


@pytest.mark.parametrize(
    "more",
    ["fit.learning_rate=0.02", "fit.num_steps=13", "stop.held_share=0.05", "net.input_depth=6"],
)
def test_other_settings_are_another_program(picture, tiny, name, more):
    config, other = settings(tiny), settings(tiny, more)
    case = make(picture, config)
    assert name(case, config) != name(case, other)


def test_another_shape_operator_or_reference_is_another_program(picture, tiny, name):
    config = settings(tiny)
    cases = [make(picture, config), make(picture[:36], config)]
    cases.append(cases[0]._replace(reference=None))
    cases.append(make(picture, build_config("inpaint_random", overrides=tiny)))
    assert len({name(case, config) for case in cases}) == 4


@pytest.mark.parametrize("what", ["_source", "_versions"])
def test_another_source_or_library_is_another_program(picture, tiny, name, monkeypatch, what):
    config = settings(tiny)
    case = make(picture, config)
    first = name(case, config)
    before = getattr(programs, what)()
    monkeypatch.setattr(programs, what, lambda: before + before[:1])
    assert name(case, config) != first


def test_other_settings_of_jax_are_another_program(picture, tiny, name):
    config = settings(tiny)
    case = make(picture, config)
    first = name(case, config)
    before = jax.config.values["jax_default_matmul_precision"]
    jax.config.update("jax_default_matmul_precision", "highest")
    try:
        assert name(case, config) != first
    finally:
        jax.config.update("jax_default_matmul_precision", before)
    assert name(case, config) == first


def test_a_program_with_an_operator_of_the_users_is_not_kept(picture, tiny, name, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def half(image):\n    return image / 2\n")
    config = build_config("custom", overrides=[*tiny, f"task.operator={file}:half"])
    assert name(make(picture, config), config) is None


def test_a_damaged_text_is_traced_again_and_said(picture, tiny, folder, traced, caplog):
    config = settings(tiny)
    plain = run(make(picture, config), config)
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        assert_same(run(make(picture, config), config), plain)
    assert "traced again" in caplog.text
    assert len(traced) == 2
    run(make(picture, config), config)
    assert len(traced) == 2


def test_a_text_that_names_something_unknown_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (contextlib.nullcontext, ())

    path = tmp_path / "evil.program"
    path.write_bytes(zlib.compress(pickle.dumps(Evil())))
    assert programs._read(path) is None


def test_the_longest_unused_goes_first(folder, monkeypatch):
    def build(number):
        def trace():
            return lambda x, y: (x + number, y), None

        shape = jax.ShapeDtypeStruct((4,), np.float32)
        program, _ = build_program(number, trace, lambda about: (shape, shape))
        made = program(np.ones(4, np.float32), np.ones(4, np.float32))
        np.testing.assert_array_equal(made[0], np.full(4, 1 + number, np.float32))

    build(0)
    (first,) = folder.iterdir()
    build(1)
    assert len(list(folder.iterdir())) == 2
    os.utime(first, (1, 1))
    monkeypatch.setattr(programs, "_MOST_BYTES", 2.5 * first.stat().st_size)
    build(2)
    assert len(list(folder.iterdir())) == 2
    assert not first.exists()


def test_where_nothing_can_be_written_the_program_runs_and_it_is_said(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    keep_texts(tmp_path / "file" / "folder")
    try:
        shape = jax.ShapeDtypeStruct((), np.float32)
        with caplog.at_level(logging.WARNING):
            program, about = build_program(
                "x", lambda: (lambda x, y: x - y, 7), lambda about: (shape, shape)
            )
    finally:
        keep_texts(None)
    assert program(np.float32(3), np.float32(1)) == 2
    assert about == 7
    assert "cannot be kept" in caplog.text
