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
from scipy.stats import norm

from dip_jax.base import Array

# Vehtari et al. ask for 1.01, and for an effective sample size of 100 a chain. With that many, good chains
# come to 1.006 to 1.009 on average and 1.02 to 1.04 in the worst of 67 quantities (simulated, two and four
# chains): 1.01 there would call every sampler bad. At 1.05 the chains' means differ by a third of a deviation.
RHAT_LIMIT = 1.05
ESS_PER_CHAIN = 100
MIN_SAMPLES = 8  # a chain; its halves must have some
STD_FLOOR = 1 / (255 * math.sqrt(12))
"""The rounding error of 8 bits: a smaller deviation cannot be told from the reference's own."""
NUM_BINS = 15
_LEVELS = np.linspace(0.05, 0.95, 19)
_WIDE = 0.9
_REMOVED = np.linspace(0, 0.99, 100)


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


class Calibration(NamedTuple):
    """How the errors of an answer compare with the standard deviation that it predicts."""

    nll: float
    """Mean over values of log(std) + (x - m)^2 / (2 std^2) + log(2 pi) / 2."""
    levels: np.ndarray
    """`[19]`, nominal probabilities of central intervals, 0.05 to 0.95."""
    coverage: np.ndarray
    """`[19]`, share of the true values inside them."""
    coverage_90: float
    width_90: float
    """Mean width of the 90 % interval."""
    uce: float
    """Uncertainty calibration error: sum of share |mean variance - mean squared error| over bins."""
    bin_share: np.ndarray
    """`[15]`, share of the values in each bin of predicted variance; the bins are equally wide."""
    bin_variance: np.ndarray
    """`[15]`, mean predicted variance; NaN where a bin is empty, as below."""
    bin_error: np.ndarray
    """`[15]`, mean squared error."""
    ause: float
    """Area between the two curves below: 0 if the predicted order of the errors is the true one."""
    removed: np.ndarray
    """`[100]`, share of the values that are left out."""
    rmse_by_std: np.ndarray
    """`[100]`, root mean squared error of the rest as a share of all, if those of largest std go first."""
    rmse_by_error: np.ndarray
    """`[100]`, and if those of largest error go first."""
    scale: float
    """The factor on std that would make `nll` least."""
    applied_scale: float = 1.0
    """The factor that std was multiplied by beforehand, see `calibrate_scaled`."""


class PredictiveCheck(NamedTuple):
    """How held-out measurements compare with their prediction."""

    num_held: int
    z_rms: float
    """Root mean square of residual / predicted std: 1 if calibrated, more if the std is too small."""
    coverage_90: float
    nll: float
    """Mean negative log likelihood of a held-out value."""
    sentence: str


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
        # Only the order matters, and centred values keep theirs in float32.
        centred = jnp.asarray(kept - np.median(kept, axis=(0, 1)), jnp.float32)
        rhat, bulk, tail = np.array(_mixing(centred), np.float64)
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


