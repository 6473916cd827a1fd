import itertools
import threading
import time

import jax
import numpy as np
import pytest

from dip_jax.engine.chunk_size import ChunkSizer
from dip_jax.engine.from_config import estimator_from_config
from dip_jax.engine.recent_programs import recall_program
from dip_jax.engine.restore import restore, restore_many
from dip_jax.engine.scheduler import RunHooks, restore_each
from dip_jax.engine.slots import Slots
from dip_jax.errors import InputError
from dip_jax.keys import image_key
from dip_jax.presets import build_config
from tests.conftest import TINY
from tests.engine.cases import (
    assert_same_result,
    restore_by_name,
    simulate,
    stop_after,
    tiny_config,
)

pytestmark = [pytest.mark.xdist_group("fits"), pytest.mark.usefixtures("shared_programs")]


def psnr(image, reference):
    return -10 * np.log10(np.mean((image - reference) ** 2))


def without_measurement(case):
    """The same case with a measurement of NaN, whose fit diverges."""
    nan = np.full_like(case.problem.measurement, np.nan)
    return case._replace(problem=case.problem._replace(measurement=nan))


def test_the_number_of_steps_of_a_chunk_does_not_change_a_result(image, monkeypatch):
    config = tiny_config()
    case = simulate(image, config)
    (expected,) = restore([case], config)
    # All chunks have one step, like the first.
    monkeypatch.setattr(ChunkSizer, "update", lambda self, num_steps: None)
    seen = []
    (result,) = restore([case], config, on_progress=seen.append)
    assert [progress.steps for progress in seen] == [(n,) for n in range(13)]
    assert_same_result(result, expected)
    np.testing.assert_array_equal(result.curve["step"], np.arange(12))


@pytest.mark.slow
def test_the_maximum_size_of_a_chunk_does_not_change_a_result(image):
    config = tiny_config()
    case = simulate(image, config)
    (expected,) = restore([case], config)
    for chunk in (2, 100):
        (result,) = restore([case], tiny_config(f"run.chunk={chunk}"))
        assert_same_result(result, expected)


def test_the_curve_has_the_psnr_of_the_returned_image(image):
    config = tiny_config("stop.rule=fixed")
    (result,) = restore([simulate(image, config)], config)
    assert result.status == "done"
    assert result.stop_step == 11
    expected = psnr(result.image, image)
    np.testing.assert_allclose(result.curve["psnr_average"][-1], expected, atol=1e-3)
    assert np.isnan(result.curve["signal_fixed"]).all()


def test_without_a_reference_there_is_no_psnr(image):
    config = tiny_config()
    case = simulate(image, config)._replace(reference=None)
    seen = []
    (result,) = restore([case], config, on_progress=seen.append)
    assert np.isnan(result.curve["psnr"]).all()
    assert np.isfinite(result.curve["loss"]).all()
    assert all(progress.psnr is None for progress in seen)


def test_the_reference_does_not_change_the_image(image):
    config = tiny_config()
    case = simulate(image, config)
    (first,), (second,) = (
        restore([case._replace(reference=reference)], config) for reference in (image, 1 - image)
    )
    np.testing.assert_array_equal(first.image, second.image)
    assert not np.array_equal(first.curve["psnr"], second.curve["psnr"])


def test_an_interrupted_run_returns_the_current_estimate(image):
    config = tiny_config()
    (result,) = restore([simulate(image, config)], config, **stop_after(2))
    assert result.status == "interrupted"
    assert 0 < result.num_steps < 12
    assert np.isfinite(result.image).all()
    assert result.image.std() > 0


def test_a_rule_that_fires_stops_the_run(image):
    config = tiny_config(
        "fit.num_steps=900",
        "run.chunk=100",
        "stop.window=5",
        "stop.patience=0.01",
        "fit.average=none",
    )
    (result,) = restore([simulate(image, config)], config)
    assert result.status == "stopped"
    assert result.stop_step < result.num_steps < 900
    assert result.curve["step"][-1] == result.num_steps - 1
    expected = psnr(result.image, image)
    np.testing.assert_allclose(result.curve["psnr"][result.stop_step], expected, atol=1e-3)


def test_a_fit_of_undefined_measurements_diverges_and_its_image_is_finite(image):
    config = tiny_config()
    (result,) = restore([without_measurement(simulate(image, config))], config)
    assert result.status == "diverged"
    assert result.num_rollbacks >= 10
    assert np.isfinite(result.image).all()


@pytest.mark.slow
def test_a_fit_with_a_too_high_learning_rate_diverges_and_its_image_is_finite(image):
    config = tiny_config("fit.num_steps=200", "fit.learning_rate=1e30")
    (result,) = restore([simulate(image, config)], config)
    assert result.status == "diverged"
    assert result.num_rollbacks >= 10
    assert np.isfinite(result.image).all()


