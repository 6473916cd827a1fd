"""Do predicted standard deviations match the errors? Coverage, likelihood, UCE and AUSE."""

import math
from typing import NamedTuple

import jax
import numpy as np
from scipy.stats import norm

STD_FLOOR = 1 / (255 * math.sqrt(12))
"""Rounding error of 8 bits: the reference itself is no more precise, so smaller deviations count as
this one."""

COVERAGE_LEVEL = 0.9
"""Probability of the intervals of `coverage_90` and `width_90`."""

NUM_BINS = 15
"""Bins of predicted variance for the UCE."""

_LEVELS = np.linspace(0.05, 0.95, 19)
_REMOVED = np.linspace(0, 0.99, 100)


class Calibration(NamedTuple):
    """Comparison of the errors of an estimate with its predicted standard deviation."""

    nll: float
    """Mean over values of log(std) + (x - m)^2 / (2 std^2) + log(2 pi) / 2."""
    levels: np.ndarray
    """Nominal probabilities `[19]` of central intervals, 0.05 to 0.95."""
    coverage: np.ndarray
    """Fraction `[19]` of the true values inside these intervals."""
    coverage_90: float
    """Fraction of the true values inside the 90 % interval."""
    width_90: float
    """Mean width of the 90 % interval."""
    uce: float
    """Uncertainty calibration error: sum over bins of fraction |mean variance - mean squared
    error|."""
    bin_fraction: np.ndarray
    """Fraction `[15]` of the values in each bin of predicted variance; the bins are equally
    wide."""
    bin_variance: np.ndarray
    """Mean predicted variance `[15]` of each bin; NaN for an empty bin."""
    bin_error: np.ndarray
    """Mean squared error `[15]` of each bin; NaN for an empty bin."""
    ause: float
    """Area between the two curves below: 0 if the standard deviations sort the errors correctly."""
    removed: np.ndarray
    """Fraction `[100]` of the values that are removed."""
    rmse_by_std: np.ndarray
    """Root mean squared error `[100]` of the remaining values over that of all, if the values of
    largest standard deviation are removed."""
    rmse_by_error: np.ndarray
    """As `rmse_by_std`, if the values of largest error are removed."""
    scale: float
    """Factor on the standard deviation that minimizes `nll`."""
    applied_scale: float = 1.0
    """Factor by which the standard deviation was multiplied beforehand; see `calibrate_scaled`."""


