import jax.numpy as jnp
import numpy as np

from dip_jax.sample_schedule import late_in_cycles
from dip_jax.schedules import constant, cyclical, decaying


def test_a_constant_schedule_is_constant():
    size, temperature = constant(0.3, temperature=0.5)(jnp.arange(4), 7.0)
    np.testing.assert_array_equal(size, np.full(4, 0.3, np.float32))
    np.testing.assert_array_equal(temperature, np.full(4, 0.5, np.float32))
    assert float(constant(0.3)(jnp.int32(0), 7.0)[1]) == 1


def test_step_sizes_fall_in_cycles_and_only_the_later_part_of_a_cycle_samples():
    fields = {"num_steps": 20, "num_cycles": 2, "explore_fraction": 0.5}
    size, temperature = cyclical(0.1, **fields)(jnp.arange(20), 7.0)
    expected = 0.05 * (1 + np.cos(np.pi * (np.arange(20) % 10) / 10))
    np.testing.assert_allclose(size, expected, atol=1e-7)
    assert temperature.tolist() == 2 * (5 * [0.0] + 5 * [1.0])
    sampled = late_in_cycles(1, burn_in=0, **fields).is_sample(np.arange(20))
    np.testing.assert_array_equal(np.flatnonzero(sampled), np.flatnonzero(temperature))


def test_a_cyclical_schedule_has_temperature_0_in_its_warm_up():
    schedule = cyclical(0.1, num_steps=20, num_cycles=2, warm_up=7, temperature=0.5)
    _, temperature = schedule(jnp.arange(20), 7.0)
    assert temperature.tolist() == 7 * [0.0] + 3 * [0.5] + 5 * [0.0] + 5 * [0.5]


def test_step_sizes_fall_as_a_power_after_the_burn_in():
    schedule = decaying(0.01, burn_in=100, decay=0.5, warm_up=40, warm_up_step_size=0.1)
    size, temperature = schedule(jnp.array([0, 39, 40, 100, 400]), 7.0)
    np.testing.assert_allclose(size, [0.1, 0.1, 0.01, 0.01, 0.005], rtol=1e-6)
    assert temperature.tolist() == [0, 0, 1, 1, 1]


def test_a_step_size_holds_in_the_warm_up_too_unless_it_has_its_own():
    size, temperature = decaying(0.01, burn_in=100, warm_up=40, temperature=0.3)(
        jnp.array([0, 39, 40, 900]), 7.0
    )
    np.testing.assert_allclose(size, 4 * [0.01], rtol=1e-6)
    np.testing.assert_allclose(temperature, [0, 0, 0.3, 0.3], rtol=1e-6)


def test_without_a_step_size_steps_follow_the_gradient_of_the_mean_loss():
    size, _ = decaying(None, burn_in=350)(jnp.array([0, 900]), 50.0)
    np.testing.assert_allclose(size, [1 / 50, 1 / 50], rtol=1e-6)
