"""The simplest forward models: all pixels of the image, or its known pixels.

An operator is a callable pytree `image [H, W, C] -> measurement`; `base.Operator` states the contract, and
`check_operator` tests it. JAX derives the adjoint.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from dip_jax.base import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Identity:
    """A x = x: every pixel is measured.

    Example:
      >>> import jax.numpy as jnp
      >>> Identity()(jnp.full((1, 2, 1), 0.5)).tolist()
      [[[0.5], [0.5]]]
    """

    is_linear: ClassVar[bool] = True
    is_pixelwise: ClassVar[bool] = True

    def __call__(self, image: Array) -> Array:
        """Returns `image`."""
        return image

    def pad(self, height: int, width: int) -> "Identity":
        """Returns the operator for a canvas `[height, width]`, which is this one."""
        del height, width
        return self


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mask:
    """A x = mask x: only the known pixels are measured.

    Example:
      >>> import jax.numpy as jnp
      >>> mask = jnp.array([[[1.0], [0.0]]])
      >>> Mask(mask)(jnp.full((1, 2, 1), 0.5)).tolist()
      [[[0.5], [0.0]]]
    """

    mask: Array
    """`[H, W, 1]`, 1 where a pixel is known and 0 where it is missing."""
    is_linear: ClassVar[bool] = True
    is_pixelwise: ClassVar[bool] = True

    def __call__(self, image: Array) -> Array:
        """Returns `image` with its missing pixels set to zero."""
        return image * self.mask

    def pad(self, height: int, width: int) -> "Mask":
        """Returns the mask for a canvas `[height, width]`; the pixels of the margin are missing."""
        rows, columns, _ = self.mask.shape
        margins = [(0, height - rows), (0, width - columns), (0, 0)]
        return Mask(jnp.pad(self.mask, margins))
