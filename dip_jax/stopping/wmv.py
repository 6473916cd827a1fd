"""Stopping rules that watch how much the outputs vary: nothing need be known of the noise.

The variance falls while the fit converges on the picture and rises when it begins to fit the noise.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array, Info, Problem, RuleReport, Stopper
from dip_jax.config import StopConfig
from dip_jax.stopping.fixed import see_all
from dip_jax.stopping.minimum import Minimum, report, start_minimum, track_minimum, warm_up


class WmvState(NamedTuple):
    """What `wmv` needs of the past."""

    minimum: Minimum
    window: Array
    """`[window, n]`, the latest outputs at n random places, a ring."""
    num_held: Array
    """Outputs in it since the last rollback."""

    @property
    def done(self) -> Array:
        """Whether it has fired."""
        return self.minimum.done


def wmv(config: StopConfig, *, lag: int) -> Stopper:
    """The minimum of the windowed moving variance of the outputs.

    VAR_t = mean over places p and the last W outputs of (x_i[p] - mean_i x_i[p])^2.

    Ours beyond the paper: a fixed random subset of pixels (`stop.num_pixels`), the guard of `minimum.track_minimum`,
    and that a rollback empties the window. The answer is the running average `lag` steps
    after the minimum: that one is centered on it.

    The window holds 4 W n bytes, n = pixels x channels: for each picture 4.9 MB for 100 outputs of 4096 pixels of
    three channels, or 79 MB for all pixels of 256 x 256. Each step goes over all of it: 0.9 ms and 21 ms on
    two busy CPU cores, where the step of the fit itself takes 500 ms. Running sums would save most of that, and
    lose digits that must be won back by such a pass now and then; side by side on a GPU (`vmap`) every step
    would pay for that pass. So the subset is what keeps it cheap.

    Args:
      config: `window`, `num_pixels`, `patience`.
      lag: Steps by which the running average is behind the outputs.

    References:
      Wang, Li, Zhuang, Chen, Liang and Sun, Early Stopping for Deep Image Prior, 2021, section 3.
    """

    def places(shape: tuple[int, ...]) -> np.ndarray:
        num = min(config.num_pixels, shape[0] * shape[1])
        return np.random.default_rng(0).permutation(shape[0] * shape[1])[:num]

    def init(key: Array, problem: Problem, shape: tuple[int, ...]) -> WmvState:
        del key, problem
        num = len(places(shape)) * shape[2]
        return WmvState(start_minimum(), jnp.zeros((config.window, num)), jnp.int32(0))

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
        # A padded margin is 0 and only scales it.
        signal = jnp.where(full, window.var(axis=0).mean(), jnp.nan)
        first = warm_up(info.image.shape, window=config.window)
        minimum, improved = track_minimum(
            state.minimum, signal, step, info, config, first=first, lag=lag, delay=lag
        )
        return WmvState(minimum, window, num_held), improved

    def reports(state: WmvState) -> dict[str, RuleReport]:
        return {"wmv": report(state.minimum)}

    return Stopper(init, see_all, update, reports)
