import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dip_jax.errors import InputError
from dip_jax.preconditioners import frozen_rms, running_rms, scale_by_preconditioner
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


def test_a_running_preconditioner_is_that_of_rmsprop():
    found = apply_all(running_rms(decay=0.9, damping=1e-2), GRADIENTS)
    for a, b in zip(found, apply_rms(GRADIENTS, 0.9, 1e-2), strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5), a, b)


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


@pytest.mark.parametrize("build", [lambda **o: frozen_rms(10, **o), running_rms])
def test_a_preconditioner_per_kernel_has_one_value_for_each_kernel(build):
    gradients = GRADIENTS[:2]
    (_, found) = apply_all(build(decay=0.9, damping=1e-2, per_kernel=True), gradients)
    squares = [np.mean(np.square(g["kernel"])) for g in gradients]
    moment = (0.9 * squares[0] + squares[1]) / 1.9
    expected = gradients[1]["kernel"] / (1e-2 + np.sqrt(moment))
    np.testing.assert_allclose(found["kernel"], expected, rtol=1e-5)
    alone = apply_rms(gradients, 0.9, 1e-2)[1]["bias"]
    np.testing.assert_allclose(found["bias"], alone, rtol=2e-5)


def test_the_divergence_is_the_derivative_of_the_preconditioner():
    # U = k h w^2 / 2 + p w^2 / 2, for which one probe gives the diagonal of the Hessian
    scale, prior, decay, damping, h = 3.0, 0.7, 0.8, 0.05, np.array([0.5, 1.0, 2.0, 4.0])
    paths = np.random.default_rng(0).normal(size=(3, 4)) + 0.2
    preconditioner = running_rms(
        decay=decay, damping=damping, corrects_drift=True, prior_precision=prior
    )

    def matrix(moment, w):
        moment = decay * moment + (1 - decay) * ((scale * h + prior) * w) ** 2
        weight = 1 - decay ** (step + 1)
        return moment, 1 / (damping + np.sqrt(moment / weight))

    state, moment = preconditioner.init(jnp.zeros(4)), np.zeros(4)
    for step, w in enumerate(paths):
        shift = 1e-6
        expected = (matrix(moment, w + shift)[1] - matrix(moment, w - shift)[1]) / (2 * shift)
        moment, diagonal = matrix(moment, w)
        found, state = preconditioner.update(
            jnp.float32((scale * h + prior) * w),
            state,
            jnp.float32(w),
            step=jnp.int32(step),
            key=jax.random.key(step),
            scale=scale,
            value_fn=lambda w: jnp.sum(jnp.float32(h) * w**2) / 2,
        )
        np.testing.assert_allclose(found.matrix, diagonal, rtol=1e-4)
        np.testing.assert_allclose(found.divergence, expected, rtol=1e-2)


def test_the_gamma_term_corrects_for_a_preconditioner_that_follows_the_gradient():
    # With decay 0, P = 1 / |g|, which is not nearly constant. For U = h w^2 / 2, g = h w and
    # G = dP/dw = -sign(w) / (h w^2), so the drift is P g - T G = sign(w) (1 + 1 / (h w^2)).
    w, h = jnp.array([0.5, -2.0, 1.5]), 3.0

    def updates(**options):
        rms = running_rms(decay=0.0, damping=1e-9, prior_precision=0.0, **options)
        sampler = psgld(constant(0.1), rms, prior_precision=0.0)
        return sampler.update(
            h * w,
            sampler.init(w),
            w,
            key=jax.random.key(1),
            value_fn=lambda w: h * jnp.sum(w**2) / 2,
        )[0]

    expected = -0.1 * jnp.sign(w) / (h * w**2)
    np.testing.assert_allclose(updates(corrects_drift=True) - updates(), expected, rtol=1e-2)


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


def test_the_divergence_is_zero_where_there_has_been_no_gradient():
    # The loss depends on the first weight alone, and there is no prior.
    preconditioner = running_rms(corrects_drift=True, prior_precision=0.0)
    w, grads = jnp.array([1.0, 2.0]), jnp.array([3.0, 0.0])
    found, _ = preconditioner.update(
        grads,
        preconditioner.init(w),
        w,
        step=jnp.int32(0),
        key=KEY,
        value_fn=lambda w: 3 * w[0] ** 2 / 2,
    )
    assert found.divergence[1] == 0
    assert found.divergence[0] < 0


def test_another_prior_than_that_of_the_energy_changes_the_divergence_little():
    w = jnp.array([1.0, 2.0])
    divergences = []
    for prior in (0.7, 1.0):
        preconditioner = running_rms(corrects_drift=True, prior_precision=prior)
        found, _ = preconditioner.update(
            1.7 * w,
            preconditioner.init(w),
            w,
            step=jnp.int32(0),
            key=KEY,
            value_fn=lambda w: jnp.sum(w**2) / 2,
        )
        divergences.append(found.divergence)
    np.testing.assert_allclose(divergences[1], divergences[0] * 2 / 1.7, rtol=1e-2)


def test_the_divergence_of_one_value_per_kernel_is_refused():
    with pytest.raises(InputError, match="per_kernel"):
        running_rms(per_kernel=True, corrects_drift=True)
