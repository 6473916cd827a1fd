import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dip_jax.base import Net, Problem
from dip_jax.config import FitConfig
from dip_jax.errors import InputError
from dip_jax.fit import average_lag, build_fit, build_optimizer, optimizer_names
from dip_jax.operators.basic import Identity, Mask

SHAPE = (4, 3, 1)


def linear_net():
    """A network whose fit can be computed by hand: image = w code + b, elementwise."""

    def init(key):
        return {"w": jnp.full(SHAPE, 0.5), "b": jnp.zeros((1, 1, 1))}

    return Net(init, lambda p, z: p["w"] * z + p["b"], SHAPE, SHAPE)


def problem(value=0.7):
    return Problem(Identity(), jnp.full(SHAPE, value), jnp.float32(0))


def config(**fields):
    return FitConfig(**{"perturbation": 0.0, "code_scale": 1.0, **fields})


def run(algorithm, prob, num, key=0, state=None):
    state = algorithm.init(jax.random.key(key), prob) if state is None else state
    step = jax.jit(algorithm.step)
    infos = []
    for _ in range(num):
        state, info = step(prob, state)
        infos.append(jax.device_get(info))
    return state, infos


def test_an_optimizer_object_equals_the_optimizer_of_its_name():
    # a Poisson likelihood without `peak` has no scale for its energy, and a fit needs none
    by_name = build_fit(config(likelihood="poisson", learning_rate=0.05), linear_net())
    by_object = build_fit(config(likelihood="poisson"), linear_net(), optimizer=optax.adam(0.05))
    (expected, _), (found, _) = (run(a, problem(), 3) for a in (by_name, by_object))
    np.testing.assert_array_equal(found.average, expected.average)


def test_a_schedule_of_optax_sets_the_learning_rate_of_each_step():
    schedule = optax.piecewise_constant_schedule(0.1, {2: 0.0})
    algorithm = build_fit(config(), linear_net(), optimizer=optax.sgd(schedule))
    state, _ = run(algorithm, problem(), 2)
    later, _ = run(algorithm, problem(), 3, state=state)
    np.testing.assert_array_equal(later.params["net"]["w"], state.params["net"]["w"])
    assert not np.array_equal(state.params["net"]["w"], linear_net().init(None)["w"])


def test_the_fit_is_adam_on_the_mean_squared_misfit():
    algorithm = build_fit(config(learning_rate=0.05), linear_net())
    state, infos = run(algorithm, problem(), 4)
    code, y = state.frozen["code"], problem().measurement
    params, optimizer = linear_net().init(None), optax.adam(0.05)
    opt_state = optimizer.init(params)
    for info in infos:
        image = params["w"] * code + params["b"]
        np.testing.assert_allclose(info.loss, np.mean((image - y) ** 2), rtol=1e-6)
        np.testing.assert_allclose(info.image, image, rtol=1e-6)
        # the gradient by hand
        slope = 2 * (image - y) / image.size
        updates, opt_state = optimizer.update(
            {"w": slope * code, "b": slope.sum(keepdims=True)}, opt_state
        )
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(state.params["net"]["w"], params["w"], rtol=1e-6)


def test_a_masked_misfit_is_divided_by_all_pixels():
    mask = jnp.zeros((4, 3, 1)).at[0].set(1.0)
    masked = Problem(Mask(mask), mask * 0.7, jnp.float32(0))
    algorithm = build_fit(config(), linear_net())
    _, (info,) = run(algorithm, masked, 1)
    np.testing.assert_allclose(info.loss, np.sum((info.image[0] - 0.7) ** 2) / 12, rtol=1e-6)


def test_the_code_is_uniform_and_each_step_adds_fresh_noise():
    big = Net(lambda key: jnp.zeros(()), lambda p, z: z + p, (64, 64, 8), (64, 64, 8))
    algorithm = build_fit(FitConfig(perturbation=1 / 30, learning_rate=1e-9), big)
    zero = Problem(Identity(), jnp.zeros((64, 64, 8)), jnp.float32(0))
    state, infos = run(algorithm, zero, 3)
    code = np.asarray(state.frozen["code"])
    assert 0 <= code.min() < 0.001 < 0.099 < code.max() <= 0.1
    perturbations = [info.image - code for info in infos]
    for perturbation in perturbations:
        assert abs(perturbation.std() * 30 - 1) < 5 / np.sqrt(2 * perturbation.size)
    assert abs(np.mean(perturbations[0] * perturbations[1])) * 900 < 5 / np.sqrt(code.size)


