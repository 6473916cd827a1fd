import math

import numpy as np
import pytest

from dip_jax.engine.checkpoint import CheckpointStore
from dip_jax.engine.restore import restore, restore_many
from dip_jax.engine.slots import Slots
from dip_jax.errors import InputError
from tests.engine.cases import assert_same_bits, assert_same_result, simulate, tiny_config

pytestmark = [pytest.mark.xdist_group("fits"), pytest.mark.usefixtures("shared_programs")]


@pytest.mark.slow
@pytest.mark.parametrize("slot_mode", ["map", "vmap"])
def test_a_chunk_of_blocks_ends_at_a_multiple_too(image, monkeypatch, slot_mode):
    # As on a GPU, where the host is asked only after a block of steps.
    monkeypatch.setattr("dip_jax.engine.step_loop.block_length", lambda: 4)
    config, seen = tiny_config("stop.rule=fixed", f"run.slot_mode={slot_mode}"), []

    def keep(observation):
        seen.append((observation.step, int(observation.state.state.step)))

    restore([simulate(image, config)], config, on_step=keep, every=5)
    assert seen == [(5, 5), (10, 10), (12, 12)]


@pytest.mark.parametrize(
    ("every", "expected"),
    [(1, range(1, 13)), (4, (4, 8, 12)), (5, (5, 10, 12)), (7, (7, 12)), (100, (12,))],
)
def test_each_multiple_of_n_and_the_last_step_are_observed(image, every, expected):
    config, seen = tiny_config(), []
    case = simulate(image, config)
    (result,) = restore([case], config, on_step=seen.append, every=every)
    assert [observation.step for observation in seen] == list(expected)
    assert_same_result(result, restore([case], config)[0])
    for observation in seen:
        assert (observation.name, observation.num_steps) == ("a", 12)
        assert observation.case.reference is image
        at_step = {k: v[observation.step - 1] for k, v in result.curve.items() if k != "step"}
        assert_same_bits(observation.values, {name: float(v) for name, v in at_step.items()})


def test_the_image_and_the_state_are_those_of_the_step(image):
    config, images, states = tiny_config("stop.rule=fixed"), [], []
    case = simulate(image, config)

    def keep(observation):
        images.append(observation.image)
        states.append(observation.state)

    (result,) = restore([case], config, on_step=keep, every=5)
    assert [int(slot.state.step) for slot in states] == [5, 10, 12]
    for estimate, step in zip(images, (5, 10, 12), strict=True):
        assert estimate.shape == image.shape
        psnr = -10 * math.log10(np.mean((estimate - image) ** 2))
        np.testing.assert_allclose(psnr, result.curve["psnr_average"][step - 1], atol=1e-3)
    np.testing.assert_array_equal(images[-1], result.raw)


def test_nothing_is_copied_unless_it_is_read_and_not_after_the_callback(image, monkeypatch):
    copies, seen = [], []
    to_host = Slots._to_host
    monkeypatch.setattr(Slots, "_to_host", lambda *a: copies.append(a) or to_host(*a))
    config = tiny_config()
    restore([simulate(image, config)], config)
    num_of_result = len(copies)

    def read_once(observation):
        seen.append(observation)
        if observation.step == 4:
            assert observation.image is observation.image

    restore([simulate(image, config)], config, on_step=read_once, every=4)
    assert len(copies) == 2 * num_of_result + 1
    assert seen[0].image.shape == image.shape
    with pytest.raises(RuntimeError, match="expected that arrays are read during the callback"):
        _ = seen[1].image


def test_images_that_started_at_different_steps_reach_their_own_multiples(image):
    # The rule stops the second image early, so the third starts while the first is in progress.
    config, seen = tiny_config("run.slots=2", "stop.rule=discrepancy"), []
    first, second, third = (
        simulate(image, config, name)._replace(reference=None) for name in "abc"
    )
    unreachable = [c._replace(problem=c.problem._replace(noise_std=1e-6)) for c in (first, third)]
    fired = second._replace(problem=second.problem._replace(noise_std=10.0))
    cases = [unreachable[0], fired, unreachable[1]]
    results = restore(cases, config, on_step=seen.append, every=5)
    stopped = {result.name: result.num_steps for result in results}
    assert stopped["b"] < 5
    for name, last in stopped.items():
        steps = [observation.step for observation in seen if observation.name == name]
        assert steps == [*range(5, last, 5), last]
    assert all(math.isnan(observation.values["psnr"]) for observation in seen)


def test_a_resumed_network_continues_at_its_next_multiple(image, tmp_path):
    config, seen = tiny_config(), []
    case = simulate(image, config)

    def run(should_stop):
        store = CheckpointStore(tmp_path, every_minutes=0, keep=1)
        return list(
            restore_many(
                [case],
                config,
                store=store,
                should_stop=should_stop,
                on_step=seen.append,
                every=5,
            )
        )

    run(lambda: bool(seen))
    assert [observation.step for observation in seen] == [5]
    (result,) = run(lambda: False)
    assert [observation.step for observation in seen] == [5, 10, 12]
    assert_same_result(result, restore([case], config)[0])


@pytest.mark.slow
def test_each_chain_is_observed_and_the_fit_for_comparison_is_not(image):
    config, seen = tiny_config("fit.method=sgld", "sgld.thin=2", "fit.num_steps=20"), []
    (result,) = restore([simulate(image, config)], config, on_step=seen.append, every=10)
    assert result.point_estimate is not None
    observed = sorted((observation.name, observation.step) for observation in seen)
    assert observed == [("a", 10), ("a", 20), ("a, network 2", 10), ("a, network 2", 20)]
    assert set(seen[0].values) == set(result.curve) - {"step"}


def test_a_number_of_steps_that_is_not_positive_is_refused(image):
    config = tiny_config()
    with pytest.raises(InputError, match="Expected `every` to be at least 1, got 0"):
        restore([simulate(image, config)], config, every=0)