def test_progress_is_reported_between_chunks(image):
    config = tiny_config()
    seen = []
    (result,) = restore([simulate(image, config)], config, on_progress=seen.append)
    steps = [progress.steps[0] for progress in seen]
    assert steps == sorted(steps)
    assert steps[-1] == 12
    assert {(progress.names, progress.num_steps) for progress in seen} == {(("a",), 12)}
    assert [progress.phase for progress in seen] == ["compiling"] + [""] * (len(seen) - 1)
    # The first chunk includes first-time allocations, so it does not tell the speed.
    assert all(np.isnan(progress.steps_per_second) for progress in seen[:2])
    assert all(progress.steps_per_second > 0 for progress in seen[2:])
    assert seen[-1].loss == pytest.approx(result.curve["loss"][-1])
    assert seen[-1].psnr == pytest.approx(result.curve["psnr_average"][-1])


def test_progress_of_several_networks_is_their_mean(image):
    config = tiny_config("run.slots=2")
    seen = []
    cases = [simulate(image, config, name) for name in "ab"]
    hooks = RunHooks(on_progress=seen.append)
    results = list(restore_each(cases, estimator_from_config(config), config.run, hooks))
    assert seen[-1].names == ("a", "b")
    assert seen[-1].steps == (12, 12)
    assert seen[-1].loss == pytest.approx(np.mean([r.curve["loss"][-1] for r in results]))


def test_a_run_that_does_not_fit_into_memory_is_refused_with_the_amount(image):
    config = tiny_config("run.max_memory=1e-5")
    with pytest.raises(InputError, match=r"would need about 0\.\d GB .* fewer channels"):
        restore([simulate(image, config)], config)


