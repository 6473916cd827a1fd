"""The mean and the variance of noisy values that were clipped at black and white.

A file stores values from 0 to 1, so the noise of dark and of bright pixels is cut off. For a clean value
x, noise of standard deviation s and a limit at 0 alone, the mean of the stored values is

    m(x) = x F(x / s) + s f(x / s),

with F and f the distribution and the density of N(0, 1): 0.4 s instead of 0 at black, and symmetrically
at white. Their variance is smaller than s^2: 0.34 s^2 at black.

References:
  Foi, Clipped noisy images: heteroskedastic modeling and practical denoising, 2009, section 2.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr

MUCH_CLIPPED = 0.05
"""Fraction of the values at black or white from which on a likelihood of clipped noise improves samples; see docs/concepts/sampling.md."""
_RANGE = 4.0
"""Largest distance beyond a limit, in noise levels, at which noise still reaches it."""
_GRID = 4096
"""Number of values between which the inverse of the mean is interpolated."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits at which noise was clipped."""

    black: bool = False
    """Values below 0 were stored as 0."""
    white: bool = False
    """Values above 1 were stored as 1."""


class Moments(NamedTuple):
    """Mean and variance of noisy values that were clipped, with their derivatives by the clean value x."""

    mean: np.ndarray
    """The mean m(x)."""
    slope: np.ndarray
    """dm / dx, the probability that a noisy value lies between the limits."""
    curvature: np.ndarray
    """d^2 m / dx^2."""
    variance: np.ndarray
    """The variance V(x)."""
    variance_slope: np.ndarray
    """dV / dx."""
    variance_curvature: np.ndarray
    """d^2 V / dx^2."""


def mean_of_clipped(values: np.ndarray, noise_std: float, limits: Limits) -> np.ndarray:
    """Returns the mean of noisy values that were clipped.

    Args:
      values: Clean values x, any shape.
      noise_std: Standard deviation s of the noise before clipping, above 0.
      limits: The limits.

    Returns:
      The means, same shape.

    Example:
      >>> float(mean_of_clipped(np.zeros(1), 1.0, Limits(black=True))[0].round(4))
      0.3989
    """
    return _moments(values, noise_std, limits)[0]


def variance_of_clipped(means: np.ndarray, noise_std: float, limits: Limits) -> np.ndarray:
    """Returns the variance of noisy values that were clipped.

    Args:
      means: Means m(x) of the clipped values, any shape.
      noise_std: Standard deviation s of the noise before clipping, above 0.
      limits: The limits.

    Returns:
      The variances, same shape; s^2 far from the limits.

    Example:
      >>> variance_of_clipped(np.array([0.0399, 0.5]), 0.1, Limits(black=True)).round(4).tolist()
      [0.0034, 0.01]
    """
    if limits == Limits():
        return np.full(np.shape(means), noise_std**2)
    grid = _grid(noise_std, limits)
    grid_means, variances = _moments(grid, noise_std, limits)
    return np.interp(means, grid_means, variances)


def moments_of_clipped(
    values: np.ndarray, noise_std: np.ndarray | float, limits: Limits
) -> Moments:
    """Returns mean and variance of noisy values that were clipped, and their derivatives.

    With the clipped value y of x + n, the probability P that x + n lies between the limits, the probability w of
    y = 1, and the density f of n / s at the distances a = -x / s and b = (1 - x) / s of the limits (0 without a limit),

        dm/dx = P,   d^2m/dx^2 = (f(a) - f(b)) / s,   d E[y^2] / dx = 2 (m - w),   d^2 E[y^2] / dx^2 = 2 (P - f(b) / s).

    Args:
      values: Clean values x, any shape. Values further than 4 s beyond a limit count as 4 s beyond it.
      noise_std: Standard deviation s of the noise before clipping, above 0; it broadcasts to the values.
      limits: The limits.

    Example:
      >>> m = moments_of_clipped(np.zeros(1), 0.1, Limits(black=True))
      >>> [round(float(x[0]), 3) for x in (m.mean, m.slope, m.variance, m.variance_slope)]
      [0.04, 0.5, 0.003, 0.04]
    """
    s = np.asarray(noise_std, np.float64)
    low = -_RANGE * s if limits.black else -np.inf
    high = 1 + _RANGE * s if limits.white else np.inf
    x = np.clip(np.asarray(values, np.float64), low, high)
    a, b = _distances(x, s, limits)
    mean, variance = _moments(x, s, limits)
    slope, white = ndtr(b) - ndtr(a), ndtr(-b)
    curvature = (_density(a) - _density(b)) / s
    square_slope, square_curvature = 2 * (mean - white), 2 * (slope - _density(b) / s)
    return Moments(
        mean,
        slope,
        curvature,
        variance,
        square_slope - 2 * mean * slope,
        square_curvature - 2 * slope**2 - 2 * mean * curvature,
    )


