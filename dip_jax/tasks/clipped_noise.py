"""Noise that was clipped at black and white: its detection, and the correction of an estimate.

A file stores values from 0 to 1, so the noise of dark and of bright pixels is cut off. The mean of the
stored values then differs from the clean value x. For noise of standard deviation s, clipped at 0 alone,
it is

    m(x) = x F(x / s) + s f(x / s),

with F and f the distribution and the density of N(0, 1): 0.4 s instead of 0 at black, and symmetrically
at white. An estimate by least squares, or by any mean of similar pixels, approaches m(x). The correction
is its inverse.

References:
  Foi, Clipped noisy images: heteroskedastic modeling and practical denoising, 2009, sections 2 and 5.
"""

import dataclasses

import numpy as np
from scipy import stats

from dip_jax.base import Case
from dip_jax.operators.basic import Identity, Mask

_MIN_FRACTION = 1e-3
"""Fraction of the values at a limit below which a correction would change nothing that one sees."""

_MIN_RATIO = 0.5
"""Least ratio of the number of values at a limit and the number that clipped noise would have put there. For clipped
noise it is near 1, for a sensor or a file whose noise ends before the limit it is near 0."""

_RANGE = 4.0
"""Largest distance beyond a limit, in noise levels, for which the mean is computed."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits at which noise was clipped."""

    black: bool
    """Values below 0 were stored as 0."""
    white: bool
    """Values above 1 were stored as 1."""


def mean_of_clipped(values: np.ndarray, noise_std: float, limits: Limits) -> np.ndarray:
    """Returns the mean of noisy values that were clipped.

    Args:
      values: Clean values, any shape.
      noise_std: Standard deviation of the noise before clipping, above 0.
      limits: The limits.

    Returns:
      The means, same shape.

    Example:
      >>> float(mean_of_clipped(np.zeros(1), 1.0, Limits(black=True, white=False))[0].round(4))
      0.3989
    """
    means = np.asarray(values, np.float64).copy()
    # E max(x + n, 0) - x is the mean of the part that is cut off; both limits cut off parts of their own.
    if limits.black:
        means += _mean_beyond(values, noise_std)
    if limits.white:
        means -= _mean_beyond(1 - np.asarray(values, np.float64), noise_std)
    return means


def invert_mean(means: np.ndarray, noise_std: float, limits: Limits) -> np.ndarray:
    """Returns the clean values whose clipped noisy values have given means: the inverse of `mean_of_clipped`.

    Args:
      means: Any shape. Means below that of a black pixel give 0, above that of a white pixel 1.
      noise_std: Standard deviation of the noise before clipping, above 0.
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
    # Beyond these ends the noise never reaches the limit, and the mean is the value itself.
    low = 0.0 if limits.black else -_RANGE * noise_std
    high = 1.0 if limits.white else 1 + _RANGE * noise_std
    grid = np.linspace(low, high, 4096)
    values = np.interp(means, mean_of_clipped(grid, noise_std, limits), grid).astype(means.dtype)
    values = np.where((means < low) & (not limits.black), means, values)
    return np.where((means > high) & (not limits.white), means, values)


def may_be_clipped(case: Case) -> bool:
    """Whether a measurement has pixels of the image, and some of them at exactly 0 or 1.

    Args:
      case: The case.
    """
    problem = case.problem
    if not isinstance(problem.operator, Identity | Mask) or problem.peak is not None:
        return False
    at_black, at_white = _fractions_at_limits(case)
    return max(at_black, at_white) >= _MIN_FRACTION


def correct_clipping(case: Case, image: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Corrects an estimate for clipped noise, if `Case.corrects_clipping` is set.

    A limit counts if at least half as many values lie on it as clipped noise would have put there, given the
    corrected estimate. Other images, such as those with noise-free black, are not changed on that side.

    Args:
      case: The case; its noise level is known or estimated.
      image: Estimate `[H, W, C]`.

    Returns:
      The image `[H, W, C]`, and notes for the user.
    """
    noise_std = float(case.problem.noise_std)
    if not case.corrects_clipping or not noise_std > 0:
        return image, ()
    clean = invert_mean(image, noise_std, Limits(black=True, white=True))
    expected = (
        stats.norm.cdf(-clean / noise_std).mean(),
        stats.norm.cdf((clean - 1) / noise_std).mean(),
    )
    limits = Limits(
        *(
            bool(found >= max(_MIN_FRACTION, _MIN_RATIO * of_clipped))
            for found, of_clipped in zip(_fractions_at_limits(case), expected, strict=True)
        )
    )
    names = [name for name, is_limit in dataclasses.asdict(limits).items() if is_limit]
    if not names:
        return image, ()
    note = (
        f"the noise was clipped at {' and '.join(names)}, and the result is corrected for it "
        "(task.clipping=ignored leaves it)"
    )
    return invert_mean(image, noise_std, limits), (note,)


def _mean_beyond(distances: np.ndarray, noise_std: float) -> np.ndarray:
    """Mean of max(n - d, 0) for noise n and the distances d to the limit."""
    z = np.asarray(distances, np.float64) / noise_std
    return noise_std * (stats.norm.pdf(z) - z * stats.norm.sf(z))


def _fractions_at_limits(case: Case) -> tuple[float, float]:
    """Fractions of the known values of the measurement that are 0, and that are 1."""
    y = np.asarray(case.problem.measurement)
    weights = case.problem.weights
    if isinstance(case.problem.operator, Mask):
        mask = np.asarray(case.problem.operator.mask)
        weights = mask if weights is None else mask * np.asarray(weights)
    if weights is not None:
        y = y[np.broadcast_to(np.asarray(weights) > 0, y.shape)]
    return (float(np.mean(y == 0)), float(np.mean(y == 1))) if y.size else (0.0, 0.0)
