"""Single transformations of Langevin dynamics."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import special

from dip_jax.langevin import add_kernel_noise, constrain_norm, energy_gradient, langevin_step
from dip_jax.preconditioners import Preconditioner, Preconditioning
from dip_jax.schedules import constant
from dip_jax.sgld import sgld

KEY = jax.random.key(0)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def draw_tree(seed=0):
    """Numbers in the structure of params."""
    return {"kernel": draw(3, 3, 2, 4, seed=seed), "bias": draw(4, seed=seed + 100)}


def noise_of(key, like):
    """The noise n of a step, which is the step without a gradient for 2 e T = 1."""
    step = langevin_step(constant(0.5))
    zeros = jax.tree.map(jnp.zeros_like, like)
    return step.update(zeros, step.init(zeros), zeros, key=key)[0]


def test_the_gradient_of_the_energy_is_that_of_the_likelihood_and_of_the_prior():
    w, grads = draw_tree(0), draw_tree(1)
    transformation = energy_gradient(prior_precision=0.3)
    state = transformation.init(w)
    found, _ = transformation.update(grads, state, w, scale=jnp.float32(7), key=KEY)
    without_scale, _ = transformation.update(grads, state, w)
    for name in w:
        np.testing.assert_allclose(found[name], 7 * grads[name] + 0.3 * w[name], rtol=1e-5)
        np.testing.assert_allclose(without_scale[name], grads[name] + 0.3 * w[name], rtol=1e-5)

    def energy(w):
        return 7 * jnp.sum(jnp.cos(w)) + 0.3 / 2 * jnp.sum(w**2)

    loss_gradient = jax.grad(lambda w: jnp.sum(jnp.cos(w)))(w["bias"])
    state = transformation.init(w["bias"])
    found, _ = transformation.update(loss_gradient, state, w["bias"], scale=7.0)
    np.testing.assert_allclose(found, jax.grad(energy)(w["bias"]), rtol=1e-5)


def test_the_noise_of_a_step_is_standard_normal_and_independent_of_other_steps_and_arrays():
    like = {"a": jnp.zeros((100, 100)), "b": jnp.zeros((100, 100))}
    first, second = (noise_of(key, like) for key in jax.random.split(KEY))
    arrays = [np.ravel(noise[name]) for noise in (first, second) for name in "ab"]
    for x in arrays:
        assert abs(x.mean()) < 5 / np.sqrt(x.size)
        assert abs(x.var() - 1) < 5 * np.sqrt(2 / x.size)
        assert abs(np.mean(x**4) - 3) < 5 * np.sqrt(96 / x.size)
    off_diagonal = np.corrcoef(arrays)[np.triu_indices(4, 1)]
    assert np.abs(off_diagonal).max() < 5 / np.sqrt(10_000)


def test_langevin_steps_are_the_recursion_in_numpy():
    # e and T depend on the step and on the scale; P and G are functions of w
    def schedule(step, scale):
        return 0.1 / (1 + step) / scale, 0.5 + 0.25 * step

    def update(grads, state, params, *, step, key, scale, **extra):
        del grads, key
        matrix = jax.tree.map(lambda w: 1 / (1 + w**2), params)
        divergence = jax.tree.map(lambda w: -2 * w / (1 + w**2) ** 2, params)
        return Preconditioning(matrix, divergence), (*state, (step, scale, extra["more"]))

    transformation = langevin_step(
        schedule, preconditioner=Preconditioner(lambda params: (), update)
    )
    w = {"a": jnp.asarray(draw(6)), "b": jnp.asarray(draw(2, 3, seed=1))}
    expected = {name: np.float64(value) for name, value in w.items()}
    state = transformation.init(w)
    for t, key in enumerate(jax.random.split(KEY, 4)):
        grads = jax.tree.map(jnp.sin, w)
        noise = noise_of(key, w)
        e, temperature = 0.1 / (1 + t) / 2, 0.5 + 0.25 * t
        for name, x in expected.items():
            p, g = 1 / (1 + x**2), -2 * x / (1 + x**2) ** 2
            drift = p * np.sin(x) - temperature * g
            walk = np.sqrt(2 * e * temperature * p) * np.float64(noise[name])
            expected[name] = x - e * drift + walk
        updates, state = transformation.update(grads, state, w, key=key, scale=2.0, more=t)
        w = optax.apply_updates(w, updates)
        for name, value in expected.items():
            np.testing.assert_allclose(w[name], value, rtol=2e-5, atol=1e-6)
    assert [tuple(map(float, seen)) for seen in state.preconditioner] == [
        (t, 2, t) for t in range(4)
    ]


def test_the_step_of_the_run_replaces_the_number_of_calls():
    transformation = langevin_step(lambda step, scale: (1.0 * step, 0.0))
    w = jnp.ones(2)
    state = transformation.init(w)
    sizes = []
    for step in (None, None, 7, None):
        updates, state = transformation.update(-w, state, w, key=KEY, step=step)
        sizes.append(float(updates[0]))
    assert sizes == [0, 1, 7, 3]


def test_a_direction_has_its_distribution_if_norms_are_constrained():
    # U depends on the direction alone, so the angle is von Mises, with mean cosine I1(k) / I0(k)
    k = 2.0

    def energy(w):
        return -k * w[0, 0, 0, 0] / jnp.sqrt(jnp.sum(w**2))

    sampler = constrain_norm(sgld(constant(0.02), prior_precision=0.0))

    def step(carry, key):
        w, state = carry
        updates, state = sampler.update(jax.grad(energy)(w), state, w, key=key)
        return (optax.apply_updates(w, updates), state), None

    def chain(key):
        start = jnp.array([0.6, -0.8]).reshape(1, 1, 1, 2)
        carry, _ = jax.lax.scan(step, (start, sampler.init(start)), jax.random.split(key, 600))
        return carry[0].reshape(2)

    last = np.asarray(jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(0), 2000)))
    np.testing.assert_allclose(np.linalg.norm(last, axis=1), 1, rtol=1e-4)
    expected = special.i1(k) / special.i0(k)
    assert abs(last[:, 0].mean() - expected) < 5 * last[:, 0].std() / np.sqrt(2000) + 0.01


def test_a_kernel_whose_norm_has_an_effect_is_not_constrained():
    w = jnp.ones((1, 1, 2, 2))
    sampler = constrain_norm(sgld(constant(0.1, temperature=0.0), prior_precision=0.0))
    updates, _ = sampler.update(w, sampler.init(w), w, key=jax.random.key(0))
    np.testing.assert_allclose(updates, -0.1 * w, rtol=1e-6)


def test_a_constrained_kernel_is_moved_by_the_inner_transformation_and_rescaled():
    optimizer = constrain_norm(optax.sgd(0.5))
    target = draw(1, 1, 3, 2)

    def loss(params):
        arrays = jax.tree.leaves(params)
        return sum(jnp.sum(target.reshape(w.shape) * w) / jnp.linalg.norm(w) for w in arrays)

    w = {
        "kernel": jnp.asarray(draw(1, 1, 3, 2, seed=1)),
        "array": jnp.asarray(draw(1, 3, 2, seed=2)),
    }
    state = optimizer.init(w)
    for _ in range(3):
        grads = jax.grad(loss)(w)
        updates, state = optimizer.update(grads, state, w)
        moved = jax.tree.map(lambda w, g: np.asarray(w - 0.5 * g), w, grads)
        norm = np.linalg.norm(w["kernel"])
        w = optax.apply_updates(w, updates)
        expected = norm * moved["kernel"] / np.linalg.norm(moved["kernel"])
        np.testing.assert_allclose(w["kernel"], expected, rtol=1e-5)
        # only kernels are constrained
        np.testing.assert_allclose(w["array"], moved["array"], rtol=1e-5)
        assert abs(np.linalg.norm(moved["kernel"]) / norm - 1) > 1e-3


def test_noise_is_added_to_the_updates_of_kernels_alone():
    w = jax.tree.map(jnp.zeros_like, draw_tree())
    updates = {"kernel": jnp.full((3, 3, 40, 50), 2.0), "bias": jnp.full(50, 3.0)}
    transformation = add_kernel_noise(0.1)
    found, _ = transformation.update(updates, transformation.init(w), w, key=KEY, scale=5.0)
    again, _ = transformation.update(updates, transformation.init(w), key=jax.random.key(1))
    np.testing.assert_array_equal(found["bias"], 3)
    noise, other = (np.ravel(x["kernel"]) - 2 for x in (found, again))
    assert abs(noise.mean()) < 5 * 0.1 / np.sqrt(noise.size)
    assert abs(noise.std() / 0.1 - 1) < 5 / np.sqrt(2 * noise.size)
    assert abs(np.corrcoef(noise, other)[0, 1]) < 5 / np.sqrt(noise.size)


def test_half_a_step_has_half_of_the_drift_and_half_of_the_variance():
    zeros, grads = jnp.zeros(5), jnp.arange(5.0)
    for build in (lambda e: langevin_step(constant(e)), lambda e: _drift_and_kernel_noise(e)):
        step = build(0.2)
        still, _ = step.update(zeros, step.init(zeros), zeros, key=KEY)
        halved_noise, _ = step.update(zeros, step.init(zeros), zeros, key=KEY, step_factor=0.5)
        np.testing.assert_allclose(halved_noise, np.sqrt(0.5) * still, rtol=1e-6)
        moved, _ = step.update(grads, step.init(zeros), zeros, key=KEY)
        halved, _ = step.update(grads, step.init(zeros), zeros, key=KEY, step_factor=0.5)
        np.testing.assert_allclose(
            halved - halved_noise, 0.5 * (moved - still), rtol=1e-5, atol=1e-6
        )


def _drift_and_kernel_noise(e):
    """Gradient descent and kernel noise, for a vector."""
    noise = add_kernel_noise(0.1)

    def update(g, state, params, **extra):
        kernels = [x.reshape(1, 1, 1, -1) for x in (g, params)]
        updates, state = noise.update(-e * kernels[0], state, kernels[1], **extra)
        return updates.ravel(), state

    return optax.GradientTransformationExtraArgs(noise.init, update)


def test_the_prior_is_as_wide_as_the_initial_weights_unless_it_is_given():
    w = {"kernel": draw(3, 3, 2, 4), "scale": np.ones(4, "f"), "bias": np.zeros(4, "f")}
    transformation = energy_gradient(None)
    zeros = jax.tree.map(jnp.zeros_like, w)
    found, _ = transformation.update(zeros, transformation.init(w), w)
    np.testing.assert_allclose(found["kernel"], w["kernel"] / np.mean(w["kernel"] ** 2), rtol=1e-5)
    np.testing.assert_array_equal(found["scale"], w["scale"])
    ones = jax.tree.map(jnp.ones_like, w)
    found, _ = transformation.update(zeros, transformation.init(w), ones)
    np.testing.assert_array_equal(found["bias"], 1)
