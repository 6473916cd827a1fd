"""Disjoint folds of the measured pixels, one for each network of an image.

Network k is fitted without fold k. Each pixel thus has a prediction by a network that has not seen it,
whose error estimates the error with respect to the clean image, up to the variance of the noise.

If neighbors share their noise, a seen neighbor reveals the noise of a hidden pixel. The pixels of a block are then
in a fold together, and only those in the middle of a block estimate the error.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array, Problem
from dip_jax.errors import InputError
from dip_jax.problem import visible_weights


def draw_folds(key: Array, shape: tuple[int, int], number: int, *, block: int = 1) -> np.ndarray:
    """Draws the fold of each pixel.

    Each tile of `number` blocks has every fold once, in random order. The blocks of a fold are thus
    spread evenly, and few of them are neighbors, so they can be predicted.

    Args:
      key: Random key, consumed.
      shape: `(H, W)`.
      number: Number of folds, at least 2.
      block: Height and width of the blocks of pixels that are in a fold together.

    Returns:
      int32 `[H, W]`, from 0 to `number` - 1.

    Raises:
      InputError: If there are fewer than two folds.

    Example:
      >>> folds = draw_folds(jax.random.key(0), (4, 6), 4)
      >>> sorted(folds[2:4, 0:2].ravel().tolist()), np.bincount(folds.ravel()).tolist()
      ([0, 1, 2, 3], [6, 6, 6, 6])
    """
    if number < 2:
        raise InputError(f"Expected at least two folds, got {number}; raise fit.num_seeds.")
    rows = max(n for n in range(1, number + 1) if number % n == 0 and n * n <= number)
    columns = number // rows
    sides = (block * rows, block * columns)
    tiles = tuple(-(-side // size) for side, size in zip(shape, sides, strict=True))
    order = jnp.broadcast_to(jnp.arange(number, dtype=jnp.int32), (*tiles, number))
    order = jax.random.permutation(key, order, axis=-1, independent=True)
    folds = np.asarray(order).reshape(*tiles, rows, columns).swapaxes(1, 2)
    blocks = folds.reshape(tiles[0] * rows, tiles[1] * columns)
    return np.kron(blocks, np.ones((block, block), np.int32))[: shape[0], : shape[1]]


def block_centers(shape: tuple[int, int], block: int) -> np.ndarray:
    """Returns whether a pixel is in the middle of its block, boolean `[H, W]`.

    Args:
      shape: `(H, W)`.
      block: Height and width of the blocks, an odd number.

    Example:
      >>> np.argwhere(block_centers((5, 6), 3)).tolist()
      [[1, 1], [1, 4], [4, 1], [4, 4]]
    """
    rows, columns = np.indices(shape) % block
    return (rows == block // 2) & (columns == block // 2)


def hide_fold(problem: Problem, is_hidden: np.ndarray) -> Problem:
    """Returns the problem with weight 0 at hidden pixels, in all channels.

    Args:
      problem: The problem; its measurement has rows, columns and channels.
      is_hidden: Boolean `[H, W]`.
    """
    weights = np.asarray(visible_weights(problem), np.float32)
    return problem._replace(weights=jnp.asarray(np.where(is_hidden[..., None], 0, weights)))
