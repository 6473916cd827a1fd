import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax import losses, stopping
from dip_jax.base import Case, Problem
from dip_jax.engine.estimator import Estimator
from dip_jax.errors import InputError
from dip_jax.fit import build_fit
from dip_jax.nets import identity
from dip_jax.operators.basic import Identity
from dip_jax.sample_schedule import every_nth
from dip_jax.schedules import constant
from dip_jax.sgld import build_sgld, sampler_args, sgld

FIT = build_fit(identity(), fits_net=False, fits_code=True)
SAMPLER = build_sgld(
    build_fit(
        identity(),
        optimizer=sgld(constant(1e-6)),
        extra_args=sampler_args(losses.gaussian),
        fits_net=False,
        fits_code=True,
    ),
    samples=every_nth(10, burn_in=20, num_steps=60),
)


def case_of_noise(std, **fields):
    rng = np.random.default_rng(0)
    y = jnp.asarray(0.5 + rng.normal(0, 0.1, (64, 64, 1)), jnp.float32)
    return Case("a", Problem(Identity(), y, jnp.float32(std), **fields), (64, 64, 1))


def test_by_default_an_estimator_makes_all_of_its_3000_steps_with_one_network():
    estimator = Estimator(FIT)
    assert (estimator.num_steps, estimator.num_networks, estimator.sides_per_octave) == (3000, 1, 0)
    state = estimator.stopper.init(None, None, (4, 4, 1))
    assert set(estimator.stopper.reports(state)) == {"fixed"}
    assert estimator.comparison is None
    assert estimator.low_memory is None
    assert estimator.program_key is None
    rule = stopping.held_out(FIT)
    assert Estimator(FIT, rule).stopper is rule


@pytest.mark.parametrize("name", ["num_steps", "num_networks"])
def test_numbers_below_one_are_refused(name):
    Estimator(FIT, **{name: 1})
    with pytest.raises(InputError, match=f"{name} must be at least 1, got 0"):
        Estimator(FIT, **{name: 0})


@pytest.mark.parametrize(("algorithm", "shared"), [(SAMPLER, 3), (SAMPLER, 0), (FIT, 2)])
def test_only_chains_share_a_start_and_their_number_divides_that_of_all(algorithm, shared):
    Estimator(SAMPLER, num_steps=60, num_networks=4, chains_per_start=2)
    with pytest.raises(InputError, match=f"a divisor of num_networks=4 .*, got {shared}"):
        Estimator(algorithm, num_steps=60, num_networks=4, chains_per_start=shared)


def test_an_algorithm_with_samples_is_a_sampler():
    assert Estimator(SAMPLER, num_steps=60).is_sampler
    assert not Estimator(FIT).is_sampler


def test_a_sampler_gets_an_estimate_of_an_unknown_noise_level_and_a_fit_does_not():
    case = case_of_noise(np.nan)
    assert Estimator(FIT).prepared(case) is case
    prepared = Estimator(SAMPLER, num_steps=60).prepared(case)
    assert abs(float(prepared.problem.noise_std) - 0.1) < 0.01
    assert any("noise estimated" in note for note in prepared.notes)
    known = case_of_noise(0.2)
    assert Estimator(SAMPLER, num_steps=60).prepared(known) is known


def test_a_sampler_refuses_a_noise_level_that_cannot_be_estimated():
    case = Case("a", Problem(Identity(), jnp.ones(108), jnp.float32(np.nan)), (6, 6, 3))
    with pytest.raises(InputError, match="noise level"):
        Estimator(SAMPLER, num_steps=60).prepared(case)
    photons = case._replace(problem=case.problem._replace(peak=jnp.float32(30)))
    assert Estimator(SAMPLER, num_steps=60).prepared(photons) is photons


def test_a_case_is_prepared_by_a_function_of_the_user():
    estimator = Estimator(
        SAMPLER, num_steps=60, prepare=lambda case: case._replace(notes=("mine",))
    )
    prepared = estimator.prepared(case_of_noise(np.nan))
    assert prepared.notes == ("mine",)
    assert np.isnan(prepared.problem.noise_std)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"algorithm": build_fit}, "algorithm expects build_fit"),
        ({"algorithm": FIT, "stopper": stopping.held_out}, "stopper expects a rule"),
        ({"algorithm": SAMPLER}, "planned for 60 steps, got num_steps=3000"),
    ],
)
def test_parts_that_do_not_fit_are_refused(arguments, match):
    with pytest.raises(InputError, match=match):
        Estimator(**arguments)


def test_a_likelihood_that_needs_no_noise_level_is_sampled_without_one():
    cauchy = losses.Likelihood(
        lambda p, problem: jnp.log1p((p - problem.measurement) ** 2), lambda _: 1.0
    )
    sampler = SAMPLER._replace(loss=cauchy)
    case = case_of_noise(np.nan)
    assert Estimator(sampler, num_steps=60).prepared(case) is case
