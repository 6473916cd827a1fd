import jax
import numpy as np
from scipy import stats

from dip_jax.fast_random import normal


def test_the_numbers_are_normal():
    x = np.asarray(normal(jax.random.key(1), (500, 2000)), np.float64).ravel()
    n = x.size
    # five standard errors of each estimator
    assert abs(x.mean()) < 5 / np.sqrt(n)
    assert abs(x.var() - 1) < 5 * np.sqrt(2 / n)
    assert abs(stats.skew(x)) < 5 * np.sqrt(6 / n)
    assert abs(stats.kurtosis(x)) < 5 * np.sqrt(24 / n)
    assert stats.kstest(x, "norm").pvalue > 1e-4


def test_neighbors_steps_and_keys_are_uncorrelated():
    keys = [jax.random.key(1), jax.random.key(2), *jax.random.split(jax.random.key(3), 2)]
    draws = [np.asarray(normal(key, (400, 1000)), np.float64).ravel() for key in keys]
    bound = 5 / np.sqrt(draws[0].size)
    for lag in (1, 2, 32, 1000):
        assert abs((draws[0][lag:] * draws[0][:-lag]).mean()) < bound
    for i in range(len(draws)):
        for j in range(i):
            assert abs((draws[i] * draws[j]).mean()) < bound


def test_a_batch_draws_the_numbers_of_each_key_alone():
    keys = jax.random.split(jax.random.key(0), 3)
    batch = jax.vmap(lambda key: normal(key, (5, 7)))(keys)
    alone = [normal(key, (5, 7)) for key in jax.random.split(jax.random.key(0), 3)]
    np.testing.assert_array_equal(batch, np.stack(alone))


def test_parts_of_one_draw_can_be_drawn_separately():
    key = jax.random.key(3)
    whole = normal(key, (30,))
    np.testing.assert_array_equal(normal(key, (2, 5), first=20).reshape(-1), whole[20:])
