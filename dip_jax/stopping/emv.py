"""Stop at the minimum of the exponential moving variance of the outputs."""

import math
from typing import NamedTuple

import jax.numpy as jnp

from dip_jax.base import Algorithm, Array, Info, Problem, Stopper
from dip_jax.stopping.minimum import stop_at_minimum


class EmvMemory(NamedTuple):
    """Moving moments of the outputs."""

    mean: Array
    """Moving mean m `[H, W, C]`."""
    variance: Array
    """Moving variance v, a scalar."""
    num_outputs: Array
    """Outputs since the last rollback."""


def emv(
    algorithm: Algorithm, *, rate: float = 0.1, window: int = 100, patience: float = 0.5
) -> Stopper:
    """The rule that stops at the minimum of the exponential moving variance of the outputs.

    Signal: v, by the recursion m <- m + a d, v <- (1 - a) (v + a mean(d^2)) with d = x - m before
    the step, for the output x of each step. It falls while the fit converges on the image, and
    rises when the fit starts on the noise. There is no signal in the first 5 / a outputs, when
    the first output still has a weight of more than 0.5 % in m.

    Needs: nothing. The rule has the limits of `wmv`.

    Cost: the memory of one image.

    As in `wmv`, a rollback of the guard restarts the recursion, a minimum must be confirmed, and
    the rule returns the running average `algorithm.lag` steps after the minimum. (The paper returns m.)

    Args:
      algorithm: The fit.
      rate: Weight a of the newest output in the moving mean and variance.
      window: See `minimum.stop_at_minimum`.
      patience: See `minimum.stop_at_minimum`.

    References:
      Wang, Li, Zhuang, Chen, Liang and Sun, Early Stopping for Deep Image Prior, 2021, section 3.
      Finch, Incremental calculation of weighted mean and variance, 2009, section 9.
    """
    num_settling = math.ceil(5 / rate)

    def init_memory(key: Array, problem: Problem, shape: tuple[int, ...]) -> EmvMemory:
        del key, problem
        return EmvMemory(jnp.zeros(shape), jnp.float32(0), jnp.int32(0))

    def signal(memory: EmvMemory, problem: Problem, info: Info) -> tuple[EmvMemory, Array]:
        fraction = 1.0 if problem.region is None else jnp.mean(problem.region)
        is_first = memory.num_outputs == 0
        # `where`, not a product: the outputs of a step that was undone may not be finite.
        d = jnp.where(is_first, 0.0, info.image - memory.mean)
        mean = jnp.where(is_first, info.image, memory.mean + rate * d)
        variance = (1 - rate) * (memory.variance + rate * jnp.mean(d**2) / fraction)
        num_outputs = jnp.where(info.accepted, memory.num_outputs + 1, 0)
        value = jnp.where(num_outputs >= num_settling, variance, jnp.nan)
        variance = jnp.where(info.accepted, variance, 0.0)
        return EmvMemory(mean, variance, num_outputs), value

    return stop_at_minimum(
        signal,
        name="emv",
        init_memory=init_memory,
        lag=algorithm.lag,
        window=window,
        patience=patience,
        min_step=2 * window,
        delay=algorithm.lag,
    )
