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

import numpy as np
from scipy.special import ndtr

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


def _moments(values: np.ndarray, noise_std: float, limits: Limits) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of clipped noisy values."""
    x = np.asarray(values, np.float64)
    a = -x / noise_std if limits.black else np.full_like(x, -np.inf)
    b = (1 - x) / noise_std if limits.white else np.full_like(x, np.inf)
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
