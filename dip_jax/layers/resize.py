"""Resizing between the scales of a network: doubling, pooling, and reduction by Lanczos.

Arrays are `[H, W, C]`. All operations are slices and sums; `jax.image.resize` would be a dense
matrix product.
"""

import functools
import typing
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dip_jax.base import Array

Axes = tuple[int, ...]
UpsampleMode = Literal["nearest", "bilinear"]
PoolMode = Literal["avg", "max"]


def interleave(even: Array, odd: Array, axis: int) -> Array:
    """Interleaves two arrays of one shape along an axis: even[0], odd[0], even[1], odd[1], ..."""
    y = jnp.stack([even, odd], axis=axis + 1)
    return y.reshape(*even.shape[:axis], -1, *even.shape[axis + 1 :])


def upsample(x: Array, mode: str, axes: Axes = (0, 1)) -> Array:
    """Doubles height and width.

    Args:
      x: Image `[H, W, C]`.
      mode: `nearest` (each pixel four times) or `bilinear` (half-pixel centers and a repeated
        border, like `jax.image.resize`).
      axes: The axes to double; `(1,)` for signals of one row.

    Returns:
      `[2 H, 2 W, C]`.

    Raises:
      ValueError: For another mode.

    Example:
      >>> import jax.numpy as jnp
      >>> print(upsample(jnp.array([[[0.0], [4.0]]]), "bilinear", axes=(1,))[0, :, 0])
      [0. 1. 3. 4.]
    """
    choices = typing.get_args(UpsampleMode)
    if mode not in choices:
        raise ValueError(f"upsample mode must be one of {', '.join(choices)}, got {mode!r}.")
    for axis in axes:
        x = interleave(x, x, axis) if mode == "nearest" else _lerp(x, axis)
    return lax.optimization_barrier(x)  # otherwise XLA recomputes it for each use


def _neighbors(even: Array, odd: Array, axis: int) -> tuple[Array, Array]:
    """The neighbors before `even` (from `odd`) and after `odd` (from `even`), border repeated."""
    n = even.shape[axis]
    cut = functools.partial(lax.slice_in_dim, axis=axis)
    before = jnp.concatenate([cut(even, 0, 1), cut(odd, 0, n - 1)], axis)
    after = jnp.concatenate([cut(even, 1, n), cut(odd, n - 1, n)], axis)
    return before, after


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _lerp(x: Array, axis: int) -> Array:
    before, after = _neighbors(x, x, axis)
    return interleave(0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after, axis)


def _lerp_backward(axis: int, _: None, dy: Array) -> tuple[Array]:
    pairs = dy.reshape(*dy.shape[:axis], -1, 2, *dy.shape[axis + 1 :])
    even, odd = jnp.take(pairs, 0, axis + 1), jnp.take(pairs, 1, axis + 1)
    before, after = _neighbors(even, odd, axis)
    return (0.75 * (even + odd) + 0.25 * (before + after),)


_lerp.defvjp(lambda x, axis: (_lerp(x, axis), None), _lerp_backward)


def pool(x: Array, mode: str, axes: Axes = (0, 1)) -> Array:
    """Halves height and width: each 2x2 block becomes one pixel.

    Args:
      x: Image `[H, W, C]`; an odd last row or column is dropped, as in PyTorch.
      mode: `avg` or `max` (the first of equal pixels gets the gradient, as in PyTorch).
      axes: The axes to halve; `(1,)` for signals of one row.

    Returns:
      `[H // 2, W // 2, C]`.

    Raises:
      ValueError: For another mode.

    Example:
      >>> import jax.numpy as jnp
      >>> print(pool(jnp.arange(8.0).reshape(2, 4, 1), "avg")[..., 0])
      [[2.5 4.5]]
    """
    choices = typing.get_args(PoolMode)
    if mode not in choices:
        raise ValueError(f"pool mode must be one of {', '.join(choices)}, got {mode!r}.")
    rows, columns = (2 if axis in axes else 1 for axis in (0, 1))
    height, width = x.shape[0] // rows, x.shape[1] // columns
    blocks = x[: rows * height, : columns * width].reshape(height, rows, width, columns, -1)
    return blocks.mean(axis=(1, 3)) if mode == "avg" else _block_max(blocks, (rows, columns))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _block_max(blocks: Array, sides: tuple[int, int]) -> Array:
    """`[H, a, W, b, C] -> [H, W, C]`, the maximum of each block of `sides` a x b."""
    return _block_max_forward(blocks, sides)[0]


