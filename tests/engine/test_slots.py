import dataclasses

import jax
import numpy as np
import pytest

from dip_jax.engine.canvas import pad_case
from dip_jax.engine.from_config import estimator_from_config
from dip_jax.engine.restore import restore
from dip_jax.engine.slots import Slots, slots_per_device
from dip_jax.errors import InputError, describe_error
from tests.engine.cases import (
    assert_same_bits,
    assert_same_result,
    build_slots,
    restore_by_name,
    simulate,
    tiny_config,
)

pytestmark = [pytest.mark.xdist_group("fits"), pytest.mark.usefixtures("shared_programs")]


def simulate_padded(image, config, name="a"):
    return pad_case(simulate(image, config, name), config.net.sides_per_octave)


def test_the_bits_of_a_result_do_not_depend_on_the_number_of_slots(image):
    one = restore_by_name(image, "abc", tiny_config())
    two = restore_by_name(image, "abc", tiny_config("run.slots=2"))
    for name in "abc":
        assert_same_result(one[name], two[name])
    assert not np.array_equal(one["a"].image, one["b"].image)


def test_the_bits_of_a_result_depend_neither_on_other_images_nor_on_the_slot(image):
    config = tiny_config("run.slots=2")
    together = restore_by_name(image, "abcd", config)
    assert_same_result(together["b"], restore_by_name(image, "b", config)["b"])
    assert_same_result(together["b"], restore_by_name(image, "dbca", config)["b"])


def test_the_bits_of_a_padded_image_do_not_depend_on_images_of_other_sizes(image):
    config = tiny_config("run.slots=2")
    odd = simulate(image[:39, :35], config, "odd")
    even = simulate(image, config, "even")
    octave = config.net.sides_per_octave
    assert pad_case(odd, octave).shape == pad_case(even, octave).shape == even.shape
    (alone,) = restore([odd], config)
    assert alone.image.shape == (39, 35, 3)
    assert_same_result(restore([even, odd], config)[1], alone)


def test_a_saved_slot_is_resumed_in_another_slot_with_the_same_bits(image):
    config = tiny_config("run.slots=2")
    case = simulate_padded(image, config)
    slots = build_slots(case, config)
    slots.put(0, case)
    slots.advance(5)
    saved = slots.save(0)
    slots.advance(5)
    uninterrupted = slots.save(0)
    slots.reset()
    slots.put(1, case, saved=saved)
    slots.advance(5)
    assert_same_bits(slots.save(1), uninterrupted)


def test_an_idle_slot_does_not_change(image):
    config = tiny_config("run.slots=2")
    case = simulate_padded(image, config)
    slots = build_slots(case, config)
    slots.put(0, case)
    slots.advance(3)
    before = slots.save(0)
    slots.clear(0)
    status, logs = slots.advance(3)
    assert not status.is_active.any()
    assert (logs["step"] == -1).all()
    assert_same_bits(slots.save(0), before)


@pytest.mark.parametrize(
    ("max_cases", "num_devices", "expected"),
    [(1, 1, 1), (3, 1, 3), (3, 2, 2), (100, 1, 8), (None, 1, 8)],
)
def test_elsewhere_than_on_cpu_there_are_no_more_slots_than_networks(
    monkeypatch, max_cases, num_devices, expected
):
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert slots_per_device(tiny_config().run, max_cases, num_devices) == expected
    assert slots_per_device(tiny_config("run.slots=5").run, max_cases, num_devices) == 5


@pytest.mark.parametrize("number", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_memory_limits_the_number_of_slots_but_a_set_number_that_does_not_fit_is_refused(
    image, monkeypatch, number
):
    case = simulate_padded(image, tiny_config())
    one = build_slots(case, tiny_config()).bytes_per_device
    many = build_slots(case, tiny_config(f"run.slots={number}")).bytes_per_device
    assert one < many
    limit = (one + many) / 2
    max_memory = f"run.max_memory={limit / 1e9}"
    monkeypatch.setattr("dip_jax.engine.slots.slots_per_device", lambda *_: number)
    fitting = build_slots(case, tiny_config(max_memory))
    assert 1 <= fitting.per_device < number
    assert fitting.bytes_per_device <= limit
    with pytest.raises(InputError, match=rf"{number} images .* fewer slots"):
        build_slots(case, tiny_config(max_memory, f"run.slots={number}"))


def refuse(monkeypatch, method, is_too_large):
    """Makes a method of Slots raise XLA's error if `is_too_large(slots, *arguments)`."""
    original = getattr(Slots, method)

    def refusing(self, *arguments):
        if is_too_large(self, *arguments):
            raise jax.errors.JaxRuntimeError(
                "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: (31.48G)"
            )
        return original(self, *arguments)

    monkeypatch.setattr(Slots, method, refusing)


def test_fewer_slots_are_taken_if_the_compiler_runs_out_of_memory(image, monkeypatch):
    case = simulate_padded(image, tiny_config())
    monkeypatch.setattr("dip_jax.engine.slots.slots_per_device", lambda *_: 8)
    refuse(monkeypatch, "_compile", lambda slots, case, estimator, number: number > 2)
    assert build_slots(case, tiny_config()).per_device == 2


def test_less_memory_per_slot_is_tried_if_the_compiler_refuses_a_single_slot(image, monkeypatch):
    config, tried = tiny_config(), []
    smaller = estimator_from_config(config)
    estimator = dataclasses.replace(smaller, low_memory=smaller)

    def is_too_large(slots, case, estimator, number):
        tried.append((number, estimator.low_memory is None))
        return estimator.low_memory is not None

    monkeypatch.setattr("dip_jax.engine.slots.slots_per_device", lambda *_: 2)
    refuse(monkeypatch, "_compile", is_too_large)
    assert Slots(simulate_padded(image, config), estimator, config.run).estimator is smaller
    assert tried == [(2, False), (1, False), (1, True)]


def test_the_error_of_the_compiler_is_raised_if_no_layout_fits(image, monkeypatch):
    refuse(monkeypatch, "_compile", lambda *_: True)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED") as raised:
        build_slots(simulate_padded(image, tiny_config()), tiny_config())
    assert "out of memory; use a smaller image" in describe_error(raised.value)


def test_fewer_slots_are_taken_if_their_state_does_not_fit_beside_the_program(image, monkeypatch):
    monkeypatch.setattr("dip_jax.engine.slots.slots_per_device", lambda *_: 2)
    refuse(monkeypatch, "reset", lambda slots: slots.per_device > 1)
    assert build_slots(simulate_padded(image, tiny_config()), tiny_config()).per_device == 1
