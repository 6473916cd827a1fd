import jax
import numpy as np
import pytest

from dip_jax.engine.canvas import pad_case
from dip_jax.engine.restore import restore, restore_many
from dip_jax.engine.slots import Slots, slots_per_device
from dip_jax.errors import InputError
from dip_jax.keys import image_key, simulation_key
from dip_jax.presets import build_config
from dip_jax.tasks.simulate import simulate_case


def make(picture, name, config):
    key = simulation_key(image_key(0, name))
    return simulate_case(key, config.task, name, picture)


def settings(tiny, *more):
    return build_config(overrides=[*tiny, "fit.num_steps=12", "run.chunk=5", *more])


def results(picture, names, config):
    cases = [make(picture, name, config) for name in names]
    return {result.name: result for result in restore_many(cases, config)}


def assert_same(a, b):
    np.testing.assert_array_equal(a.image, b.image)
    for name in a.curve:
        np.testing.assert_array_equal(a.curve[name], b.curve[name])


@pytest.mark.parametrize("number", [2])
def test_a_pictures_bits_do_not_depend_on_the_number_of_slots(picture, tiny, number):
    one = results(picture, "abc", settings(tiny))
    many = results(picture, "abc", settings(tiny, f"run.slots={number}"))
    for name in "abc":
        assert_same(one[name], many[name])
    assert not np.array_equal(one["a"].image, one["b"].image)


def test_a_pictures_bits_do_not_depend_on_its_neighbors_or_its_slot(picture, tiny):
    config = settings(tiny, "run.slots=2")
    together = results(picture, "abcd", config)
    assert_same(together["b"], results(picture, "b", config)["b"])
    assert_same(together["b"], results(picture, "dbca", config)["b"])


@pytest.mark.slow
def test_a_padded_pictures_bits_do_not_depend_on_the_others_sizes(picture, tiny):
    config = settings(tiny, "run.slots=2", "net.sides_per_octave=4")
    odd = make(picture[:39, :35], "odd", config)
    even = make(picture, "even", config)
    assert pad_case(odd, 4).shape == pad_case(even, 4).shape
    (alone,) = restore([odd], config)
    assert alone.image.shape == (39, 35, 3)
    assert_same(restore([even, odd], config)[1], alone)


@pytest.mark.parametrize("share", ["vmap", pytest.param("unroll", marks=pytest.mark.slow)])
def test_other_ways_to_share_a_device_agree_to_rounding(picture, tiny, share):
    map_, other = (
        results(picture, "abc", settings(tiny, "run.slots=3", f"run.slot_mode={how}"))
        for how in ("map", share)
    )
    for name in "abc":
        np.testing.assert_allclose(map_[name].curve["loss"], other[name].curve["loss"], rtol=2e-3)


def test_refilling_a_slot_compiles_nothing_and_gives_the_same_bits(picture, tiny):
    events = []

    def count(name, seconds, **more):
        if name == "/jax/core/compile/jaxpr_to_mlir_module_duration":
            events.append(seconds)

    config = settings(tiny, "run.slots=2")
    cases = [make(picture, name, config) for name in "abcde"]
    alone = results(picture, "e", config)["e"]
    jax.monitoring.register_event_duration_secs_listener(count)
    run = restore_many(cases, config)
    first = next(run)
    compiled = len(events)
    rest = {result.name: result for result in run}
    assert len(events) == compiled
    assert compiled <= 2  # the program, and at most what spreads its state
    assert {first.name, *rest} == set("abcde")
    assert_same(rest["e"], alone)


