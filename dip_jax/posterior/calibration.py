"""Whether predicted standard deviations agree with the errors: coverage, NLL, UCE, AUSE, scaling."""

import math
from typing import NamedTuple

import jax
import numpy as np
from scipy.stats import norm

STD_FLOOR = 1 / (255 * math.sqrt(12))
"""The rounding error of 8 bits: a smaller deviation cannot be told from the reference's own."""


NUM_BINS = 15


_LEVELS = np.linspace(0.05, 0.95, 19)


COVERAGE_LEVEL = 0.9


_REMOVED = np.linspace(0, 0.99, 100)


class Calibration(NamedTuple):
    """How the errors of an answer compare with the standard deviation that it predicts."""

    nll: float
    """Mean over values of log(std) + (x - m)^2 / (2 std^2) + log(2 pi) / 2."""
    levels: np.ndarray
    """`[19]`, nominal probabilities of central intervals, 0.05 to 0.95."""
    coverage: np.ndarray
    """`[19]`, fraction of the true values inside them."""
    coverage_90: float
    width_90: float
    """Mean width of the 90 % interval."""
    uce: float
    """Uncertainty calibration error: sum of fraction |mean variance - mean squared error| over bins."""
    bin_fraction: np.ndarray
    """`[15]`, fraction of the values in each bin of predicted variance; the bins are equally wide."""
    bin_variance: np.ndarray
    """`[15]`, mean predicted variance; NaN where a bin is empty, as below."""
    bin_error: np.ndarray
    """`[15]`, mean squared error."""
    ause: float
    """Area between the two curves below: 0 if the predicted order of the errors is the true one."""
    removed: np.ndarray
    """`[100]`, fraction of the values that are left out."""
    rmse_by_std: np.ndarray
    """`[100]`, root mean squared error of the rest as a fraction of all, if those of largest std go first."""
    rmse_by_error: np.ndarray
    """`[100]`, and if those of largest error go first."""
    scale: float
    """The factor on std that would make `nll` least."""
    applied_scale: float = 1.0
    """The factor that std was multiplied by beforehand, see `calibrate_scaled`."""


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
    fraction, variance, squared = _bins(floored**2, error**2)
    filled = fraction > 0
    by_std, by_error = _sparsification(error**2, std)
    return Calibration(
        nll=gaussian_nll(z, floored),
        levels=_LEVELS,
        coverage=inside,
        coverage_90=float(np.mean(z <= norm.ppf(0.5 + COVERAGE_LEVEL / 2))),
        width_90=float(2 * norm.ppf(0.5 + COVERAGE_LEVEL / 2) * floored.mean()),
        uce=float(np.sum(fraction[filled] * np.abs(variance - squared)[filled])),
        bin_fraction=fraction,
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

    The halves are of one picture, and errors of neighbors are alike: it says how good the *pattern* of
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


def _errors(
    mean: np.ndarray, std: np.ndarray, reference: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Error and standard deviation, flat and float64."""
    shapes = {np.shape(mean), np.shape(std), np.shape(reference)}
    if len(shapes) > 1 or not np.size(mean):
        raise ValueError(f"expected mean, std and reference of one shape, got {sorted(shapes)}")
    error = np.asarray(reference, np.float64) - np.asarray(mean, np.float64)
    return error.ravel(), np.asarray(std, np.float64).ravel()


def gaussian_nll(z: np.ndarray, std: np.ndarray) -> float:
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
