"""When to stop, judged without the reference: rules as init/update pairs inside the compiled chunk.

A rule sees each step's `Info` and says two things: whether this step's answer is the best so far
(the caller then keeps it) and whether the fit is done.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Algorithm, Array, Info, Problem, Stopper, Verdict
from dip_jax.config import StopConfig


class FixedState(NamedTuple):
    """`fixed` remembers only which step it saw last."""

    answer_step: Array
    done: Array


class WmvState(NamedTuple):
    """What `wmv` needs of the past."""

    best_step: Array
    """The step with the least variance so far; the last step until there is one."""
    answer_step: Array
    done: Array
    window: Array
    """`[window, n]`, the latest outputs at n random places, a ring."""
    num_held: Array
    """Outputs in it since the last rollback."""
    least: Array
    """The least variance so far."""
    variance: Array
    """The latest one, for plots; infinite until the window is full."""


def build_stopper(
    config: StopConfig, *, lag: int = 0, algorithm: Algorithm | None = None
) -> Stopper:
    """The rule that a config names.

    Args:
      config: The rule and its settings.
      algorithm: The estimator, for rules that watch a second one.
      lag: Steps by which the answer (a running average) is behind the outputs.
    """
    del algorithm
    return _fixed() if config.rule == "fixed" else _wmv(config, lag)


def _fixed() -> Stopper:
    """All steps are run and the last answer counts."""

    def init(key: Array, problem: Problem, shape: tuple[int, ...]) -> FixedState:
        del key, problem, shape
        return FixedState(jnp.int32(0), jnp.bool_(False))

    def update(
        state: FixedState, problem: Problem, step: Array, info: Info
    ) -> tuple[FixedState, Array]:
        del problem
        answer_step = jnp.where(info.accepted, step, state.answer_step)
        return FixedState(answer_step, state.done), info.accepted

    def verdicts(state: FixedState) -> dict[str, Verdict]:
        return {"fixed": Verdict(jnp.float32(jnp.nan), state.answer_step, state.done)}

    return Stopper(init, _see_all, update, verdicts)


def _see_all(state: object, problem: Problem) -> Problem:
    """Most rules keep nothing from the estimator."""
    del state
    return problem


def warm_up(shape: tuple[int, ...], window: int) -> int:
    """Steps before which no minimum is believed.

    Real runs dip in their first hundreds of steps, and for longer the larger the picture: the network
    has coarse structure to settle first. sqrt(H W) steps, but at least two windows.
    """
    return max(2 * window, round(float(np.sqrt(shape[0] * shape[1]))))


def _wmv(config: StopConfig, lag: int) -> Stopper:
    """The minimum of the windowed moving variance of the outputs, guarded.

    VAR_t = mean over places p and the last W outputs of (x_i[p] - mean_i x_i[p])^2.

    It falls while the fit converges on the picture and rises when it begins to fit the noise. Our
    guards: it is measured on a fixed random subset of pixels, so that memory stays small; no minimum
    counts before a warm-up that grows with the picture; a minimum is confirmed when none lower came for a
    share of its own step, and at least two windows (drawings show plateaus of that length half way), and
    is then frozen; a rollback empties the window. And the answer is the running average `lag` steps
    after the minimum: that one is centred on it.

    References:
      Wang, Li, Zhuang, Chen, Liang and Sun, Early Stopping for Deep Image Prior, 2021, section 3.
    """

    def places(shape: tuple[int, ...]) -> np.ndarray:
        num = min(config.num_pixels, shape[0] * shape[1])
        return np.random.default_rng(0).permutation(shape[0] * shape[1])[:num]

    def init(key: Array, problem: Problem, shape: tuple[int, ...]) -> WmvState:
        del key, problem
        num = len(places(shape)) * shape[2]
        return WmvState(
            best_step=jnp.int32(0),
            answer_step=jnp.int32(0),
            done=jnp.bool_(False),
            window=jnp.zeros((config.window, num)),
            num_held=jnp.int32(0),
            least=jnp.float32(jnp.inf),
            variance=jnp.float32(jnp.inf),
        )

    def update(
        state: WmvState, problem: Problem, step: Array, info: Info
    ) -> tuple[WmvState, Array]:
        del problem
        shape = info.image.shape
        sample = info.image.reshape(-1, shape[2])[places(shape)].reshape(-1)
        slot = state.num_held % config.window
        window = jax.lax.dynamic_update_index_in_dim(state.window, sample, slot, 0)
        num_held = jnp.where(info.accepted, state.num_held + 1, 0)
        full = num_held >= config.window
        variance = jnp.where(full, window.var(axis=0).mean(), jnp.inf)
        trusted = full & (step + 1 >= warm_up(shape, config.window))
        lower = trusted & (variance < state.least)
        # Until a variance can be trusted the latest answer is the best.
        best = jnp.where(lower | jnp.isinf(state.least), step, state.best_step)
        improved = info.accepted & (step - best <= lag)
        patience = jnp.maximum(2 * config.window + lag, config.patience * best)
        confirmed = full & jnp.isfinite(state.least) & (step - best >= patience)
        new = WmvState(
            best_step=best,
            answer_step=jnp.where(improved, step, state.answer_step),
            done=state.done | confirmed,
            window=window,
            num_held=num_held,
            least=jnp.where(lower, variance, state.least),
            variance=variance,
        )
        return new, improved

    def verdicts(state: WmvState) -> dict[str, Verdict]:
        signal = jnp.where(jnp.isinf(state.variance), jnp.nan, state.variance)
        return {"wmv": Verdict(signal, state.answer_step, state.done)}

    return Stopper(init, _see_all, update, verdicts)
