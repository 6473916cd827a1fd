"""Several networks of one image as one posterior: pooled chains, pooled seeds, outliers."""

from collections.abc import Sequence

import numpy as np

from dip_jax.base import Posterior, PosteriorKind


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

    The variance estimates that of the posterior even if the chains have not mixed, when the variance of all samples
    would have only (M - 1) / M of the variance between the M chains. With n samples in a chain, the mean W of the
    variances within the chains, and the variance B / n of their means,

        var+ = W (n - 1) / n + B / n,   B / n = sum_m (mean_m - mean)^2 / (M - 1).

    For a single chain it is W. The traces are cut to the length of the shortest chain.

    Args:
      chains: The posteriors of the chains, at least one.

    References:
      Gelman and Rubin, Inference from iterative simulation using multiple sequences, 1992, section 2.

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
      >>> within, between = samples.var(axis=1, ddof=1).mean(axis=0), pooled.chain_means.var(axis=0, ddof=1)
      >>> np.allclose(pooled.std**2, 0.9 * within + between)
      True
    """
    counts = np.array([chain.num_samples for chain in chains], np.float64)
    total = int(counts.sum())
    fractions = (counts / max(total, 1))[:, None, None, None]
    means = np.concatenate([chain.chain_means for chain in chains])
    mean = np.sum(fractions * means, axis=0)
    number = int((counts > 0).sum())  # an interrupted chain may have no sample
    variance = chains[int(np.argmax(counts))].std.astype(np.float64) ** 2
    if number > 1:
        within = sum(
            max(chain.num_samples - 1, 0) * chain.std.astype(np.float64) ** 2 for chain in chains
        )
        between = np.sum(fractions * (means - mean) ** 2, axis=0) * number / (number - 1)
        variance = within / max(total, 1) + between
    length = min(chain.traces.shape[1] for chain in chains)  # the guard may have rejected samples
    return Posterior(
        mean=mean.astype(np.float32),
        std=np.sqrt(variance).astype(np.float32),
        chain_means=means,
        num_samples=total,
        traces=np.concatenate([chain.traces[:, :length] for chain in chains]),
        trace_names=chains[0].trace_names,
        samples=np.concatenate([chain.samples for chain in chains]),
        num_kept=tuple(len(chain.samples) for chain in chains),
    )


def error_of_mean(posterior: Posterior) -> np.ndarray | None:
    """Returns the Monte Carlo standard error of the mean over the chains, `[H, W, C]`.

    It is (B / (n M))^(1/2), from the means of the M chains alone, so it holds however slowly a chain moves. None for
    a single chain.

    Args:
      posterior: The pooled chains.

    Example:
      >>> chains = np.array([0.1, 0.3]).reshape(2, 1, 1, 1)
      >>> posterior = Posterior(chains[0], chains[0], chains, 20, np.zeros((2, 0, 0)), (), chains[:0])
      >>> float(error_of_mean(posterior)[0, 0, 0].round(3))
      0.1
    """
    means = posterior.chain_means
    return means.std(axis=0, ddof=1) / np.sqrt(len(means)) if len(means) > 1 else None


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
        kind=PosteriorKind.SEEDS,
    )