def calibrate(mean: np.ndarray, std: np.ndarray, reference: np.ndarray) -> Calibration:
    """Compares the errors of an answer with its predicted standard deviation.

    The true value x is taken to be normal about the mean m. Deviations below `STD_FLOOR` count as that.
    If anything is not finite, all figures are NaN.

    Args:
      mean: The answer, of any shape.
      std: Its predicted standard deviation, of that shape.
      reference: The truth, of that shape.

    References:
      Laves, Ihler, Fast, Kahrs and Ortmaier, Well-calibrated regression uncertainty in medical
      imaging with deep learning, 2020 (UCE, scaling); Ilg et al., Uncertainty estimates and
      multi-hypotheses networks for optical flow, 2018, section 5 (AUSE).

    Raises:
      ValueError: If the shapes differ or nothing is there.
    """
    error, std = _errors(mean, std, reference)
    if not (np.isfinite(error).all() and np.isfinite(std).all()):
        return jax.tree.map(lambda value: value * math.nan, calibrate(*np.zeros((3, 1))))
    floored = np.maximum(std, STD_FLOOR)
    z = np.abs(error) / floored
    inside = np.searchsorted(np.sort(z), norm.ppf(0.5 + _LEVELS / 2), side="right") / z.size
    share, variance, squared = _bins(floored**2, error**2)
    filled = share > 0
    by_std, by_error = _sparsification(error**2, std)
    return Calibration(
        nll=_nll(z, floored),
        levels=_LEVELS,
        coverage=inside,
        coverage_90=float(np.mean(z <= norm.ppf(0.5 + _WIDE / 2))),
        width_90=float(2 * norm.ppf(0.5 + _WIDE / 2) * floored.mean()),
        uce=float(np.sum(share[filled] * np.abs(variance - squared)[filled])),
        bin_share=share,
        bin_variance=variance,
        bin_error=squared,
        ause=float(np.trapezoid(by_std - by_error, _REMOVED)),
        removed=_REMOVED,
        rmse_by_std=by_std,
        rmse_by_error=by_error,
        scale=float(np.sqrt(np.mean(z**2))),
    )


def fit_scale(mean: np.ndarray, std: np.ndarray, reference: np.ndarray) -> float:
    """The factor s on std that makes the negative log likelihood least: s^2 = mean((x - m)^2 / std^2).

    For the pixels that it was fitted to it is right by construction, so test it on others.

    Args:
      mean: The answer, of any shape.
      std: Its predicted standard deviation, of that shape; at least `STD_FLOOR` is assumed.
      reference: The truth, of that shape.

    Raises:
      ValueError: If the shapes differ or nothing is there.
    """
    error, std = _errors(mean, std, reference)
    return float(np.sqrt(np.mean(np.square(error / np.maximum(std, STD_FLOOR)))))


def calibrate_scaled(
    mean: np.ndarray, std: np.ndarray, reference: np.ndarray, *, seed: int = 0
) -> Calibration:
    """`calibrate` after `fit_scale`: the scale from a random half of the pixels, the figures from the other.

    The halves are of one picture, and errors of neighbours are alike: it says how good the *pattern* of
    the predicted deviations is once their size is right. On another picture the scale may be another.

    Args:
      mean: The answer `[H, W, C]`.
      std: Its predicted standard deviation `[H, W, C]`.
      reference: The truth `[H, W, C]`.
      seed: Draws the halves.

    Raises:
      ValueError: If the shapes differ or there are fewer than two pixels.
    """
    rows = [np.asarray(array).reshape(-1, np.shape(mean)[-1]) for array in (mean, std, reference)]
    order = np.random.default_rng(seed).permutation(len(rows[0]))
    first, second = np.array_split(order, 2)
    scale = fit_scale(*(array[first] for array in rows))
    m, s, x = (array[second] for array in rows)
    return calibrate(m, scale * np.maximum(s, STD_FLOOR), x)._replace(applied_scale=scale)


