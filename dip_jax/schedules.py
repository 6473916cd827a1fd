"""Schedules of samplers: step size e and temperature T of each step; see `langevin.Schedule`."""

import jax.numpy as jnp

from dip_jax.base import Array
from dip_jax.langevin import Schedule
from dip_jax.sample_schedule import cycle_phase


def constant(step_size: float, *, temperature: float = 1.0) -> Schedule:
    """Returns a constant step size and temperature.

    Args:
      step_size: The step size e.
      temperature: The temperature T.

    Example:
      >>> step_size, temperature = constant(0.5)(jnp.int32(3), 1.0)
      >>> float(step_size), float(temperature)
      (0.5, 1.0)
    """

    def schedule(step: Array, scale: Array | float) -> tuple[Array, Array]:
        del scale
        shape = jnp.shape(step)
        return jnp.full(shape, step_size), jnp.full(shape, temperature)

    return schedule


def decaying(
    step_size: float | None,
    *,
    burn_in: int,
    decay: float = 0.0,
    warm_up: int = 0,
    warm_up_step_size: float | None = None,
    temperature: float = 1.0,
) -> Schedule:
    """Returns e = e_0 (1 + t / b)^-c at t steps after the burn-in of b steps.

    Args:
      step_size: e_0; None for 1 / k, with which a step follows the gradient of the mean loss.
      burn_in: Steps b before the decay.
      decay: Exponent c of the decay.
      warm_up: First steps, at temperature 0.
      warm_up_step_size: e in these steps; None for e_0.
      temperature: T after these steps.
    """

    def schedule(step: Array, scale: Array | float) -> tuple[Array, Array]:
        step = jnp.asarray(step)
        is_sampling = step >= warm_up
        first = 1 / scale if step_size is None else step_size
        elapsed = jnp.maximum(step - burn_in, 0) / max(burn_in, 1)
        size = first * (1 + elapsed) ** -decay
        if warm_up_step_size is not None:
            size = jnp.where(is_sampling, size, warm_up_step_size)
        return size, jnp.where(is_sampling, temperature, 0.0)

    return schedule


def cyclical(
    step_size: float,
    *,
    num_steps: int,
    num_cycles: int = 4,
    explore_fraction: float = 0.5,
    warm_up: int = 0,
    temperature: float = 1.0,
) -> Schedule:
    """Returns e = step_size (1 + cos(pi f)) / 2 for the phase f, from 0 to 1, in each cycle.

    The first part of each cycle explores at temperature 0. `sample_schedule.late_in_cycles` samples
    from the rest.

    Args:
      step_size: e at the beginning of a cycle.
      num_steps: Steps in total.
      num_cycles: Number of cycles.
      explore_fraction: First fraction of each cycle, at temperature 0.
      warm_up: First steps, at temperature 0.
      temperature: T in the other steps.

    References:
      Zhang, Li, Zhang, Chen and Wilson, Cyclical Stochastic Gradient MCMC, 2020.
    """

    def schedule(step: Array, scale: Array | float) -> tuple[Array, Array]:
        del scale
        step = jnp.asarray(step)
        phase = cycle_phase(step, num_steps, num_cycles)
        size = step_size / 2 * (1 + jnp.cos(jnp.pi * phase))
        is_sampling = (step >= warm_up) & (phase >= explore_fraction)
        return size, jnp.where(is_sampling, temperature, 0.0)

    return schedule
