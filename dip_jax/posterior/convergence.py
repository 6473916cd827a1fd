"""Have the chains mixed? R-hat and effective sample sizes of traced quantities."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Vehtari et al. ask for an R-hat of 1.01 and for 100 effective samples per chain. With that many,
# good chains have an R-hat of 1.006 to 1.009 on average, and of 1.02 to 1.04 in the worst of 67
# quantities (simulated, two and four chains), so 1.01 would reject every sampler. At 1.05 the means
# of the chains differ by a third of a deviation.
RHAT_LIMIT = 1.05
ESS_PER_CHAIN = 100
MIN_SAMPLES = 8  # per chain, which is split in halves
_MOST_TIMES_LONGER = 10  # beyond which nobody waits


class Diagnosis(NamedTuple):
    """Convergence of the chains, by each of Q traced quantities."""

    rhat: np.ndarray
    """R-hat `[Q]`, nested if chains share their starts: 1 if the chains agree, more if not; infinite if a chain is
    constant or not finite, NaN if there are too few samples."""
    ess_bulk: np.ndarray
    """Effective sample size `[Q]` for the center of the distribution."""
    ess_tail: np.ndarray
    """Effective sample size `[Q]` for its 5 % and 95 % quantiles."""
    rhat_max: float
    """Largest R-hat."""
    ess_min: float
    """Smallest effective sample size of both kinds."""
    converged: bool | None
    """Whether `rhat_max` is at most `RHAT_LIMIT`, and `ess_min` at least `ESS_PER_CHAIN` per
    chain. None if chains of a single start meet both: they cannot tell whether others would agree."""
    message: str
    """The result in a sentence: the problem, where it is, and what to do."""


def diagnose(traces: np.ndarray, names: Sequence[str], *, chains_per_start: int = 1) -> Diagnosis:
    """Computes R-hat and effective sample sizes of traced quantities.

    R-hat = (((n - 1) W + B) / (n W))^(1/2), the larger of that of the ranks of x and that of the
    ranks of |x - median|, both as normal scores. Each chain is split in halves of n samples; W is
    the variance within a half, and B / n the variance of the means of the halves. So one chain has
    an R-hat too; it shows whether the chain still drifts, but not whether another chain would find
    another mode.

    If several chains share a start and there are several starts, R-hat is `nested_rhat` instead, with the same limit:
    chains of one start agree too early, so only different starts tell whether they have been forgotten. Of a single
    start it is the R-hat above, and `converged` is never True. The limit of the effective sample size does not change.

    A quantity with one value in all samples of all chains, such as a saturated pixel, has an R-hat
    of 1, if there are others.

    Args:
      traces: `[M, S, Q]`, S samples of Q quantities in each of M chains.
      names: Names of the Q quantities; those of pixels are `x[row,column,channel]`.
      chains_per_start: Number of consecutive chains that started from the same weights.

    Raises:
      ValueError: If the traces are not `[M, S, Q]` with Q names, or `chains_per_start` does not divide M.

    References:
      Vehtari, Gelman, Simpson, Carpenter and Buerkner, Rank-normalization, folding, and
        localization: an improved
        R-hat for assessing convergence of MCMC, 2021.

    Example:
      >>> import numpy as np
      >>> traces = np.random.default_rng(0).normal(size=(4, 300, 2))
      >>> diagnosis = diagnose(traces, ["x[0,0,0]", "misfit"])
      >>> diagnosis.converged, round(diagnosis.rhat_max, 1)
      (True, 1.0)
      >>> traces[0, :, 1] += 5
      >>> print(diagnose(traces, ["x[0,0,0]", "misfit"]).message.partition(";")[0])
      not converged: expected an R-hat of at most 1.05, got 1.53 (misfit)
    """
    traces = np.asarray(traces, np.float64)
    if traces.ndim != 3 or traces.shape[2] != len(names):
        raise ValueError(
            f"expected traces [M, S, {len(names)}] for {len(names)} names, got {traces.shape}"
        )
    num_chains, num_samples, num = traces.shape
    num_starts = _num_starts(num_chains, chains_per_start)
    is_nested = chains_per_start > 1 and num_starts > 1
    is_lost = ~np.isfinite(traces).all(axis=1)  # [M, Q]
    is_constant = np.zeros_like(is_lost)
    if num_samples < MIN_SAMPLES or not num or not num_chains:
        rhat, bulk, tail = np.full((3, num), np.nan)
    else:
        finite = np.where(is_lost.any(axis=0), 0.0, traces)
        is_constant = ~is_lost & (np.ptp(finite, axis=1) == 0)
        is_equal = is_constant.all(axis=0) & (np.ptp(finite, axis=(0, 1)) == 0)
        if not is_equal.all():
            is_constant[:, is_equal] = False
        rhat, bulk, tail = _mixing(finite)
        if is_nested:
            rhat = nested_rhat(finite, chains_per_start)
        rhat[is_equal], bulk[is_equal], tail[is_equal] = 1, *(2 * [num_chains * num_samples])
        is_bad = (is_lost | is_constant).any(axis=0) | np.isnan(rhat + bulk + tail)
        rhat[is_bad], bulk[is_bad], tail[is_bad] = np.inf, 0, 0
    ess = np.minimum(bulk, tail)
    rhat_max, ess_min = (float(rhat.max()), float(ess.min())) if num else (math.nan, math.nan)
    converged: bool | None = rhat_max <= RHAT_LIMIT and ess_min >= ESS_PER_CHAIN * num_chains
    if converged and num_starts == 1:
        converged = None
    kind = "a nested R-hat" if is_nested else "an R-hat"
    message = _conclusion(
        rhat, ess, converged, is_lost, is_constant, names, num_samples, num_starts, kind
    )
    return Diagnosis(rhat, bulk, tail, rhat_max, ess_min, converged, message)


def nested_rhat(traces: np.ndarray, chains_per_start: int) -> np.ndarray:
    """Returns the nested R-hat of each quantity, `[Q]`.

    The m consecutive chains that share a start are a superchain, of which there are K. With the variance B of the means
    of the superchains (divisor K - 1), and W the mean over the superchains of

        the variance of the means of its m chains (divisor m - 1; 0 for m = 1)
        + the mean of the variances within its chains (divisor S - 1; 0 for S = 1),

    it is (1 + B / W)^(1/2). Within a superchain chains differ by their random numbers alone, so B exceeds the error of
    a mean by as much as the start still matters. Unlike R-hat it is not of ranks, and chains are not split: it sees
    neither a drift that all chains share nor another spread.

    Args:
      traces: `[M, S, Q]`, S samples of Q quantities in each of M = K m chains.
      chains_per_start: m.

    Returns:
      float64 `[Q]`; NaN for a single superchain, and where B and W are 0; infinite where only W is 0.

    Raises:
      ValueError: If the traces are not `[M, S, Q]`, or m does not divide M.

    References:
      Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari and Gelman, Nested R-hat: Assessing the convergence of Markov
        chain Monte Carlo when running many short chains, 2024, section 2.

    Example:
      Two superchains of two chains each, whose starts matter:

      >>> traces = np.array([[0.0, 1.0], [1.0, 2.0], [3.0, 4.0], [4.0, 5.0]])[..., np.newaxis]
      >>> nested_rhat(traces, 2).round(3).tolist()
      [2.345]
    """
    traces = np.asarray(traces, np.float64)
    if traces.ndim != 3:
        raise ValueError(f"expected traces [M, S, Q], got {traces.shape}")
    num_chains, num_samples, num = traces.shape
    num_starts = _num_starts(num_chains, chains_per_start)
    if num_starts < 2:
        return np.full(num, np.nan)
    groups = traces.reshape(num_starts, chains_per_start, num_samples, num)
    means = groups.mean(axis=2)  # [K, m, Q]
    within = np.zeros((num_starts, num))
    if chains_per_start > 1:
        within += means.var(axis=1, ddof=1)
    if num_samples > 1:
        within += groups.var(axis=2, ddof=1).mean(axis=1)
    between = means.mean(axis=1).var(axis=0, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(1 + between / within.mean(axis=0))


def _num_starts(num_chains: int, chains_per_start: int) -> int:
    if chains_per_start < 1 or num_chains % chains_per_start:
        raise ValueError(
            f"expected chains_per_start to divide the number of chains, {num_chains}, got {chains_per_start}"
        )
    return num_chains // chains_per_start


def describe_quantity(name: str) -> str:
    """Returns the name of a traced quantity in words: row, column and channel of a pixel.

    Example:
      >>> describe_quantity("x[3,4,0]"), describe_quantity("misfit")
      ('row 3, column 4, channel 0', 'misfit')
    """
    match = re.fullmatch(r"x\[(\d+),(\d+),(\d+)\]", name)
    return "row {}, column {}, channel {}".format(*match.groups()) if match else name


def _mixing(traces: np.ndarray) -> np.ndarray:
    """R-hat, bulk and tail effective sample size `[3, Q]` of traces `[M, S, Q]`."""
    # Not at the top: it takes a second to load, and only samples need it.
    from arviz_stats.base import array_stats

    axes = {"chain_axis": 0, "draw_axis": 1}
    num_chains, num_samples, num = traces.shape
    compared = traces
    if (
        num_chains == 1
    ):  # R-hat expects two chains, and splits each: a single one is split in quarters
        half = num_samples // 2
        compared = traces[:, : 2 * half].reshape(2, half, num)
    with np.errstate(divide="ignore", invalid="ignore"):  # half a chain may be constant
        return np.stack(
            [
                array_stats.rhat(compared, **axes),
                array_stats.ess(traces, **axes, method="bulk"),
                array_stats.ess(traces, **axes, method="tail", prob=(0.05, 0.95)),
            ]
        )


def _conclusion(
    rhat: np.ndarray,
    ess: np.ndarray,
    converged: bool | None,
    is_lost: np.ndarray,
    is_constant: np.ndarray,
    names: Sequence[str],
    num_samples: int,
    num_starts: int,
    kind: str,
) -> str:
    """The message of a `Diagnosis`, with `kind`, the R-hat; the first of the possible problems is reported."""
    num_chains, num = is_lost.shape
    if not num or not num_chains:
        return "no quantity was traced, so convergence is unknown"
    if is_lost.any():
        return f"not converged: {_affected_chains(is_lost, names, 'not finite')}"
    if num_samples < MIN_SAMPLES:
        return (
            f"too few samples to assess convergence: expected at least {MIN_SAMPLES} per chain, "
            f"got {num_samples}; sample longer (--num_steps)"
        )
    if is_constant.any():
        return f"not converged: {_affected_chains(is_constant, names, 'constant')}"
    rhat_max, ess_min, wanted = rhat.max(), ess.min(), ESS_PER_CHAIN * num_chains
    longer = _advice(wanted / max(ess_min, 1))
    if rhat_max > RHAT_LIMIT:
        worst = describe_quantity(names[int(np.argmax(rhat))])
        return (
            f"not converged: expected {kind} of at most {RHAT_LIMIT}, got {rhat_max:.2f} "
            f"({worst}); {longer}"
        )
    if converged is False:
        worst = describe_quantity(names[int(np.argmin(ess))])
        return (
            f"too short: expected an effective sample size of at least {wanted}, got {ess_min:.0f} "
            f"({worst}), though {kind.partition(' ')[2]} is {rhat_max:.2f}; {longer}"
        )
    message = (
        f"converged: {kind.partition(' ')[2]} is at most {rhat_max:.3f}, and the effective sample size at least "
        f"{ess_min:.0f}"
    )
    if num_chains == 1:
        message += "; a single chain cannot show whether others would agree"
    elif num_starts == 1:
        message += "; chains of a single start cannot show whether others would agree"
    return message


def _advice(factor: float) -> str:
    """The advice if `factor` times as many effective samples are wanted; the steps grow at least as much."""
    if factor <= 1:  # only the chains disagree
        return "sample longer (--num_steps)"
    if factor <= _MOST_TIMES_LONGER:
        return f"sample longer (at least {np.ceil(factor):.0f} times --num_steps)"
    return f"it would take at least {factor:.0f} times as many steps, so take the standard deviation for a lower bound"


def _affected_chains(marks: np.ndarray, names: Sequence[str], problem: str) -> str:
    """Names the chains that are marked, and the quantity, and says what to do.

    Args:
      marks: `[M, Q]`, True where a chain has the problem in a quantity.
      names: Names of the quantities.
      problem: `constant` or `not finite`.
    """
    in_all = marks.all(axis=1)
    quantity = int(np.argmax(marks.any(axis=0)))
    affected = in_all if in_all.any() else marks[:, quantity]
    numbers = [str(i + 1) for i in np.flatnonzero(affected)]
    if len(marks) == 1:
        subject = "the only chain is"
    elif len(numbers) == 1:
        subject = f"chain {numbers[0]} of {len(marks)} is"
    else:
        subject = f"chains {', '.join(numbers[:-1])} and {numbers[-1]} of {len(marks)} are"
    where = "" if in_all.any() else f" at {describe_quantity(names[quantity])}"
    return f"{subject} {problem}{where}; use another --seed or a smaller step size"