def calibrate(mean: np.ndarray, std: np.ndarray, reference: np.ndarray) -> Calibration:
    """Compares the errors of an estimate with its predicted standard deviation.

    The true value x is assumed to be normal about the estimate m. Standard deviations below
    `STD_FLOOR` count as `STD_FLOOR`. If any value is not finite, all results are NaN.

    Args:
      mean: The estimate, of any shape.
      std: Its predicted standard deviation, of that shape.
      reference: The ground truth, of that shape.

    Raises:
      ValueError: If the shapes differ or the arrays are empty.

    References:
      Laves, Ihler, Fast, Kahrs and Ortmaier, Well-calibrated regression uncertainty in medical
        imaging with deep
        learning, 2020 (UCE, scaling).
      Ilg et al., Uncertainty estimates and multi-hypotheses networks for optical flow, 2018,
        section 5 (AUSE).

    Example:
      >>> import numpy as np
      >>> rng = np.random.default_rng(0)
      >>> estimate, std = rng.random((64, 64, 3)), np.full((64, 64, 3), 0.1)
      >>> reference = rng.normal(estimate, std)
      >>> result = calibrate(estimate, std, reference)
      >>> round(result.coverage_90, 1), round(result.scale, 1)
      (0.9, 1.0)
      >>> too_small = calibrate(estimate, std / 2, reference)
      >>> round(too_small.coverage_90, 2), round(too_small.scale, 1)
      (0.59, 2.0)
    """
    error, std = _errors(mean, std, reference)
    if not (np.isfinite(error).all() and np.isfinite(std).all()):
        return jax.tree.map(lambda value: value * math.nan, calibrate(*np.zeros((3, 1))))
    floored = np.maximum(std, STD_FLOOR)
    z = np.abs(error) / floored
    coverage = np.searchsorted(np.sort(z), norm.ppf(0.5 + _LEVELS / 2), side="right") / z.size
    fraction, variance, squared = _bins(floored**2, error**2)
    is_filled = fraction > 0
    by_std, by_error = _sparsification(error**2, std)
    return Calibration(
        nll=gaussian_nll(z, floored),
        levels=_LEVELS,
        coverage=coverage,
        coverage_90=float(np.mean(z <= norm.ppf(0.5 + COVERAGE_LEVEL / 2))),
        width_90=float(2 * norm.ppf(0.5 + COVERAGE_LEVEL / 2) * floored.mean()),
        uce=float(np.sum(fraction[is_filled] * np.abs(variance - squared)[is_filled])),
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
    """Returns the factor s on the standard deviation that minimizes the negative log likelihood.

    s^2 = mean((x - m)^2 / std^2). It is right for the pixels that it was fitted to, so test it on
    others.

    Args:
      mean: The estimate, of any shape.
      std: Its predicted standard deviation, of that shape; values below `STD_FLOOR` count as
        `STD_FLOOR`.
      reference: The ground truth, of that shape.

    Raises:
      ValueError: If the shapes differ or the arrays are empty.

    Example:
      >>> import numpy as np
      >>> reference = np.array([0.1, -0.1, 0.3, -0.3])
      >>> round(fit_scale(mean=np.zeros(4), std=np.full(4, 0.1), reference=reference), 3)
      2.236
    """
    error, std = _errors(mean, std, reference)
    return float(np.sqrt(np.mean(np.square(error / np.maximum(std, STD_FLOOR)))))


def calibrate_scaled(
    mean: np.ndarray, std: np.ndarray, reference: np.ndarray, *, seed: int = 0
) -> Calibration:
    """Fits a scale to one random half of the pixels, and calibrates the other half with it.

    This is `calibrate` after `fit_scale`. The result rates the *pattern* of the predicted standard
    deviations once their overall size is right. Both halves are of one image, and the errors of
    neighbors are similar; another image may need another scale.

    Args:
      mean: The estimate `[H, W, C]`.
      std: Its predicted standard deviation `[H, W, C]`.
      reference: The ground truth `[H, W, C]`.
      seed: Seed of the random halves.

    Raises:
      ValueError: If the shapes differ or there are fewer than two pixels.

    Example:
      >>> import numpy as np
      >>> rng = np.random.default_rng(0)
      >>> estimate, std = rng.random((64, 64, 3)), np.full((64, 64, 3), 0.1)
      >>> reference = rng.normal(estimate, std)
      >>> result = calibrate_scaled(estimate, std / 2, reference)
      >>> round(result.applied_scale, 1), round(result.coverage_90, 1)
      (2.0, 0.9)
    """
    pixels = [np.asarray(array).reshape(-1, np.shape(mean)[-1]) for array in (mean, std, reference)]
    order = np.random.default_rng(seed).permutation(len(pixels[0]))
    first, second = np.array_split(order, 2)
    scale = fit_scale(*(array[first] for array in pixels))
    m, s, x = (array[second] for array in pixels)
    return calibrate(m, scale * np.maximum(s, STD_FLOOR), x)._replace(applied_scale=scale)


def gaussian_nll(z: np.ndarray, std: np.ndarray) -> float:
    """Returns the mean negative log likelihood of normal values.

    Args:
      z: Distances from the mean in standard deviations.
      std: The standard deviations, of that shape.
    """
    return float(np.mean(np.log(std) + z**2 / 2) + math.log(2 * math.pi) / 2)


def _errors(
    mean: np.ndarray, std: np.ndarray, reference: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Error and standard deviation, flat and in float64."""
    shapes = {np.shape(mean), np.shape(std), np.shape(reference)}
    if len(shapes) > 1 or not np.size(mean):
        raise ValueError(f"expected mean, std and reference of one shape, got {sorted(shapes)}")
    error = np.asarray(reference, np.float64) - np.asarray(mean, np.float64)
    return error.ravel(), np.asarray(std, np.float64).ravel()


def _bins(variance: np.ndarray, squared: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fraction, mean variance and mean squared error of equally wide bins of predicted variance."""
    low, high = variance.min(), variance.max()
    index = np.zeros(variance.size, int)
    if high > low:
        index = np.minimum((variance - low) / (high - low) * NUM_BINS, NUM_BINS - 1).astype(int)
    count = np.bincount(index, minlength=NUM_BINS)
    sums = [np.bincount(index, values, minlength=NUM_BINS) for values in (variance, squared)]
    divisor = np.where(count, count, 1)
    means = [np.where(count, values / divisor, np.nan) for values in sums]
    return count / count.sum(), means[0], means[1]


def _sparsification(squared: np.ndarray, std: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Relative root mean squared error of the values left, removed by `std` and by error."""
    # Shuffled first, so that values of equal deviation are not removed row by row.
    order = np.random.default_rng(0).permutation(squared.size)
    order = order[np.argsort(std[order], kind="stable")]
    num_left = np.maximum(np.rint((1 - _REMOVED) * squared.size).astype(int), 1)

    def curve(values: np.ndarray) -> np.ndarray:
        return np.sqrt(np.cumsum(values)[num_left - 1] / num_left / (squared.mean() or 1.0))

    return curve(squared[order]), curve(np.sort(squared))