@pytest.mark.parametrize("form", ["original", "corrected", "none"])
def test_the_running_average_has_the_weights_of_its_definition(form):
    algorithm = build_fit(config(average=form, average_decay=0.9, learning_rate=0.1), linear_net())
    _, infos = run(algorithm, problem(), 6)
    images = np.stack([info.image for info in infos])
    for t in range(6):
        ages = np.arange(t, -1, -1)
        if form == "none":
            weights = (ages == 0).astype(float)
        elif form == "corrected":
            weights = 0.9**ages / np.sum(0.9**ages)
        else:  # the first output has the weight that bias correction would remove
            weights = np.where(ages == t, 0.9**ages, 0.1 * 0.9**ages)
        np.testing.assert_allclose(weights.sum(), 1)
        expected = np.tensordot(weights, images[: t + 1], 1)
        np.testing.assert_allclose(infos[t].average, expected, rtol=1e-5)


def test_the_lag_is_the_mean_age_of_the_average():
    ages = np.arange(5000)
    weights = 0.01 * 0.99**ages
    assert average_lag(FitConfig()) == round(np.sum(ages * weights)) == 99
    assert average_lag(FitConfig(average="none")) == 0


def spiky(bad_steps, size):
    """A network whose output jumps in the steps `bad_steps`; its weight `t` is the step."""
    net = linear_net()

    def apply(params, code):
        return net.apply(params, code) + jnp.where(
            jnp.isin(params["t"], jnp.array(bad_steps, jnp.float32)), size, 0
        )

    return Net(lambda key: {**net.init(key), "t": jnp.zeros((1, 1, 1))}, apply, SHAPE, SHAPE)


class CountedFit:
    """A fit of `spiky` whose `t` also advances in rollbacks, as fresh noise does in a real fit."""

    def __init__(self, bad_steps, size, **fields):
        self.algorithm = build_fit(config(**fields), spiky(bad_steps, size))
        self.step = jax.jit(self.algorithm.step)

    def run(self, num):
        state = self.algorithm.init(jax.random.key(0), problem())
        states, infos = [], []
        for t in range(num):
            state = state._replace(
                params={"net": {**state.params["net"], "t": jnp.full((1, 1, 1), float(t))}}
            )
            states.append(state)
            state, info = self.step(problem(), state)
            infos.append(jax.device_get(info))
        return [*states, state], infos


def same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("size", [50.0, np.inf, np.nan])
def test_a_spike_restores_params_and_optimizer_from_the_snapshot(size):
    states, infos = CountedFit([27], size, guard_every=10).run(30)
    assert [t for t, info in enumerate(infos) if not info.accepted] == [27]
    # step 19 is the tenth accepted one in a row, and the snapshot holds the params before it
    after = states[28]
    for name in ("w", "b"):
        np.testing.assert_array_equal(after.params["net"][name], states[19].params["net"][name])
    same(after.opt_state, states[19].opt_state)
    assert after.num_rollbacks == 1
    assert not after.diverged
    # the average does not contain the bad output
    np.testing.assert_array_equal(after.average, states[27].average)
    assert np.isfinite(states[-1].average).all()


def test_a_spike_without_randomness_is_overcome_by_smaller_steps():
    # The loss has a cliff at w = 0.6. The same step would cross it again.
    def apply(params, code):
        return jnp.where(params["w"] > 0.6, 50.0, params["w"])

    net = Net(lambda key: {"w": jnp.full(SHAPE, 0.5)}, apply, SHAPE, SHAPE)
    algorithm = build_fit(config(optimizer="sgd", learning_rate=10.0, guard_every=2), net)
    state, infos = run(algorithm, problem(0.59), 60)
    assert not all(info.accepted for info in infos)
    assert not state.diverged
    assert infos[-1].loss < infos[0].loss


def test_a_loss_within_the_ratio_is_not_a_spike():
    _, infos = CountedFit([27], 0.001, guard_every=10).run(30)
    assert all(info.accepted for info in infos)


def test_a_fit_has_diverged_after_repeated_rollbacks_to_one_snapshot():
    states, _ = CountedFit(list(range(5, 40)), np.nan, guard_every=3, guard_limit=4).run(12)
    assert not states[8].diverged
    assert states[9].diverged
    assert np.isfinite(states[-1].average).all()


def test_accepted_steps_in_between_do_not_hide_a_divergence():
    bad = list(range(5, 60, 2))
    states, _ = CountedFit(bad, np.nan, guard_every=3, guard_limit=4).run(20)
    assert states[-1].diverged


COMMON_OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop", "lion", "lbfgs")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in COMMON_OPTIMIZERS else pytest.mark.slow)
        for name in optimizer_names()
    ],
)
def test_every_listed_optimizer_makes_a_step(name):
    algorithm = build_fit(config(optimizer=name, learning_rate=0.01), linear_net())
    state, (*_, last) = run(algorithm, problem(), 3)
    assert np.isfinite(last.loss)
    assert not np.array_equal(state.params["net"]["w"], linear_net().init(None)["w"])


