"""Rules that stop at the minimum of a signal: when a minimum counts, is confirmed, and is final.

`wmv`, `emv`, `held_out` and `sure` differ only in their signal; `stop_at_minimum` builds a rule from
a signal.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array, Info, Problem, RuleReport, Shape, Stopper
from dip_jax.stopping.fixed import view_all


class Minimum(NamedTuple):
    """The lowest signal so far."""

    best_step: Array
    """Step of the lowest signal; the latest step while there is none."""
    estimate_step: Array
    """Step whose estimate was kept."""
    lowest: Array
    """Signal at `best_step`; infinite while there is none."""
    signal: Array
    """Latest signal; NaN if that step has none."""
    done: Array
    """Whether the minimum is confirmed."""


class MinimumState(NamedTuple):
    """State of a rule that stops at a minimum."""

    minimum: Minimum
    memory: Any
    """Memory of the signal, a pytree of arrays."""

    @property
    def done(self) -> Array:
        """Whether the rule has fired."""
        return self.minimum.done


def _no_memory(key: Array, problem: Problem, shape: Shape) -> tuple[()]:
    del key, problem, shape
    return ()


def stop_at_minimum(
    signal: Callable[[Any, Problem, Info], tuple[Any, Array]],
    *,
    name: str = "minimum",
    init_memory: Callable[[Array, Problem, Shape], Any] = _no_memory,
    view: Callable[[MinimumState, Problem], Problem] = view_all,
    lag: int = 0,
    window: int = 100,
    patience: float = 0.5,
    min_step: int = 0,
    delay: int = 0,
    needs_start: bool = False,
) -> Stopper:
    """Returns the rule that stops at the minimum of a signal.

    Args:
      signal: `signal(memory, problem, info) -> (memory, signal)`; NaN for no signal.
      name: Name of the rule in its report.
      init_memory: `init_memory(key, problem, image_shape) -> memory`, a pytree of arrays; by default
        an empty one.
      view: `view(state, problem) -> problem`, the part of the problem that the estimator may see.
      lag: Steps by which the running average lags behind the outputs, `Algorithm.lag`.
      window: Number of steps in which waiting times are measured. A minimum is confirmed after two
        windows and the lag, or after `patience` if that is longer.
      patience: Fraction of the step of a minimum.
      min_step: First step at which a minimum counts, unless `warm_up` is later.
      delay: Steps from the minimum to the estimate that is returned.
      needs_start: Whether the rule must watch the fit from its first step.

    Example:
      The minimum of the loss itself, which is confirmed 2 steps later:

      >>> rule = stop_at_minimum(lambda memory, problem, info: (memory, info.loss), window=1)
      >>> state = rule.init(None, None, (2, 2, 1))
      >>> for step, loss in enumerate([4.0, 2.0, 1.0, 3.0, 5.0]):
      ...     image = jnp.zeros((2, 2, 1))
      ...     info = Info(jnp.float32(loss), image, image, accepted=jnp.bool_(True))
      ...     state, improved = rule.update(state, None, jnp.int32(step), info)
      >>> int(rule.reports(state)["minimum"].estimate_step), bool(state.done)
      (2, True)
    """

    def init(key: Array, problem: Problem, shape: Shape) -> MinimumState:
        return MinimumState(start_minimum(), init_memory(key, problem, shape))

    def update(
        state: MinimumState, problem: Problem, step: Array, info: Info
    ) -> tuple[MinimumState, Array]:
        memory, value = signal(state.memory, problem, info)
        minimum, improved = track_minimum(
            state.minimum,
            value,
            step,
            info,
            first=warm_up(info.image.shape, min_step=min_step),
            lag=lag,
            window=window,
            patience=patience,
            delay=delay,
        )
        return MinimumState(minimum, memory), improved

    def reports(state: MinimumState) -> dict[str, RuleReport]:
        minimum = state.minimum
        return {name: RuleReport(minimum.signal, minimum.estimate_step, minimum.done)}

    return Stopper(init, view, update, reports, needs_start)


def start_minimum() -> Minimum:
    """The minimum before the first step."""
    return Minimum(
        best_step=jnp.int32(0),
        estimate_step=jnp.int32(0),
        lowest=jnp.float32(jnp.inf),
        signal=jnp.float32(jnp.nan),
        done=jnp.bool_(False),
    )


def warm_up(shape: tuple[int, ...], *, min_step: int = 0) -> int:
    """Number of first steps in which no minimum counts: sqrt(H W), and at least `min_step`.

    The network first fits coarse structure, which takes more steps for larger images. The variance
    of the outputs dips during these steps, so `wmv` and `emv` also wait for two windows. An
    estimate of the risk does not dip, and smooth images are best before step 200, so `held_out` and
    `sure` do not wait for windows.

    Args:
      shape: Shape of the image, `(H, W, ...)`.
      min_step: Least number; `wmv` and `emv` wait for two windows.

    Example:
      >>> warm_up((400, 900, 3))
      600
      >>> warm_up((64, 64, 3), min_step=200)
      200
    """
    return max(min_step, round(float(np.sqrt(shape[0] * shape[1]))))


def track_minimum(
    minimum: Minimum,
    signal: Array,
    step: Array,
    info: Info,
    *,
    first: int,
    lag: int,
    window: int,
    patience: float,
    delay: int = 0,
) -> tuple[Minimum, Array]:
    """Updates a minimum with the signal of one step.

    A minimum at step t counts if t is at least `first`. It is confirmed, and final, once no lower
    signal has followed for max(2 window + lag, patience t) steps, because the signal of a fit that
    still improves can be flat for two windows and the lag. Steps that the guard rejected and steps
    without a signal neither lower a minimum nor confirm one.

    Args:
      minimum: The minimum before this step.
      signal: Signal of this step; NaN for none.
      step: Number of this step.
      info: The estimator's information on this step.
      first: First step at which a minimum counts; see `warm_up`.
      lag: Steps by which the running average lags behind the outputs.
      window: Number of steps of a window.
      patience: Fraction of the step of a minimum.
      delay: Steps from the minimum to the estimate that is returned.

    Returns:
      The minimum after this step, and whether to keep the estimate of this step.
    """
    available = info.accepted & ~jnp.isnan(signal)
    counts = available & (step + 1 >= first)
    is_lower = counts & (signal < minimum.lowest)
    # Until a minimum counts, the latest estimate is the best one.
    best = jnp.where(is_lower | jnp.isinf(minimum.lowest), step, minimum.best_step)
    improved = info.accepted & (step - best <= delay) & ~minimum.done
    wait = jnp.maximum(2 * window + lag, patience * best)
    is_confirmed = available & jnp.isfinite(minimum.lowest) & (step - best >= wait)
    new = Minimum(
        best_step=jnp.where(minimum.done, minimum.best_step, best),
        estimate_step=jnp.where(improved, step, minimum.estimate_step),
        lowest=jnp.where(is_lower & ~minimum.done, signal, minimum.lowest),
        signal=signal,
        done=minimum.done | is_confirmed,
    )
    return new, improved
