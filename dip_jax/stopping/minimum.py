"""Rules that stop at the minimum of a signal: when a minimum counts, is confirmed, and is final.

`wmv`, `emv`, `held_out` and `sure` differ only in their signal; `stop_at_minimum` builds a rule from
a signal.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array, Info, Problem, RuleReport, Stopper
from dip_jax.config import StopConfig
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


def stop_at_minimum(
    name: str,
    init_memory: Callable[[Array, Problem, tuple[int, ...]], Any],
    signal: Callable[[Any, Problem, Info], tuple[Any, Array]],
    config: StopConfig,
    *,
    lag: int,
    window: int = 0,
    delay: int = 0,
    view: Callable[[MinimumState, Problem], Problem] = view_all,
) -> Stopper:
    """Builds the rule that stops at the minimum of a signal.

    Args:
      name: Name of the rule in its report.
      init_memory: `init_memory(key, problem, image_shape) -> memory`.
      signal: `signal(memory, problem, info) -> (memory, signal)`; NaN for no signal.
      config: Settings; `window` and `patience` decide when a minimum is confirmed.
      lag: Steps by which the running average lags behind the outputs.
      window: Length of the warm-up in windows of this many steps; see `warm_up`.
      delay: Steps from the minimum to the estimate that is returned.
      view: `view(state, problem) -> problem`, the part of the problem that the estimator may see.
    """

    def init(key: Array, problem: Problem, shape: tuple[int, ...]) -> MinimumState:
        return MinimumState(start_minimum(), init_memory(key, problem, shape))

    def update(
        state: MinimumState, problem: Problem, step: Array, info: Info
    ) -> tuple[MinimumState, Array]:
        memory, value = signal(state.memory, problem, info)
        first = warm_up(info.image.shape, window=window)
        minimum, improved = track_minimum(
            state.minimum, value, step, info, config, first=first, lag=lag, delay=delay
        )
        return MinimumState(minimum, memory), improved

    def reports(state: MinimumState) -> dict[str, RuleReport]:
        minimum = state.minimum
        return {name: RuleReport(minimum.signal, minimum.estimate_step, minimum.done)}

    return Stopper(init, view, update, reports)


def start_minimum() -> Minimum:
    """The minimum before the first step."""
    return Minimum(
        best_step=jnp.int32(0),
        estimate_step=jnp.int32(0),
        lowest=jnp.float32(jnp.inf),
        signal=jnp.float32(jnp.nan),
        done=jnp.bool_(False),
    )


def warm_up(shape: tuple[int, ...], *, window: int = 0) -> int:
    """Number of first steps in which no minimum counts: sqrt(H W), and at least two windows.

    The network first fits coarse structure, which takes more steps for larger images. The variance
    of the outputs dips during these steps, so `wmv` and `emv` also wait for two windows. An
    estimate of the risk does not dip, and smooth images are best before step 200, so `held_out` and
    `sure` do not wait for windows.

    Args:
      shape: Shape of the image, `(H, W, ...)`.
      window: Steps of a window; 0 for a rule that does not wait for windows.

    Example:
      >>> warm_up((400, 900, 3), window=100)
      600
      >>> warm_up((64, 64, 3), window=100)
      200
    """
    return max(2 * window, round(float(np.sqrt(shape[0] * shape[1]))))


def track_minimum(
    minimum: Minimum,
    signal: Array,
    step: Array,
    info: Info,
    config: StopConfig,
    *,
    first: int,
    lag: int,
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
      config: Settings `window` and `patience`.
      first: First step at which a minimum counts; see `warm_up`.
      lag: Steps by which the running average lags behind the outputs.
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
    patience = jnp.maximum(2 * config.window + lag, config.patience * best)
    is_confirmed = available & jnp.isfinite(minimum.lowest) & (step - best >= patience)
    new = Minimum(
        best_step=jnp.where(minimum.done, minimum.best_step, best),
        estimate_step=jnp.where(improved, step, minimum.estimate_step),
        lowest=jnp.where(is_lower & ~minimum.done, signal, minimum.lowest),
        signal=signal,
        done=minimum.done | is_confirmed,
    )
    return new, improved
