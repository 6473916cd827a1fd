import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dip_jax import codes, losses
from dip_jax.base import Net, Problem
from dip_jax.errors import InputError
from dip_jax.fit import Average, Guard, build_fit
from dip_jax.nets import identity
from dip_jax.operators.basic import Identity, Mask
from dip_jax.operators.from_function import as_operator
from dip_jax.regularizers import tv
from dip_jax.stopping.discrepancy import discrepancy
from dip_jax.stopping.held_out import held_out
from dip_jax.stopping.sure import sure

SHAPE = (4, 3, 1)


def linear_net():
    """A network whose fit can be computed by hand: image = w code + b, elementwise."""

    def init(key):
        return {"w": jnp.full(SHAPE, 0.5), "b": jnp.zeros((1, 1, 1))}

    return Net(init, lambda p, z: p["w"] * z + p["b"], SHAPE, SHAPE)


def problem(value=0.7):
    return Problem(Identity(), jnp.full(SHAPE, value), jnp.float32(0))


def fit(net=None, **options):
    """A fit without perturbations, of the network `linear_net` unless another is given."""
    net = linear_net() if net is None else net
    return build_fit(net, **{"code": codes.uniform(1.0), "perturbation": 0.0, **options})


def run(algorithm, prob, num, key=0, state=None):
    if state is None:
        state = algorithm.init(jax.random.key(key), prob, prob.measurement.shape)
    step = jax.jit(algorithm.step)
    infos = []
    for _ in range(num):
        state, info = step(prob, state)
        infos.append(jax.device_get(info))
    return state, infos


def test_the_default_optimizer_is_adam_with_the_learning_rate_of_2018():
    # a Poisson likelihood without `peak` has no scale for its energy, and a fit needs none
    algorithms = (fit(loss=losses.poisson, optimizer=o) for o in (None, optax.adam(0.01)))
    (found, _), (expected, _) = (run(algorithm, problem(), 3) for algorithm in algorithms)
    np.testing.assert_array_equal(found.average, expected.average)


def test_a_schedule_of_optax_sets_the_learning_rate_of_each_step():
    schedule = optax.piecewise_constant_schedule(0.1, {2: 0.0})
    algorithm = fit(optimizer=optax.sgd(schedule))
    state, _ = run(algorithm, problem(), 2)
    later, _ = run(algorithm, problem(), 3, state=state)
    np.testing.assert_array_equal(later.params["net"]["w"], state.params["net"]["w"])
    assert not np.array_equal(state.params["net"]["w"], linear_net().init(None)["w"])


def test_the_fit_is_adam_on_the_mean_squared_misfit():
    algorithm = fit(optimizer=optax.adam(0.05))
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
    _, (info,) = run(fit(), masked, 1)
    np.testing.assert_allclose(info.loss, np.sum((info.image[0] - 0.7) ** 2) / 12, rtol=1e-6)


def test_the_code_is_uniform_and_each_step_adds_fresh_noise():
    big = Net(lambda key: jnp.zeros(()), lambda p, z: z + p, (64, 64, 8), (64, 64, 8))
    algorithm = build_fit(big, optimizer=optax.adam(1e-9))
    zero = Problem(Identity(), jnp.zeros((64, 64, 8)), jnp.float32(0))
    state, infos = run(algorithm, zero, 3)
    code = np.asarray(state.frozen["code"])
    assert 0 <= code.min() < 0.001 < 0.099 < code.max() <= 0.1
    perturbations = [info.image - code for info in infos]
    for perturbation in perturbations:
        assert abs(perturbation.std() * 30 - 1) < 5 / np.sqrt(2 * perturbation.size)
    assert abs(np.mean(perturbations[0] * perturbations[1])) * 900 < 5 / np.sqrt(code.size)


AVERAGES = {
    "original": Average(0.9, is_corrected=False),
    "corrected": Average(0.9),
    "none": Average(0.0),
}


@pytest.mark.parametrize("form", AVERAGES)
def test_the_running_average_has_the_weights_of_its_definition(form):
    _, infos = run(fit(average=AVERAGES[form], optimizer=optax.adam(0.1)), problem(), 6)
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
    assert Average().lag == fit().lag == round(np.sum(ages * weights)) == 99
    assert fit(average=Average(0.0)).lag == 0


