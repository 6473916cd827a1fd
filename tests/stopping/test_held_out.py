import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax import losses
from dip_jax.base import Problem
from dip_jax.operators.basic import Identity, Mask
from dip_jax.operators.blur import Blur
from dip_jax.operators.from_file import CustomOperator
from dip_jax.stopping import held_out
from dip_jax.stopping.held_out import hold_out_from_sampler
from tests.stopping.toy_fits import (
    KEY,
    SHAPE,
    algorithm_with,
    build_problem,
    feed,
    run_with_rule,
    smooth_fit,
)


def start(problem, shape=SHAPE, fraction=0.2, key=KEY):
    """The rule, its first state, and the mask of the held-out values."""
    rule = held_out(algorithm_with(), fraction=fraction)
    state = rule.init(key, problem, shape)
    return rule, state, np.asarray(state.memory)


def test_a_fraction_of_the_pixels_is_held_out_with_all_channels():
    problem = build_problem((20, 30, 3))
    rule, state, mask = start(problem, (20, 30, 3), 0.1)
    assert mask.shape == (20, 30, 3)
    assert mask[..., 0].sum() == 60
    assert (mask == mask[..., :1]).all()
    weights = rule.view(state, problem).weights
    np.testing.assert_array_equal(weights, 1 - mask)
    other = start(problem, (20, 30, 3), 0.1, jax.random.key(1))[2]
    assert 0 < (mask * other)[..., 0].sum() < 30


def test_only_informative_pixels_are_held_out():
    rng = np.random.default_rng(0)
    known = jnp.asarray(rng.random((20, 30, 1)) < 0.5, jnp.float32)
    region = jnp.zeros((20, 30, 1)).at[:15, :25].set(1.0)
    problem = build_problem((20, 30, 1), operator=Mask(known), region=region)
    rule, state, mask = start(problem, (20, 30, 1))
    informative = np.asarray(known * region)
    assert mask.sum() == round(0.2 * informative.sum())
    assert (mask <= informative).all()
    np.testing.assert_array_equal(rule.view(state, problem).weights, np.asarray(region) - mask)


def test_a_measurement_that_is_not_an_image_is_held_out_by_the_value():
    class Sums:
        is_linear = True

        def __call__(self, image):
            return image.reshape(-1, 2).sum(axis=1)

    problem = build_problem(operator=Sums(), measurement=jnp.zeros(24))
    assert start(problem, fraction=0.25)[2].sum() == 6
    assert start(problem, fraction=0.001)[2].sum() == 1


def test_the_weights_of_the_problem_stay():
    weights = jnp.ones(SHAPE).at[:4].set(0.0)
    rule, state, mask = start(build_problem(weights=weights), fraction=0.5)
    assert mask[:4].sum() == 0
    assert mask.sum() == 12
    np.testing.assert_array_equal(
        rule.view(state, build_problem(weights=weights)).weights, weights - mask
    )


def test_the_signal_is_the_loss_of_the_estimate_on_the_held_out_pixels():
    rng = np.random.default_rng(0)
    y, estimate = (rng.random(SHAPE).astype(np.float32) for _ in range(2))
    problem = build_problem(measurement=jnp.asarray(y))
    cases = [
        (None, np.square),  # the default is that of a fit
        (losses.gaussian, np.square),
        (losses.laplace, np.abs),
        (lambda p, problem: jnp.abs(p - problem.measurement) ** 3, lambda r: np.abs(r) ** 3),
    ]
    for loss, misfit in cases:
        rule = held_out(algorithm_with(loss=loss), fraction=0.2)
        (state,), _ = feed(rule, [0.5], averages=[estimate], problem=problem)
        expected = misfit(estimate - y)[np.asarray(state.memory) > 0].mean()
        np.testing.assert_allclose(state.minimum.signal, expected, rtol=1e-5)


def test_a_scalar_loss_sees_the_held_out_pixels_alone():
    rng = np.random.default_rng(0)
    y, estimate = (rng.random(SHAPE).astype(np.float32) for _ in range(2))

    def worst(prediction, problem):
        return jnp.max(prediction - problem.measurement)

    rule = held_out(algorithm_with(loss=worst), fraction=0.2)
    problem = build_problem(measurement=jnp.asarray(y))
    (state,), _ = feed(rule, [0.5], averages=[estimate], problem=problem)
    expected = (estimate - y)[np.asarray(state.memory) > 0].max()
    assert expected > 0
    np.testing.assert_allclose(state.minimum.signal, expected, rtol=1e-5)


def test_held_out_pixels_do_not_influence_the_fit():
    rule = held_out(smooth_fit(), fraction=0.2)
    y = jnp.asarray(np.random.default_rng(0).random(SHAPE), jnp.float32)
    mask = start(build_problem())[2]
    others = y.at[3, 2].set(5.0)
    assert mask[3, 2] == 0
    infos = [
        run_with_rule(rule, smooth_fit(), build_problem(measurement=measurement), 10, SHAPE)[1]
        for measurement in (y, jnp.where(mask > 0, 5.0, y), others)
    ]
    for a, b in zip(infos[0], infos[1], strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.loss, b.loss)
    assert not np.array_equal(infos[0][-1].image, infos[2][-1].image)


def test_the_estimate_is_that_of_the_minimum():
    estimates = [np.full(SHAPE, abs(t - 50) / 100) for t in range(150)]
    rule = held_out(algorithm_with(lag=7), window=10, patience=0.5)
    states, improved = feed(rule, estimates)
    assert max(t for t, better in enumerate(improved) if better) == 50
    assert states[-1].minimum.estimate_step == 50
    # Two windows and the lag are more than half of 50 steps.
    assert [bool(s.done) for s in states].index(True) == 50 + 27


@pytest.mark.parametrize(
    ("operator", "fraction", "is_hidden"),
    [
        (Identity(), 0.1, True),
        (Identity(), 0.0, False),
        (CustomOperator(lambda image: 0.5 * image, is_linear=True, is_pixelwise=True), 0.1, True),
        (CustomOperator(lambda image: 0.5 * image, is_linear=True), 0.1, False),
        (Blur(jnp.full((1, 3), 1 / 3)), 0.1, False),
    ],
)
def test_sampling_holds_out_measurements_of_pixelwise_operators(operator, fraction, is_hidden):
    stopper = hold_out_from_sampler(fraction)
    problem = Problem(operator, jnp.ones((40, 40, 1)), 0.1)
    state = stopper.init(jax.random.key(0), problem, (40, 40, 1))
    weights = stopper.view(state, problem).weights
    assert (weights is not None and bool((weights == 0).any())) == is_hidden


def test_all_networks_hold_out_the_same_measurements_of_a_sampler():
    stopper, problem = hold_out_from_sampler(0.1), build_problem((40, 40, 1))
    states = [stopper.init(jax.random.key(seed), problem, (40, 40, 1)) for seed in (0, 1)]
    np.testing.assert_array_equal(states[0].held_out, states[1].held_out)
    assert float(states[0].held_out.sum()) == 160


def test_a_rule_for_a_sampler_runs_all_steps():
    states, improved = feed(hold_out_from_sampler(0.1), [0.5] * 4)
    assert improved == [True] * 4
    assert not states[-1].done
    (report,) = hold_out_from_sampler(0.1).reports(states[-1]).values()
    assert int(report.estimate_step) == 3
