"""Stop where the misfit falls to the level of the noise."""

from typing import NamedTuple

import jax.numpy as jnp

from dip_jax.base import Array, Info, Problem, RuleReport, Stopper
from dip_jax.keys import informative_key
from dip_jax.problem import informative_mask, measure, noise_variance
from dip_jax.stopping.fixed import view_all


class DiscrepancyState(NamedTuple):
    """State of `discrepancy`."""

    mask: Array
    """1 where a value of the measurement is informative, of the measurement's shape."""
    ratio: Array
    """Mean squared misfit over mean noise variance, at the last step."""
    estimate_step: Array
    """Step whose estimate was kept."""
    done: Array
    """Whether the rule has fired."""


def discrepancy(*, factor: float = 0.9) -> Stopper:
    """The rule that stops when the misfit of the estimate falls to that of the noise.

    Signal: mean |A m - y|^2 / mean v for the running average m, where the noise variance v is
    noise_std^2, plus A m / peak for photons. Means are over the informative values. The rule fires
    at the first step with a signal of at most `factor`. It needs no warm-up, because
    the threshold means the same at all steps.

    Needs: the noise level, or photons. Without both (NaN or 0), the rule never fires. It fires too
    early if the noise is smaller than stated, as for pixels clipped to [0, 1].

    Cost: one application of A per step.

    The factor is 0.9 by default, not 1, because the best estimate has always fitted a part of the
    noise (measured in docs/development/results.md#cost-and-choice-of-the-settings). The ratio of the means does
    not depend on how dark the darkest pixels are; the mean of the ratios would.

    Args:
      factor: Multiple of the noise variance at whose mean squared misfit the rule fires.

    References:
      Morozov, On the solution of functional equations by the method of regularization, 1966.
    """

    def init(key: Array, problem: Problem, shape: tuple[int, ...]) -> DiscrepancyState:
        mask = informative_mask(informative_key(key), problem, shape)
        return DiscrepancyState(mask, jnp.float32(jnp.nan), jnp.int32(0), jnp.bool_(False))

    def update(
        state: DiscrepancyState, problem: Problem, step: Array, info: Info
    ) -> tuple[DiscrepancyState, Array]:
        prediction = measure(problem.operator, info.estimate)
        misfit = jnp.sum(state.mask * jnp.square(jnp.abs(prediction - problem.measurement)))
        noise = jnp.sum(state.mask * noise_variance(problem, prediction))
        ratio = jnp.where(noise > 0, misfit / noise, jnp.nan)
        improved = info.accepted & ~state.done
        fires = improved & (ratio <= factor)
        estimate_step = jnp.where(improved, step, state.estimate_step)
        return DiscrepancyState(state.mask, ratio, estimate_step, state.done | fires), improved

    def reports(state: DiscrepancyState) -> dict[str, RuleReport]:
        return {"discrepancy": RuleReport(state.ratio, state.estimate_step, state.done)}

    return Stopper(init, view_all, update, reports)
