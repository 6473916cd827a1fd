"""A Langevin step as a kernel of blackjax, for any density."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from dip_jax.base import Array, Params
from dip_jax.errors import InputError


class KernelState(NamedTuple):
    """State of a chain."""

    position: Params
    """w, of which the density is a function."""
    step_state: Any
    """State of the step, such as the momentum and the mass of `underdamped.underdamped_step`."""


class KernelInfo(NamedTuple):
    """Information about a step."""

    energy: Array
    """U(w) before the step."""


def as_kernel(
    step: optax.GradientTransformationExtraArgs,
    logdensity: Callable[[Params], Array],
    **extra_args: Any,
) -> Any:
    """Returns a `blackjax.SamplingAlgorithm` of a step on the energy U(w) = -logdensity(w).

    `init(position)` returns the state, and `step(key, state)` the next state and a `KernelInfo`. A step takes one
    gradient. Only the steps after the adaptation of `step` sample from the density, up to the error of its length.

    Args:
      step: `underdamped.underdamped_step` or `langevin.langevin_step`; a prior is part of the density.
      logdensity: Log density up to a constant, a scalar.
      **extra_args: Arguments of the step's `update`, such as `num_measurements`.

    Raises:
      InputError: If blackjax is not installed.

    Example:
      >>> from dip_jax.langevin import langevin_step
      >>> kernel = as_kernel(langevin_step(lambda step, k: (0.1, 1.0)), lambda w: -(w**2) / 2)
      >>> state, info = kernel.step(jax.random.key(0), kernel.init(jax.numpy.float32(2.0)))
      >>> state.position.shape, float(info.energy)
      ((), 2.0)
    """
    # Not at the top: importing blackjax creates arrays, after which JAX cannot set up devices.
    try:
        from blackjax.base import SamplingAlgorithm
    except ModuleNotFoundError:
        raise InputError(
            "A kernel of blackjax needs the library blackjax; install it with `pip install blackjax`."
        ) from None

    def init(position: Params, rng_key: Array | None = None) -> KernelState:
        del rng_key  # some algorithms of blackjax need it
        return KernelState(position, step.init(position))

    def advance(rng_key: Array, state: KernelState) -> tuple[KernelState, KernelInfo]:
        value, slope = jax.value_and_grad(logdensity)(state.position)
        grads = jax.tree.map(lambda g: -g, slope)
        updates, step_state = step.update(
            grads, state.step_state, state.position, key=rng_key, **extra_args
        )
        position = optax.apply_updates(state.position, updates)
        return KernelState(position, step_state), KernelInfo(-value)

    return SamplingAlgorithm(init, advance)