def std_before_clipping(stored_std: float, means: np.ndarray, limits: Limits) -> float:
    """Returns the standard deviation of noise before clipping, given that of the stored values.

    It is the level s for which the mean of `variance_of_clipped(means, s, limits)` is stored_std^2.

    Args:
      stored_std: Root mean square of the deviations of the stored values from their means, above 0.
      means: Means of these values, any shape.
      limits: The limits.

    Returns:
      The standard deviation; at most four times `stored_std`, which is more than any image needs.

    Example:
      >>> round(std_before_clipping(0.0584, np.full(9, 0.0399), Limits(black=True)), 3)
      0.1
    """

    def excess(noise_std: float) -> float:
        return float(np.mean(variance_of_clipped(means, noise_std, limits))) - stored_std**2

    highest = _RANGE * stored_std
    if excess(stored_std) >= 0 or excess(highest) <= 0:
        return stored_std if excess(stored_std) >= 0 else highest
    return float(brentq(excess, stored_std, highest, xtol=1e-6))


def invert_mean(means: np.ndarray, noise_std: float, limits: Limits) -> np.ndarray:
    """Returns the clean values whose clipped noisy values have given means: the inverse of `mean_of_clipped`.

    Args:
      means: Any shape. Means below that of a black pixel give 0, above that of a white pixel 1.
      noise_std: Standard deviation s of the noise before clipping, above 0.
      limits: The limits. Without one, values are unchanged on its side.

    Returns:
      The values, same shape and type.

    Example:
      >>> limits = Limits(black=True, white=True)
      >>> means = mean_of_clipped(np.array([0.0, 0.1, 0.5]), 0.1, limits)
      >>> invert_mean(means, 0.1, limits).round(4).tolist()
      [0.0, 0.1, 0.5]
    """
    means = np.asarray(means)
    grid = _grid(noise_std, limits)
    values = np.interp(means, mean_of_clipped(grid, noise_std, limits), grid)
    # Far from the limits the mean is the value itself.
    is_outside = ((means < grid[0]) & (not limits.black)) | (
        (means > grid[-1]) & (not limits.white)
    )
    return np.where(is_outside, means, values).astype(means.dtype)


def _grid(noise_std: float, limits: Limits) -> np.ndarray:
    low = 0.0 if limits.black else -_RANGE * noise_std
    high = 1.0 if limits.white else 1 + _RANGE * noise_std
    return np.linspace(low, high, _GRID)


def _distances(
    x: np.ndarray, noise_std: np.ndarray | float, limits: Limits
) -> tuple[np.ndarray, np.ndarray]:
    """Signed distances a and b of the limits from the clean values, in noise levels; infinite without a limit."""
    a = -x / noise_std if limits.black else np.full_like(x, -np.inf)
    b = (1 - x) / noise_std if limits.white else np.full_like(x, np.inf)
    return a, b


def _moments(
    values: np.ndarray, noise_std: np.ndarray | float, limits: Limits
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of clipped noisy values."""
    x = np.asarray(values, np.float64)
    a, b = _distances(x, noise_std, limits)
    inside = ndtr(b) - ndtr(a)
    at_white = ndtr(-b)
    mean = x * inside + noise_std * (_density(a) - _density(b)) + at_white
    # a f(a) is 0 in the limit of infinite a.
    ends = [np.where(np.isfinite(z), z, 0) * _density(z) for z in (a, b)]
    square = (
        (x**2 + noise_std**2) * inside
        + 2 * x * noise_std * (_density(a) - _density(b))
        + noise_std**2 * (ends[0] - ends[1])
        + at_white
    )
    return mean, square - mean**2


def _density(z: np.ndarray) -> np.ndarray:
    """The density f of N(0, 1)."""
    return np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