def test_a_saved_slot_goes_on_bit_for_bit_in_another_slot(picture, tiny):
    config = settings(tiny, "run.slots=2")
    case = pad_case(make(picture, "a", config), 16)
    slots = Slots(case, config)
    slots.put(0, case)
    slots.advance(5)
    saved = slots.save(0)
    slots.advance(5)
    straight = slots.save(0)
    slots.reset()
    slots.put(1, case, saved=saved)
    slots.advance(5)
    for a, b in zip(jax.tree.leaves(straight), jax.tree.leaves(slots.save(1)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_slot_at_rest_is_left_as_it_is(picture, tiny):
    config = settings(tiny, "run.slots=2")
    case = pad_case(make(picture, "a", config), 16)
    slots = Slots(case, config)
    slots.put(0, case)
    slots.advance(3)
    before = slots.save(0)
    slots.clear(0)
    status, logs = slots.advance(3)
    assert not status.is_active.any()
    assert (logs["step"] == -1).all()
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(slots.save(0)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("refill", [True, False])
def test_without_refill_a_slot_waits_for_the_others(picture, tiny, refill):
    config = settings(tiny, "run.slots=2", f"run.refill={refill}")
    cases = [make(picture, name, config) for name in "abc"]
    # b diverges two steps before a has made all of its own, a chunk earlier
    cases[1] = cases[1]._replace(
        problem=cases[1].problem._replace(measurement=np.nan * cases[1].problem.measurement)
    )
    seen = []
    found = {r.name: r for r in restore_many(cases, config, on_progress=seen.append)}
    assert found["b"].status == "diverged"
    assert any({"a", "c"} <= set(progress.names) for progress in seen) is refill
    assert_same(found["c"], results(picture, "c", settings(tiny))["c"])


@pytest.mark.parametrize(
    ("max_cases", "num_devices", "expected"),
    [(1, 1, 1), (3, 1, 3), (3, 2, 2), (100, 1, 8), (None, 1, 8)],
)
def test_elsewhere_than_on_cpu_no_slots_are_made_for_nothing(
    tiny, monkeypatch, max_cases, num_devices, expected
):
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert slots_per_device(settings(tiny), max_cases, num_devices) == expected
    assert slots_per_device(settings(tiny, "run.slots=5"), max_cases, num_devices) == 5


def test_whoever_gives_a_list_needs_not_say_how_long_it_is(picture, tiny, monkeypatch):
    asked = []

    def count(config, max_cases, num_devices):
        asked.append(max_cases)
        return 1

    monkeypatch.setattr("dip_jax.engine.slots.slots_per_device", count)
    config = settings(tiny, "fit.num_seeds=2")
    cases = [make(picture, name, config) for name in "ab"]
    list(restore_many(cases, config))
    list(restore_many(iter(cases), config))
    assert asked == [4, None]


@pytest.mark.parametrize("share", ["vmap", pytest.param("map", marks=pytest.mark.slow)])
def test_in_blocks_of_steps_the_fits_are_the_same(picture, tiny, monkeypatch, share):
    config = settings(tiny, f"run.slot_mode={share}", "fit.num_steps=13")
    cases = [make(picture, name, config) for name in "ab"]
    plain = {r.name: r for r in restore_many(cases, config)}
    monkeypatch.setattr("dip_jax.engine.step_loop.block_length", lambda: 4)
    blocks = {r.name: r for r in restore_many(cases, config)}
    for name, result in blocks.items():
        assert result.num_steps == plain[name].num_steps == 13
        np.testing.assert_allclose(result.image, plain[name].image, atol=2e-5)
        np.testing.assert_array_equal(result.curve["step"], np.arange(13))


def test_slots_are_as_many_as_fit_but_what_was_asked_for_is_refused(picture, tiny, monkeypatch):
    case = pad_case(make(picture, "a", settings(tiny)), 16)
    one = Slots(case, settings(tiny)).bytes_per_device
    four = Slots(case, settings(tiny, "run.slots=4")).bytes_per_device
    limit = (one + four) / 2
    max_cases = f"run.max_memory={limit / 1e9}"
    monkeypatch.setattr("dip_jax.engine.slots.slots_per_device", lambda *_: 4)
    fitted = Slots(case, settings(tiny, max_cases))
    assert fitted.per_device in (1, 2, 3)
    assert fitted.bytes_per_device <= limit
    with pytest.raises(InputError, match=r"4 pictures .* fewer slots"):
        Slots(case, settings(tiny, max_cases, "run.slots=4"))


def test_what_fails_in_the_program_is_the_failure_of_those_in_it(picture, tiny, monkeypatch):
    config = settings(tiny, "run.slots=2")
    real, calls = Slots.advance, []

    def broken(self, count):
        calls.append(count)
        if len(calls) == 2:
            raise RuntimeError("RESOURCE_EXHAUSTED: no memory")
        return real(self, count)

    monkeypatch.setattr(Slots, "advance", broken)
    found = results(picture, "abc", config)
    statuses = [found[name].status for name in "abc"]
    assert statuses == ["failed", "failed", "done"]
    assert "no memory" in str(found["a"].error)


def test_the_iterator_is_read_ahead_but_not_to_its_end(picture, tiny):
    config = settings(tiny)
    seen = []

    def endless():
        number = 0
        while True:
            seen.append(number)
            yield make(picture, str(number), config)
            number += 1

    run = restore_many(endless(), config)
    assert next(run).status == "done"
    run.close()
    assert len(seen) < 40


def test_what_goes_wrong_in_the_iterator_reaches_the_caller(picture, tiny):
    config = settings(tiny)

    def broken():
        yield make(picture, "a", config)
        raise KeyError("no such thing")

    run = restore_many(broken(), config)
    with pytest.raises(KeyError, match="no such thing"):
        list(run)


def test_two_pictures_of_one_name_are_refused(picture, tiny):
    config = settings(tiny)
    with pytest.raises(InputError, match="names of their own"):
        restore([make(picture, "a", config)] * 2, config)
