"""What a convolution sees beyond the border: padding, and its transpose, folding.

On CPU `pad` and `fold` write the array once and then change thin borders in place. `jnp.pad` would write it once
for each axis, and the automatic transpose once for each side. A GPU's compiler makes one kernel of all
that, together with what makes the array, and of each change in place one or two of its own; so there is `pad_fused`.
"""

from typing import Literal

import jax.numpy as jnp
from jax import lax

from dip_jax.base import Array

Padding = Literal["reflect", "zero"]
Sides = tuple[int, int]


def pad(x: Array, size: Sides, mode: Padding, more: Sides = (0, 0)) -> Array:
    """Pads an image on all four sides.

    Args:
      x: Image `[H, W, C]`.
      size: Rows above and below, columns left and right.
      mode: `reflect` (the border pixel is not repeated) or `zero`.
      more: Rows below and columns to the right of that, of zeros.

    Returns:
      `[H + 2 size[0] + more[0], W + 2 size[1] + more[1], C]`.

    Raises:
      ValueError: If a side is too short to be reflected (numpy would silently reflect twice).
    """
    _check(x, size, mode)
    widths = [(p, p + extra, 0) for p, extra in zip(size, more, strict=True)]
    y = lax.pad(x, jnp.zeros((), x.dtype), [*widths, (0, 0, 0)])
    if mode == "reflect":
        # The columns second: so they fill the corners from rows that are reflected already.
        for axis, p in enumerate(size):
            for here, there in _mirror(x.shape[axis], p):
                y = _put(y, _take(y, there, axis), here, axis)
    return y


def pad_fused(x: Array, size: Sides, mode: Padding) -> Array:
    """`pad` as slices laid beside each other, for compilers that fuse them."""
    _check(x, size, mode)
    how = "reflect" if mode == "reflect" else "constant"
    return jnp.pad(x, [*((p, p) for p in size), (0, 0)], mode=how)


def _check(x: Array, size: Sides, mode: Padding) -> None:
    if mode not in ("reflect", "zero"):
        raise ValueError(f"padding must be 'reflect' or 'zero', came {mode!r}.")
    if mode == "reflect" and (x.shape[0] <= size[0] or x.shape[1] <= size[1]):
        raise ValueError(
            f"Reflection by {size} needs an image larger than that, came {x.shape[:2]}; use a larger "
            "picture, fewer scales or smaller kernels."
        )


def fold(dy: Array, size: Sides, mode: Padding, more: Sides = (0, 0)) -> Array:
    """The transpose of `pad`: what lies beyond the border is added to the pixels that it repeats.

    Args:
      dy: `[H + 2 size[0] + more[0], W + 2 size[1] + more[1], C]`.
      size: As for `pad`.
      mode: As for `pad`.
      more: As for `pad`.

    Returns:
      `[H, W, C]`.
    """
    height, width = (
        dy.shape[axis] - 2 * p - extra
        for axis, (p, extra) in enumerate(zip(size, more, strict=True))
    )
    if mode == "reflect":
        for axis, n in ((1, width), (0, height)):
            for here, there in _mirror(n, size[axis]):
                total = _take(dy, there, axis) + _take(dy, here, axis)
                dy = _put(dy, total, there, axis)
    return dy[size[0] : size[0] + height, size[1] : size[1] + width]


def _take(x: Array, place: int, axis: int) -> Array:
    return lax.slice_in_dim(x, place, place + 1, axis=axis)


def _put(x: Array, line: Array, place: int, axis: int) -> Array:
    return lax.dynamic_update_slice_in_dim(x, line, place, axis)


def _mirror(n: int, p: int) -> list[tuple[int, int]]:
    """Places beyond the border of a padded axis, and those within that they repeat."""
    pairs = []
    for k in range(1, p + 1):
        pairs += [(p - k, p + k), (p + n - 1 + k, p + n - 1 - k)]
    return pairs
