"""Stop where the misfit falls to the level of the noise."""

from typing import NamedTuple

import jax.numpy as jnp

from dip_jax.base import Array, Info, Problem, RuleReport, Stopper
from dip_jax.config import StopConfig
from dip_jax.keys import informative_key
from dip_jax.problem import informative_mask, noise_variance
from dip_jax.stopping.fixed import see_all


class DiscrepancyState(NamedTuple):
    """What `discrepancy` needs of the past."""

    counts: Array
    """Of the measurement's shape, 1 where a value says something."""
    ratio: Array
    """Misfit over noise at the last step."""
    estimate_step: Array
    done: Array


def discrepancy(config: StopConfig) -> Stopper:
    """The first step at which the answer's misfit is that of the noise.

    mean |A m - y|^2 <= discrepancy_factor mean v,  v = noise_std^2, or A m / peak + noise_std^2 for photons.

    The factor is 0.9 by default, not 1: the answer has always taken a share of the noise with it, so at its best
    its misfit is below that of the noise: on eight pictures of scikit-image at 64 x 64 (coins, ihc, moon, retina; noise
    of 25 gray levels, and 30 photons; a network of 32 channels) by a factor of 0.89 to 0.95, but 1.01 on
    one. There 0.9 stops within 0.2 dB of the best step on seven and 3 dB too late on that one, and 1 too early by 0.1 to
    4 dB on seven.

    Means are over the values that say something. The ratio of the means, not the mean of the ratios: that
    one would hang on how dark the darkest pixels are. There is no warm-up, as the threshold means the same
    at all steps. Without a known noise (NaN, or 0) it never fires.

    References:
      Morozov, On the solution of functional equations by the method of regularization, 1966.

    Args:
      config: `discrepancy_factor`.
    """

    def init(key: Array, problem: Problem, shape: tuple[int, ...]) -> DiscrepancyState:
        counts = informative_mask(informative_key(key), problem, shape)
        return DiscrepancyState(counts, jnp.float32(jnp.nan), jnp.int32(0), jnp.bool_(False))

    def update(
        state: DiscrepancyState, problem: Problem, step: Array, info: Info
    ) -> tuple[DiscrepancyState, Array]:
        prediction = problem.operator(info.estimate)
        misfit = jnp.sum(state.counts * jnp.square(jnp.abs(prediction - problem.measurement)))
        noise = jnp.sum(state.counts * noise_variance(problem, prediction))
        ratio = jnp.where(noise > 0, misfit / noise, jnp.nan)
        improved = info.accepted & ~state.done
        fired = improved & (ratio <= config.discrepancy_factor)
        estimate_step = jnp.where(improved, step, state.estimate_step)
        return DiscrepancyState(state.counts, ratio, estimate_step, state.done | fired), improved

    def reports(state: DiscrepancyState) -> dict[str, RuleReport]:
        return {"discrepancy": RuleReport(state.ratio, state.estimate_step, state.done)}

    return Stopper(init, see_all, update, reports)
