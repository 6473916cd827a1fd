import logging
import os
import pickle
import zlib

import jax
import numpy as np
import pytest

from dip_jax.engine import program_cache as programs
from dip_jax.engine.program_cache import build_program, cache_exports
from dip_jax.engine.slots import Slots
from dip_jax.errors import InputError
from dip_jax.keys import image_key, simulation_key
from dip_jax.presets import build_config
from dip_jax.tasks.simulate import simulate_case


@pytest.fixture
def folder(tmp_path):
    """Where texts are kept during the test."""
    cache_exports(tmp_path / "traced")
    yield tmp_path / "traced"
    cache_exports(None)


@pytest.fixture
def traced(monkeypatch):
    """How often a program has been traced."""
    calls = []
    trace = Slots._trace
    monkeypatch.setattr(
        Slots, "_trace", lambda self, *given: calls.append(1) or trace(self, *given)
    )
    return calls


def make(picture, config, name="a"):
    key = simulation_key(image_key(0, name))
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


def build_simple(number):
    """A program that adds `number` to the first of two numbers."""
    shape = jax.ShapeDtypeStruct((), np.float32)
    return build_program(
        number, lambda: (lambda x, y: (x + number, y), number), lambda about: (shape, shape)
    )


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_program_from_its_text_gives_the_same_bits_untraced(picture, tiny, folder, traced):
    config = settings(tiny)
    case = make(picture, config)
    cache_exports(None)
    plain = run(case, config)
    assert len(traced) == 1
    cache_exports(folder)
    assert_same(run(case, config), plain)
    assert len(traced) == 2
    assert_same(run(case, config), plain)
    assert len(traced) == 2


class StoppedError(Exception):
    pass


@pytest.fixture
def name(folder, monkeypatch):
    """Where the text of a case's program would be kept; nothing is compiled."""

    def name(case, config, devices=None):
        def stop(form, *_):
            raise StoppedError(programs._path(form))

        with monkeypatch.context() as patched:
            patched.setattr("dip_jax.engine.slots.build_program", stop)
            with pytest.raises(StoppedError) as caught:
                Slots(case, config, devices=devices)
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
    [
        "fit.learning_rate=0.02",
        "fit.num_steps=13",
        "stop.held_out_fraction=0.05",
        "net.input_depth=6",
    ],
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


def test_another_source_or_library_is_another_program(picture, tiny, name, monkeypatch):
    config = settings(tiny)
    case = make(picture, config)
    names = {name(case, config)}
    before = programs._versions()
    monkeypatch.setattr(programs, "_versions", lambda: (*before, "1"))
    names.add(name(case, config))
    monkeypatch.setattr(programs, "_SOURCE", b"another")
    names.add(name(case, config))
    assert len(names) == 3


def test_devices_and_slots_in_another_number_are_another_program(picture, tiny, name):
    config = settings(tiny)
    case = make(picture, config)
    (device,) = jax.devices()
    two = settings(tiny, "run.slots=2")
    assert len({name(case, config), name(case, two), name(case, config, [device, device])}) == 3


def test_what_changed_on_disk_while_the_program_ran_is_not_taken_for_it(folder, monkeypatch):
    monkeypatch.setattr(programs, "_SOURCE", b"what was imported")
    program, _ = build_simple(0)
    assert program(np.float32(3), np.float32(1))[0] == 3
    assert not folder.exists()


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


def test_a_damaged_text_is_traced_again_and_said(folder, caplog):
    build_simple(7)
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    # Cut off; whole, but of another kind; and a text that JAX cannot read.
    others = (1, (b"nonsense", None, 7))
    for data in (whole[:-10], *(zlib.compress(pickle.dumps(other)) for other in others)):
        file.write_bytes(data)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            program, about = build_simple(7)
        assert "traced again" in caplog.text
        assert program(np.float32(3), np.float32(1)) == (10, 1)
        assert about == 7
        caplog.clear()
        build_simple(7)
        assert not caplog.text


def test_another_structure_than_that_of_the_program_is_refused():
    program, _ = build_simple(0)
    with pytest.raises(TypeError, match="compiled for"):
        program((np.float32(3),), np.float32(1))


def test_the_longest_unused_goes_first(folder, monkeypatch):
    def build(number):
        program, _ = build_simple(number)
        assert program(np.float32(3), np.float32(1)) == (3 + number, 1)

    build(0)
    (first,) = folder.iterdir()
    build(1)
    assert len(list(folder.iterdir())) == 2
    os.utime(first, (1, 1))
    monkeypatch.setattr(programs, "_MAX_EXPORT_BYTES", 2.5 * first.stat().st_size)
    build(2)
    assert len(list(folder.iterdir())) == 2
    assert not first.exists()


def test_where_nothing_can_be_written_the_program_runs_and_it_is_said(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    cache_exports(tmp_path / "file" / "folder")
    try:
        with caplog.at_level(logging.WARNING):
            program, about = build_simple(7)
    finally:
        cache_exports(None)
    assert program(np.float32(3), np.float32(1)) == (10, 1)
    assert about == 7
    assert "cannot be kept" in caplog.text


def test_a_mistake_in_the_function_is_not_taken_for_one_of_keeping(folder, caplog):
    def function(x, y):
        raise InputError("too small")

    shape = jax.ShapeDtypeStruct((), np.float32)
    with pytest.raises(InputError, match="too small"):
        build_program("x", lambda: (function, None), lambda about: (shape, shape))
    assert not caplog.text
