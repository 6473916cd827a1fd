import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dip_jax.preconditioners import frozen_rms, scale_by_preconditioner
from dip_jax.schedules import constant
from dip_jax.sgld import psgld
from tests.chains import run_chain

KEY = jax.random.key(0)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def draw_tree(seed=0):
    """Numbers in the structure of params."""
    return {"kernel": draw(3, 3, 2, 4, seed=seed), "bias": draw(4, seed=seed + 100)}


def apply_all(preconditioner, gradients):
    """The products P g of successive gradients."""
    found, state = [], preconditioner.init(gradients[0])
    for step, grads in enumerate(gradients):
        result, state = preconditioner.update(grads, state, grads, step=jnp.int32(step), key=KEY)
        assert result.divergence is None
        found.append(jax.tree.map(lambda p, g: np.asarray(p * g), result.matrix, grads))
    return found


def apply_rms(gradients, decay, damping):
    """The same by RMSprop of optax."""
    rms = optax.scale_by_rms(decay, eps=damping, eps_in_sqrt=False, bias_correction=True)
    found, state = [], rms.init(gradients[0])
    for grads in gradients:
        result, state = rms.update(grads, state)
        found.append(result)
    return found


GRADIENTS = [jax.tree.map(jnp.asarray, draw_tree(seed)) for seed in range(6)]


def test_a_frozen_preconditioner_is_that_of_rmsprop_until_it_is_frozen():
    found = apply_all(frozen_rms(3, decay=0.9, damping=1e-2), GRADIENTS)
    expected = apply_rms(GRADIENTS, 0.9, 1e-2)
    for a, b in zip(found[:3], expected, strict=False):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5), a, b)
    # then P is that of the third step
    for a, grads in zip(found[3:], GRADIENTS[3:], strict=True):
        for name in a:
            frozen = expected[2][name] / GRADIENTS[2][name]
            np.testing.assert_allclose(a[name], frozen * grads[name], rtol=1e-4)


@pytest.mark.parametrize("freeze_step", [0, 1])
def test_a_preconditioner_that_is_frozen_at_once_has_the_first_gradient(freeze_step):
    sampler = psgld(
        constant(0.1, temperature=0.0), frozen_rms(freeze_step, damping=1e-9), prior_precision=0.0
    )
    path, _ = run_chain(sampler, lambda w: 4 * w, jnp.ones(2), num_steps=2)
    np.testing.assert_allclose(path[0], 0.9, rtol=1e-5)
    np.testing.assert_allclose(path[1], 0.9 - 0.1 * 0.9, rtol=1e-5)


def test_a_preconditioner_per_kernel_has_one_value_for_each_kernel():
    gradients = GRADIENTS[:2]
    (_, found) = apply_all(frozen_rms(10, decay=0.9, damping=1e-2, per_kernel=True), gradients)
    squares = [np.mean(np.square(g["kernel"])) for g in gradients]
    moment = (0.9 * squares[0] + squares[1]) / 1.9
    expected = gradients[1]["kernel"] / (1e-2 + np.sqrt(moment))
    np.testing.assert_allclose(found["kernel"], expected, rtol=1e-5)
    alone = apply_rms(gradients, 0.9, 1e-2)[1]["bias"]
    np.testing.assert_allclose(found["bias"], alone, rtol=2e-5)


def test_gradients_that_are_scaled_by_a_preconditioner_make_rmsprop():
    scaled = optax.chain(
        scale_by_preconditioner(frozen_rms(10**6, decay=0.9, damping=1e-3)), optax.scale(-0.01)
    )
    plain = optax.rmsprop(0.01, 0.9, 1e-3, eps_in_sqrt=False, bias_correction=True)
    found, expected = [], []
    for optimizer, results in ((scaled, found), (plain, expected)):
        w = jax.tree.map(jnp.asarray, draw_tree(9))
        state = optimizer.init(w)
        for grads in GRADIENTS:
            updates, state = optimizer.update(grads, state, w)
            w = optax.apply_updates(w, updates)
            results.append(w)
    for a, b in zip(found, expected, strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-7), a, b)


def test_a_preconditioner_that_scales_gradients_is_frozen_at_its_step():
    frozen = scale_by_preconditioner(frozen_rms(1, damping=1e-9))
    g = jnp.array([2.0, -4.0])
    state = frozen.init(g)
    first, state = frozen.update(g, state, g)
    np.testing.assert_allclose(first, [1, -1], rtol=1e-4)
    second, state = frozen.update(3 * g, state, g)
    np.testing.assert_allclose(second, [3, -3], rtol=1e-4)
    # the step of the run takes precedence: at step 0 the preconditioner still follows
    third, _ = frozen.update(g, frozen.init(g), g, step=jnp.int32(0), key=KEY)
    np.testing.assert_allclose(third, [1, -1], rtol=1e-4)
