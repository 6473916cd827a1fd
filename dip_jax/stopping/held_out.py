"""Stopping rules that hold the answer against the data: the noise is known, or some data are kept back.

They judge `Info.answer`, the running average m_t, so what they like is what is handed out. A m costs
one application of the operator per step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dip_jax.base import Array, Info, Problem, RuleReport, Stopper
from dip_jax.config import StopConfig
from dip_jax.keys import held_out_key, informative_key
from dip_jax.losses import build_likelihood
from dip_jax.problem import informative_mask, visible_weights
from dip_jax.stopping.fixed import FixedState, fixed
from dip_jax.stopping.minimum import Minimum, report, start_minimum, track_minimum, warm_up


class HeldOutState(NamedTuple):
    """What `held_out` needs of the past."""

    minimum: Minimum
    held_out: Array
    """Of the measurement's shape, 1 where a value is kept out of the fit."""

    @property
    def done(self) -> Array:
        """Whether it has fired."""
        return self.minimum.done


def held_out(config: StopConfig, *, lag: int, loss: Callable[[Problem, Array], Array]) -> Stopper:
    """The minimum of the answer's loss on measurements that the fit does not see.

    A share `held_out_fraction` of the values that say something is drawn, and weighs nothing in the fit. Of a
    measurement with rows, columns and channels all channels of a place are drawn together, because noise and
    picture are alike in them; of others single values. The guard is that of `minimum.track_minimum`. What the
    network makes of a hidden pixel it has from its neighbors, so nothing need be known of the noise but
    that neighbors do not share it.

    Args:
      config: `held_out_fraction`, `patience`.
      lag: Steps by which the running average is behind the outputs.
      loss: What the fit minimizes, `loss(problem, prediction)`, a mean by weights.
    """

    def init(key: Array, problem: Problem, shape: tuple[int, ...]) -> HeldOutState:
        counts = informative_mask(informative_key(key), problem, shape)
        together = counts.max(axis=-1, keepdims=True) if counts.ndim == 3 else counts
        order = jax.random.uniform(held_out_key(key), together.shape)
        order = jnp.where(together > 0, order, jnp.inf)
        num = jnp.maximum(jnp.round(config.held_out_fraction * jnp.sum(together)), 1).astype(
            jnp.int32
        )
        last = jnp.sort(order, axis=None)[num - 1]
        return HeldOutState(start_minimum(), counts * (order <= last))

    def view(state: HeldOutState, problem: Problem) -> Problem:
        return problem._replace(weights=visible_weights(problem) * (1 - state.held_out))

    def update(
        state: HeldOutState, problem: Problem, step: Array, info: Info
    ) -> tuple[HeldOutState, Array]:
        hidden = problem._replace(weights=state.held_out)
        signal = loss(hidden, problem.operator(info.estimate))
        first = warm_up(info.image.shape)
        minimum, improved = track_minimum(
            state.minimum, signal, step, info, config, first=first, lag=lag
        )
        return HeldOutState(minimum, state.held_out), improved

    def reports(state: HeldOutState) -> dict[str, RuleReport]:
        return {"held_out": report(state.minimum)}

    return Stopper(init, view, update, reports)


class HiddenState(NamedTuple):
    """`fixed`, and what is kept from the estimator."""

    fixed: FixedState
    hidden: Any

    @property
    def done(self) -> Array:
        """Never."""
        return self.fixed.done


def hold_out_from_sampler(fraction: float) -> Stopper:
    """`fixed`, with a share of the measurements kept from the estimator, to check its predictions on.

    The same ones for every network, or one chain would have seen what another did not.

    Args:
      fraction: Of the measurements that say something.
    """
    plain = fixed()
    hiding = held_out(
        StopConfig(held_out_fraction=fraction), lag=0, loss=build_likelihood("gaussian")
    )

    def init(key: Array, problem: Problem, shape: tuple[int, ...]) -> HiddenState:
        hidden = hiding.init(jax.random.key(0), problem, shape)
        return HiddenState(plain.init(key, problem, shape), hidden)

    def view(state: HiddenState, problem: Problem) -> Problem:
        return hiding.view(state.hidden, problem)

    def update(
        state: HiddenState, problem: Problem, step: Array, info: Info
    ) -> tuple[HiddenState, Array]:
        new, improved = plain.update(state.fixed, problem, step, info)
        return HiddenState(new, state.hidden), improved

    def reports(state: HiddenState) -> dict[str, RuleReport]:
        return plain.reports(state.fixed)

    return Stopper(init, view, update, reports)
