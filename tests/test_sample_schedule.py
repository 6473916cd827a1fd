import functools

import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax.sample_schedule import every_nth, late_in_cycles


def test_259_samples_are_taken_as_in_2019():
    schedule = every_nth(50, burn_in=7000, num_steps=20000)
    assert schedule.num_samples == 259
    steps = np.flatnonzero(np.asarray(schedule.is_sample(jnp.arange(20000))))
    assert (steps[0], steps[-1]) == (7050, 19950)


def test_samples_are_taken_late_in_each_cycle():
    schedule = late_in_cycles(1, burn_in=0, num_steps=20, num_cycles=2, explore_fraction=0.5)
    sampled = np.asarray(schedule.is_sample(jnp.arange(20)))
    assert np.flatnonzero(sampled).tolist() == [5, 6, 7, 8, 9, 15, 16, 17, 18, 19]
    # cycles of 7, 7 and 6 steps, of which only the last 5 are after the burn-in
    thin = late_in_cycles(2, burn_in=15, num_steps=20, num_cycles=3, explore_fraction=0.3)
    assert [step for step in range(20) if thin.is_sample(step)] == [18]


@pytest.mark.parametrize(
    ("build", "thin", "burn_in"),
    [
        (every_nth, 3, 7),
        (functools.partial(late_in_cycles, num_cycles=3, explore_fraction=0.3), 1, 7),
        (functools.partial(late_in_cycles, num_cycles=7, explore_fraction=0.7), 4, 35),
    ],
)
def test_samples_are_counted_by_the_schedule_that_takes_them(build, thin, burn_in):
    for num_steps in (1, 20, 333):
        schedule = build(thin, burn_in=burn_in, num_steps=num_steps)
        taken = np.asarray(schedule.is_sample(jnp.arange(num_steps)))
        assert schedule.num_samples == taken.sum()
        steps = np.flatnonzero(taken)
        assert (steps > burn_in).all()
        assert (steps % thin == 0).all()
