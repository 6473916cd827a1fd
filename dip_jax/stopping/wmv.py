"""Stop at the minimum of the windowed moving variance of the outputs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Algorithm, Array, Info, Problem, Stopper
from dip_jax.stopping.minimum import stop_at_minimum


class WmvMemory(NamedTuple):
    """The latest outputs."""

    window: Array
    """`[window, n]`, a ring buffer of the latest outputs at n random values."""
    num_outputs: Array
    """Outputs since the last rollback."""


def wmv(
    algorithm: Algorithm, *, window: int = 100, num_pixels: int = 4096, patience: float = 0.5
) -> Stopper:
    """The rule that stops at the minimum of the windowed moving variance of the outputs.

    Signal: VAR_t = mean over pixels p of the variance of x_i[p] over the last W outputs x_i. It
    falls while the fit converges on the image, and rises when the fit starts on the noise.

    Needs: nothing; the noise level may be unknown. It fires too late on images that are best before
    two windows have passed, and late or never if neighboring pixels share their noise.

    Cost: 4 W n bytes for n values in the window, and one pass over them per step
    (measured in docs/development/results.md#cost-and-choice-of-the-settings).

    Additions to the paper: the window holds a fixed random subset of the pixels (`num_pixels`), a
    rollback of the guard empties it, and a minimum must be confirmed (`minimum.track_minimum`). The
    rule returns the running average `algorithm.lag` steps after the minimum, which is centered on it.

    Args:
      algorithm: The fit.
      window: Number W of outputs in the window.
      num_pixels: Number of pixels on which the variance is measured, a fixed random subset.
      patience: See `minimum.stop_at_minimum`.

    References:
      Wang, Li, Zhuang, Chen, Liang and Sun, Early Stopping for Deep Image Prior, 2021, section 3.
    """

    def pixels(shape: tuple[int, ...]) -> np.ndarray:
        num = min(num_pixels, shape[0] * shape[1])
        return np.random.default_rng(0).permutation(shape[0] * shape[1])[:num]

    def init_memory(key: Array, problem: Problem, shape: tuple[int, ...]) -> WmvMemory:
        del key, problem
        num_values = len(pixels(shape)) * shape[2]
        return WmvMemory(jnp.zeros((window, num_values)), jnp.int32(0))

    def signal(memory: WmvMemory, problem: Problem, info: Info) -> tuple[WmvMemory, Array]:
        del problem
        shape = info.image.shape
        output = info.image.reshape(-1, shape[2])[pixels(shape)].reshape(-1)
        index = memory.num_outputs % window
        outputs = jax.lax.dynamic_update_index_in_dim(memory.window, output, index, 0)
        num_outputs = jnp.where(info.accepted, memory.num_outputs + 1, 0)
        is_full = num_outputs >= window
        # The padded margin of a canvas is 0, so it only scales the variance.
        variance = jnp.where(is_full, outputs.var(axis=0).mean(), jnp.nan)
        return WmvMemory(outputs, num_outputs), variance

    return stop_at_minimum(
        signal,
        name="wmv",
        init_memory=init_memory,
        lag=algorithm.lag,
        window=window,
        patience=patience,
        min_step=2 * window,
        delay=algorithm.lag,
    )
