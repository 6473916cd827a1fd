"""The small arrays of a state as one array, so that a device copies and selects them by one kernel.

A network has hundreds of scales and biases, with moments and a snapshot each. As variables of a loop, each array is a
kernel in each step on a GPU, which takes longer to start than to run.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dip_jax.base import Array

_MAX_SIZE = 4096  # of larger arrays, a copy would take longer than the start of a kernel


class Packed(NamedTuple):
    """A tree of stacked arrays."""

    small: Array
    """The float32 vectors side by side, `[N, ...]`."""
    others: list[Array]
    """The other arrays."""


def build_packing(tree: Any) -> tuple[Callable[[Any], Packed], Callable[[Packed], Any]]:
    """Returns a function that packs trees of this structure and shapes, and its inverse.

    Args:
      tree: A tree of arrays `[N, ...]`. Those of float32 `[N, n]` with a small n are packed.

    Example:
      >>> tree = {"kernel": jnp.ones((2, 3, 3)), "scale": jnp.ones((2, 4)), "bias": jnp.zeros((2, 4))}
      >>> pack, unpack = build_packing(tree)
      >>> pack(tree).small.shape, jax.tree.all(jax.tree.map(jnp.array_equal, unpack(pack(tree)), tree))
      ((2, 8), True)
    """
    leaves, structure = jax.tree.flatten(tree)
    is_small = [_is_small(leaf) for leaf in leaves]
    sizes = [leaf.shape[1] for leaf in itertools.compress(leaves, is_small)]
    ends = list(itertools.accumulate(sizes))

    def pack(tree: Any) -> Packed:
        leaves = jax.tree.leaves(tree)
        small = list(itertools.compress(leaves, is_small))
        others = [leaf for leaf, is_packed in zip(leaves, is_small, strict=True) if not is_packed]
        empty = jnp.zeros((leaves[0].shape[0], 0), jnp.float32)
        return Packed(jnp.concatenate([empty, *small], axis=1), others)

    def unpack(packed: Packed) -> Any:
        small = iter(jnp.split(packed.small, ends, axis=1))
        others = iter(packed.others)
        leaves = [next(small if is_packed else others) for is_packed in is_small]
        return jax.tree.unflatten(structure, leaves)

    return pack, unpack


def _is_small(leaf: Array) -> bool:
    return leaf.ndim == 2 and leaf.dtype == jnp.float32 and leaf.shape[1] <= _MAX_SIZE
