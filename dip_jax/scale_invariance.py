"""Weights whose norm has no effect on the image.

A normalization divides each channel by its standard deviation, so the norm of the filter in front of it has no effect,
nor has that of the pair (scale, bias) of an earlier normalization if nothing but an activation, which is positively
homogeneous, lies between. For such weights w, the loss L is homogeneous of degree 0, and w . grad L(w) = 0 (Euler).

The norm still matters to a sampler. A step rotates a filter of large norm less than one of small norm. For a pair, the angle has two
jumps: where the scale changes its sign, the normalized channel does too.

The weights are found from their gradients, so any network will do. The groups that are tried are

* the filters of an array with two or more axes, the last of which is the output;
* the channels of a pair of arrays `scale` and `bias` of one module.

All groups of an array are alike in this, so they are judged together. A single one may have gradients too small to tell.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dip_jax.base import Array, Params

_TOLERANCE = 1e-2
"""|w . grad L| / (|w| |grad L|) that counts as 0: in bfloat16 a rounding error is 4e-3."""


class RadialSums(NamedTuple):
    """Sums over steps that tell in which groups of weights the gradient is orthogonal to the weights."""

    radial: tuple[Array, ...]
    """For each array or pair of arrays the sum of |w . grad L| over its groups, a scalar."""
    total: tuple[Array, ...]
    """The same sum of |w| |grad L|."""


def start_sums(params: Params) -> RadialSums:
    """Returns the sums before the first gradient.

    Args:
      params: The weights.
    """
    # A buffer of its own for each sum, because the state is donated.
    radial, total = (tuple(jnp.float32(0) for _ in _groups(params)) for _ in range(2))
    return RadialSums(radial, total)


def add_gradient(sums: RadialSums, params: Params, grads: Params) -> RadialSums:
    """Returns the sums with one more gradient.

    Args:
      sums: The sums before it.
      params: The weights w.
      grads: The gradient of the loss at w.
    """
    products = _products(params, params, grads)
    squares = zip(_products(params, params, params), _products(params, grads, grads), strict=True)
    return RadialSums(
        tuple(s + jnp.sum(jnp.abs(x)) for s, x in zip(sums.radial, products, strict=True)),
        tuple(s + jnp.sum(jnp.sqrt(w * g)) for s, (w, g) in zip(sums.total, squares, strict=True)),
    )


class Invariance(NamedTuple):
    """The weights whose norm has no effect; trees in the structure of the weights, a boolean scalar for each array."""

    is_filter: Params
    """True for arrays of filters."""
    is_pair: Params
    """True for both arrays of pairs (scale, bias)."""


def find_invariance(sums: RadialSums, params: Params) -> Invariance:
    """Returns the weights whose norm had no effect in any of the added gradients.

    Args:
      sums: The sums over at least one gradient.
      params: The weights.

    Example:
      The filters of the first array are divided by their norms, those of the second are not:

      >>> def loss(w):
      ...     normalized = w["first"] / jnp.linalg.norm(w["first"], axis=0, keepdims=True)
      ...     return jnp.sum((normalized + w["second"] - 0.3) ** 2)
      >>> w = {"first": jnp.array([[1.0, 1.0], [2.0, 3.0]]), "second": jnp.ones((2, 2))}
      >>> sums = add_gradient(start_sums(w), w, jax.grad(loss)(w))
      >>> find_invariance(sums, w).is_filter
      {'first': Array(True, dtype=bool), 'second': Array(False, dtype=bool)}
    """
    leaves, structure = jax.tree.flatten(params)
    is_filter: list[Array] = [jnp.bool_(False) for _ in leaves]
    is_pair = list(is_filter)
    groups = zip(_groups(params), sums.radial, sums.total, strict=True)
    for indices, radial, total in groups:
        found = radial <= _TOLERANCE * total
        for index in indices:
            (is_filter if len(indices) == 1 else is_pair)[index] = found
    return Invariance(
        jax.tree.unflatten(structure, is_filter), jax.tree.unflatten(structure, is_pair)
    )


def rescale_filters(params: Params, is_filter: Params, scales: Params) -> Params:
    """Returns the weights with the chosen filters scaled to a root mean square, the others unchanged.

    Args:
      params: The weights.
      is_filter: `Invariance.is_filter`.
      scales: The root mean square of a filter, a scalar for each array.
    """

    def of_array(w: Array, chosen: Array, scale: Array) -> Array:
        if w.ndim < 2:
            return w
        square = jnp.mean(jnp.square(w), axis=tuple(range(w.ndim - 1)))
        factor = scale / jnp.sqrt(jnp.where(square > 0, square, 1.0))
        factor = jnp.where(chosen & (square > 0), factor, 1.0)
        return w * factor.reshape((1,) * (w.ndim - 1) + (-1,))

    return jax.tree.map(of_array, params, is_filter, scales)


def _groups(params: Params) -> list[tuple[int, ...]]:
    """The indices of the leaves that form groups: one of filters, or two of pairs."""
    paths = [path for path, _ in jax.tree.leaves_with_path(params)]
    leaves = jax.tree.leaves(params)
    found: list[tuple[int, ...]] = [(i,) for i, w in enumerate(leaves) if w.ndim >= 2]
    members: dict[tuple[Any, ...], dict[str, int]] = {}
    for i, (path, w) in enumerate(zip(paths, leaves, strict=True)):
        name = jax.tree_util.keystr(path[-1:], simple=True) if path else ""
        if w.ndim == 1 and name in ("scale", "bias"):
            members.setdefault(path[:-1], {})[name] = i
    for module in members.values():
        if len(module) == 2 and leaves[module["scale"]].shape == leaves[module["bias"]].shape:
            found.append((module["scale"], module["bias"]))
    return found


def _products(params: Params, x: Params, y: Params) -> list[Array]:
    """The inner products of two trees over each group, for each entry of `_groups`."""
    xs, ys = jax.tree.leaves(x), jax.tree.leaves(y)

    def of_leaf(index: int) -> Array:
        product = xs[index] * ys[index]
        return product.sum(axis=tuple(range(product.ndim - 1)))

    return [sum((of_leaf(i) for i in indices), jnp.float32(0)) for indices in _groups(params)]
