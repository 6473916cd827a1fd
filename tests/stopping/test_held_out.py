import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.config import StopConfig
from dip_jax.losses import build_likelihood
from dip_jax.operators.basic import Mask
from dip_jax.stopping.rules import build_stopper
from tests.stopping.toy_fits import KEY, SHAPE, build_problem, feed, run_with_rule, smooth_fit


def start(problem, shape=SHAPE, fraction=0.2, key=KEY):
    """The rule, its first state, and the mask of the held-out values."""
    rule = build_stopper(StopConfig(rule="held_out", held_out_fraction=fraction))
    state = rule.init(key, problem, shape)
    return rule, state, np.asarray(state.memory)


def test_a_fraction_of_the_pixels_is_held_out_with_all_channels():
    problem = build_problem((20, 30, 3))
    rule, state, mask = start(problem, (20, 30, 3), 0.1)
    assert mask.shape == (20, 30, 3)
    assert mask[..., 0].sum() == 60
    assert (mask == mask[..., :1]).all()
    weights = rule.view(state, problem).weights
    np.testing.assert_array_equal(weights, 1 - mask)
    other = start(problem, (20, 30, 3), 0.1, jax.random.key(1))[2]
    assert 0 < (mask * other)[..., 0].sum() < 30


def test_only_informative_pixels_are_held_out():
    rng = np.random.default_rng(0)
    known = jnp.asarray(rng.random((20, 30, 1)) < 0.5, jnp.float32)
    region = jnp.zeros((20, 30, 1)).at[:15, :25].set(1.0)
    problem = build_problem((20, 30, 1), operator=Mask(known), region=region)
    rule, state, mask = start(problem, (20, 30, 1))
    informative = np.asarray(known * region)
    assert mask.sum() == round(0.2 * informative.sum())
    assert (mask <= informative).all()
    np.testing.assert_array_equal(rule.view(state, problem).weights, np.asarray(region) - mask)


def test_a_measurement_that_is_not_an_image_is_held_out_by_the_value():
    class Sums:
        is_linear = True

        def __call__(self, image):
            return image.reshape(-1, 2).sum(axis=1)

    problem = build_problem(operator=Sums(), measurement=jnp.zeros(24))
    assert start(problem, fraction=0.25)[2].sum() == 6
    assert start(problem, fraction=0.001)[2].sum() == 1


def test_the_weights_of_the_problem_stay():
    weights = jnp.ones(SHAPE).at[:4].set(0.0)
    rule, state, mask = start(build_problem(weights=weights), fraction=0.5)
    assert mask[:4].sum() == 0
    assert mask.sum() == 12
    np.testing.assert_array_equal(
        rule.view(state, build_problem(weights=weights)).weights, weights - mask
    )


def test_the_signal_is_the_loss_of_the_estimate_on_the_held_out_pixels():
    rng = np.random.default_rng(0)
    y, estimate = (rng.random(SHAPE).astype(np.float32) for _ in range(2))
    problem = build_problem(measurement=jnp.asarray(y))
    config = StopConfig(rule="held_out", held_out_fraction=0.2)
    for name, misfit in {"gaussian": np.square, "laplace": np.abs}.items():
        (state,), _ = feed(
            config, [0.5], averages=[estimate], problem=problem, loss=build_likelihood(name)
        )
        expected = misfit(estimate - y)[np.asarray(state.memory) > 0].mean()
        np.testing.assert_allclose(state.minimum.signal, expected, rtol=1e-5)


def test_held_out_pixels_do_not_influence_the_fit():
    config = StopConfig(rule="held_out", held_out_fraction=0.2)
    y = jnp.asarray(np.random.default_rng(0).random(SHAPE), jnp.float32)
    mask = start(build_problem())[2]
    others = y.at[3, 2].set(5.0)
    assert mask[3, 2] == 0
    infos = [
        run_with_rule(config, smooth_fit(), build_problem(measurement=measurement), 10, SHAPE)[1]
        for measurement in (y, jnp.where(mask > 0, 5.0, y), others)
    ]
    for a, b in zip(infos[0], infos[1], strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.loss, b.loss)
    assert not np.array_equal(infos[0][-1].image, infos[2][-1].image)


def test_the_estimate_is_that_of_the_minimum():
    estimates = [np.full(SHAPE, abs(t - 50) / 100) for t in range(150)]
    config = StopConfig(rule="held_out", window=10, patience=0.5)
    states, improved = feed(config, estimates, lag=7)
    assert max(t for t, better in enumerate(improved) if better) == 50
    assert states[-1].minimum.estimate_step == 50
    # Two windows and the lag are more than half of 50 steps.
    assert [bool(s.done) for s in states].index(True) == 50 + 27
