"""Operators that combine operators: in sequence, or as several measurements of one image."""

import dataclasses

import jax
import jax.numpy as jnp

from dip_jax.base import Array, Operator
from dip_jax.errors import InputError
from dip_jax.operators.pixelwise import is_pixelwise


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Chain:
    """A x = A_n ... A_2 A_1 x: operators in sequence. An empty chain is the identity.

    Example:
      >>> import jax.numpy as jnp
      >>> from dip_jax.operators import Downsample, Gray
      >>> operator = Chain((Gray(), Downsample(2, "box")))
      >>> operator(jnp.ones((8, 6, 3))).shape, operator.is_linear
      ((4, 3, 1), True)
    """

    operators: tuple[Operator, ...]
    """A_1 to A_n, the first to act first; each but the last returns an image `[H, W, C]`."""

    @property
    def is_linear(self) -> bool:
        """Whether every operator is linear."""
        return all(operator.is_linear for operator in self.operators)

    @property
    def is_pixelwise(self) -> bool:
        """Whether every operator is pixelwise."""
        return all(is_pixelwise(operator) for operator in self.operators)

    def __call__(self, image: Array) -> Array:
        """Measures `image`."""
        for operator in self.operators:
            image = operator(image)
        return image

    def pad(self, height: int, width: int) -> "Chain":
        """Returns the chain for a canvas `[height, width]`; only for a pixelwise chain."""
        return Chain(tuple(operator.pad(height, width) for operator in self.operators))  # type: ignore[attr-defined]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stack:
    """A x = (A_1 x, ..., A_n x): several measurements of one image, concatenated to a vector `[m]`.

    Each measurement is flattened in row-major order. The vector is complex if any of them is.

    Example:
      >>> import jax.numpy as jnp
      >>> from dip_jax.operators import Downsample, Gray
      >>> operator = Stack((Gray(), Downsample(2, "box")))
      >>> operator(jnp.ones((8, 6, 3))).shape  # 8 * 6 * 1 + 4 * 3 * 3
      (84,)
    """

    operators: tuple[Operator, ...]
    """A_1 to A_n, at least one."""

    @property
    def is_linear(self) -> bool:
        """Whether every operator is linear."""
        return all(operator.is_linear for operator in self.operators)

    def __call__(self, image: Array) -> Array:
        """Measures `image`.

        Raises:
          InputError: If there is no operator.
        """
        if not self.operators:
            raise InputError("A stack needs at least one operator, got none.")
        return jnp.concatenate([operator(image).reshape(-1) for operator in self.operators])
