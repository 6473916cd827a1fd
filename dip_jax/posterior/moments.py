"""What is kept of the samples of a chain: sums, a few samples themselves, and traces.

Their memory does not grow with the number of samples. The mean m and the sum s of squared distances to it
follow Welford's recursion, for sample number c: d = x - m, m <- m + d / c, s <- s + d (x - m).

References:
  Welford, Note on a method for calculating corrected sums of squares and products, 1962.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array, Info
from dip_jax.config import SgldConfig

_PLACES = 64  # pixels whose traces are kept, a fixed random subset
SUMMARIES = ("misfit", "mean", "contrast")
"""What is traced beside pixels: the loss, the output's mean and its standard deviation."""


class Moments(NamedTuple):
    """Sums over the samples, by Welford's recursion: their memory does not grow with the samples."""

    num_samples: Array
    mean: Array
    """`[H, W, C]`."""
    deviation: Array
    """Sum of the squared distances to the mean `[H, W, C]`."""
    kept: Array
    """Samples themselves `[K, H, W, C]`, evenly spread over the run."""


def start_moments(image: Array, keep_samples: int) -> Moments:
    """Those of no sample, of images like `image`."""
    zero = jnp.zeros_like(image)
    kept = jnp.zeros((keep_samples, *zero.shape), zero.dtype)
    # A copy: the state is donated, and a buffer can be given away only once.
    return Moments(jnp.int32(0), zero, jnp.copy(zero), kept)


def add_sample(moments: Moments, image: Array, total: int) -> Moments:
    """The moments with one sample more, of `total` in all."""
    count = moments.num_samples + 1
    distance = image - moments.mean
    mean = moments.mean + distance / count
    deviation = moments.deviation + distance * (image - mean)
    kept, room = moments.kept, min(len(moments.kept), total)
    if room:  # sample j goes to place floor(j room / total), unless one before it has it
        place, rest = jnp.divmod(moments.num_samples * room, total)
        place = jnp.where(rest < room, place, len(kept))
        kept = kept.at[place].set(image, mode="drop")
    return Moments(count, mean, deviation, kept)


def num_kept(config: SgldConfig, count: int, num_steps: int) -> int:
    """How many of the first `count` samples of a chain are kept."""
    total = max(config.num_samples(num_steps), 1)
    room = min(config.keep_samples, total)
    return min(count, 1, room) + max(count - 1, 0) * room // total


def _places(height: Array | int, width: Array | int, channels: int) -> Any:
    """Rows, columns and channels of the traced pixels."""
    fraction = np.random.default_rng(0).random((3, _PLACES), np.float32)
    return [
        (fraction[axis] * size).astype("int32")
        for axis, size in enumerate((height, width, channels))
    ]


def trace_values(info: Info, *, region: Array | None = None) -> Array:
    """What is traced of a step, `[Q]`: pixels of its output, then `SUMMARIES`.

    Args:
      info: The step's.
      region: `[H, W, 1]`, 1 where the picture is, a rectangle in the top left corner.
    """
    x = info.image
    inside = jnp.ones((*x.shape[:2], 1)) if region is None else region
    height, width = inside[:, 0, 0].sum(), inside[0, :, 0].sum()
    rows, columns, channels = _places(height, width, x.shape[2])
    size = inside.sum() * x.shape[2]
    mean = jnp.sum(x * inside) / size
    contrast = jnp.sqrt(jnp.sum(jnp.square(x - mean) * inside) / size)
    return jnp.concatenate([x[rows, columns, channels], jnp.stack([info.loss, mean, contrast])])


def trace_names(shape: tuple[int, int, int]) -> tuple[str, ...]:
    """What `trace_values` traces of a picture of this shape."""
    places = np.stack(_places(*shape), axis=-1)
    return (*(f"x[{row},{column},{channel}]" for row, column, channel in places), *SUMMARIES)