def test_an_algorithm_names_its_loss_and_its_network():
    net = linear_net()
    algorithm = fit(net, loss=losses.laplace)
    assert algorithm.loss is losses.laplace
    assert algorithm.net is net
    assert algorithm.samples is None


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

    def __init__(self, bad_steps, size, **guard):
        self.algorithm = fit(spiky(bad_steps, size), guard=Guard(**guard))
        self.step = jax.jit(self.algorithm.step)

    def run(self, num):
        state = self.algorithm.init(jax.random.key(0), problem(), SHAPE)
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
    states, infos = CountedFit([27], size, every=10).run(30)
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


@pytest.mark.parametrize(("size", "undone"), [(50.0, [5]), (np.inf, [5, 27])])
def test_a_guard_for_some_steps_later_undoes_only_what_is_not_finite(size, undone):
    _, infos = CountedFit([5, 27], size, every=2, num_steps=20).run(30)
    assert [t for t, info in enumerate(infos) if not info.accepted] == undone


def test_an_optimizer_with_arguments_of_its_own_gets_the_factor_of_the_step_after_a_rollback():
    seen = []

    def update(grads, state, params, *, step_factor, **extra):
        jax.debug.callback(lambda factor: seen.append(float(factor)), step_factor, ordered=True)
        return jax.tree.map(lambda g: jnp.full_like(g, 2**-10), grads), state

    optimizer = optax.GradientTransformationExtraArgs(lambda params: (), update)
    algorithm = fit(
        spiky([3], np.nan),
        optimizer=optimizer,
        extra_args=lambda problem, **known: {},
        guard=Guard(every=2),
    )
    state = algorithm.init(jax.random.key(0), problem(), SHAPE)
    moved = []
    for t in range(6):
        net = {**state.params["net"], "t": jnp.full((1, 1, 1), float(t))}
        state = state._replace(params={"net": net})
        new, info = jax.jit(algorithm.step)(problem(), state)
        if info.accepted:
            moved.append(float((new.params["net"]["t"] - net["t"])[0, 0, 0]))
        state = new
    jax.effects_barrier()
    assert seen == [1.0, 1.0, 1.0, 0.5, 0.5]
    assert moved == 5 * [2**-10]  # the updates themselves are not multiplied


def test_a_spike_without_randomness_is_overcome_by_smaller_steps():
    # The loss has a cliff at w = 0.6. The same step would cross it again.
    def apply(params, code):
        return jnp.where(params["w"] > 0.6, 50.0, params["w"])

    net = Net(lambda key: {"w": jnp.full(SHAPE, 0.5)}, apply, SHAPE, SHAPE)
    algorithm = fit(net, optimizer=optax.sgd(10.0), guard=Guard(every=2))
    state, infos = run(algorithm, problem(0.59), 60)
    assert not all(info.accepted for info in infos)
    assert not state.diverged
    assert infos[-1].loss < infos[0].loss


def test_a_loss_within_the_ratio_is_not_a_spike():
    _, infos = CountedFit([27], 0.001, every=10).run(30)
    assert all(info.accepted for info in infos)


def test_a_fit_has_diverged_after_repeated_rollbacks_to_one_snapshot():
    states, _ = CountedFit(list(range(5, 40)), np.nan, every=3, limit=4).run(12)
    assert not states[8].diverged
    assert states[9].diverged
    assert np.isfinite(states[-1].average).all()


def test_accepted_steps_in_between_do_not_hide_a_divergence():
    bad = list(range(5, 60, 2))
    states, _ = CountedFit(bad, np.nan, every=3, limit=4).run(20)
    assert states[-1].diverged


@pytest.mark.parametrize("optimizer", [optax.lbfgs(), optax.lion(0.01), optax.contrib.prodigy()])
def test_an_optimizer_may_use_the_loss_as_a_function_or_estimate_its_steps(optimizer):
    state, infos = run(fit(optimizer=optimizer), problem(), 6)
    assert infos[-1].loss < infos[0].loss
    assert not np.array_equal(state.params["net"]["w"], linear_net().init(None)["w"])


