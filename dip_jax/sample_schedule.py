"""The steps of a sampler whose outputs are samples of the posterior. No JAX."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from dip_jax.errors import InputError


class SampleSchedule(NamedTuple):
    """The steps whose outputs are samples, unless the guard rejects them."""

    is_sample: Callable[[Any], Any]
    """`is_sample(step)`, for a step or an array of steps."""
    num_samples: int
    """Samples of a chain in which the guard rejects none."""
    num_steps: int
    """Steps in total."""


def every_nth(thin: int, *, burn_in: int, num_steps: int) -> SampleSchedule:
    """Returns the schedule of every `thin`-th step after the burn-in.

    Args:
      thin: Steps between samples.
      burn_in: Last step that gives no sample.
      num_steps: Steps in total.

    Example:
      >>> schedule = every_nth(10, burn_in=20, num_steps=60)
      >>> [step for step in range(60) if schedule.is_sample(step)], schedule.num_samples
      ([30, 40, 50], 3)
    """

    def is_sample(step: Any) -> Any:
        return (step > burn_in) & (step % thin == 0)

    return _counted(is_sample, thin, num_steps)


def late_in_cycles(
    thin: int, *, burn_in: int, num_steps: int, num_cycles: int = 4, explore_fraction: float = 0.5
) -> SampleSchedule:
    """Returns the schedule of every `thin`-th step in the later part of each cycle.

    Args:
      thin: Steps between samples.
      burn_in: Last step that gives no sample.
      num_steps: Steps in total.
      num_cycles: Number of cycles.
      explore_fraction: First fraction of each cycle, which gives no samples.

    Example:
      >>> schedule = late_in_cycles(
      ...     1, burn_in=-1, num_steps=8, num_cycles=2, explore_fraction=0.5
      ... )
      >>> [step for step in range(8) if schedule.is_sample(step)]
      [2, 3, 6, 7]
    """

    def is_sample(step: Any) -> Any:
        sampled = (step > burn_in) & (step % thin == 0)
        return sampled & (cycle_phase(step, num_steps, num_cycles) >= explore_fraction)

    return _counted(is_sample, thin, num_steps)


def cycle_phase(step: Any, num_steps: int, num_cycles: int) -> Any:
    """Returns the position of `step` in its cycle, from 0 to 1.

    Args:
      step: A step, or an array of steps.
      num_steps: Steps in total.
      num_cycles: Number of cycles.

    Example:
      >>> [cycle_phase(step, 8, 2) for step in (0, 2, 4)]
      [0.0, 0.5, 0.0]
    """
    length = cycle_length(num_steps, num_cycles)
    return (step % length) / length


def cycle_length(num_steps: int, num_cycles: int) -> int:
    """Returns the steps of a cycle; the last cycle may be shorter.

    Args:
      num_steps: Steps in total.
      num_cycles: Number of cycles.

    Example:
      >>> cycle_length(9, 2)
      5
    """
    return -(-num_steps // num_cycles)


def _counted(is_sample: Callable[[Any], Any], thin: int, num_steps: int) -> SampleSchedule:
    if thin < 1:
        raise InputError(f"thin must be at least 1, got {thin}.")
    steps = np.arange(0, num_steps, thin)
    return SampleSchedule(is_sample, int(np.count_nonzero(is_sample(steps))), num_steps)
