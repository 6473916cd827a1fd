import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax import nets
from dip_jax.scale_invariance import add_gradient, find_invariance, rescale_filters, start_sums

SHAPE = (33, 36, 3)
SKIP = nets.skip(channels_down=[4, 6], channels_up=[4, 6], channels_skip=[2, 3], input_depth=4)(
    SHAPE
)
APPLY = jax.jit(SKIP.apply)


@functools.cache
def find(net, num_steps=3):
    """Params of a random network with random norms, and what the gradients tell about their lengths."""
    keys = jax.random.split(jax.random.key(1), 3)
    params = net.init(keys[0])
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    moved = [w + 0.1 * rng.normal(size=w.shape).astype("f") for w in leaves]
    params = structure.unflatten(moved)
    code = jax.random.uniform(keys[1], net.code_shape)
    target = jax.random.uniform(keys[2], net.image_shape)
    gradient = jax.jit(jax.grad(lambda w: jnp.mean((net.apply(w, code) - target) ** 2)))
    sums = start_sums(params)
    for _ in range(num_steps):
        grads = gradient(params)
        sums = add_gradient(sums, params, grads)
    return params, code, find_invariance(sums, params)


def by_name(tree):
    """Values of a tree by the names of their module and array."""
    leaves = jax.tree.leaves_with_path(tree)
    return {"/".join(key.key for key in path[-2:]): np.asarray(leaf) for path, leaf in leaves}


def test_the_weights_without_a_length_are_those_in_front_of_a_normalization():
    _, _, found = find(SKIP)
    filters, pairs = by_name(found.is_filter), by_name(found.is_pair)
    kernels = {name for name in filters if name.endswith("kernel")}
    assert {name for name in kernels if not filters[name]} == {"head_conv/kernel"}
    # An activation alone lies between them and the normalization that joins the branches.
    before_merge = {"skip_0_norm", "skip_1_norm", "mix_1_norm", "down_1_norm"}
    modules = {name.split("/")[0] for name, is_pair in pairs.items() if is_pair}
    assert modules == before_merge


def test_the_image_does_not_depend_on_the_lengths_that_are_found():
    params, code, found = find(SKIP)
    rescaled = rescale_filters(params, found.is_filter, jax.tree.map(lambda w: 0.7, params))
    before, after = (APPLY(w, code) for w in (params, rescaled))
    np.testing.assert_allclose(after, before, atol=2e-3)
    kernel = by_name(rescaled)["halve_0_conv/kernel"]
    np.testing.assert_allclose(np.sqrt((kernel**2).mean(axis=(0, 1, 2))), 0.7, rtol=1e-5)
    head = by_name(rescaled)["head_conv/kernel"]
    np.testing.assert_array_equal(head, by_name(params)["head_conv/kernel"])


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_the_image_does_not_depend_on_the_length_of_a_pair(factor):
    params, code, found = find(SKIP)
    scaled = jax.tree.map(
        lambda w, is_pair: w * jnp.where(is_pair, factor, 1.0) if w.ndim == 1 else w,
        params,
        found.is_pair,
    )
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (params, scaled)), strict=True))
    before, after = (APPLY(w, code) for w in (params, scaled))
    np.testing.assert_allclose(after, before, atol=2e-3)


def test_a_network_without_normalization_has_no_weight_without_a_length():
    def loss(w):
        return jnp.sum(jnp.tanh(w["layer"]["kernel"].T @ jnp.arange(3.0)) - 0.3) ** 2

    params = {"layer": {"kernel": jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), "f")}}
    sums = add_gradient(start_sums(params), params, jax.grad(loss)(params))
    found = find_invariance(sums, params)
    assert not np.any(found.is_filter["layer"]["kernel"])
