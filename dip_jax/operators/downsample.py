"""Shrinking a picture by a whole factor, the forward model of super-resolution, and its baseline."""

import dataclasses
import functools
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dip_jax.base import Array, InputError

Filter = Literal["lanczos2", "lanczos3", "box", "bicubic"]

FILTERS = ("lanczos2", "lanczos3", "box", "bicubic")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Downsample:
    """A x = the picture `factor` times smaller: `[H, W, C] -> [ceil(H / f), ceil(W / f), C]`.

    Along each axis, y[i] = sum_t w((t - (f - 1) / 2) / f) x[i f + t], sum w = 1: a window w, stretched by
    the factor f and centered on the i-th block of f pixels.

    * `lanczos2`, `lanczos3`: w(d) = sinc(d) sinc(d / a) for |d| < a; the border is repeated.
    * `box`: the mean of the block.
    * `bicubic`: Keys' cubic with a = -1/2; at the border the weights inside the picture are scaled to
      sum 1, as Pillow's BICUBIC does.

    Where f does not divide a side, the picture is first extended at the bottom or right by repeating
    its border.

    References:
      Ulyanov et al., Deep Image Prior, 2018 (Lanczos between the pixels, "phase 1/2").
      Keys, Cubic Convolution Interpolation for Digital Image Processing, 1981, equation 15.
    """

    factor: int = dataclasses.field(metadata={"static": True})
    """How many times smaller each side becomes; at least 2."""
    filter: Filter = dataclasses.field(default="lanczos2", metadata={"static": True})
    """The window."""
    is_linear: ClassVar[bool] = True

    def __call__(self, image: Array) -> Array:
        """Shrinks `image`.

        Raises:
          InputError: On a factor below 2 or an unknown filter.
        """
        if self.factor < 2:
            raise InputError(f"A factor of at least 2 is needed to shrink, came {self.factor}.")
        return _shrink(_shrink(image, 0, self.factor, self.filter), 1, self.factor, self.filter)


def _shrink(x: Array, axis: int, factor: int, name: str) -> Array:
    """Shrinks one axis: blocks of `factor`, weighted and summed, then sums of neighboring blocks.

    So nothing picture-sized is made but the picture itself, neither here nor in the gradient.
    """
    weights = _weights(factor, name)
    reach = len(weights) // 2
    size = -(-x.shape[axis] // factor)
    x = _pad(x, axis, 0, size * factor - x.shape[axis], "edge")
    x = _pad(x, axis, reach * factor, reach * factor, "constant" if name == "bicubic" else "edge")
    lead = x.shape[:axis]
    blocks = x.reshape(*lead, size + 2 * reach, factor, -1)
    # sums[b]: what every block gives as the b-th neighbor. (A GPU would round the factors to 10 bits.)
    sums = jnp.einsum("...nfc,bf->b...nc", blocks, weights, precision="highest")
    parts = [lax.slice_in_dim(sums[b], b, b + size, axis=axis) for b in range(len(weights))]
    y = functools.reduce(jnp.add, parts).reshape(*lead, size, *x.shape[axis + 1 :])
    if name == "bicubic":
        shape = [1] * x.ndim
        shape[axis] = size
        y = y / _inside(weights, size).reshape(shape)
    return y


def _pad(x: Array, axis: int, before: int, after: int, mode: str) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (before, after)
    return jnp.pad(x, widths, mode=mode)


def _inside(weights: np.ndarray, size: int) -> np.ndarray:
    """`[size]`: for each output the sum of the weights that lie inside the picture."""
    reach = len(weights) // 2
    inside = np.pad(np.ones(size), reach)
    total = np.convolve(inside, weights.sum(axis=1, dtype=np.float64)[::-1], mode="valid")
    return total.astype(np.float32)


def _weights(factor: int, name: str) -> np.ndarray:
    """The window as `[blocks, factor]` float32, sum 1; the block in the middle is the one it is for."""
    if name not in FILTERS:
        raise InputError(f"filter must be one of {', '.join(FILTERS)}, came {name!r}.")
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
