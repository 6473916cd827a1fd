"""Have the chains mixed? R-hat and effective sample sizes of traced quantities."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array

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
    """R-hat `[Q]`: 1 if the chains agree, more if not; infinite if a chain is constant or not
    finite, NaN if there are too few samples."""
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
    chain. None if a single chain meets both: it cannot tell whether others would agree."""
    message: str
    """The result in a sentence: the problem, where it is, and what to do."""


def diagnose(traces: np.ndarray, names: Sequence[str]) -> Diagnosis:
    """Computes R-hat and effective sample sizes of traced quantities.

    R-hat = (((n - 1) W + B) / (n W))^(1/2), the larger of that of the ranks of x and that of the
    ranks of |x - median|, both as normal scores. Each chain is split in halves of n samples; W is
    the variance within a half, and B / n the variance of the means of the halves. So one chain has
    an R-hat too; it shows whether the chain still drifts, but not whether another chain would find
    another mode. A quantity with one value in all samples of all chains, such as a saturated pixel, has an R-hat
    of 1, if there are others.

    Args:
      traces: `[M, S, Q]`, S samples of Q quantities in each of M chains.
      names: Names of the Q quantities; those of pixels are `x[row,column,channel]`.

    Raises:
      ValueError: If the traces are not `[M, S, Q]` with Q names.

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
        # Only the order matters, and centered values keep it in float32.
        centered = jnp.asarray(finite - np.median(finite, axis=(0, 1)), jnp.float32)
        rhat, bulk, tail = np.array(_mixing(centered), np.float64)
        rhat[is_equal], bulk[is_equal], tail[is_equal] = 1, *(2 * [num_chains * num_samples])
        is_bad = (is_lost | is_constant).any(axis=0) | np.isnan(rhat + bulk + tail)
        rhat[is_bad], bulk[is_bad], tail[is_bad] = np.inf, 0, 0
    ess = np.minimum(bulk, tail)
    rhat_max, ess_min = (float(rhat.max()), float(ess.min())) if num else (math.nan, math.nan)
    converged: bool | None = rhat_max <= RHAT_LIMIT and ess_min >= ESS_PER_CHAIN * num_chains
    if converged and num_chains == 1:
        converged = None
    message = _conclusion(rhat, ess, converged, is_lost, is_constant, names, num_samples)
    return Diagnosis(rhat, bulk, tail, rhat_max, ess_min, converged, message)


def describe_quantity(name: str) -> str:
    """Returns the name of a traced quantity in words: row, column and channel of a pixel.

    Example:
      >>> describe_quantity("x[3,4,0]"), describe_quantity("misfit")
      ('row 3, column 4, channel 0', 'misfit')
    """
    match = re.fullmatch(r"x\[(\d+),(\d+),(\d+)\]", name)
    return "row {}, column {}, channel {}".format(*match.groups()) if match else name


@jax.jit
def _mixing(traces: Array) -> Array:
    """R-hat, bulk and tail effective sample size `[3, Q]` of traces `[M, S, Q]`."""
    # Not at the top: importing blackjax creates arrays, after which JAX cannot set up devices.
    from blackjax import diagnostics

    def of_quantity(trace: Array) -> Array:
        functions = (diagnostics.rhat, diagnostics.ess_bulk, diagnostics.ess_tail)
        return jnp.stack([function(trace) for function in functions])

    # By `vmap`: given several quantities, blackjax squeezes axes of length 1 and promotes ranks.
    return jax.vmap(of_quantity, in_axes=2, out_axes=1)(traces)


def _conclusion(
    rhat: np.ndarray,
    ess: np.ndarray,
    converged: bool | None,
    is_lost: np.ndarray,
    is_constant: np.ndarray,
    names: Sequence[str],
    num_samples: int,
) -> str:
    """The message of a `Diagnosis`; the first of the possible problems is reported."""
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
            f"not converged: expected an R-hat of at most {RHAT_LIMIT}, got {rhat_max:.2f} "
            f"({worst}); {longer}"
        )
    if converged is False:
        worst = describe_quantity(names[int(np.argmin(ess))])
        return (
            f"too short: expected an effective sample size of at least {wanted}, got {ess_min:.0f} "
            f"({worst}), though R-hat is {rhat_max:.2f}; {longer}"
        )
    message = (
        f"converged: R-hat is at most {rhat_max:.3f}, and the effective sample size at least "
        f"{ess_min:.0f}"
    )
    if num_chains == 1:
        message += "; a single chain cannot show whether others would agree"
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
