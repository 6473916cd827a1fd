"""Measurement operators: what was done to the picture, y = A x.

An operator is a callable pytree `image [H, W, C] -> measurement` (see `base.Operator`); its adjoint
comes from JAX. `check_operator` refuses one that breaks the contract, with the measured number.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from dip_jax.base import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Identity:
    """A x = x: the picture itself, noisy or compressed."""

    is_linear: ClassVar[bool] = True

    def __call__(self, image: Array) -> Array:
        """Returns `image`."""
        return image

    def pad(self, height: int, width: int) -> "Identity":
        """What it is on a canvas `[height, width]`; see `padding`."""
        del height, width
        return self


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mask:
    """A x = m x: only the known pixels are seen."""

    mask: Array
    """`[H, W, 1]`, 1 where known and 0 where missing."""
    is_linear: ClassVar[bool] = True

    def __call__(self, image: Array) -> Array:
        """Returns `image` with its missing pixels at zero."""
        return image * self.mask

    def pad(self, height: int, width: int) -> "Mask":
        """What it is on a canvas `[height, width]`: the margin is missing too."""
        rows, columns, _ = self.mask.shape
        margins = [(0, height - rows), (0, width - columns), (0, 0)]
        return Mask(jnp.pad(self.mask, margins))
