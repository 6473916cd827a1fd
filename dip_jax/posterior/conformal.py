"""Calibration over a folder: errors that are estimated without the truth, pooled over images.

Of image i, with the mean m and n_i held-out measurements, p_i^2 is the mean predicted variance at these measurements,
and t_i the mean squared error of m there. The truth x is unknown, but `check_prediction` estimates

    v_i = mean(|y - m|^2 - noise_std^2),   E[v_i] = t_i.

For one image the noise of v_i often hides t_i. Images that are exchangeable (of one kind, restored by the same
settings) share the law of t_i / p_i^2, so that their v_i can be pooled, in two ways:

- `pooled_scale`: one factor on all predicted standard deviations, after which they are right on average;
- `conformal_factor`: a bound on t / p^2 of a further image, with a stated probability.

Both trust the noise level. If it is wrong in all images alike, so are all v_i, and no spread over images shows it.

References:
  Everink, Amougou and Pereyra, Self-supervised conformal prediction for uncertainty quantification in imaging problems,
    2025 (scores that are estimates of the risk, pooled over images; theirs is SURE).
  Angelopoulos and Bates, A gentle introduction to conformal prediction, 2021 (split-conformal quantile).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student_t

from dip_jax.posterior.prediction import PredictiveCheck

REGION_LEVEL = 0.9
"""Default probability of the bound on the error of a further image."""
_RANGE_LEVEL = 0.95
"""Probability of the range of the pooled factor."""
_WIDEST = 2.0
"""The pooled factor is told if the ends of its range differ by at most this factor."""
_MOSTLY_NOISE = 0.5
"""Fraction of the variance of the scores above which the message says that most of it is noise."""


class PooledScale(NamedTuple):
    """A factor f on the predicted standard deviations of several images; all numbers are without unit."""

    factor: float
    """f; NaN if f^2 is negative or 0."""
    factor_low: float
    """Lower end of the 95 % range of f."""
    factor_high: float
    """Upper end of that range; infinite for a single image."""
    squared_factor: float
    """f^2, which the noise may make negative."""
    squared_factor_std: float
    """Standard error of f^2 over the images; NaN for a single image."""
    num_images: int
    """Number of images n."""
    can_tell: bool
    """Whether the ends of the range are within a factor of 2 of each other."""
    message: str
    """The result in a sentence."""


class FolderCalibration(NamedTuple):
    """Calibration of the predicted standard deviations of a folder; all numbers are without unit."""

    scale: PooledScale
    """The factor on all standard deviations."""
    level: float
    """Probability of the bounds below."""
    region_factor: float
    """q^(1/2): bound on (root mean squared error) / (root mean square of the predicted deviation) of a further image.
  Infinite if the images are too few, NaN if the estimated errors are not positive."""
    region_factors: np.ndarray
    """The same bound `[n]` for each image, from all others."""
    scores: np.ndarray
    """Estimated squared error / predicted variance of each image `[n]`, which the noise may make negative."""
    noise_fraction: float
    """Fraction of the variance of the scores that is noise of the held-out measurements; NaN if it is unknown."""
    message: str
    """The result in one or two sentences."""


def pooled_scale(
    squared_errors: np.ndarray, predicted_variances: np.ndarray, num_values: np.ndarray
) -> PooledScale:
    """Returns the factor f on the standard deviations of all images, from the moments of the pooled measurements.

    If the deviations of all images are wrong by one factor on average, E[t_i] = f^2 p_i^2. The sums over all held-out
    measurements then give

        f^2 = sum_i n_i v_i / sum_i n_i p_i^2,   E[v_i] = t_i.

    Its standard error is that of the jackknife, with f^2_(i) without image i, and their mean f^2_(.):

        s^2 = (n - 1) / n sum_i (f^2_(i) - f^2_(.))^2.

    It includes the noise of v_i as well as the differences between images, and needs independent images. The range of f
    is (f^2 -+ c s)^(1/2), where c is the quantile of Student's t distribution with n - 1 degrees of freedom; a negative
    square counts as 0.

    Args:
      squared_errors: v_i `[n]`, which may be negative.
      predicted_variances: p_i^2 `[n]`, in the same unit; positive.
      num_values: n_i `[n]`, positive.

    Raises:
      ValueError: If the arrays are empty, differ in shape, or have a value that is not finite or not positive.

    References:
      Efron and Tibshirani, An introduction to the bootstrap, 1993, chapter 11.

    Example:
      >>> import numpy as np
      >>> predicted = np.full(20, 0.03**2)
      >>> errors = 1.2**2 * predicted * np.linspace(0.8, 1.2, 20)
      >>> pooled_scale(errors, predicted, np.full(20, 500)).message
      'the predicted deviations of 20 images must be multiplied by 1.20 (1.16 to 1.23)'
      >>> pooled_scale(errors / 1.44, predicted, np.full(20, 500)).message
      'the predicted deviations of 20 images agree with their errors: the factor on them is 1.00 (0.97 to 1.03)'
    """
    v, variance, num = _checked(squared_errors, predicted_variances, num_values)
    a, b = num * v, num * variance
    n, squared = len(v), float(a.sum() / b.sum())
    std, low, high = math.nan, 0.0, math.inf
    if n > 1:
        without = (a.sum() - a) / (b.sum() - b)
        std = float(math.sqrt(n - 1) * without.std())
        half_width = float(student_t.ppf((1 + _RANGE_LEVEL) / 2, n - 1)) * std
        low, high = (math.sqrt(max(squared + sign * half_width, 0.0)) for sign in (-1, 1))
    factor = math.sqrt(squared) if squared > 0 else math.nan
    can_tell = 0 < high <= _WIDEST * low
    message = _scale_message(n, factor, low, high, can_tell=can_tell)
    return PooledScale(factor, low, high, squared, std, n, can_tell, message)


def conformal_factor(scores: np.ndarray, level: float = REGION_LEVEL) -> float:
    """Returns the bound q on the score of a further image, the split-conformal quantile of n scores.

    With the scores s_i = v_i / p_i^2 (negative ones count as 0), q is the k-th smallest, k = ceil((n + 1) level), and
    infinite if k > n. The rank of a further exchangeable score among n + 1 is uniform, so it is at most k with a
    probability of at least `level`. If the scores were exact, v_i = t_i, the truth x of a further image with the mean m
    and the predicted variance p^2 would meet

        |x - m|^2 / (H W C) <= q p^2   with a probability of at least `level`,

    and at most `level` + 1 / (n + 1) if no two scores are equal (k <= n). This is a region for a whole image, by its
    mean squared error. It is no interval for a pixel. The probability is that over folders and images together; it holds
    neither for one folder nor for one kind of images in it.

    The scores have the noise of v_i. Then the bound holds for the noisy score of a further image. For its true score it
    is mostly conservative: with noise e, independent of t / p^2, and the law F of t / p^2, the noisy score is at most q
    with probability P(t / p^2 + e <= q) = E F(q - e). This is at most F(q) if F is concave where the noise reaches, so q
    is too large rather than too small where the scores become rarer towards larger ones, as they do at high levels. It
    is not guaranteed: images of two kinds with scores in two narrow groups can miss the level by a little.

    Args:
      scores: The scores s_i `[n]`; n may be 0.
      level: The probability, in (0, 1).

    Returns:
      q, a factor on the variance; its root is the factor on the standard deviation.

    Raises:
      ValueError: If a score is not a number, or the level is not in (0, 1).

    Example:
      >>> conformal_factor([0.8, 1.2, 1.0, -0.1], level=0.5)
      1.0
      >>> conformal_factor([0.8, 1.2, 1.0, -0.1], level=0.9)
      inf
    """
    scores = _clipped(scores)
    rank = _rank(len(scores), level)
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else math.inf


def leave_one_out_factors(scores: np.ndarray, level: float = REGION_LEVEL) -> np.ndarray:
    """Returns for each image the `conformal_factor` of all other images, `[n]`.

    An image must not be among those that its own bound is computed from. With one score left out, the k-th smallest of
    the others is the k-th or the (k + 1)-th of all.

    Args:
      scores: The scores s_i `[n]`.
      level: The probability, in (0, 1).

    Raises:
      ValueError: As `conformal_factor`.

    Example:
      >>> leave_one_out_factors([0.8, 1.2, 1.0, 0.9], level=0.5)
      array([1. , 0.9, 0.9, 1. ])
    """
    scores = _clipped(scores)
    n = len(scores)
    rank = _rank(max(n - 1, 0), level)
    if rank > n - 1:
        return np.full(n, math.inf)
    ordered = np.sort(scores)
    return np.where(scores <= ordered[rank - 1], ordered[rank], ordered[rank - 1])


def calibrate_folder(
    checks: Sequence[PredictiveCheck], *, level: float = REGION_LEVEL
) -> FolderCalibration:
    """Calibrates the predicted standard deviations of several images by their held-out measurements.

    Args:
      checks: The check of each image; those without held-out measurements or without a noise level are left out.
      level: Probability of the bounds on the error of an image, in (0, 1).

    Returns:
      The pooled factor and the bounds; arrays have an entry for each image that is not left out.

    Raises:
      ValueError: If no check is left.

    Example:
      >>> import numpy as np
      >>> from dip_jax.posterior import check_prediction
      >>> rng = np.random.default_rng(0)
      >>> shape, checks = (100, 100), []
      >>> for _ in range(12):
      ...   mean, held_out = rng.random(shape), rng.random(shape) < 0.2
      ...   y = mean + rng.normal(0, np.hypot(0.06, 0.04), shape)  # an error of 0.06, noise of 0.04
      ...   checks.append(check_prediction(mean, np.full(shape, 0.03), y, 0.04, held_out))
      >>> found = calibrate_folder(checks)
      >>> round(found.scale.factor, 1), found.scale.can_tell
      (2.0, True)
    """
    known = [check for check in checks if math.isfinite(check.squared_error)]
    if not known:
        raise ValueError(
            f"expected a check with held-out measurements and a noise level, got none in {len(checks)}"
        )
    v = np.array([check.squared_error for check in known])
    variance = np.square([check.predicted_error for check in known])
    scale = pooled_scale(v, variance, np.array([check.num_held_out for check in known]))
    scores = v / variance
    q, of_others = conformal_factor(scores, level), leave_one_out_factors(scores, level)
    errors = np.array([check.squared_error_std for check in known]) / variance
    noise_fraction = _noise_fraction(scores, errors)
    region = math.sqrt(q) if q > 0 else math.nan
    regions = np.sqrt(np.where(of_others > 0, of_others, math.nan))
    sentences = (scale.message, _region_message(region, level, len(known), noise_fraction))
    message = "; ".join(filter(None, sentences))
    return FolderCalibration(scale, level, region, regions, scores, noise_fraction, message)


def _checked(*arrays: np.ndarray) -> list[np.ndarray]:
    """The arguments of `pooled_scale` as float64 `[n]`."""
    found = [np.asarray(array, np.float64) for array in arrays]
    shapes = {array.shape for array in found}
    if len(shapes) > 1 or found[0].ndim != 1 or not found[0].size:
        raise ValueError(f"expected three arrays of one shape [n], n > 0, got {sorted(shapes)}")
    if not all(np.isfinite(array).all() for array in found):
        raise ValueError("expected finite numbers, got NaN or infinity")
    if not all((array > 0).all() for array in found[1:]):
        raise ValueError("expected positive predicted variances and numbers of values")
    return found


def _clipped(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or np.isnan(scores).any():
        raise ValueError(f"expected scores [n] without NaN, got {scores}")
    return np.maximum(scores, 0.0)


def _rank(n: int, level: float) -> int:
    """The rank k = ceil((n + 1) level); the product is rounded, so that 20 times 0.55 is 11."""
    if not 0 < level < 1:
        raise ValueError(f"expected a level in (0, 1), got {level}")
    return math.ceil(round((n + 1) * level, 9))


def _num_needed(level: float) -> int:
    """The smallest number of images with a finite bound, n >= level / (1 - level)."""
    return math.ceil(round(level / (1 - level), 9))


def _noise_fraction(scores: np.ndarray, errors: np.ndarray) -> float:
    """The mean squared standard error of the scores over their variance, at most 1."""
    spread = float(scores.var(ddof=1)) if len(scores) > 1 else 0.0
    return float(min(np.mean(errors**2) / spread, 1.0)) if spread > 0 else math.nan


def _scale_message(n: int, factor: float, low: float, high: float, *, can_tell: bool) -> str:
    images = "1 image" if n == 1 else f"{n} images"
    size = f"{factor:.2f} ({low:.2f} to {high:.2f})"
    if high == 0:
        return (
            f"the residuals of {images} are smaller than their noise: the noise level is too high"
        )
    if can_tell and low <= 1 <= high:
        return f"the predicted deviations of {images} agree with their errors: the factor on them is {size}"
    if can_tell:
        return f"the predicted deviations of {images} must be multiplied by {size}"
    return (
        f"the held-out measurements of {images} cannot tell the factor on the predicted deviations, which is between "
        f"{low:.2f} and {high:.2f} (more images, or --set sgld.held_out_fraction=0.2, make this range smaller)"
    )


def _region_message(region: float, level: float, n: int, noise_fraction: float) -> str:
    """The sentence about the bound; empty if the estimated errors are not positive."""
    if math.isnan(region):
        return ""
    if math.isinf(region):
        return f"a bound on the error of a further image needs {_num_needed(level)} images, got {n}"
    message = (
        f"with a probability of {100 * level:g} %, the root mean squared error of a further such image is at most "
        f"{region:.2f} times its predicted deviation"
    )
    if noise_fraction > _MOSTLY_NOISE:
        fraction = f"{100 * noise_fraction:.0f} %"
        message += f" (mostly less: {fraction} of the variance behind it is noise of held-out measurements)"
    return message
