"""Whether a posterior can be believed: have its chains mixed, and do its errors have the size it says.

`diagnose` compares the chains with one another, `calibrate` compares the answer with the reference,
`check_prediction` with measurements that were held out of the fit, where there is no reference. All take
and return host-side numpy; standard deviations are in [0, 1] units, and chains count from 1.
"""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array

# Vehtari et al. ask for 1.01, and for an effective sample size of 100 a chain. With that many, good chains
# come to 1.006 to 1.009 on average and 1.02 to 1.04 in the worst of 67 quantities (simulated, two and four
# chains): 1.01 there would call every sampler bad. At 1.05 the chains' means differ by a third of a deviation.
RHAT_LIMIT = 1.05
ESS_PER_CHAIN = 100
MIN_SAMPLES = 8  # a chain; its halves must have some


class Diagnosis(NamedTuple):
    """Whether the chains have mixed, by each of Q traced quantities."""

    rhat: np.ndarray
    """`[Q]`: 1 where the chains agree, more where not; infinite where one does not move or is no number,
    NaN where there are too few samples to tell."""
    ess_bulk: np.ndarray
    """`[Q]`, how many independent samples would tell the middle of the distribution as well."""
    ess_tail: np.ndarray
    """`[Q]`, and its 5 % and 95 % quantiles."""
    rhat_max: float
    ess_min: float
    """The least of both kinds."""
    converged: bool
    """Whether `rhat_max` is at most `RHAT_LIMIT` and `ess_min` at least `ESS_PER_CHAIN` for each chain."""
    sentence: str
    """The same in words: what is wrong, where, and what to do."""


def diagnose(traces: np.ndarray, names: Sequence[str]) -> Diagnosis:
    """R-hat and effective sample sizes of traced quantities.

    R-hat = (((n - 1) W + B) / (n W))^(1/2), the larger of that of the ranks of x and of |x - median|, as
    normal scores; n samples in each half of a chain, W the variance within a half, B / n that of the
    halves' means. Chains are split in halves, so one chain has an R-hat too; it shows whether the
    chain still drifts, but not whether another would have gone elsewhere.

    Args:
      traces: `[M, S, Q]`, S samples of Q quantities in each of M chains.
      names: Their Q names, pixels as `x[row,column,channel]`.

    References:
      Vehtari, Gelman, Simpson, Carpenter and Buerkner, Rank-normalization, folding, and localization: an
      improved R-hat for assessing convergence of MCMC, 2021.

    Raises:
      ValueError: If the traces are not `[M, S, Q]` or have other names.
    """
    traces = np.asarray(traces, np.float64)
    if traces.ndim != 3 or traces.shape[2] != len(names):
        raise ValueError(
            f"expected traces [M, S, {len(names)}] for as many names, got {traces.shape}"
        )
    num_chains, num_samples, num = traces.shape
    is_lost = ~np.isfinite(traces).all(axis=1)  # [M, Q]
    is_still = np.zeros_like(is_lost)
    if num_samples < MIN_SAMPLES or not num or not num_chains:
        rhat, bulk, tail = np.full((3, num), np.nan)
    else:
        kept = np.where(is_lost.any(axis=0), 0.0, traces)
        is_still = ~is_lost & (np.ptp(kept, axis=1) == 0)
        # Only the order matters, and centered values keep theirs in float32.
        centered = jnp.asarray(kept - np.median(kept, axis=(0, 1)), jnp.float32)
        rhat, bulk, tail = np.array(_mixing(centered), np.float64)
        is_bad = (is_lost | is_still).any(axis=0) | np.isnan(rhat + bulk + tail)
        rhat[is_bad], bulk[is_bad], tail[is_bad] = np.inf, 0, 0
    ess = np.minimum(bulk, tail)
    rhat_max, ess_min = (float(rhat.max()), float(ess.min())) if num else (math.nan, math.nan)
    wanted = ESS_PER_CHAIN * num_chains
    converged = rhat_max <= RHAT_LIMIT and ess_min >= wanted
    if not num or not num_chains:
        sentence = "nothing was traced, so whether the chains have mixed is unknown"
    elif is_lost.any():
        sentence = (
            f"not converged: {_chains_that(is_lost, names, 'are not finite', 'is not finite')}"
        )
    elif num_samples < MIN_SAMPLES:
        sentence = (
            f"too few samples to tell whether the chains have mixed: {num_samples} in each, "
            f"{MIN_SAMPLES} at least are needed; sample longer (--num_steps)"
        )
    elif is_still.any():
        sentence = f"not converged: {_chains_that(is_still, names, 'do not move', 'does not move')}"
    elif not converged and rhat_max > RHAT_LIMIT:
        sentence = (
            f"not converged: R-hat is {rhat_max:.2f} ({describe_quantity(names[int(np.argmax(rhat))])}), "
            f"{RHAT_LIMIT} at most is wanted; sample longer (--num_steps)"
        )
    elif not converged:
        sentence = (
            f"too short: the effective sample size is {ess_min:.0f} "
            f"({describe_quantity(names[int(np.argmin(ess))])}), {wanted} at least is wanted, though R-hat "
            f"is {rhat_max:.2f}; sample longer (--num_steps)"
        )
    else:
        sentence = f"converged: R-hat is {rhat_max:.3f} at most, the effective sample size {ess_min:.0f} at least"
    if num_chains == 1 and converged:
        sentence += "; of one chain, so what others would have found is unknown"
    return Diagnosis(rhat, bulk, tail, rhat_max, ess_min, converged, sentence)


def describe_quantity(name: str) -> str:
    """The name of a traced quantity in words: row, column and channel of a pixel."""
    match = re.fullmatch(r"x\[(\d+),(\d+),(\d+)\]", name)
    return "row {}, column {}, channel {}".format(*match.groups()) if match else name


@jax.jit
def _mixing(traces: Array) -> Array:
    """R-hat, bulk and tail effective sample size `[3, Q]` of traces `[M, S, Q]`."""
    # Only here: its import makes arrays, after which devices can no longer be set up.
    from blackjax import diagnostics

    def one(trace: Array) -> Array:
        functions = (diagnostics.rhat, diagnostics.ess_bulk, diagnostics.ess_tail)
        return jnp.stack([function(trace) for function in functions])

    # One quantity at a time: of several it squeezes axes of length 1 and promotes ranks.
    return jax.vmap(one, in_axes=2, out_axes=1)(traces)


def _chains_that(marks: np.ndarray, names: Sequence[str], several: str, single: str) -> str:
    """Which chains `several` or `single` says so of, and where, by marks `[M, Q]`."""
    whole = marks.all(axis=1)
    place = int(np.argmax(marks.any(axis=0)))
    of = whole if whole.any() else marks[:, place]
    numbers = [str(i + 1) for i in np.flatnonzero(of)]
    if len(marks) == 1:
        chains = "the only chain"
    elif len(numbers) == 1:
        chains = f"chain {numbers[0]} of {len(marks)}"
    else:
        chains = f"chains {', '.join(numbers[:-1])} and {numbers[-1]} of {len(marks)}"
    verb = several if len(numbers) > 1 else single
    where = "" if whole.any() else f" at {describe_quantity(names[place])}"
    return f"{chains} {verb}{where}; its samples mean nothing, try another --seed or a smaller step"
