"""Several networks of one image as one posterior: pooled chains, pooled seeds, outliers."""

from collections.abc import Sequence

import numpy as np

from dip_jax.base import Posterior


def outliers(estimates: np.ndarray) -> list[int]:
    """Returns the indices of the estimates that differ from the others.

    An outlier is more than twice as far from the median image (root mean square over pixels) as the
    median of these distances. No reference is needed. Fewer than three estimates have no outliers.

    Args:
      estimates: M estimates of one image `[M, H, W, C]`.

    Example:
      >>> import numpy as np
      >>> noise = np.random.default_rng(0).normal(0, 0.1, (4, 8, 8, 1))
      >>> noise[3] += 1
      >>> outliers(noise)
      [3]
    """
    if len(estimates) < 3:
        return []
    distances = np.sqrt(np.mean((estimates - np.median(estimates, axis=0)) ** 2, axis=(1, 2, 3)))
    return [int(i) for i in np.flatnonzero(distances > 2 * np.median(distances))]


def pool_chains(chains: Sequence[Posterior]) -> Posterior:
    """Returns the samples of several chains as one posterior.

    The variance is that of all samples: within the chains and between their means. The traces are
    cut to the length of the shortest chain.

    Args:
      chains: The posteriors of the chains, at least one.

    References:
      Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample
        variances, 1979.

    Example:
      >>> import numpy as np
      >>> def chain(samples):
      ...     mean, std = samples.mean(axis=0), samples.std(axis=0, ddof=1)
      ...     empty = np.zeros((1, 0, 0))
      ...     return Posterior(mean, std, mean[None], len(samples), empty, (), samples[:0])
      >>> samples = np.random.default_rng(0).random((2, 10, 4, 4, 1))
      >>> pooled = pool_chains([chain(samples[0]), chain(samples[1])])
      >>> pooled.num_samples, pooled.chain_means.shape
      (20, (2, 4, 4, 1))
      >>> together = samples.reshape(20, 4, 4, 1)
      >>> np.allclose(pooled.std, together.std(axis=0, ddof=1))
      True
    """
    counts = np.array([chain.num_samples for chain in chains], np.float64)
    total = int(counts.sum())
    fractions = (counts / max(total, 1))[:, None, None, None]
    means = np.concatenate([chain.chain_means for chain in chains])
    mean = np.sum(fractions * means, axis=0)
    within = sum(
        max(chain.num_samples - 1, 0) * chain.std.astype(np.float64) ** 2 for chain in chains
    )
    between = np.sum(counts[:, None, None, None] * (means - mean) ** 2, axis=0)
    length = min(chain.traces.shape[1] for chain in chains)  # the guard may have rejected samples
    return Posterior(
        mean=mean.astype(np.float32),
        std=np.sqrt((within + between) / max(total - 1, 1)).astype(np.float32),
        chain_means=means,
        num_samples=total,
        traces=np.concatenate([chain.traces[:, :length] for chain in chains]),
        trace_names=chains[0].trace_names,
        samples=np.concatenate([chain.samples for chain in chains]),
    )


def pool_seeds(kept: np.ndarray, estimates: np.ndarray) -> Posterior:
    """Returns mean and standard deviation of the estimates of several seeds as a posterior.

    Args:
      kept: Estimates without outliers `[K, H, W, C]`; mean and standard deviation are theirs.
      estimates: All estimates `[M, H, W, C]`; they become the samples.

    Example:
      >>> import numpy as np
      >>> estimates = np.random.default_rng(0).random((5, 4, 4, 1))
      >>> pooled = pool_seeds(estimates[:4], estimates)
      >>> pooled.num_samples, pooled.samples.shape
      (4, (5, 4, 4, 1))
    """
    several = len(kept) > 1
    return Posterior(
        mean=kept.mean(axis=0),
        std=kept.std(axis=0, ddof=1) if several else np.zeros_like(kept[0]),
        chain_means=estimates,
        num_samples=len(kept),
        traces=np.zeros((len(estimates), 0, 0), np.float32),
        trace_names=(),
        samples=estimates,
    )