def check_prediction(
    predicted_mean: np.ndarray,
    predicted_std: np.ndarray,
    measurement: np.ndarray,
    noise_std: np.ndarray | float,
    held: np.ndarray,
) -> PredictiveCheck:
    """Compares measurements that were held out of the fit with their prediction; needs no reference.

    A held-out y is taken to be normal about the predicted mean, with the variance predicted_std^2 +
    noise_std^2. Of a complex y, where noise_std^2 is the mean of |noise|^2, its real and its imaginary part
    have half of that each.

    Args:
      predicted_mean: Mean of A x over the samples, of the measurement's shape.
      predicted_std: Its standard deviation, of that shape.
      measurement: y.
      noise_std: The noise's standard deviation; NaN for unknown.
      held: True where y was held out, of the measurement's shape or one that broadcasts to it.
    """
    measurement = np.asarray(measurement)
    held = np.broadcast_to(np.asarray(held, bool), measurement.shape)
    residual = (measurement - np.asarray(predicted_mean))[held]
    variance = np.square(np.asarray(predicted_std, np.float64)) + np.square(np.asarray(noise_std))
    std = np.sqrt(np.broadcast_to(variance, measurement.shape)[held])
    if np.iscomplexobj(residual):
        residual = np.concatenate([residual.real, residual.imag])
        std = np.concatenate([std, std]) / math.sqrt(2)
    num = int(held.sum())
    if not num or not np.isfinite(std).all() or not np.isfinite(residual).all():
        if not num:
            sentence = "no measurement was held out, so the prediction is not checked"
        elif np.isnan(np.asarray(noise_std)).any():
            sentence = "the noise level is unknown, so the prediction is not checked"
        else:
            sentence = "the prediction is not finite, so it is not checked"
        return PredictiveCheck(num, math.nan, math.nan, math.nan, sentence)
    std = np.maximum(std, STD_FLOOR)
    z = np.abs(residual.astype(np.float64)) / std
    z_rms = float(np.sqrt(np.mean(z**2)))
    coverage = float(np.mean(z <= norm.ppf(0.5 + _WIDE / 2)))
    # Of n independent normal values it is 1 +- (2 n)^(-1/2).
    slack = max(0.05, 3 / math.sqrt(2 * z.size))
    if abs(z_rms - 1) <= slack:
        words = "as large as predicted"
    elif z_rms > 1:
        words = f"{z_rms:.2f} times as large as predicted, so the uncertainty is too small"
    else:
        words = f"{z_rms:.2f} times as large as predicted, so the uncertainty is too large"
    sentence = (
        f"the errors at {num} held-out measurements are {words}; "
        f"{100 * coverage:.0f} % are within the 90 % interval"
    )
    return PredictiveCheck(num, z_rms, coverage, _nll(z, std), sentence)


def _errors(
    mean: np.ndarray, std: np.ndarray, reference: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Error and standard deviation, flat and float64."""
    shapes = {np.shape(mean), np.shape(std), np.shape(reference)}
    if len(shapes) > 1 or not np.size(mean):
        raise ValueError(f"expected mean, std and reference of one shape, got {sorted(shapes)}")
    error = np.asarray(reference, np.float64) - np.asarray(mean, np.float64)
    return error.ravel(), np.asarray(std, np.float64).ravel()


def _nll(z: np.ndarray, std: np.ndarray) -> float:
    return float(np.mean(np.log(std) + z**2 / 2) + math.log(2 * math.pi) / 2)


def _bins(variance: np.ndarray, squared: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Share, mean variance and mean squared error of bins of predicted variance, from its least to its largest."""
    low, high = variance.min(), variance.max()
    place = np.zeros(variance.size, int)
    if high > low:
        place = np.minimum((variance - low) / (high - low) * NUM_BINS, NUM_BINS - 1).astype(int)
    count = np.bincount(place, minlength=NUM_BINS)
    sums = [np.bincount(place, values, minlength=NUM_BINS) for values in (variance, squared)]
    safe = np.where(count, count, 1)
    means = [np.where(count, values / safe, np.nan) for values in sums]
    return count / count.sum(), means[0], means[1]


def _sparsification(squared: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Root mean squared error of what is left, by predicted and by true error, as shares of that of all."""
    # Shuffled first, so that equal deviations do not leave in the order of the picture's rows.
    order = np.random.default_rng(0).permutation(squared.size)
    order = order[np.argsort(std[order], kind="stable")]
    num_left = np.maximum(np.rint((1 - _REMOVED) * squared.size).astype(int), 1)

    def curve(values: np.ndarray) -> np.ndarray:
        return np.sqrt(np.cumsum(values)[num_left - 1] / num_left / (squared.mean() or 1.0))

    return curve(squared[order]), curve(np.sort(squared))
