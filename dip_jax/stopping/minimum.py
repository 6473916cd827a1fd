"""The minimum of a signal that is watched step by step: when it is believed, confirmed, and final.

Several stopping rules are no more than their signal; this is what they share.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array, Info, RuleReport
from dip_jax.config import StopConfig


class Minimum(NamedTuple):
    """The least signal so far."""

    best_step: Array
    """Its step; the last step until there is one."""
    estimate_step: Array
    """The step whose answer was kept."""
    least: Array
    """The signal there; infinite until there is one."""
    signal: Array
    """The latest, NaN while there is none."""
    done: Array


def start_minimum() -> Minimum:
    """Before the first step."""
    return Minimum(
        best_step=jnp.int32(0),
        estimate_step=jnp.int32(0),
        least=jnp.float32(jnp.inf),
        signal=jnp.float32(jnp.nan),
        done=jnp.bool_(False),
    )


def warm_up(shape: tuple[int, ...], *, window: int = 0) -> int:
    """Steps before which no minimum is believed: sqrt(H W), but at least two windows.

    The network has coarse structure to settle first, and for longer the larger the picture. The variance of
    the outputs of real runs dips then, so what watches it waits for two windows. An estimate of the risk
    does not dip so, and smooth pictures are at their best before 200 steps.
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
    """Takes a step's signal into account.

    A minimum counts only after the warm-up (`first`). It is confirmed when none lower came for a share
    `stop.patience` of its own step, and at least two windows and the lag of the average (drawings show
    plateaus of that length half way); then nothing changes any more. Nothing is confirmed while
    there is no signal.

    Args:
      minimum: What was seen until now.
      signal: That of this step, NaN for none.
      step: Which step it is.
      info: What the estimator says of it.
      config: The settings.
      first: Steps before which no minimum counts; see `warm_up`.
      lag: Steps by which the running average is behind the outputs.
      delay: The answer is the one so many steps after the minimum.

    Returns:
      What was seen, and whether to keep this step's answer.
    """
    available = info.accepted & ~jnp.isnan(signal)
    trusted = available & (step + 1 >= first)
    lower = trusted & (signal < minimum.least)
    # Until a signal can be trusted the latest answer is the best.
    best = jnp.where(lower | jnp.isinf(minimum.least), step, minimum.best_step)
    improved = info.accepted & (step - best <= delay) & ~minimum.done
    patience = jnp.maximum(2 * config.window + lag, config.patience * best)
    confirmed = available & jnp.isfinite(minimum.least) & (step - best >= patience)
    new = Minimum(
        best_step=jnp.where(minimum.done, minimum.best_step, best),
        estimate_step=jnp.where(improved, step, minimum.estimate_step),
        least=jnp.where(lower & ~minimum.done, signal, minimum.least),
        signal=signal,
        done=minimum.done | confirmed,
    )
    return new, improved


def report(minimum: Minimum) -> RuleReport:
    """What a rule that waits for this minimum says."""
    return RuleReport(minimum.signal, minimum.estimate_step, minimum.done)
