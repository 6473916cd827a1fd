"""Results that are continued, and the networks that results contain."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from dip_jax import losses, nets, stopping
from dip_jax.config import RunConfig
from dip_jax.engine.estimator import Estimator
from dip_jax.engine.restore import restore, restore_many
from dip_jax.errors import InputError
from dip_jax.fit import build_fit
from tests.conftest import smooth_image
from tests.engine.cases import (
    assert_same_bits,
    assert_same_result,
    simulate,
    stop_after,
    tiny_config,
)

pytestmark = [pytest.mark.xdist_group("fits"), pytest.mark.usefixtures("shared_programs")]


@pytest.fixture(scope="module")
def twelve(shared_programs):
    """A case, and its result after twelve steps."""
    config = tiny_config()
    case = simulate(smooth_image()[:39, :35], config)
    (result,) = restore([case], config)
    return case, result


def test_twelve_steps_and_twelve_more_are_twenty_four(twelve):
    case, first = twelve
    config = tiny_config("fit.num_steps=24")
    (expected,) = restore([case], config)
    (continued,) = restore([case], config, start=[first])
    assert expected.num_steps == 24
    assert_same_result(continued, expected)
    np.testing.assert_array_equal(continued.curve["step"], np.arange(24))
    assert_same_bits(continued.networks[0].slot, expected.networks[0].slot)
    assert continued.seconds > first.seconds
    # The earlier result is still what it was.
    assert int(first.networks[0].slot.state.step) == first.num_steps == 12


def test_a_result_is_continued_by_its_name_among_others(twelve):
    case, first = twelve
    config = tiny_config("fit.num_steps=24")
    other = simulate(smooth_image()[:39, :35], config, "b")
    expected = {result.name: result for result in restore_many([case, other], config)}
    seen = []
    results = restore([other, case], config, start=[first], on_progress=seen.append)
    assert [result.name for result in results] == ["b", "a"]
    for result in results:
        assert_same_result(result, expected[result.name])
    first_steps = {p.names[0]: p.steps[0] for p in reversed(seen) if not p.phase}
    assert first_steps["a"] > 12
    assert first_steps["b"] == 1


def test_an_interrupted_result_is_continued(twelve):
    case, expected = twelve
    config = tiny_config()
    (first,) = restore([case], config, **stop_after(2))
    assert first.status == "interrupted"
    assert 0 < first.num_steps < 12
    (continued,) = restore([case], config, start=[first])
    assert_same_result(continued, expected)


def test_a_result_with_all_steps_is_returned_again(twelve):
    case, first = twelve
    (again,) = restore([case], tiny_config(), start=[first])
    assert_same_result(again, first)


@pytest.mark.slow
def test_a_rule_that_has_fired_starts_anew(image):
    # The settings of a test of the scheduler, so that they share a program.
    config = tiny_config(
        "fit.num_steps=900",
        "run.chunk=100",
        "stop.window=5",
        "stop.patience=0.01",
        "fit.average=none",
    )
    case = simulate(image, config)
    (first,) = restore([case], config)
    assert first.status == "stopped"
    (continued,) = restore([case], config, start=[first])
    # It needs at least the two windows of another minimum.
    assert continued.num_steps >= first.num_steps + 10
    assert continued.stop_step >= first.num_steps
    for name, values in first.curve.items():
        np.testing.assert_array_equal(continued.curve[name][: first.num_steps], values)
    np.testing.assert_array_equal(continued.curve["step"], np.arange(continued.num_steps))
    # The signal goes on with the same held-out measurements, and its minimum is a new one.
    signal = continued.curve["signal_held_out"]
    best = first.num_steps + int(np.argmin(signal[first.num_steps :]))
    assert continued.stop_step == best


@pytest.mark.slow
def test_another_rule_starts_anew_on_the_fit_of_the_result(twelve):
    # The fit itself does not depend on the rule, if no rule hides measurements.
    case, _ = twelve
    plain, other = (tiny_config("fit.num_steps=24", f"stop.rule={r}") for r in ("fixed", "wmv"))
    (expected,) = restore([case], plain)
    (first,) = restore([case], plain, **stop_after(3))
    assert 0 < first.num_steps < 24
    (continued,) = restore([case], other, start=[first])
    for name in ("loss", "psnr_average"):
        np.testing.assert_array_equal(continued.curve[name], expected.curve[name])
    assert_same_bits(continued.params, expected.params)
    assert continued.stops.keys() == {"wmv"}


def test_a_result_of_another_case_is_refused(twelve):
    _, first = twelve
    other = simulate(1 - smooth_image()[:39, :35], tiny_config())
    with pytest.raises(InputError, match="a: the result to continue belongs to another case"):
        restore([other], tiny_config(), start=[first])


@pytest.mark.parametrize("override", ["fit.optimizer=sgd", "net.width=6"])
def test_a_result_of_another_algorithm_is_refused(twelve, override):
    case, first = twelve
    with pytest.raises(InputError, match="another network, optimizer or sampler"):
        restore([case], tiny_config(override), start=[first])


def test_a_result_without_its_networks_is_refused(twelve):
    case, first = twelve
    config = tiny_config()
    (bare,) = restore_many([case], config)
    assert (bare.networks, bare.net, bare.params, bare.code) == ((), None, None, None)
    assert_same_result(bare, first)
    with pytest.raises(InputError, match="keep_networks=True"):
        restore([case], config, start=[bare])


def test_the_network_of_a_result_makes_the_output_of_the_next_step():
    config = tiny_config(
        "fit.num_steps=24", "stop.rule=fixed", "fit.average=none", "fit.perturbation=0"
    )
    case = simulate(smooth_image()[:39, :35], config)
    (first,) = restore([case], config, **stop_after(2))
    output = first.net.apply(first.params, first.code)
    # The first chunk has one step, whose output is the estimate.
    (after,) = restore([case], config, start=[first], **stop_after(1))
    assert after.num_steps == first.num_steps + 1
    np.testing.assert_allclose(output, after.raw, atol=1e-6)
    assert np.abs(output - first.raw).max() > 1e-4
    assert first.net.image_shape == output.shape == (39, 35, 3)
    assert first.net.code_shape == first.code.shape
    assert nets.num_params(first.params) == first.num_params
    assert after.image is not first.image


def test_a_fit_of_objects_is_continued_with_another_rule_and_loses_nothing():
    config = tiny_config()
    case = simulate(smooth_image(), config)
    net = nets.deep_decoder(depth=1, width=4, input_depth=4)
    fit = build_fit(net, loss=losses.laplace, optimizer=optax.adamw(0.01))
    run = RunConfig(chunk=5)
    twenty = Estimator(fit, num_steps=20)
    (expected,) = restore([case], twenty, run=run)
    (first,) = restore([case], dataclasses.replace(twenty, num_steps=8), run=run)
    (continued,) = restore([case], twenty, run=run, start=[first])
    assert (first.num_steps, continued.num_steps) == (8, 20)
    assert_same_result(continued, expected)
    # A condition that holds at once stops at the first step after the result.
    stopper = stopping.stop_when(lambda problem, step, info: step >= 3)
    stopping_estimator = Estimator(fit, stopper, num_steps=20)
    (stopped,) = restore([case], stopping_estimator, run=run, start=[first])
    assert (stopped.status, stopped.num_steps, stopped.stop_step) == ("stopped", 9, 8)
    assert_same_bits(stopped.curve["loss"], expected.curve["loss"][:9])
    assert jax.tree.structure(stopped.params) == jax.tree.structure(expected.params)


def test_a_result_that_belongs_to_no_case_is_refused(twelve):
    case, first = twelve
    with pytest.raises(InputError, match="'a' belongs to none of the cases"):
        restore([case._replace(name="b")], tiny_config(), start=[first])


@pytest.mark.slow
def test_a_rule_that_must_watch_from_the_first_step_does_not_start_later(twelve):
    case, first = twelve
    other = tiny_config("fit.num_steps=24", "stop.rule=sure", "task.noise_std=0.1")
    case = case._replace(problem=case.problem._replace(noise_std=np.float32(0.1)))
    (first,) = restore([case], tiny_config("stop.rule=fixed"))
    with pytest.raises(InputError, match="from its first step"):
        restore([case], other, start=[first])
