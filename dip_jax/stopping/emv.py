"""Stop at the minimum of the exponential moving variance of the outputs."""

import math
from typing import NamedTuple

import jax.numpy as jnp

from dip_jax.base import Array, Info, Problem, RuleReport, Stopper
from dip_jax.config import StopConfig
from dip_jax.stopping.fixed import see_all
from dip_jax.stopping.minimum import Minimum, report, start_minimum, track_minimum, warm_up


class EmvState(NamedTuple):
    """What `emv` needs of the past."""

    minimum: Minimum
    mean: Array
    """Moving mean m of the outputs `[H, W, C]`."""
    variance: Array
    """Moving variance v."""
    num_seen: Array
    """Outputs in them since the last rollback."""

    @property
    def done(self) -> Array:
        """Whether it has fired."""
        return self.minimum.done


def emv(config: StopConfig, *, lag: int) -> Stopper:
    """The minimum of the exponential moving variance of the outputs: the memory of one output.

    m <- m + a d,  v <- (1 - a) (v + a mean(d^2)),  d = x - m before the step.

    A rollback begins anew. There is no signal before 5 / a outputs, when all but 0.5 % of the weights in m
    are of outputs that it has seen. Guard and answer are those of `wmv`. (The paper hands out m.)

    Args:
      config: `emv_rate` a, `patience`.
      lag: Steps by which the running average is behind the outputs.

    References:
      Wang, Li, Zhuang, Chen, Liang and Sun, Early Stopping for Deep Image Prior, 2021, section 3.
      Finch, Incremental calculation of weighted mean and variance, 2009, section 9.
    """
    rate = config.emv_rate
    settled = math.ceil(5 / rate)

    def init(key: Array, problem: Problem, shape: tuple[int, ...]) -> EmvState:
        del key, problem
        return EmvState(start_minimum(), jnp.zeros(shape), jnp.float32(0), jnp.int32(0))

    def update(
        state: EmvState, problem: Problem, step: Array, info: Info
    ) -> tuple[EmvState, Array]:
        fraction = 1.0 if problem.region is None else jnp.mean(problem.region)
        is_first = state.num_seen == 0
        # What was undone may not be finite, so it must not be multiplied away.
        d = jnp.where(is_first, 0.0, info.image - state.mean)
        mean = jnp.where(is_first, info.image, state.mean + rate * d)
        variance = (1 - rate) * (state.variance + rate * jnp.mean(d**2) / fraction)
        num_seen = jnp.where(info.accepted, state.num_seen + 1, 0)
        signal = jnp.where(num_seen >= settled, variance, jnp.nan)
        first = warm_up(info.image.shape, window=config.window)
        minimum, improved = track_minimum(
            state.minimum, signal, step, info, config, first=first, lag=lag, delay=lag
        )
        variance = jnp.where(info.accepted, variance, 0.0)
        return EmvState(minimum, mean, variance, num_seen), improved

    def reports(state: EmvState) -> dict[str, RuleReport]:
        return {"emv": report(state.minimum)}

    return Stopper(init, see_all, update, reports)
