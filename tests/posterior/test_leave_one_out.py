"""The prediction of the mean of each chain by the others, against exact probabilities."""

import numpy as np
import pytest
from scipy import stats

from dip_jax.base import Posterior
from dip_jax.posterior.leave_one_out import leave_one_out


def posterior_of(means, num_samples=10):
    traces = np.zeros((len(means), num_samples, 0))
    return Posterior(means[0], means[0], means, 50, traces, (), means[:0])


def normal_means(number):
    return np.random.default_rng(number).normal(0.5, 0.1, (number, 80, 80, 3))


@pytest.mark.parametrize("number", [3, 4, 8])
def test_nine_tenths_of_independent_means_are_inside(number):
    found = leave_one_out(posterior_of(normal_means(number)))
    # 19200 values of each chain: a standard error of 0.0022.
    np.testing.assert_allclose(found.fractions, 0.9, atol=0.01)
    assert found.fraction == pytest.approx(found.fractions.mean())
    assert found.outlier is None
    assert not found.message


@pytest.mark.parametrize("number", [4, 8])
def test_a_chain_with_a_larger_deviation_is_inside_as_often_as_student_says(number):
    means = normal_means(number)
    means[2] = 0.5 + 5 * (means[2] - 0.5)
    found = leave_one_out(posterior_of(means))
    others = number - 1
    scale = np.sqrt((25 + 1 / others) / (1 + 1 / others))
    inside = 1 - 2 * stats.t.sf(stats.t.ppf(0.95, others - 1) / scale, others - 1)
    assert found.fractions[2] == pytest.approx(inside, abs=0.02)
    assert found.outlier == 2
    assert found.message.startswith(f"chain 3 of {number} differs from the others")
    assert f"got {found.fractions[2]:.0%}" in found.message


def test_the_interval_of_three_chains_is_that_of_two():
    # mean 0, s = 2^(1/2), t = 6.314, (1 + 1 / 2)^(1/2): a half width of 10.936.
    first, second = np.full((2, 1, 1, 1), [[[[-1.0]]], [[[1.0]]]])
    for third, inside in ((10.9, 1.0), (10.97, 0.0)):
        means = np.stack([first, second, np.full((1, 1, 1), third)])
        assert leave_one_out(posterior_of(means)).fractions[2] == inside


def test_equal_means_are_inside():
    found = leave_one_out(posterior_of(np.ones((3, 4, 4, 1), np.float32)))
    assert found.fraction == 1


def test_two_chains_and_chains_without_samples_are_not_compared():
    assert leave_one_out(posterior_of(normal_means(2))) is None
    assert leave_one_out(posterior_of(normal_means(3), num_samples=0)) is None
