"""Pooled chains and seeds, against the moments of all samples together."""

import numpy as np

from dip_jax.base import Posterior
from dip_jax.posterior.pooling import outliers, pool_chains, pool_seeds


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


def test_pooled_chains_have_the_moments_of_all_samples():
    rng = np.random.default_rng(0)
    samples = [rng.normal(mean, 0.1, (num, 3, 4, 1)) for mean, num in ((0.2, 10), (0.5, 7))]
    pooled = pool_chains([chain(samples[0], 10), chain(samples[1], 7)])
    together = np.concatenate(samples)
    np.testing.assert_allclose(pooled.mean, together.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(pooled.std, together.std(axis=0, ddof=1), rtol=1e-6)
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
