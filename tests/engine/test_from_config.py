"""Names and settings become the objects that they describe."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dip_jax import codes, langevin, losses, preconditioners, schedules
from dip_jax.base import Case, Net, Problem
from dip_jax.config import LIKELIHOODS, FitConfig, SgldConfig, StopConfig
from dip_jax.engine.from_config import (
    algorithm_from_config,
    code_from_config,
    estimator_from_config,
    fit_from_config,
    loss_from_config,
    optimizer_from_config,
    sampled_loss,
    sampler_from_config,
    schedule_from_config,
    stopper_from_config,
)
from dip_jax.errors import InputError
from dip_jax.fit import Average, Guard, build_fit
from dip_jax.operators.basic import Identity
from dip_jax.presets import build_config
from dip_jax.regularizers import tv
from dip_jax.sgld import paper, psgld, sgld, underdamped
from dip_jax.stopping import discrepancy, emv, fixed, held_out, sure, wmv
from tests.chains import run_chain
from tests.conftest import TINY
from tests.stopping.toy_fits import build_problem as build_toy_problem
from tests.stopping.toy_fits import outputs_quietest_at, run_with_rule, scaling_algorithm

SHAPE = (4, 3, 1)
START = Net(
    lambda key: {"w": jnp.full(SHAPE, 0.5)},
    lambda params, code: params["w"] * (1 + code),
    SHAPE,
    SHAPE,
)
PROBLEM = Problem(Identity(), jnp.full(SHAPE, 0.7), jnp.float32(0.1))


def run(algorithm, num=4):
    """The states and infos of a few steps."""
    state, step = algorithm.init(jax.random.key(0), PROBLEM, SHAPE), jax.jit(algorithm.step)
    path = []
    for _ in range(num):
        state, info = step(PROBLEM, state)
        path.append((state, info))
    return path


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def differ(a, b):
    return any(
        not np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def test_the_defaults_of_guard_and_average_are_those_of_the_config():
    config = FitConfig()
    assert Guard() == (
        config.guard_ratio,
        config.guard_every,
        config.guard_limit,
        None,
    )
    assert Average() == (config.average_decay, config.average == "corrected")


def test_the_default_config_is_the_fit_of_the_defaults():
    found, expected = fit_from_config(FitConfig(), START), build_fit(START)
    assert_same(run(found), run(expected))
    assert (found.lag, found.loss, found.net) == (99, losses.gaussian, START)


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        (
            {"optimizer": "adamw", "learning_rate": 0.1, "b2": 0.9},
            {"optimizer": optax.adamw(0.1, b2=0.9)},
        ),
        (
            {"schedule": "cosine", "num_steps": 5},
            {"optimizer": optax.adam(optax.cosine_decay_schedule(0.01, 5))},
        ),
        (
            {"optimizer": "schedule_free_sgd", "learning_rate": 0.1},
            {
                "optimizer": optax.contrib.schedule_free_sgd(0.1),
                "eval_params": optax.contrib.schedule_free_eval_params,
            },
        ),
        ({"likelihood": "laplace"}, {"loss": losses.laplace}),
        ({"code": "normal", "code_scale": 0.3}, {"code": codes.normal(0.3)}),
        ({"optimize": "code"}, {"fits_net": False, "fits_code": True}),
        ({"optimize": "both"}, {"fits_code": True}),
        ({"perturbation": 0.5}, {"perturbation": 0.5}),
        ({"average": "none"}, {"average": Average(0.0)}),
        (
            {"average": "original", "average_decay": 0.8},
            {"average": Average(0.8, is_corrected=False)},
        ),
        ({"average_decay": 0.8}, {"average": Average(0.8)}),
        ({"tv_weight": 0.3}, {"regularizer": tv(0.3)}),
        (
            {"tv_weight": 0.3, "tv_form": "smooth"},
            {"regularizer": tv(0.3, form="smooth")},
        ),
    ],
)
def test_a_field_of_the_config_is_an_argument_of_the_fit(fields, options):
    found, expected, other = (
        run(algorithm)
        for algorithm in (
            fit_from_config(FitConfig(**fields), START),
            build_fit(START, **options),
            build_fit(START),
        )
    )
    assert_same(found, expected)
    if jax.tree.structure(found) == jax.tree.structure(other):
        assert differ(found, other)


def test_the_settings_of_a_schedule_reach_it():
    config = FitConfig(
        optimizer="sgd",
        learning_rate=0.3,
        schedule="warmup_cosine",
        num_steps=10,
        warm_up_steps=4,
    )
    optimizer = optimizer_from_config(config)
    assert optimizer.eval_params is None
    state, sizes = optimizer.transformation.init(jnp.float32(0)), []
    for _ in range(11):
        update, state = optimizer.transformation.update(jnp.float32(-1), state)
        sizes.append(update)
    rise, fall = 0.3 * np.arange(4) / 4, 0.15 * (1 + np.cos(np.pi * np.arange(7) / 6))
    np.testing.assert_allclose(sizes, [*rise, *fall], atol=1e-6)


def test_the_guard_of_the_config_guards():
    # The loss rises in each step by more than the ratio.
    fields = {"guard_ratio": 1.0001, "guard_every": 2, "guard_limit": 3}
    rising = {"optimizer": optax.sgd(-1.0), "perturbation": 0.0}
    config = FitConfig(perturbation=0.0, **fields)
    found = run(fit_from_config(config, START, optimizer=optax.sgd(-1.0)), 12)
    expected = run(build_fit(START, guard=Guard(*fields.values()), **rising), 12)
    assert_same(found, expected)
    assert found[-1][0].diverged
    assert not run(build_fit(START, guard=Guard(1.5, 2, 3), **rising), 3)[-1][0].diverged


def test_an_optimizer_replaces_that_of_the_config_and_gets_its_arguments():
    def update(grads, state, params=None, *, factor, **extra):
        return jax.tree.map(lambda g: -factor * g, grads), state

    optimizer = optax.GradientTransformationExtraArgs(lambda params: (), update)
    config = FitConfig(learning_rate=7.0, perturbation=0.0)
    found = run(
        fit_from_config(
            config, START, optimizer=optimizer, extra_args=lambda *a, **k: {"factor": 0.25}
        )
    )
    assert_same(
        [info for _, info in found],
        [info for _, info in run(build_fit(START, optimizer=optax.sgd(0.25), perturbation=0.0))],
    )


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_each_likelihood_has_its_loss(name):
    y, p, std, peak, tolerance = 0.5, 0.8, 0.1, 30.0, 0.05
    problem = Problem(
        Identity(), jnp.array([y]), jnp.float32(std), tolerance=jnp.array([tolerance]), peak=peak
    )
    shift = peak * std**2

    def deviance(p, y):
        return p - y + y * np.log(y / p)

    expected = {
        "gaussian": (p - y) ** 2,
        "tobit": (p - y) ** 2,
        "laplace": p - y,
        "poisson": deviance(p, y),
        "poisson_gauss": deviance(p + shift, y + shift),
        "interval": (p - y - tolerance) ** 2 + 0.2 * (p - y) ** 2,
    }
    loss = loss_from_config(FitConfig(likelihood=name, interval_pull=0.2))
    np.testing.assert_allclose(loss(jnp.array([p]), problem), [expected[name]], rtol=1e-3)


@pytest.mark.parametrize(
    ("overrides", "loss"),
    [
        ((), losses.gaussian_or_tobit),
        (("task.clipping=ignored",), losses.gaussian),
        (("sgld.sampler=paper",), losses.gaussian),
        (("sgld.noise=sampled",), losses.gaussian),
        (("fit.likelihood=tobit",), losses.tobit),
        (("fit.likelihood=laplace",), losses.laplace),
    ],
)
def test_samples_take_much_clipped_noise_into_account_unless_it_is_ignored(overrides, loss):
    config = build_config(overrides=["fit.method=sgld", *overrides])
    assert sampled_loss(config) is loss
    assert estimator_from_config(config).algorithm.loss is loss


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"code": "uniform"}, codes.uniform(0.1)),
        ({"code": "uniform", "code_scale": 0.3}, codes.uniform(0.3)),
        ({"code": "normal", "code_scale": 0.2}, codes.normal(0.2)),
        ({"code": "meshgrid"}, codes.meshgrid()),
        ({"code": "fourier"}, codes.fourier(10.0)),
        ({"code": "fourier", "fourier_std": 3.0}, codes.fourier(3.0)),
        ({"code": "image"}, codes.image()),
    ],
)
def test_each_code_is_that_of_its_name(fields, code):
    shape = (5, 6, 2)
    image = jnp.asarray(np.random.default_rng(0).random(shape), jnp.float32)
    problem = PROBLEM._replace(code_image=image)
    found = code_from_config(FitConfig(**fields))(jax.random.key(3), shape, problem)
    np.testing.assert_array_equal(found, code(jax.random.key(3), shape, problem))


def test_step_sizes_of_csgld_fall_in_cycles():
    config = SgldConfig(
        sampler="csgld", num_cycles=2, explore_fraction=0.3, warm_up=1, temperature=0.5
    )
    size, temperature = schedule_from_config(config, 0.1, 20)(jnp.arange(20), 7.0)
    expected = 0.05 * (1 + np.cos(np.pi * (np.arange(20) % 10) / 10))
    np.testing.assert_allclose(size, expected, atol=1e-7)
    assert temperature.tolist() == 2 * (3 * [0.0] + 7 * [0.5])


def test_step_sizes_of_psgld_fall_as_a_power_after_the_burn_in():
    psgld = functools.partial(SgldConfig, sampler="psgld")
    config = psgld(burn_in=100, warm_up=40, step_size=0.01, step_decay=0.5)
    steps = jnp.array([0, 39, 40, 100, 400])
    size, temperature = schedule_from_config(config, 0.1, 1000)(steps, 7.0)
    np.testing.assert_allclose(size, [0.1, 0.1, 0.01, 0.01, 0.005], rtol=1e-6)
    assert temperature.tolist() == [0, 0, 1, 1, 1]
    size, _ = schedule_from_config(psgld(burn_in=100, warm_up=40), 0.1, 1000)(steps, 7.0)
    np.testing.assert_allclose(size, [0.1, 0.1, 0.025, 0.025, 0.025], rtol=1e-6)


def test_plain_sgld_follows_the_gradient_of_the_mean_loss_unless_a_step_size_is_set():
    steps = jnp.array([0, 900])
    size, _ = schedule_from_config(SgldConfig(sampler="sgld"), 0.1, 1000)(steps, 50.0)
    np.testing.assert_allclose(size, [1 / 50, 1 / 50], rtol=1e-6)
    config = SgldConfig(sampler="sgld", step_size=0.02)
    size, _ = schedule_from_config(config, 0.1, 1000)(steps, 50.0)
    np.testing.assert_allclose(size, [0.02, 0.02], rtol=1e-6)


NUM_STEPS = 12
COMMON = {"warm_up": 2, "burn_in": 4, "temperature": 0.5, "decay": 0.9, "damping": 0.01}
DECAYING = schedules.decaying(
    0.02, burn_in=4, decay=0.3, warm_up=2, warm_up_step_size=0.05, temperature=0.5
)
FROZEN = preconditioners.frozen_rms(4, decay=0.9, damping=0.01)
SAMPLERS = [
    (
        {"sampler": "sgld", "step_size": 0.02, "step_decay": 0.3, "prior_precision": 0.7},
        sgld(
            schedules.decaying(0.02, burn_in=4, decay=0.3, warm_up=2, temperature=0.5),
            prior_precision=0.7,
        ),
    ),
    (
        {"sampler": "psgld", "step_size": 0.02, "step_decay": 0.3, "prior_precision": 0.7},
        psgld(DECAYING, FROZEN, prior_precision=0.7),
    ),
    (
        {"sampler": "psgld", "step_size": 0.02, "step_decay": 0.3, "constrain_norm": True},
        langevin.constrain_norm(
            psgld(DECAYING, preconditioners.frozen_rms(4, decay=0.9, damping=0.01, per_kernel=True))
        ),
    ),
    (
        {"sampler": "csgld", "num_cycles": 2, "explore_fraction": 0.3},
        psgld(
            schedules.cyclical(
                0.05,
                num_steps=NUM_STEPS,
                num_cycles=2,
                explore_fraction=0.3,
                warm_up=2,
                temperature=0.5,
            ),
            FROZEN,
        ),
    ),
    (
        {"step_size": 0.02, "friction": 0.7, "prior_precision": 0.7},
        underdamped(
            0.02,
            warm_up=2,
            burn_in=4,
            friction=0.7,
            temperature=0.5,
            prior_precision=0.7,
            optimizer=optax.adam(0.05),
        ),
    ),
    (
        {"sampler": "paper", "weight_decay": 0.1},
        paper(0.05, temperature=0.5, weight_decay=0.1),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "sampler"), SAMPLERS)
def test_each_sampler_is_that_of_its_settings(fields, sampler):
    found = sampler_from_config(SgldConfig(**COMMON, **fields), 0.05, NUM_STEPS)
    start = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3, 2, 2)), jnp.float32)

    def loss(w):
        return jnp.sum(jnp.cos(w)) + jnp.sum(w**4)

    paths = [
        run_chain(s, jax.grad(loss), start, num_steps=NUM_STEPS, scale=3.0, value_fn=loss)[0]
        for s in (found, sampler)
    ]
    np.testing.assert_array_equal(*paths)
    assert np.isfinite(paths[0]).all()


def test_cyclical_dynamics_has_the_variance_of_a_normal_density_however_long_it_runs():
    # At temperature 0 the gradients vanish. A preconditioner that followed them made the steps of long runs unstable.
    num_steps = 60_000
    # Here the burn-in ends at temperature 0, in the first half of the second cycle.
    config = SgldConfig(sampler="csgld", prior_precision=0.0, burn_in=21_000)
    sampler = sampler_from_config(config, 0.01, num_steps)
    curvature = jnp.asarray(np.repeat(np.float32([0.3, 3.0, 30.0]), 200))

    def step(carry, key):
        w, state, _ = carry
        updates, state = sampler.update(curvature * w, state, w, key=key)
        return (optax.apply_updates(w, updates), state, jnp.max(jnp.abs(w))), None

    keys = jax.random.split(jax.random.key(0), num_steps)
    start = 1 / jnp.sqrt(curvature)
    carry = (start, sampler.init(start), jnp.float32(0))
    (last, _, largest), _ = jax.jit(lambda c: jax.lax.scan(step, c, keys))(carry)
    assert np.isfinite(largest)
    z = (np.asarray(last) * np.sqrt(np.asarray(curvature))).reshape(3, 200)
    # the last step of a cycle is the shortest, so its error is the smallest
    assert np.all(np.abs(z.var(axis=1) - 1) < 5 * np.sqrt(2 / 200))


SETTINGS = StopConfig(
    window=10,
    patience=0.2,
    num_pixels=7,
    emv_rate=0.3,
    discrepancy_factor=0.8,
    held_out_fraction=0.2,
    sure_epsilon=0.2,
)


def build_rules(algorithm):
    windows = {"window": 10, "patience": 0.2}
    return {
        "fixed": fixed(),
        "wmv": wmv(algorithm, num_pixels=7, **windows),
        "emv": emv(algorithm, rate=0.3, **windows),
        "discrepancy": discrepancy(factor=0.8),
        "held_out": held_out(algorithm, fraction=0.2, **windows),
        "sure": sure(algorithm, epsilon=0.2, **windows),
    }


# The outputs are quietest at step 50, and the measurement at step 81.
TOY = scaling_algorithm(0.8 + 0.8 * ((np.arange(120) - 50) / 50) ** 3, lag=3)
TOY_PROBLEM = build_toy_problem(
    measurement=jnp.asarray(outputs_quietest_at(0, 1, seed=3)[0] * 20, jnp.float32)
)


def stop_config(rule):
    return StopConfig(**{**SETTINGS.__dict__, "rule": rule})


@pytest.mark.parametrize("rule", build_rules(TOY))
def test_each_rule_is_that_of_its_settings(rule):
    shape = TOY_PROBLEM.measurement.shape
    states = [
        run_with_rule(stopper, TOY, TOY_PROBLEM, 120, shape)[0]
        for stopper in (stopper_from_config(stop_config(rule), TOY), build_rules(TOY)[rule])
    ]
    assert_same(*states)
    assert bool(states[0][-1].done) is (rule != "fixed")


def test_the_default_rule_returns_its_estimate_if_all_rules_are_compared():
    stopper = stopper_from_config(stop_config("all"), TOY)
    shape = TOY_PROBLEM.measurement.shape
    states, _ = run_with_rule(stopper, TOY, TOY_PROBLEM, 120, shape)
    reports = stopper.reports(states[-1])
    assert set(reports) == set(build_rules(TOY))
    alone, _ = run_with_rule(build_rules(TOY)["held_out"], TOY, TOY_PROBLEM, 120, shape)
    assert StopConfig().rule == "held_out"
    assert_same(states[-1].rules["held_out"], alone[-1])
    assert not states[-1].done


def test_the_error_for_an_unknown_rule_names_a_similar_one():
    with pytest.raises(InputError, match="'held_out'"):
        stopper_from_config(stop_config("heldout"), TOY)


def sampling_config(*overrides):
    return build_config(
        overrides=[*TINY, "fit.method=sgld", "fit.num_steps=40", "sgld.thin=2", *overrides]
    )


def outputs_differ(config):
    """Whether the output of a frozen network changes from step to step by a perturbed code."""
    algorithm = algorithm_from_config(config, START)
    state = algorithm.init(jax.random.key(0), PROBLEM, SHAPE)
    params = state.params
    step = jax.jit(algorithm.step)
    images = []
    for _ in range(2):
        state, info = step(PROBLEM, state)
        images.append(info.image)
        state = state._replace(fit=state.fit._replace(params=params))
    return not np.array_equal(*images)


def test_a_sampler_replaces_the_perturbation_except_that_of_2019():
    assert not outputs_differ(sampling_config())
    assert outputs_differ(sampling_config("sgld.perturbation=0.1"))
    assert outputs_differ(sampling_config("sgld.sampler=paper"))
    plain = sampling_config("sgld.sampler=paper", "fit.perturbation=0")
    assert not outputs_differ(plain)


def test_the_default_learning_rate_of_a_sampler_is_a_hundredth():
    paths = [
        run(algorithm_from_config(sampling_config(*overrides), START))
        for overrides in ((), ("fit.learning_rate=0.01",), ("fit.learning_rate=0.02",))
    ]
    assert_same(paths[0], paths[1])
    assert differ(paths[0], paths[2])


def test_a_sampler_of_the_config_has_its_samples_and_keeps_them():
    config = sampling_config("sgld.burn_in=10", "sgld.keep_samples=3")
    algorithm = algorithm_from_config(config, START)
    steps = [t for t in range(40) if algorithm.samples.is_sample(t)]
    assert steps == list(range(12, 40, 2))
    state = algorithm.init(jax.random.key(0), PROBLEM, SHAPE)
    assert state.moments.kept.shape == (3, *SHAPE)
    assert algorithm.loss is losses.gaussian_or_tobit
    assert algorithm_from_config(build_config(overrides=TINY), START).samples is None


@pytest.mark.parametrize("noise", ["known", "sampled"])
def test_the_sampler_of_the_config_samples_the_noise_level_if_asked(noise):
    overrides = ("sgld.noise_shape=500", "sgld.noise_rate=500", f"sgld.noise={noise}")
    config = sampling_config("sgld.sampler=sgld", "sgld.prior_precision=0", "sgld.step_size=1e-3",
                             "sgld.temperature=0", *overrides)  # fmt: skip
    (state, _), *_ = run(algorithm_from_config(config, START), 1)
    step = (0.5 - state.params["net"]["w"]) / 1e-3
    # the gradient of the energy is (w (1 + z) - y) (1 + z) / v; v is 0.01, or about 1 by its prior
    z = state.variables["code"]
    gradient = (0.5 * (1 + z) - 0.7) * (1 + z)
    variance = np.median(gradient / step)
    assert abs(variance / {"known": 0.01, "sampled": 1.0}[noise] - 1) < 0.3


def key_of(estimator):
    return json.loads(estimator.program_key)


def test_an_estimator_has_the_numbers_of_its_config():
    config = build_config(
        overrides=[*TINY, "fit.num_steps=12", "fit.num_seeds=3", "net.sides_per_octave=4"]
    )
    estimator = estimator_from_config(config)
    assert (estimator.num_steps, estimator.num_networks) == (12, 3)
    assert estimator.sides_per_octave == 4
    assert not estimator.is_sampler
    assert estimator.comparison is None
    state = estimator.stopper.init(jax.random.key(0), PROBLEM, SHAPE)
    assert set(estimator.stopper.reports(state)) == {"held_out"}
    net = estimator.algorithm.net((40, 36, 3))
    assert net.image_shape == (40, 36, 3)
    assert net.code_shape == (20, 18, 4)
    chains = estimator_from_config(sampling_config("sgld.num_chains=5", "fit.num_seeds=1"))
    assert chains.num_networks == 5


def test_a_program_depends_on_all_settings_but_those_of_the_run():
    keys = [
        estimator_from_config(build_config(overrides=[*TINY, *overrides])).program_key
        for overrides in ([], ["run.seed=1", "run.slots=2"], ["fit.num_steps=7"])
    ]
    assert keys[0] == keys[1] != keys[2]


def test_a_sampler_holds_out_measurements_and_is_compared_with_a_fit_of_as_many_steps():
    estimator = estimator_from_config(sampling_config("sgld.held_out_fraction=0.25"))
    assert estimator.is_sampler
    state = estimator.stopper.init(jax.random.key(0), PROBLEM, SHAPE)
    assert float(np.sum(estimator.stopper.view(state, PROBLEM).weights == 0)) == 3
    comparison = estimator.comparison
    assert (comparison.num_steps, comparison.num_networks) == (40, 1)
    assert not comparison.is_sampler
    state = comparison.stopper.init(jax.random.key(0), PROBLEM, SHAPE)
    assert set(comparison.stopper.reports(state)) == {"fixed"}
    assert key_of(comparison)["fit"]["method"] == "fit"
    assert estimator_from_config(sampling_config("sgld.point_estimate=False")).comparison is None


@pytest.mark.parametrize(
    ("overrides", "has_low_memory"),
    [([], True), (["net.remat=off"], False), (["net.remat=on"], False), (list(TINY), False)],
)
def test_an_estimator_has_one_of_less_memory_if_the_network_can_be_rematerialized(
    overrides, has_low_memory
):
    estimator = estimator_from_config(build_config(overrides=overrides))
    assert (estimator.low_memory is not None) is has_low_memory
    if has_low_memory:
        expected = key_of(estimator)
        expected["net"]["remat"] = "on"
        assert key_of(estimator.low_memory) == expected
        assert estimator.low_memory.low_memory is None


def test_an_estimator_resolves_the_noise_level_that_its_settings_need():
    y = jnp.asarray(np.random.default_rng(0).normal(0.5, 0.1, (64, 64, 1)), jnp.float32)
    case = Case("a", Problem(Identity(), y, jnp.float32(np.nan)), (64, 64, 1))
    for overrides, is_estimated in (
        ([], False),
        (["stop.rule=discrepancy"], True),
        (["fit.method=sgld"], True),
        (["fit.method=sgld", "sgld.sampler=paper"], False),
    ):
        estimator = estimator_from_config(build_config(overrides=[*TINY, *overrides]))
        prepared = estimator.prepared(case)
        assert (abs(float(prepared.problem.noise_std) - 0.1) < 0.01) is is_estimated


def test_an_ensemble_has_the_folds_of_the_config():
    ensembles = [
        estimator_from_config(build_config(name)).ensemble for name in ("inpaint_random", "denoise")
    ]
    assert [(ensemble.number, ensemble.num_folds) for ensemble in ensembles] == [(2, 16), (4, None)]
