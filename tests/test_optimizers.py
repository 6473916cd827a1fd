"""Optimizers and schedules by name, compared with optax and linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from dip_jax.base import Net, Problem
from dip_jax.errors import InputError
from dip_jax.fit import Guard, build_fit
from dip_jax.operators.basic import Identity
from dip_jax.optimizers import build_optimizer, build_schedule, optimizer_names

# The others are slow tests.
COMMON = (
    "adam",
    "adamw",
    "lbfgs",
    "muon",
    "prodigy",
    "schedule_free_adamw",
    "sgd",
)
WITHOUT_SCHEDULE = {"rprop", "schedule_free_adamw", "schedule_free_sgd", "sm3"}

RNG = np.random.default_rng(0)
CODE, TARGET = (jnp.asarray(RNG.random((1, 12, 12, c)), jnp.float32) for c in (3, 1))
PARAMS = {
    name: {
        "kernel": jnp.asarray(0.2 * RNG.normal(size=(3, 3, *channels)), jnp.float32),
        "bias": jnp.zeros(channels[-1]),
    }
    for name, channels in {"first": (3, 8), "last": (8, 1)}.items()
}


def loss_fn(params):
    """Mean squared misfit of a network of two convolutions."""

    def conv(x, layer):
        dimensions = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(
            x, layer["kernel"], (1, 1), "SAME", dimension_numbers=dimensions
        )
        return y + layer["bias"][None, None, None]

    image = conv(jnp.tanh(conv(CODE, params["first"])), params["last"])
    return jnp.mean((image - TARGET) ** 2)


def minimize(transformation, num_steps):
    """The params and the state of the optimizer after some updates, called as `fit` calls them."""

    def step(carry, _):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = transformation.update(
            grads, state, params, value=loss, grad=grads, value_fn=loss_fn
        )
        return (optax.apply_updates(params, updates), state), None

    start = PARAMS, transformation.init(PARAMS)
    return jax.jit(lambda: jax.lax.scan(step, start, length=num_steps)[0])()


def assert_same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in COMMON else pytest.mark.slow)
        for name in optimizer_names()
    ],
)
def test_an_optimizer_reduces_the_loss_of_a_network_at_its_default_learning_rate(name):
    optimizer = build_optimizer(name)
    params, state = minimize(optimizer.transformation, 100)
    if optimizer.eval_params is not None:
        params = optimizer.eval_params(state, params)
    assert loss_fn(params) < 0.75 * loss_fn(PARAMS)


def test_optimizers_of_optax_and_its_contributions_are_listed_but_no_parts_of_them():
    names = set(optimizer_names())
    assert {*COMMON, "adopt", "dadapt_adamw", "madgrad", "momo", "nadam"} <= names
    assert not {"scale_by_rprop", "schedule_free", "sophia", "dpsgd", "reduce_on_plateau"} & names


def test_the_error_for_an_unknown_optimizer_names_a_similar_one():
    with pytest.raises(InputError, match=r"'adamw?'"):
        build_optimizer("adamm")
    with pytest.raises(InputError, match="'prodigy'"):
        build_optimizer("prodgy")


@pytest.mark.parametrize(
    ("name", "expected"), [("adam", optax.adam(0.01)), ("prodigy", contrib.prodigy(1.0))]
)
def test_the_default_learning_rate_is_1_if_the_optimizer_estimates_its_steps(name, expected):
    assert_same(minimize(build_optimizer(name).transformation, 5)[0], minimize(expected, 5)[0])


def test_a_given_learning_rate_is_used_as_it_is():
    optimizer = build_optimizer("prodigy", learning_rate=0.01)
    expected = contrib.prodigy(0.01)
    assert_same(minimize(optimizer.transformation, 5)[0], minimize(expected, 5)[0])


def test_a_constant_learning_rate_is_no_schedule():
    state = build_optimizer("adam", learning_rate=0.02).transformation.init(PARAMS)
    assert jax.tree.structure(state) == jax.tree.structure(optax.adam(0.02).init(PARAMS))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("adam", optax.adam(0.01, b2=0.9)), ("ademamix", contrib.ademamix(0.01, b2=0.9))],
)
def test_b2_reaches_the_optimizer(name, expected):
    found, _ = minimize(build_optimizer(name, b2=0.9).transformation, 5)
    assert_same(found, minimize(expected, 5)[0])
    other, _ = minimize(build_optimizer(name).transformation, 5)
    assert not np.allclose(found["last"]["kernel"], other["last"]["kernel"], rtol=1e-3)


@pytest.mark.parametrize("name", ["sgd", "prodigy", "schedule_free_sgd"])
def test_b2_is_refused_for_an_optimizer_without_one(name):
    with pytest.raises(InputError, match=f"{name} has no b2"):
        build_optimizer(name, b2=0.9)


def test_muon_makes_the_update_of_a_kernel_orthogonal():
    params = {"kernel": jnp.zeros((3, 3, 4, 6))}
    grads = {"kernel": jnp.asarray(RNG.normal(size=(3, 3, 4, 6)), jnp.float32)}
    muon = build_optimizer("muon", learning_rate=0.1).transformation
    updates, _ = muon.update(grads, muon.init(params), params)
    # In its first step, the momentum is a multiple of the gradient.
    left, _, right = np.linalg.svd(np.reshape(grads["kernel"], (36, 6)), full_matrices=False)
    update = left.T @ np.reshape(updates["kernel"], (36, 6)) @ right.T
    # Newton-Schulz maps singular values to 0.68 to 1.13; Adam's root mean square is 0.2.
    values = -np.diag(update) / (0.1 * 0.2 * np.sqrt(36))
    assert values.min() > 0.65
    assert values.max() < 1.2
    np.testing.assert_allclose(update - np.diag(np.diag(update)), 0, atol=1e-4)


def test_muon_is_adam_for_params_that_are_no_kernels():
    params = {"net": {"bias": jnp.ones(4), "kernel": jnp.ones((1, 3, 2, 4))}, "code": CODE[0]}
    grads = jax.tree.map(lambda w: jnp.asarray(RNG.normal(size=w.shape), jnp.float32), params)
    muon = build_optimizer("muon", learning_rate=0.1, b2=0.9).transformation
    adam = optax.nadam(0.1, b2=0.9)
    found, _ = muon.update(grads, muon.init(params), params)
    expected, _ = adam.update(grads, adam.init(params), params)
    np.testing.assert_allclose(found["net"]["bias"], expected["net"]["bias"], rtol=1e-6)
    np.testing.assert_allclose(found["code"], expected["code"], rtol=1e-6)
    assert not np.allclose(found["net"]["kernel"], expected["net"]["kernel"], rtol=0.1)


def test_muon_without_kernels_is_adam():
    params, grads = {"code": CODE[0]}, {"code": 1 - CODE[0]}
    muon, adam = build_optimizer("muon", learning_rate=0.1).transformation, optax.nadam(0.1)
    found, _ = muon.update(grads, muon.init(params), params)
    expected, _ = adam.update(grads, adam.init(params), params)
    np.testing.assert_allclose(found["code"], expected["code"], rtol=1e-6)


def test_schedule_free_evaluates_the_average_of_its_gradient_steps():
    optimizer = build_optimizer("schedule_free_sgd", learning_rate=0.1)
    assert optimizer.eval_params is not None
    params, state = PARAMS, optimizer.transformation.init(PARAMS)
    start = average = PARAMS["last"]["kernel"]
    for count in range(1, 4):
        grads = jax.grad(loss_fn)(params)
        updates, state = optimizer.transformation.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        # z <- z - learning_rate grad, and x is the mean of all z
        start = start - 0.1 * grads["last"]["kernel"]
        average = average + (start - average) / count
    found = optimizer.eval_params(state, params)
    np.testing.assert_allclose(found["last"]["kernel"], average, rtol=1e-5, atol=1e-6)
    assert_same(found, contrib.schedule_free_eval_params(state, params))
    assert not np.allclose(found["last"]["kernel"], params["last"]["kernel"], rtol=1e-5)


def test_other_optimizers_evaluate_the_params_themselves():
    with_eval = {name for name in optimizer_names() if build_optimizer(name).eval_params}
    assert with_eval == {"schedule_free_adamw", "schedule_free_sgd"}


def test_the_cosine_is_that_of_optax():
    found = minimize(build_optimizer("adam", schedule="cosine", num_steps=8).transformation, 8)
    assert_same(found[0], minimize(optax.adam(optax.cosine_decay_schedule(0.01, 8)), 8)[0])


@pytest.mark.parametrize(("given", "warm_up"), [(None, 5), (40, 40), (0, 0)])
def test_a_warm_up_rises_linearly_and_the_cosine_falls_to_zero_afterwards(given, warm_up):
    schedule = build_schedule(
        "warmup_cosine", learning_rate=0.3, num_steps=100, warm_up_steps=given
    )
    steps = np.arange(101)
    rest = (steps - warm_up) / (100 - warm_up)
    expected = np.where(
        steps < warm_up, 0.3 * steps / max(warm_up, 1), 0.15 * (1 + np.cos(np.pi * rest))
    )
    np.testing.assert_allclose([schedule(step) for step in steps], expected, atol=1e-6)


@pytest.mark.parametrize("name", optimizer_names())
def test_a_schedule_is_refused_if_the_optimizer_expects_a_constant(name):
    if name in WITHOUT_SCHEDULE:
        with pytest.raises(InputError, match=r"set fit\.schedule=constant"):
            build_optimizer(name, schedule="cosine", num_steps=10)
    else:
        build_optimizer(name, schedule="cosine", num_steps=10)


def test_a_schedule_is_refused_without_its_length():
    with pytest.raises(InputError, match="num_steps"):
        build_optimizer("adam", schedule="cosine")


def test_the_schedule_counts_the_steps_that_no_rollback_has_undone():
    shape = (4, 3, 1)
    net = Net(lambda key: {"w": jnp.zeros(shape)}, lambda params, code: params["w"], shape, shape)
    optimizer = build_optimizer("sgd", schedule="cosine", num_steps=50).transformation
    algorithm = build_fit(net, optimizer=optimizer, guard=Guard(every=10))
    good, bad = (Problem(Identity(), jnp.full(shape, y), 0.0) for y in (0.5, np.nan))
    state, step = algorithm.init(jax.random.key(0), good, shape), jax.jit(algorithm.step)
    counts = []
    for t in range(30):
        counts.append(int(optax.tree.get(state.opt_state, "count")))
        state, _ = step(bad if t == 27 else good, state)
    # The snapshot of step 19 holds the state before that step.
    assert counts == [*range(28), 19, 20]
