"""Reduction of an image by an integer factor, the forward model of super-resolution."""

import dataclasses
import functools
from typing import ClassVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dip_jax.base import Array
from dip_jax.config import Filter
from dip_jax.errors import InputError

FILTERS: tuple[Filter, ...] = get_args(Filter)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Downsample:
    """A x = the image, reduced by the factor f: `[H, W, C] -> [ceil(H / f), ceil(W / f), C]`.

    Along each axis, y[i] = sum_t w((t - (f - 1) / 2) / f) x[i f + t], sum w = 1: the window w is stretched by
    the factor f and centered on the i-th block of f pixels.

    * `lanczos2`, `lanczos3`: w(d) = sinc(d) sinc(d / a) for |d| < a; the border is repeated.
    * `box`: the mean of the block.
    * `bicubic`: Keys' cubic with a = -1/2; at the border the weights inside the image are scaled to
      sum 1, as Pillow's BICUBIC does.

    If f does not divide a side, the image is first extended at the bottom or right by repeating its border.

    References:
      Ulyanov et al., Deep Image Prior, 2018 (Lanczos between the pixels, "phase 1/2").
      Keys, Cubic Convolution Interpolation for Digital Image Processing, 1981, equation 15.

    Example:
      >>> import jax.numpy as jnp
      >>> image = jnp.array([[1.0, 2.0, 5.0, 5.0], [3.0, 2.0, 5.0, 5.0]])[..., None]
      >>> Downsample(2, "box")(image)[..., 0].tolist()
      [[2.0, 5.0]]
    """

    factor: int = dataclasses.field(metadata={"static": True})
    """Reduction of each side; at least 2."""
    filter: Filter = dataclasses.field(default="lanczos2", metadata={"static": True})
    """The window w."""
    is_linear: ClassVar[bool] = True

    def __call__(self, image: Array) -> Array:
        """Reduces `image`.

        Raises:
          InputError: If the factor is below 2 or the filter is unknown.
        """
        if self.factor < 2:
            raise InputError(f"factor must be at least 2, got {self.factor}.")
        rows_reduced = _reduce_axis(image, 0, self.factor, self.filter)
        return _reduce_axis(rows_reduced, 1, self.factor, self.filter)


def _reduce_axis(x: Array, axis: int, factor: int, name: str) -> Array:
    """Reduces one axis: weighted sums within blocks of `factor`, then sums over neighboring blocks.

    The image itself is the largest array, both here and in the gradient.
    """
    weights = _block_weights(factor, name)
    reach = len(weights) // 2
    size = -(-x.shape[axis] // factor)
    x = _pad_axis(x, axis, 0, size * factor - x.shape[axis], "edge")
    mode = "constant" if name == "bicubic" else "edge"
    x = _pad_axis(x, axis, reach * factor, reach * factor, mode)
    leading = x.shape[:axis]
    blocks = x.reshape(*leading, size + 2 * reach, factor, -1)
    # sums[b]: the contribution of each block to the output whose b-th neighbor it is. Without "highest" a GPU
    # would round the operands to 10 bits.
    sums = jnp.einsum("...nfc,bf->b...nc", blocks, weights, precision="highest")
    parts = [lax.slice_in_dim(sums[b], b, b + size, axis=axis) for b in range(len(weights))]
    y = functools.reduce(jnp.add, parts).reshape(*leading, size, *x.shape[axis + 1 :])
    if name == "bicubic":
        shape = [1] * x.ndim
        shape[axis] = size
        y = y / _weight_inside(weights, size).reshape(shape)
    return y


def _block_weights(factor: int, name: str) -> np.ndarray:
    """The window as `[blocks, factor]` float32 with sum 1; the middle block is the reduced one."""
    if name not in FILTERS:
        raise InputError(f"filter must be one of {', '.join(FILTERS)}, got {name!r}.")
    reach = {"box": 0, "lanczos3": 3}.get(name, 2)
    taps = np.arange(-reach * factor, (reach + 1) * factor)
    d = np.abs(taps - (factor - 1) / 2) / factor
    if name == "box":
        window = np.ones_like(d)
    elif name == "bicubic":
        near = 1.5 * d**3 - 2.5 * d**2 + 1
        far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
        window = np.where(d < 1, near, np.where(d < 2, far, 0))
    else:
        window = np.where(d < reach, np.sinc(d) * np.sinc(d / reach), 0)
    return (window / window.sum()).reshape(-1, factor).astype(np.float32)


def _pad_axis(x: Array, axis: int, before: int, after: int, mode: str) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (before, after)
    return jnp.pad(x, widths, mode=mode)


def _weight_inside(weights: np.ndarray, size: int) -> np.ndarray:
    """`[size]`: for each output, the sum of the weights inside the image."""
    reach = len(weights) // 2
    inside = np.pad(np.ones(size), reach)
    total = np.convolve(inside, weights.sum(axis=1, dtype=np.float64)[::-1], mode="valid")
    return total.astype(np.float32)