def test_fitting_the_code_of_the_identity_is_gradient_descent_on_pixels():
    shape = (4, 5, 1)
    y = np.random.default_rng(0).random(shape).astype(np.float32)
    pixels = Problem(Identity(), jnp.asarray(y), jnp.float32(0))
    rate = 0.5
    algorithm = fit(identity(), optimizer=optax.sgd(rate), fits_net=False, fits_code=True)
    state, _ = run(algorithm, pixels, 3)
    start = np.asarray(algorithm.init(jax.random.key(0), pixels, shape).params["code"])
    shrunken = (1 - 2 * rate / y.size) ** 3
    np.testing.assert_allclose(state.params["code"], y + shrunken * (start - y), rtol=1e-5)


def test_weights_or_code_or_both_change():
    for changed in ({"net"}, {"code"}, {"net", "code"}):
        algorithm = fit(fits_net="net" in changed, fits_code="code" in changed)
        before = algorithm.init(jax.random.key(0), problem(), SHAPE)
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
        same(after.variables, {**before.frozen, **after.params})


def test_a_fit_of_neither_the_network_nor_the_code_is_refused():
    with pytest.raises(InputError, match="fits_net or fits_code"):
        fit(fits_net=False)


def test_a_fit_makes_the_network_for_each_shape_of_image():
    shapes = []

    def build(shape):
        shapes.append(shape)
        return Net(lambda key: {"w": jnp.zeros(shape)}, lambda p, z: p["w"] + z, shape, shape)

    algorithm = fit(build)
    for shape in (SHAPE, (3, 5, 2), SHAPE):
        state, _ = run(algorithm, Problem(Identity(), jnp.ones(shape), jnp.float32(0)), 1)
        assert state.average.shape == state.params["net"]["w"].shape == shape
    assert shapes == [SHAPE, (3, 5, 2)]


def test_a_regularizer_is_added_to_the_loss():
    plain, with_weight = (fit(regularizer=r) for r in (None, tv(0.3)))
    (_, (first,)), (_, (with_tv,)) = (run(a, problem(), 1) for a in (plain, with_weight))
    image = np.asarray(first.image)
    down, right = image[1:, :-1] - image[:-1, :-1], image[:-1, 1:] - image[:-1, :-1]
    variation = np.sqrt(down**2 + right**2).sum()
    np.testing.assert_allclose(with_tv.loss, first.loss + 0.3 * variation, rtol=1e-5)


def test_a_regularizer_sees_the_image_the_weights_and_the_problem():
    def regularizer(image, params, problem):
        return jnp.mean(image) + 10 * params["w"][0, 0, 0] - problem.measurement[0, 0, 0]

    # the weights are also passed on if they are constant
    for options in ({}, {"fits_net": False, "fits_code": True}):
        (_, (plain,)), (state, (info,)) = (
            run(fit(regularizer=r, **options), problem(), 1) for r in (None, regularizer)
        )
        first = np.mean(info.image) + 10 * 0.5 - 0.7
        np.testing.assert_allclose(info.loss, plain.loss + first, rtol=1e-5)
    # the gradient of the mean of the image w.r.t. each value of the code is w / n
    rate = 0.1
    code_fit = fit(
        regularizer=regularizer, optimizer=optax.sgd(rate), fits_net=False, fits_code=True
    )
    before = code_fit.init(jax.random.key(0), problem(), SHAPE).params["code"]
    state, _ = run(code_fit, problem(), 1)
    slope = 2 * (0.5 * before - 0.7) * 0.5 / before.size + 0.5 / before.size
    np.testing.assert_allclose(state.params["code"], before - rate * slope, rtol=1e-5)


def test_a_loss_is_any_function():
    def loss(prediction, problem):
        return jnp.sum(jnp.abs(prediction - problem.measurement) ** 3)

    _, (info,) = run(fit(loss=loss), problem(), 1)
    np.testing.assert_allclose(info.loss, np.sum(np.abs(info.image - 0.7) ** 3), rtol=1e-5)


def test_the_arguments_of_the_optimizer_are_those_of_the_step():
    seen = []

    def update(updates, state, params=None, *, value, grad, value_fn, **extra):
        # what `extra_args` returns, and the arguments that optax documents
        difference = value_fn(params) - value
        jax.debug.callback(
            lambda *x: seen.append([np.asarray(v) for v in x]),
            extra["t"], extra["l"], extra["n"], value, difference,
        )  # fmt: skip
        return jax.tree.map(lambda g: -0.1 * g, grad), state

    def extra_args(problem, *, loss, step, key, shape):
        del key
        return {"t": step, "l": loss, "n": jnp.float32(np.prod(shape)) + problem.noise_std}

    optimizer = optax.GradientTransformationExtraArgs(lambda params: (), update)
    _, infos = run(fit(optimizer=optimizer, extra_args=extra_args), problem(), 3)
    jax.effects_barrier()
    assert [int(t) for t, *_ in seen] == [0, 1, 2]
    for info, (_, loss, size, value, difference) in zip(infos, seen, strict=True):
        assert info.loss == loss == value
        assert size == np.prod(SHAPE)
        assert abs(difference) < 1e-6


