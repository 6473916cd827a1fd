"""Does each chain look like the others? The mean of a chain, predicted from the means of the other chains."""

from typing import NamedTuple

import numpy as np
from scipy import stats

from dip_jax.base import Posterior

_LEVEL = 0.9
_OUTLIER = 0.6
"""A chain with a smaller fraction inside has four times as many values outside as it should have. In simulated means of
64 x 64 values that are smooth over 8 pixels, 1 % of the runs of eight equal chains have such a chain, and none of three
or four. A chain with four times the deviation of the others is found in 19, 78 and 99 % of the runs of three, four and
eight chains."""


class LeaveOneOut(NamedTuple):
    """How well the means of M chains are predicted from those of the others."""

    fractions: np.ndarray
    """For each chain, the fraction of the values of its mean that lie inside the 90 % interval `[M]`."""
    fraction: float
    """Their mean; 0.9 is expected."""
    outlier: int | None
    """Index of the chain with the lowest fraction, if it is below 0.6; otherwise None."""
    message: str
    """A sentence about that chain; empty if there is none."""


def leave_one_out(posterior: Posterior) -> LeaveOneOut | None:
    """Predicts the mean of each chain from the means of the other chains.

    If the means of all M chains are independent draws from one normal distribution, a value of chain m lies with a
    probability of 90 % in the prediction interval of the others,

        mean_-m +- t s_-m (1 + 1 / (M - 1))^(1/2),

    with their mean and standard deviation (divisor M - 2), and the 95 % quantile t of Student's distribution with M - 2
    degrees of freedom. That holds for long and for short chains, because the spread is that between chains, so a lower
    fraction shows a chain that differs from the others: it is in another mode, or has not left its start.

    Values of one image depend on each other. If the chains differ by one pattern in the whole image, all values of a
    chain are inside or outside together, and one chain of ten looks like an outlier by chance. Of three chains the
    interval is wide (t = 6.3), so only a gross outlier is seen. Chains that share a start predict each other too well.

    Args:
      posterior: The pooled chains.

    Returns:
      None for fewer than three chains, or if a chain has no sample.

    References:
      Geisser, Predictive inference: an introduction, 1993 (the prediction interval of a normal value).

    Example:
      >>> means = np.random.default_rng(0).normal(size=(5, 32, 32, 1))
      >>> means[3] += 5
      >>> traces = np.zeros((5, 10, 0))
      >>> found = leave_one_out(Posterior(means[0], means[0], means, 50, traces, (), means[:0]))
      >>> found.message.partition(":")[0]
      'chain 4 of 5 differs from the others'
    """
    number = len(posterior.chain_means)
    if number < 3 or not posterior.traces.shape[1]:
        return None
    means = posterior.chain_means.astype(np.float64)
    fractions = np.array([_fraction(np.delete(means, m, axis=0), means[m]) for m in range(number)])
    worst = int(np.argmin(fractions))
    if fractions[worst] >= _OUTLIER:
        return LeaveOneOut(fractions, float(fractions.mean()), None, "")
    message = (
        f"chain {worst + 1} of {number} differs from the others: expected about {_LEVEL:.0%} of its mean inside the "
        f"interval that they predict, got {fractions[worst]:.0%}; use more chains (--num_chains) or another --seed"
    )
    return LeaveOneOut(fractions, float(fractions.mean()), worst, message)


def _fraction(others: np.ndarray, values: np.ndarray) -> float:
    """The fraction of the values `[H, W, C]` in the interval that the others `[M - 1, H, W, C]` predict."""
    number = len(others)
    quantile = stats.t.ppf((1 + _LEVEL) / 2, number - 1)
    half_width = quantile * others.std(axis=0, ddof=1) * np.sqrt(1 + 1 / number)
    return float(np.mean(np.abs(values - others.mean(axis=0)) <= half_width))