def test_adam_and_its_variants_are_listed_and_the_error_for_an_unknown_one_names_a_similar_one():
    assert {"adam", "sgd", "adamw", "rmsprop", "lion"} <= set(optimizer_names())
    with pytest.raises(InputError, match=r"'adamw?'"):
        build_optimizer("adamm", 0.1)


def test_b2_reaches_adam_and_is_refused_for_an_optimizer_without_one():
    params, grads = {"w": jnp.ones(3)}, [{"w": jnp.array([1.0, -2.0, g])} for g in (3.0, 0.1)]
    steps = []
    for optimizer in (build_optimizer("adam", 0.1, 0.9), optax.adam(0.1, b2=0.9), optax.adam(0.1)):
        state = optimizer.init(params)
        for g in grads:
            update, state = optimizer.update(g, state, params)
        steps.append(update["w"])
    np.testing.assert_array_equal(steps[0], steps[1])
    assert not np.allclose(steps[0], steps[2], rtol=1e-3)
    with pytest.raises(InputError, match="sgd has no b2"):
        build_optimizer("sgd", 0.1, 0.9)


def test_fitting_the_code_of_the_identity_is_gradient_descent_on_pixels():
    shape = (4, 5, 1)
    identity = Net(lambda key: {}, lambda params, code: code, shape, shape)
    y = np.random.default_rng(0).random(shape).astype(np.float32)
    pixels = Problem(Identity(), jnp.asarray(y), jnp.float32(0))
    rate = 0.5
    algorithm = build_fit(
        config(optimize="code", optimizer="sgd", learning_rate=rate, perturbation=0.0), identity
    )
    state, _ = run(algorithm, pixels, 3)
    start = np.asarray(algorithm.init(jax.random.key(0), pixels).params["code"])
    shrunken = (1 - 2 * rate / y.size) ** 3
    np.testing.assert_allclose(state.params["code"], y + shrunken * (start - y), rtol=1e-5)


def test_optimize_selects_whether_weights_or_code_or_both_change():
    for optimize, changed in (("net", {"net"}), ("code", {"code"}), ("both", {"net", "code"})):
        algorithm = build_fit(config(optimize=optimize, learning_rate=0.05), linear_net())
        before = algorithm.init(jax.random.key(0), problem())
        assert set(before.params) == changed
        assert set(before.params) | set(before.frozen) == {"net", "code"}
        after, _ = run(algorithm, problem(), 2)
        for part in changed:
            for a, b in zip(
                jax.tree.leaves(before.params[part]),
                jax.tree.leaves(after.params[part]),
                strict=True,
            ):
                assert not np.array_equal(a, b)
        same(before.frozen, after.frozen)


def test_total_variation_is_added_with_its_weight():
    plain, with_weight = (
        build_fit(config(learning_rate=0.05, tv_weight=weight), linear_net()) for weight in (0, 0.3)
    )
    (_, (first,)), (_, (with_tv,)) = (run(a, problem(), 1) for a in (plain, with_weight))
    image = np.asarray(first.image)
    down, right = image[1:, :-1] - image[:-1, :-1], image[:-1, 1:] - image[:-1, :-1]
    variation = np.sqrt(down**2 + right**2).sum()
    np.testing.assert_allclose(with_tv.loss, first.loss + 0.3 * variation, rtol=1e-5)


def test_a_small_loss_after_a_loss_of_zero_is_not_a_spike():
    # Inside all intervals the loss is 0.
    pixels = Net(lambda key: {}, lambda params, code: code, SHAPE, SHAPE)
    y = jnp.full(SHAPE, 0.5)
    inside = Problem(Identity(), y, jnp.float32(0), tolerance=jnp.full(SHAPE, 0.6))
    settings = config(
        optimize="code",
        likelihood="interval",
        interval_pull=0.0,
        optimizer="sgd",
        learning_rate=0.1,
    )
    algorithm = build_fit(settings, pixels)
    state, infos = run(algorithm, inside, 5)
    assert [float(info.loss) for info in infos] == [0.0] * 5
    widest = float(jnp.max(jnp.abs(state.params["code"] - y)))
    narrower = inside._replace(tolerance=jnp.full(SHAPE, widest - 5e-4))
    state, (info,) = run(algorithm, narrower, 1, state=state)
    assert float(info.loss) > 0
    assert bool(info.accepted)
    far = inside._replace(measurement=y + 1.2)
    _, (spike,) = run(algorithm, far, 1, state=state)
    assert not bool(spike.accepted)
