"""Several networks of one image as one posterior: pooled chains, pooled seeds, outliers."""

from collections.abc import Sequence

import numpy as np

from dip_jax.base import Posterior, Result


def outliers(estimates: np.ndarray) -> list[int]:
    """Which of several answers `[M, H, W, C]` are unlike the others; none of fewer than three.

    Those more than twice as far from the median image as the answers are on the whole (their median
    distance, root mean square over pixels). No reference is needed.
    """
    if len(estimates) < 3:
        return []
    distances = np.sqrt(np.mean((estimates - np.median(estimates, axis=0)) ** 2, axis=(1, 2, 3)))
    return [int(i) for i in np.flatnonzero(distances > 2 * np.median(distances))]


def pool_chains(results: Sequence[Result]) -> Posterior:
    """The samples of several chains as those of one.

    References:
      Chan, Golub and LeVeque, Updating formulae and a pairwise algorithm for computing sample variances, 1979.
    """
    parts = [result.posterior for result in results if result.posterior is not None]
    counts = np.array([part.num_samples for part in parts], np.float64)
    total = int(counts.sum())
    fraction = (counts / max(total, 1))[:, None, None, None]
    means = np.concatenate([part.chain_means for part in parts])
    mean = np.sum(fraction * means, axis=0)
    within = sum(max(part.num_samples - 1, 0) * part.std.astype(np.float64) ** 2 for part in parts)
    between = np.sum(counts[:, None, None, None] * (means - mean) ** 2, axis=0)
    length = min(part.traces.shape[1] for part in parts)  # the guard may have rejected samples
    return Posterior(
        mean=mean.astype(np.float32),
        std=np.sqrt((within + between) / max(total - 1, 1)).astype(np.float32),
        chain_means=means,
        num_samples=total,
        traces=np.concatenate([part.traces[:, :length] for part in parts]),
        trace_names=parts[0].trace_names,
        samples=np.concatenate([part.samples for part in parts]),
    )


def pool_seeds(kept: np.ndarray, estimates: np.ndarray) -> Posterior:
    """The spread of several answers; `samples` are all of them."""
    many = len(kept) > 1
    return Posterior(
        mean=kept.mean(axis=0),
        std=kept.std(axis=0, ddof=1) if many else np.zeros_like(kept[0]),
        chain_means=estimates,
        num_samples=len(kept),
        traces=np.zeros((len(estimates), 0, 0), np.float32),
        trace_names=(),
        samples=estimates,
    )