def test_the_random_numbers_of_an_image_depend_on_its_name_and_the_seed():
    keys = itertools.starmap(image_key, itertools.product((0, 1), "ab"))
    assert len({str(jax.random.key_data(key)) for key in keys}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("paste_known", [True, False])
def test_known_pixels_are_restored_if_the_task_says_so(image, paste_known):
    fields = (*TINY, "fit.num_steps=6", f"task.paste_known={paste_known}")
    config = build_config("inpaint_random_single", overrides=fields)
    case = simulate(image, config)
    (result,) = restore([case], config)
    is_known = np.asarray(case.problem.operator.mask)[..., 0] > 0
    assert np.array_equal(result.image[is_known], image[is_known]) is paste_known
    assert not np.array_equal(result.raw[is_known], image[is_known])


def test_a_refilled_slot_compiles_nothing_and_gives_the_same_bits(image, monkeypatch):
    events = []

    def count(name, seconds, **_):
        if name == "/jax/core/compile/jaxpr_to_mlir_module_duration":
            events.append(seconds)

    config = tiny_config("run.slots=2")
    cases = [simulate(image, config, name) for name in "abcde"]
    alone = restore_by_name(image, "e", config)["e"]
    monkeypatch.setattr("dip_jax.engine.slots.recall_program", recall_program)
    jax.monitoring.register_event_duration_secs_listener(count)
    results = restore_many(cases, config)
    first = next(results)
    num_compiled = len(events)
    others = {result.name: result for result in results}
    assert len(events) == num_compiled
    # The program, and at most one that distributes its state.
    assert 1 <= num_compiled <= 2
    assert {first.name, *others} == set("abcde")
    assert_same_result(others["e"], alone)


@pytest.mark.parametrize("refill", [True, False])
def test_without_refill_a_free_slot_waits_for_the_others(image, refill):
    config = tiny_config("run.slots=2", f"run.refill={refill}")
    cases = [simulate(image, config, name) for name in "abc"]
    # b diverges two steps before the last step of a, and a chunk earlier.
    cases[1] = without_measurement(cases[1])
    seen = []
    results = {r.name: r for r in restore_many(cases, config, on_progress=seen.append)}
    assert results["b"].status == "diverged"
    assert any({"a", "c"} <= set(progress.names) for progress in seen) is refill
    assert_same_result(results["c"], restore_by_name(image, "c", tiny_config())["c"])


def test_the_number_of_cases_is_that_of_a_list_and_unknown_for_an_iterator(image, monkeypatch):
    numbers = []

    def record(run, max_cases, num_devices):
        numbers.append(max_cases)
        raise InterruptedError("nothing is compiled")

    monkeypatch.setattr("dip_jax.engine.slots.slots_per_device", record)
    config = tiny_config("fit.num_seeds=2")
    cases = [simulate(image, config, name) for name in "ab"]
    list(restore_many(cases, config))
    list(restore_many(iter(cases), config))
    assert numbers == [4, None]


def test_an_error_of_the_program_fails_the_networks_in_its_slots_only(image, monkeypatch):
    config = tiny_config("run.slots=2")
    advance, calls = Slots.advance, []

    def fail_once(self, count):
        calls.append(count)
        if len(calls) == 2:
            raise RuntimeError("RESOURCE_EXHAUSTED: no memory")
        return advance(self, count)

    monkeypatch.setattr(Slots, "advance", fail_once)
    results = restore_by_name(image, "abc", config)
    statuses = [results[name].status for name in "abc"]
    assert statuses == ["failed", "failed", "done"]
    assert "no memory" in str(results["a"].error)


def test_a_first_chunk_that_runs_out_of_memory_is_repeated_with_fewer_slots(image, monkeypatch):
    expected = restore_by_name(image, "abc", tiny_config())
    monkeypatch.setattr("dip_jax.engine.slots.slots_per_device", lambda *_: 4)
    advance, tried = Slots.advance, []

    def fail_with_many(self, count):
        tried.append(len(self))
        if len(self) > 1:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate")
        return advance(self, count)

    monkeypatch.setattr(Slots, "advance", fail_with_many)
    results = restore_by_name(image, "abc", tiny_config())
    assert list(results) == ["a", "b", "c"]
    assert tried[:3] == [4, 2, 1]
    for name, result in results.items():
        assert_same_result(result, expected[name])


def test_an_error_of_the_compilation_fails_the_cases_of_that_program_only(image, monkeypatch):
    config = tiny_config()
    compile_program, heights = Slots._compile, []

    def fail_for_low(self, case, *arguments):
        heights.append(case.shape[0])
        if case.shape[0] < 40:
            raise RuntimeError("cannot be compiled")
        return compile_program(self, case, *arguments)

    monkeypatch.setattr(Slots, "_compile", fail_for_low)
    images = {"a": image[:36], "b": image, "c": image[:36]}
    cases = [simulate(x, config, name) for name, x in images.items()]
    statuses = {result.name: result.status for result in restore_many(cases, config)}
    assert statuses == {"a": "failed", "b": "done", "c": "failed"}
    assert heights == [36, 40]  # the error of a program is known for its other cases


def endless(image, config, names):
    for number in itertools.count():
        names.append(str(number))
        yield simulate(image, config, str(number))


def test_an_endless_iterator_is_read_as_far_as_needed(image):
    config = tiny_config()
    names = []
    results = restore_many(endless(image, config, names), config)
    assert next(results).status == "done"
    results.close()
    assert len(names) < 40


def test_an_error_of_the_iterator_reaches_the_caller(image):
    config = tiny_config()

    def broken():
        yield simulate(image, config)
        raise KeyError("no such thing")

    results = restore_many(broken(), config)
    with pytest.raises(KeyError, match="no such thing"):
        list(results)


def test_networks_in_progress_are_saved_before_an_error_of_the_iterator_is_raised(image):
    config = tiny_config("run.slots=2")
    first_chunk, saved = threading.Event(), []

    def broken():
        yield simulate(image, config)
        first_chunk.wait(20)
        raise KeyError("no such thing")

    def wait_for_the_error(progress):
        if progress.phase:
            return
        first_chunk.set()
        while any(thread.name == "read ahead" for thread in threading.enumerate()):
            time.sleep(0.01)

    class Store:
        def load(self, name, fingerprint, shapes):
            return None

        def is_due(self):
            return False

        def save(self, networks):
            saved.extend((network.name, int(network.slot.state.step)) for network in networks)

    with pytest.raises(KeyError, match="no such thing"):
        list(restore_many(broken(), config, store=Store(), on_progress=wait_for_the_error))
    assert saved == [("a", 1)]


class SlowStore:
    """A store that is always due, and whose saves take until `may_end`."""

    def __init__(self):
        self.may_end, self.num_running, self.had_to_wait = threading.Event(), 0, []

    def load(self, name, fingerprint, shapes):
        return None

    def is_due(self):
        return self.num_running == 0 and not self.had_to_wait

    def save(self, networks):
        self.num_running += 1
        self.had_to_wait.append(not self.may_end.wait(5))
        self.num_running -= 1


def test_networks_are_saved_while_the_next_chunk_runs(image):
    config, store, chunks = tiny_config(), SlowStore(), []

    def end_save(progress):
        if not progress.phase:
            chunks.append(progress)
            if len(chunks) == 2:  # the first chunk began the save
                store.may_end.set()

    (result,) = restore_many([simulate(image, config)], config, store=store, on_progress=end_save)
    assert store.had_to_wait == [False]
    assert result.status == "done"


def test_no_result_is_returned_while_a_save_runs(image):
    config, store = tiny_config(), SlowStore()
    threading.Timer(1, store.may_end.set).start()
    for _ in restore_many([simulate(image, config)], config, store=store):
        assert store.had_to_wait == [False]
        assert store.num_running == 0


@pytest.mark.parametrize("num_chunks", [2, 100])
def test_an_error_of_a_save_is_raised_by_the_run(image, num_chunks):
    class Store(SlowStore):
        def save(self, networks):
            raise OSError(28, "No space left on device")

    config = tiny_config()
    with pytest.raises(OSError, match="No space left"):
        list(
            restore_many([simulate(image, config)], config, store=Store(), **stop_after(num_chunks))
        )
