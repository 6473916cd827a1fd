import jax
import jax.numpy as jnp
import numpy as np
import optax

from dip_jax.langevin import energy_gradient, langevin_step
from dip_jax.schedules import constant
from dip_jax.warm_up import after_warm_up
from tests.test_scale_invariance import APPLY, SKIP, by_name

STEPS = 5


def run(num_steps):
    """Params of each step of a network that samples without noise after a warm-up of `STEPS` steps."""
    keys = jax.random.split(jax.random.key(0), 3)
    code = jax.random.uniform(keys[1], SKIP.code_shape)
    target = jax.random.uniform(keys[2], SKIP.image_shape)
    gradient = jax.jit(jax.grad(lambda w: jnp.mean((SKIP.apply(w, code) - target) ** 2)))
    sampler = optax.chain(
        energy_gradient(None), _held(langevin_step(constant(1e-3, temperature=0.0)))
    )
    both = after_warm_up(optax.adam(0.01), sampler, num_steps=STEPS)

    @jax.jit
    def update(params, grads, state, key):
        updates, state = both.update(grads, state, params, key=key, scale=10.0)
        return optax.apply_updates(params, updates), state

    params = SKIP.init(keys[0])
    state, path = both.init(params), [params]
    for key in jax.random.split(keys[0], num_steps):
        params, state = update(params, gradient(params), state, key)
        path.append(params)
    return path, code, gradient


def _held(inner):
    """The transformation, with the updates of the weights that do not move set to 0."""

    def update(grads, state, params, *, moves, **extra):
        updates, state = inner.update(grads, state, params, **extra)
        return jax.tree.map(lambda u, on: u * jnp.broadcast_to(on, u.shape), updates, moves), state

    return optax.GradientTransformationExtraArgs(inner.init, update)


def test_an_optimizer_comes_first_then_the_lengths_of_the_prior_then_the_sampler():
    path, code, gradient = run(STEPS + 2)
    # the optimizer
    optimizer, params = optax.adam(0.01), path[0]
    state = optimizer.init(params)
    for _ in range(STEPS):
        updates, state = optimizer.update(gradient(params), state, params)
        params = optax.apply_updates(params, updates)
    for found, expected in zip(*map(jax.tree.leaves, (path[STEPS], params)), strict=True):
        np.testing.assert_allclose(
            found, expected, atol=2e-3
        )  # Adam amplifies rounding; a step is 0.01
    # the lengths: the image stays, and a filter has the mean square of the initial weights
    before, after = (APPLY(path[i], code) for i in (STEPS, STEPS + 1))
    np.testing.assert_allclose(after, before, atol=2e-3)
    start, scaled = by_name(path[0]), by_name(path[STEPS + 1])
    for name in ("halve_1_conv/kernel", "skip_0_conv/kernel"):
        squares = (scaled[name] ** 2).mean(axis=(0, 1, 2))
        np.testing.assert_allclose(squares, (start[name] ** 2).mean(), rtol=1e-4)
    # the sampler
    last = by_name(path[-1])
    moved = {name for name, w in last.items() if np.any(w != scaled[name])}
    pairs = {
        f"{m}_norm/{leaf}" for m in ("skip_0", "mix_1", "down_1") for leaf in ("scale", "bias")
    }
    assert not pairs & moved
    assert {"halve_0_conv/kernel", "mix_0_norm/scale", "head_conv/kernel"} <= moved


def test_without_a_warm_up_one_gradient_finds_the_lengths():
    both = after_warm_up(optax.sgd(0.1), langevin_step(constant(0.1)), num_steps=0)
    w = {"first": jnp.float32([[3.0], [4.0]]), "second": jnp.float32([[0.5], [0.5]])}

    def loss(w):
        direction = w["first"] / jnp.linalg.norm(w["first"])
        return jnp.sum((direction - 0.3) ** 2) + jnp.sum(w["second"])

    updates, state = both.update(jax.grad(loss)(w), both.init(w), w, key=jax.random.key(0))
    rms = np.sqrt(12.5)  # already that of the initial weights
    np.testing.assert_allclose(updates["first"], 0, atol=1e-6)
    np.testing.assert_array_equal(updates["second"], 0)
    longer = {**w, "first": 2 * w["first"]}
    updates, _ = both.update(jax.grad(loss)(longer), both.init(w), longer, key=jax.random.key(0))
    moved = (longer["first"] + updates["first"]).ravel()
    np.testing.assert_allclose(moved, np.array([0.6, 0.8]) * rms * np.sqrt(2), rtol=1e-5)
    assert int(state.num_steps) == 1


def recording(name):
    """A sampler that changes nothing, and the list of the values that an argument of its `update` has had."""
    seen = []

    def sample(grads, state, params, **extra):
        seen.append(float(extra[name]))
        return grads, state

    return optax.GradientTransformationExtraArgs(lambda params: (), sample), seen


def test_a_rollback_does_not_shift_the_end_of_the_warm_up():
    sampler, seen = recording("step")
    both = after_warm_up(optax.sgd(1.0), sampler, num_steps=5)
    w = jnp.ones(2)
    start = both.init(w)
    with jax.disable_jit():
        updates, _ = both.update(w, start, w, step=jnp.int32(4))
        np.testing.assert_array_equal(updates, -1)
        # The state is that of the snapshot again, but the run goes on.
        updates, state = both.update(w, start, w, step=jnp.int32(5))
        np.testing.assert_array_equal(updates, 0)
        both.update(w, state, w, step=jnp.int32(6))
    assert seen == [6]


def test_a_factor_of_the_step_multiplies_the_optimizer_and_is_passed_to_the_sampler():
    sampler, seen = recording("step_factor")
    both = after_warm_up(optax.sgd(1.0), sampler, num_steps=1)
    w = jnp.ones(2)
    state = both.init(w)
    with jax.disable_jit():
        updates, state = both.update(w, state, w, step_factor=0.25)
        np.testing.assert_array_equal(updates, -0.25)
        _, state = both.update(w, state, w, step_factor=0.25)
        both.update(w, state, w, step_factor=0.25)
    assert seen == [0.25]