def test_the_average_is_that_of_the_outputs_at_the_evaluated_weights():
    # Schedule-free SGD: the loss is taken at y, and the result is the mean x of the steps z, with
    # z <- z - e grad(y), y = b x + (1 - b) z.
    rate, b = 0.5, 0.9
    optimizer = optax.contrib.schedule_free(optax.sgd(rate), learning_rate=rate, b1=b)
    algorithm = fit(optimizer=optimizer, eval_params=optax.contrib.schedule_free_eval_params)
    state, infos = run(algorithm, problem(), 5)
    code, target = np.asarray(state.frozen["code"]), 0.7
    z = x = {k: np.asarray(v) for k, v in linear_net().init(None).items()}
    steps, outputs = [], []
    for info in infos:
        y = {k: b * x[k] + (1 - b) * z[k] for k in x}
        image = y["w"] * code + y["b"]
        np.testing.assert_allclose(info.loss, np.mean((image - target) ** 2), rtol=1e-4)
        outputs.append(x["w"] * code + x["b"])
        np.testing.assert_allclose(info.image, outputs[-1], rtol=1e-4)
        slope = 2 * (image - target) / image.size
        z = {"w": z["w"] - rate * slope * code, "b": z["b"] - rate * slope.sum()}
        steps.append(z)
        x = {k: np.mean([step[k] for step in steps], axis=0) for k in z}
    # both differ from the outputs at y
    assert np.abs(outputs[-1] - image).max() > 1e-3
    weights = 0.99 ** np.arange(4, -1, -1)
    expected = np.tensordot(weights / weights.sum(), np.stack(outputs), 1)
    np.testing.assert_allclose(state.average, expected, rtol=1e-4)
    evaluated = optax.contrib.schedule_free_eval_params(state.opt_state, state.params)
    np.testing.assert_allclose(evaluated["net"]["w"], x["w"], rtol=1e-4)


def test_a_small_loss_after_a_loss_of_zero_is_not_a_spike():
    # Inside all intervals the loss is 0.
    y = jnp.full(SHAPE, 0.5)
    inside = Problem(Identity(), y, jnp.float32(0), tolerance=jnp.full(SHAPE, 0.6))
    algorithm = fit(
        identity(),
        loss=losses.interval(pull=0.0),
        optimizer=optax.sgd(0.1),
        fits_net=False,
        fits_code=True,
    )
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


def test_the_products_of_an_operator_are_in_full_precision_and_those_of_the_network_as_stated():
    # On a GPU or TPU, a product that states no precision is rounded.
    matrix, mixing = jnp.ones((17, 12)), jnp.ones((4, 4))
    shape, y = SHAPE, jnp.zeros(17)
    operator = as_operator(lambda image: matrix @ image.ravel(), shape)
    inner = linear_net()
    net = inner._replace(apply=lambda p, z: jnp.einsum("ab,bwc->awc", mixing, inner.apply(p, z)))
    algorithm, prob = fit(net), Problem(operator, y, jnp.float32(0.1))
    rules = (held_out(algorithm), discrepancy(), sure(algorithm))

    def step(prob, state, key):
        state, info = algorithm.step(prob, state)
        starts = [rule.init(key, prob, shape) for rule in rules]
        ends = [
            rule.update(start, prob, state.step, info)
            for rule, start in zip(rules, starts, strict=True)
        ]
        return state, ends

    key = jax.random.key(0)
    text = jax.jit(step).lower(prob, algorithm.init(key, prob, shape), key).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    of_operator = [line for line in products if "17x12" in line]
    of_network = [line for line in products if "4x4x" in line]
    # Those of the operator: forward and gradient of the fit and of the twin of `sure`, and those of the rules.
    assert len(of_operator) >= 4 + 3
    assert len(of_network) >= 2
    assert all("HIGHEST" in line for line in of_operator)
    assert not any("HIGHEST" in line for line in of_network)
