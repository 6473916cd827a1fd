"""Padding of an image, and its transpose, folding.

`pad` and `fold` are for CPU. They write the array once and then change its borders in place;
`jnp.pad` would write it once per axis, and the automatic transpose once per side. `pad_fused` is
for GPUs: their compiler fuses `jnp.pad` into the operation that produces the image, but each change
in place would need one or two kernels.
"""

import typing
from typing import Literal

import jax.numpy as jnp
from jax import lax

from dip_jax.base import Array

Padding = Literal["reflect", "zero"]
Sides = tuple[int, int]
"""A number of rows and a number of columns."""


def pad(x: Array, size: Sides, mode: Padding, extra: Sides = (0, 0)) -> Array:
    """Pads an image on all four sides.

    Args:
      x: Image `[H, W, C]`.
      size: Rows above and below, and columns left and right.
      mode: `reflect` (the border pixel is not repeated) or `zero`.
      extra: Further rows below and columns to the right, filled with zeros.

    Returns:
      `[H + 2 size[0] + extra[0], W + 2 size[1] + extra[1], C]`.

    Raises:
      ValueError: If a side is too short to be reflected (numpy would silently reflect twice).

    Example:
      >>> import jax.numpy as jnp
      >>> print(pad(jnp.arange(1.0, 5.0)[None, :, None], (0, 2), "reflect")[0, :, 0])
      [3. 2. 1. 2. 3. 4. 3. 2.]
    """
    _check(x, size, mode)
    widths = [(p, p + e, 0) for p, e in zip(size, extra, strict=True)]
    y = lax.pad(x, jnp.zeros((), x.dtype), [*widths, (0, 0, 0)])
    if mode == "reflect":
        # Columns second, so that the corners are filled from reflected rows.
        for axis, p in enumerate(size):
            for outside, inside in _mirrored_indices(x.shape[axis], p):
                y = _put(y, _take(y, inside, axis), outside, axis)
    return y


def pad_fused(x: Array, size: Sides, mode: Padding) -> Array:
    """Pads like `pad`, by concatenated slices, which compilers for GPUs fuse.

    Args:
      x: Image `[H, W, C]`.
      size: As for `pad`.
      mode: As for `pad`.

    Returns:
      `[H + 2 size[0], W + 2 size[1], C]`.

    Raises:
      ValueError: If a side is too short to be reflected.
    """
    _check(x, size, mode)
    numpy_mode = "reflect" if mode == "reflect" else "constant"
    return jnp.pad(x, [*((p, p) for p in size), (0, 0)], mode=numpy_mode)


def fold(dy: Array, size: Sides, mode: Padding, extra: Sides = (0, 0)) -> Array:
    """Transposes `pad`: adds the values of the padding to the pixels that they repeat.

    Args:
      dy: `[H + 2 size[0] + extra[0], W + 2 size[1] + extra[1], C]`.
      size: As for `pad`.
      mode: As for `pad`.
      extra: As for `pad`.

    Returns:
      `[H, W, C]`.

    Example:
      >>> import jax.numpy as jnp
      >>> print(fold(jnp.ones((1, 8, 1)), (0, 2), "reflect")[0, :, 0])
      [1. 3. 3. 1.]
    """
    height, width = (
        dy.shape[axis] - 2 * p - e for axis, (p, e) in enumerate(zip(size, extra, strict=True))
    )
    if mode == "reflect":
        for axis, n in ((1, width), (0, height)):
            for outside, inside in _mirrored_indices(n, size[axis]):
                total = _take(dy, inside, axis) + _take(dy, outside, axis)
                dy = _put(dy, total, inside, axis)
    return dy[size[0] : size[0] + height, size[1] : size[1] + width]


def _check(x: Array, size: Sides, mode: Padding) -> None:
    choices = typing.get_args(Padding)
    if mode not in choices:
        raise ValueError(f"padding must be one of {', '.join(choices)}, got {mode!r}.")
    if mode == "reflect" and (x.shape[0] <= size[0] or x.shape[1] <= size[1]):
        raise ValueError(
            f"Reflection by {size} needs an image larger than that, got {x.shape[:2]}; use a "
            "larger image, fewer scales or smaller kernels."
        )


def _take(x: Array, index: int, axis: int) -> Array:
    return lax.slice_in_dim(x, index, index + 1, axis=axis)


def _put(x: Array, line: Array, index: int, axis: int) -> Array:
    return lax.dynamic_update_slice_in_dim(x, line, index, axis)


def _mirrored_indices(n: int, p: int) -> list[tuple[int, int]]:
    """Pairs of an index in the padding and the index of its source, for n pixels padded by p."""
    pairs = []
    for k in range(1, p + 1):
        pairs += [(p - k, p + k), (p + n - 1 + k, p + n - 1 - k)]
    return pairs
