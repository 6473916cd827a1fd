"""Running moments of the samples of a chain, a few kept samples, and traces of single quantities.

Their memory does not grow with the number of samples. The mean m and the sum s of squared distances
from it follow Welford's recursion; for sample number c: d = x - m, m <- m + d / c, s <- s + d (x -
m).

References:
  Welford, Note on a method for calculating corrected sums of squares and products, 1962.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array, Info

_NUM_PIXELS = 64  # pixels whose values are traced, a fixed random subset
SUMMARIES = ("misfit", "mean", "contrast")
"""Traced quantities besides pixels: the loss, and the mean and standard deviation of the output."""


class Moments(NamedTuple):
    """Running moments of the samples of a chain."""

    num_samples: Array
    """Number of samples."""
    mean: Array
    """Mean `[H, W, C]`."""
    deviation: Array
    """Sum of squared distances from the mean `[H, W, C]`."""
    kept: Array
    """Kept samples `[K, H, W, C]`, evenly spread over the run."""


def start_moments(image: Array, keep_samples: int) -> Moments:
    """Returns the moments before the first sample.

    Args:
      image: Any image of the shape and type of the samples.
      keep_samples: K, the number of samples to keep.
    """
    zero = jnp.zeros_like(image)
    kept = jnp.zeros((keep_samples, *zero.shape), zero.dtype)
    # A copy, because the state is donated, and each buffer can be donated only once.
    return Moments(jnp.int32(0), zero, jnp.copy(zero), kept)


def add_sample(moments: Moments, image: Array, total: int) -> Moments:
    """Returns the moments with one more sample.

    Args:
      moments: The moments before it.
      image: The sample `[H, W, C]`.
      total: Samples of the whole chain, over which the kept ones are spread.

    Example:
      >>> import jax.numpy as jnp
      >>> moments = start_moments(jnp.zeros((1, 1, 1)), keep_samples=2)
      >>> for value in (1.0, 2.0, 6.0, 7.0):
      ...     moments = add_sample(moments, jnp.full((1, 1, 1), value), total=4)
      >>> float(moments.mean[0, 0, 0]), float(moments.deviation[0, 0, 0])
      (4.0, 26.0)
      >>> moments.kept.ravel().tolist()
      [1.0, 6.0]
    """
    count = moments.num_samples + 1
    distance = image - moments.mean
    mean = moments.mean + distance / count
    deviation = moments.deviation + distance * (image - mean)
    kept, capacity = moments.kept, min(len(moments.kept), total)
    if capacity:  # sample j goes to index floor(j capacity / total), unless an earlier one is there
        index, rest = jnp.divmod(moments.num_samples * capacity, total)
        index = jnp.where(rest < capacity, index, len(kept))
        kept = kept.at[index].set(image, mode="drop")
    return Moments(count, mean, deviation, kept)


def num_kept(count: int, total: int, capacity: int) -> int:
    """Returns how many of the first `count` samples are kept.

    Args:
      count: Number of samples so far.
      total: Samples of the whole chain.
      capacity: Number of samples to keep.

    Example:
      >>> [num_kept(count, total=4, capacity=2) for count in range(5)]
      [0, 1, 1, 2, 2]
    """
    total = max(total, 1)
    capacity = min(capacity, total)
    return min(count, 1, capacity) + max(count - 1, 0) * capacity // total


def _traced_pixels(height: Array | int, width: Array | int, channels: int) -> Any:
    """Rows, columns and channels of the traced pixels."""
    fraction = np.random.default_rng(0).random((3, _NUM_PIXELS), np.float32)
    return [
        (fraction[axis] * size).astype("int32")
        for axis, size in enumerate((height, width, channels))
    ]


def trace_values(info: Info, *, region: Array | None = None) -> Array:
    """Returns the traced quantities `[Q]` of a step: pixels of its output, then `SUMMARIES`.

    Args:
      info: The estimator's information on the step.
      region: `[H, W, 1]`, 1 on the image and 0 on the margin of the canvas; the image is a
        rectangle in the top left corner. None if there is no margin.
    """
    x = info.image
    inside = jnp.ones((*x.shape[:2], 1)) if region is None else region
    height, width = inside[:, 0, 0].sum(), inside[0, :, 0].sum()
    rows, columns, channels = _traced_pixels(height, width, x.shape[2])
    size = inside.sum() * x.shape[2]
    mean = jnp.sum(x * inside) / size
    contrast = jnp.sqrt(jnp.sum(jnp.square(x - mean) * inside) / size)
    return jnp.concatenate([x[rows, columns, channels], jnp.stack([info.loss, mean, contrast])])


def trace_names(shape: tuple[int, int, int]) -> tuple[str, ...]:
    """Returns the names of the quantities that `trace_values` traces.

    Args:
      shape: `(H, W, C)` of the image.

    Example:
      >>> names = trace_names((32, 32, 3))
      >>> len(names), names[0], names[-3:]
      (67, 'x[27,28,2]', ('misfit', 'mean', 'contrast'))
    """
    pixels = np.stack(_traced_pixels(*shape), axis=-1)
    return (*(f"x[{row},{column},{channel}]" for row, column, channel in pixels), *SUMMARIES)
