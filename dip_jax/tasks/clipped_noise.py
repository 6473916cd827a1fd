"""The limits at which the noise of a measurement was clipped, and the correction of an estimate for it.

An estimate by least squares, or by any mean of similar pixels, approaches the mean m(x) of the clipped
values (`dip_jax.clipping`). The correction is its inverse.

References:
  Foi, Clipped noisy images: heteroskedastic modeling and practical denoising, 2009, section 5.
"""

import numpy as np
from scipy.special import ndtr

from dip_jax.base import Case
from dip_jax.clipping import Limits, invert_mean
from dip_jax.operators.basic import Identity, Mask

_MIN_FRACTION = 1e-3
"""Fraction of the values at a limit below which a correction would change nothing that one sees."""

_MIN_RATIO = 0.5
"""Least ratio of the number of values at a limit and the number that clipped noise would have put there. For clipped
noise it is near 1, for a sensor or a file whose noise ends before the limit it is near 0."""


def limits_of(case: Case) -> Limits:
    """Returns the limits that some values of a measurement of pixels reach exactly; none for other measurements.

    Args:
      case: The case.
    """
    problem = case.problem
    if not isinstance(problem.operator, Identity | Mask) or problem.peak is not None:
        return Limits()
    return Limits(*(bool(fraction >= _MIN_FRACTION) for fraction in fractions_at_limits(case)))


def correct_clipping(case: Case, image: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Corrects an estimate for noise that was clipped at `Case.limits`.

    A limit counts if `confirmed_limits` of the corrected estimate has it. Otherwise the estimate is not changed on that
    side.

    Args:
      case: The case; its noise level is known or estimated.
      image: Estimate `[H, W, C]`.

    Returns:
      The image `[H, W, C]`, and notes for the user.
    """
    noise_std = float(case.problem.noise_std)
    if case.limits == Limits() or not noise_std > 0:
        return image, ()
    clean = invert_mean(image, noise_std, case.limits)
    limits = confirmed_limits(case, case.limits, clean, noise_std)
    if limits == Limits():
        return image, ()
    names = " and ".join(["black"] * limits.black + ["white"] * limits.white)
    note = f"the noise was clipped at {names}, and the result is corrected for it (task.clipping=ignored leaves it)"
    return invert_mean(image, noise_std, limits), (note,)


def confirmed_limits(case: Case, limits: Limits, clean: np.ndarray, noise_std: float) -> Limits:
    """Returns the limits on which at least half as many values lie as clipped noise would have put there.

    The values on another limit have another reason, for example dead pixels.

    Args:
      case: The case.
      limits: Limits that some values reach.
      clean: Estimate of the clean image `[H, W, C]`.
      noise_std: Standard deviation of the noise before clipping, above 0.
    """
    found = fractions_at_limits(case)
    expected = (ndtr(z / noise_std).mean() for z in (-clean, clean - 1))
    is_clipped = [bool(f >= _MIN_RATIO * e) for f, e in zip(found, expected, strict=True)]
    return Limits(limits.black and is_clipped[0], limits.white and is_clipped[1])


def fractions_at_limits(case: Case) -> tuple[float, float]:
    """Returns the fractions of the known values of a measurement of pixels that are 0, and that are 1.

    Args:
      case: The case.
    """
    y = np.asarray(case.problem.measurement)
    weights = None if case.problem.weights is None else np.asarray(case.problem.weights)
    if isinstance(case.problem.operator, Mask):
        mask = np.asarray(case.problem.operator.mask)
        weights = mask if weights is None else mask * weights
    if weights is not None:
        y = y[np.broadcast_to(weights > 0, y.shape)]
    return (float(np.mean(y == 0)), float(np.mean(y == 1))) if y.size else (0.0, 0.0)
