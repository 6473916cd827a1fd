"""Stop at the minimum of the loss on measurements that the fit does not see."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dip_jax.base import Algorithm, Array, Info, Problem, RuleReport, Shape, Stopper
from dip_jax.keys import held_out_key, informative_key
from dip_jax.losses import gaussian, mean_loss
from dip_jax.operators.pixelwise import is_pixelwise
from dip_jax.problem import informative_mask, measure, visible_weights
from dip_jax.stopping.fixed import FixedState, fixed
from dip_jax.stopping.minimum import MinimumState, stop_at_minimum


def held_out(
    algorithm: Algorithm, *, fraction: float = 0.03, window: int = 100, patience: float = 0.5
) -> Stopper:
    """The rule that stops at the minimum of the loss of the estimate on held-out measurements.

    Signal: loss(y_h, A m) for the running average m, on a fraction of the
    measurements, y_h, that the fit does not see (`draw_held_out`). The network predicts a held-out
    pixel from its neighbors, so the signal estimates the error itself.

    Needs: noise that neighbors do not share. It fires late or never on correlated noise; the noise
    level may be unknown.

    Cost: the held-out measurements, and one application of A per step.

    Args:
      algorithm: The fit, whose loss is computed on the held-out measurements.
      fraction: Fraction of the measurements that is hidden from the fit.
      window: See `minimum.stop_at_minimum`.
      patience: See `minimum.stop_at_minimum`.
    """
    loss = gaussian if algorithm.loss is None else algorithm.loss

    def init_memory(key: Array, problem: Problem, shape: Shape) -> Array:
        return draw_held_out(key, problem, shape, fraction)

    def view(state: MinimumState, problem: Problem) -> Problem:
        return hide(problem, state.memory)

    def signal(mask: Array, problem: Problem, info: Info) -> tuple[Array, Array]:
        hidden = problem._replace(weights=mask)
        return mask, mean_loss(loss, measure(problem.operator, info.estimate), hidden)

    return stop_at_minimum(
        signal,
        name="held_out",
        init_memory=init_memory,
        view=view,
        lag=algorithm.lag,
        window=window,
        patience=patience,
        needs_start=True,
    )


def draw_held_out(key: Array, problem: Problem, shape: tuple[int, ...], fraction: float) -> Array:
    """Draws the measurements that are held out, at least one of the informative ones.

    A measurement with rows, columns and channels is held out by the pixel, with all its channels,
    because channels share structure and noise. Other measurements are held out by the value.

    Args:
      key: Random key of the image.
      problem: The measurement.
      shape: `(H, W, C)` of the image.
      fraction: Fraction of the informative pixels or values.

    Returns:
      1 where a value is held out and 0 elsewhere, of the measurement's shape.
    """
    informative = informative_mask(informative_key(key), problem, shape)
    is_image = informative.ndim == 3
    groups = informative.max(axis=-1, keepdims=True) if is_image else informative
    order = jax.random.uniform(held_out_key(key), groups.shape)
    order = jnp.where(groups > 0, order, jnp.inf)
    num = jnp.maximum(jnp.round(fraction * jnp.sum(groups)), 1).astype(jnp.int32)
    last = jnp.sort(order, axis=None)[num - 1]
    return informative * (order <= last)


def hide(problem: Problem, mask: Array) -> Problem:
    """Returns the problem with weight 0 where `mask` is 1."""
    return problem._replace(weights=visible_weights(problem) * (1 - mask))


class SamplerHoldOutState(NamedTuple):
    """State of `hold_out_from_sampler`."""

    fixed: FixedState
    held_out: Array | None
    """1 where a value is held out and 0 elsewhere, of the measurement's shape. None for nothing held out."""

    @property
    def done(self) -> Array:
        """Always False."""
        return self.fixed.done


def hold_out_from_sampler(fraction: float) -> Stopper:
    """The rule `fixed`, with measurements held out to check the predictions of a sampler.

    All networks of an image hold out the same measurements; otherwise, a chain would be fitted to
    measurements that another chain predicts. Only pixelwise operators have a prediction of a single
    measurement, so nothing is held out from the others.

    Args:
      fraction: Fraction of the informative measurements; 0 for none.
    """
    all_steps = fixed()

    def init(key: Array, problem: Problem, shape: Shape) -> SamplerHoldOutState:
        mask = None
        if fraction and is_pixelwise(problem.operator):
            mask = draw_held_out(jax.random.key(0), problem, shape, fraction)
        return SamplerHoldOutState(all_steps.init(key, problem, shape), mask)

    def view(state: SamplerHoldOutState, problem: Problem) -> Problem:
        return problem if state.held_out is None else hide(problem, state.held_out)

    def update(
        state: SamplerHoldOutState, problem: Problem, step: Array, info: Info
    ) -> tuple[SamplerHoldOutState, Array]:
        new, improved = all_steps.update(state.fixed, problem, step, info)
        return SamplerHoldOutState(new, state.held_out), improved

    def reports(state: SamplerHoldOutState) -> dict[str, RuleReport]:
        return all_steps.reports(state.fixed)

    return Stopper(init, view, update, reports)
