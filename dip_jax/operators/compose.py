"""Operators made of operators: one after the other, or several of one image."""

import dataclasses

import jax
import jax.numpy as jnp

from dip_jax.base import Array, InputError, Operator


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Chain:
    """A x = A_n ... A_2 A_1 x: one operator after the other. None is the identity."""

    operators: tuple[Operator, ...]
    """A_1 to A_n, in the order in which they act; each but the last makes an image `[H, W, C]`."""

    @property
    def is_linear(self) -> bool:
        """Whether all of them are."""
        return all(operator.is_linear for operator in self.operators)

    def __call__(self, image: Array) -> Array:
        """Measures `image`."""
        for operator in self.operators:
            image = operator(image)
        return image


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stack:
    """A x = (A_1 x, ..., A_n x): several measurements of one picture, as one vector `[m]`.

    Each is flattened row by row; the vector is complex if one of them is.
    """

    operators: tuple[Operator, ...]
    """A_1 to A_n, at least one."""

    @property
    def is_linear(self) -> bool:
        """Whether all of them are."""
        return all(operator.is_linear for operator in self.operators)

    def __call__(self, image: Array) -> Array:
        """Measures `image`."""
        if not self.operators:
            raise InputError("A stack needs at least one operator, came none.")
        return jnp.concatenate([operator(image).reshape(-1) for operator in self.operators])
