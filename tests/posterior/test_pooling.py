"""Pooled chains and seeds, against the moments of all samples together."""

import numpy as np
import pytest

from dip_jax.base import Posterior
from dip_jax.posterior.pooling import error_of_mean, outliers, pool_chains, pool_seeds


def chain(samples, num_traced):
    """The posterior of one chain of samples `[S, H, W, C]`, of which all are kept."""
    return Posterior(
        mean=samples.mean(axis=0),
        std=samples.std(axis=0, ddof=1),
        chain_means=samples.mean(axis=0)[None],
        num_samples=len(samples),
        traces=samples[None, :num_traced, 0, 0],
        trace_names=("x[0,0,0]",),
        samples=samples,
    )


def test_the_variance_of_chains_that_have_not_mixed_is_that_of_the_posterior():
    # Each chain moves about a mean of its own; the variance of all samples would be 1.5, not 2.
    rng = np.random.default_rng(0)
    means = rng.normal(0, 1, (2, 1, 80, 80, 1))
    samples = means + rng.normal(0, 1, (2, 50, 80, 80, 1))
    pooled = pool_chains([chain(found, 10) for found in samples])
    # 6400 pixels; the variance of the difference of two means has the relative error (2 / 6400)^(1/2).
    assert np.mean(pooled.std**2) == pytest.approx(2, abs=4 * 0.02)
    error = error_of_mean(pooled)
    assert np.mean(error**2) == pytest.approx((1 + 1 / 50) / 2, abs=0.04)
    one = pool_chains([chain(samples[0], 10)])
    np.testing.assert_allclose(one.std, samples[0].std(axis=0, ddof=1), rtol=1e-6)
    assert error_of_mean(one) is None


def test_pooled_chains_have_the_mean_of_all_samples_and_the_variance_of_gelman_and_rubin():
    rng = np.random.default_rng(0)
    samples = [rng.normal(mean, 0.1, (num, 3, 4, 1)) for mean, num in ((0.2, 10), (0.5, 7))]
    pooled = pool_chains([chain(samples[0], 10), chain(samples[1], 7)])
    together = np.concatenate(samples)
    np.testing.assert_allclose(pooled.mean, together.mean(axis=0), rtol=1e-6)
    within = sum((len(s) - 1) * s.var(axis=0, ddof=1) for s in samples) / 17
    means = [s.mean(axis=0) for s in samples]
    between = 2 * sum(
        len(s) / 17 * (m - pooled.mean) ** 2 for s, m in zip(samples, means, strict=True)
    )
    np.testing.assert_allclose(pooled.std**2, within + between, rtol=1e-5)
    assert pooled.num_samples == 17
    np.testing.assert_array_equal(pooled.samples, together)
    # Traces are cut to the shortest chain.
    np.testing.assert_array_equal(pooled.traces[..., 0], [s[:7, 0, 0, 0] for s in samples])


def test_pooled_seeds_leave_out_the_outliers_but_keep_them_as_samples():
    estimates = np.random.default_rng(0).normal(0.5, 0.1, (5, 3, 4, 1))
    estimates[2] += 2
    assert outliers(estimates) == [2]
    kept = np.delete(estimates, 2, axis=0)
    pooled = pool_seeds(kept, estimates)
    np.testing.assert_array_equal(pooled.mean, kept.mean(axis=0))
    np.testing.assert_array_equal(pooled.std, kept.std(axis=0, ddof=1))
    assert pooled.num_samples == 4
    assert pooled.samples.shape == (5, 3, 4, 1)
    assert (pool_seeds(kept[:1], estimates).std == 0).all()