def _block_max_forward(blocks: Array, sides: tuple[int, int]) -> tuple[Array, Array]:
    best, *others = (blocks[:, a, :, b] for a in range(sides[0]) for b in range(sides[1]))
    winner = jnp.zeros(best.shape, jnp.int8)
    for k, other in enumerate(others, start=1):
        winner = jnp.where(other > best, jnp.int8(k), winner)
        best = jnp.maximum(best, other)
    # The automatic gradient would search for the maximum again. If XLA recomputed the pixels with
    # other last bits, no pixel would equal the maximum, and the gradient would be 0 / 0.
    return best, winner


def _block_max_backward(sides: tuple[int, int], winner: Array, dy: Array) -> tuple[Array]:
    parts = [jnp.where(winner == k, dy, 0) for k in range(sides[0] * sides[1])]
    rows = [jnp.stack(parts[k : k + sides[1]], axis=2) for k in range(0, len(parts), sides[1])]
    return (jnp.stack(rows, axis=1),)


_block_max.defvjp(_block_max_forward, _block_max_backward)


def lanczos_kernel(factor: int, lobes: int) -> np.ndarray:
    """The Lanczos kernel sampled between pixels (phase 1/2), for shrinking by `factor`.

    k[i] = sinc(d) sinc(d / lobes), d = |i - (n - 1) / 2| / factor, n = 2 lobes factor; sum 1.

    Args:
      factor: The ratio of the old to the new side.
      lobes: 2 or 3 (the `a` of Lanczos-a).

    Returns:
      `[2 * lobes * factor]` float64.

    References:
      Ulyanov et al., Deep Image Prior, 2018 (the down-sampler of its super-resolution).

    Example:
      >>> print(lanczos_kernel(2, 2).round(3))
      [-0.009 -0.042  0.117  0.434  0.434  0.117 -0.042 -0.009]
    """
    num_taps = 2 * lobes * factor
    distance = np.abs(np.arange(num_taps) - (num_taps - 1) / 2) / factor
    taps = np.sinc(distance) * np.sinc(distance / lobes)
    return taps / taps.sum()


def downsample_lanczos(x: Array, factor: int, lobes: int, axes: Axes = (0, 1)) -> Array:
    """Shrinks an image by a Lanczos kernel, with a repeated border.

    Args:
      x: Image `[H, W, C]`; rows and columns beyond a multiple of `factor` are dropped.
      factor: The ratio of the old to the new sides.
      lobes: 2 or 3; see `lanczos_kernel`.
      axes: The axes to shrink; `(1,)` for signals of one row.

    Returns:
      `[H // factor, W // factor, C]`.
    """
    taps = lanczos_kernel(factor, lobes)
    margin = (len(taps) - factor) // 2
    for axis in axes:
        size = x.shape[axis] // factor
        x = lax.slice_in_dim(x, 0, size * factor, axis=axis)
        widths = [(0, 0)] * x.ndim
        widths[axis] = (margin, margin)
        padded = jnp.pad(x, widths, mode="edge")
        x = jnp.zeros_like(lax.slice_in_dim(padded, 0, size, axis=axis))
        for i, tap in enumerate(taps):
            last = i + factor * (size - 1) + 1
            x += float(tap) * lax.slice_in_dim(padded, i, last, stride=factor, axis=axis)
    return x
