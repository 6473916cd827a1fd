"""A check of predictions on held-out measurements, which needs no reference.

Of a held-out measurement y = x + noise with the prediction p, the squared residual r^2 = |y - p|^2 exceeds the variance
t^2 of the noise by the squared error of the prediction. So

    v = mean(r^2 - t^2)

estimates the mean squared error of p without the clean image. The noise is much larger than the error, so a ratio of r
to its predicted deviation would be near 1 for any predicted deviation of p. v is compared with the deviation alone, with
its standard error: a check that cannot tell says so. It needs the true level of the noise: one that is 4 % too high hides
an error of 0.3 noise levels.

**Clipped noise.** The stored value y = clip(x + noise) of a clean value x has the mean m(x) and the variance V(x)
(`dip_jax.clipping`), with the derivatives m', m'', V' and V'' at the prediction p. For r = y - m(p) and the error
e = x - p, to second order in e,

    E r   = m' e + m'' e^2 / 2,
    E r^2 = V(x) + (m(x) - m(p))^2 = V + V' e + (V'' / 2 + m'^2) e^2.

The variance at p is thus not that at x, and its difference V' e does not average to 0: near black and white the errors
of many pixels have the same sign. E r has the same first-order term, so with c = V' / m' and the slope g it cancels in

    E (r^2 - V - c r) = g e^2,   g = m'^2 + V'' / 2 - c m'' / 2,   v = sum(r^2 - V - c r) / sum(g).

v is the mean of e^2 with the weights g, and the predicted variances are averaged with these weights, too. With one
limit, g falls from 1 far from it to 0.53 at a distance of one noise level, 0.18 at the limit and 0.003 at two noise
levels beyond it: a saturated pixel tells little about its error, and it counts as little. With the variance u of
r^2 - V - c r, the weights g^2 / u would give the smallest variance of v. g / u is nearly constant (0.5 / s^4 far from a
limit, 0.9 / s^4 at it, for the noise level s), so the weights g, which need no u, lose little. Without limits, m' = g = 1
and c = 0.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from dip_jax.clipping import Limits, moments_of_clipped
from dip_jax.posterior.calibration import COVERAGE_LEVEL, STD_FLOOR, gaussian_nll

_UNCLIPPED = Limits()
_NUM_ERRORS = 2.0
"""Standard errors of v on both sides of it, about 95 %."""
_WIDEST = 2.0
"""The interval of the error confirms the prediction if its ends are within this factor of the predicted deviation."""
_LEAST_PIXELS = 10
"""Number of held-out pixels below which the standard error of v means nothing."""


class PredictiveCheck(NamedTuple):
    """Comparison of held-out measurements with their prediction; NaN if there are none."""

    num_held_out: int
    """Number of held-out measurements."""
    error: float
    """Estimated root mean squared error of the predicted mean, v^(1/2); 0 if v is negative. Pixels near a limit of
    clipped noise have less weight."""
    error_low: float
    """Lower end of the 95 % interval of `error`."""
    error_high: float
    """Upper end of that interval."""
    predicted_error: float
    """Root mean square of the predicted standard deviation at the held-out measurements, with the weights of `error`."""
    z_rms: float
    """Root mean square of residual / predicted standard deviation, the noise included."""
    coverage_90: float
    """Fraction of the held-out measurements inside their 90 % interval, the noise included."""
    nll: float
    """Mean negative log likelihood of a held-out measurement."""
    message: str
    """The result in a sentence."""
    squared_error: float = math.nan
    """v, which the noise may make negative."""
    squared_error_std: float = math.nan
    """Standard error of v."""


def check_prediction(
    predicted_mean: np.ndarray,
    predicted_std: np.ndarray,
    measurement: np.ndarray,
    noise_std: np.ndarray | float,
    held_out: np.ndarray,
    limits: Limits = _UNCLIPPED,
) -> PredictiveCheck:
    """Compares held-out measurements with their prediction.

    The channels of a pixel share their error, so the standard error of v is that of the sums over pixels.

    Args:
      predicted_mean: Mean of A x over the samples, of the measurement's shape.
      predicted_std: Standard deviation of A x over the samples, of the measurement's shape.
      measurement: The measurement y; with three axes, the last one has the channels of a pixel.
      noise_std: Standard deviation of the noise, (mean |noise|^2)^(1/2) for a complex y; NaN for
        unknown. With limits, that of the noise before clipping, above 0.
      held_out: True where y was held out, of the measurement's shape or one that broadcasts to it.
      limits: The limits at which the noise of a real y was clipped; the error is then that of the predicted mean as
        an estimate of the values before noise and clipping.

    Example:
      >>> import numpy as np
      >>> rng = np.random.default_rng(0)
      >>> shape = (300, 300)
      >>> mean, held_out = rng.random(shape), rng.random(shape) < 0.2
      >>> y = mean + rng.normal(0, np.hypot(0.03, 0.04), shape)
      >>> check = check_prediction(mean, np.full(shape, 0.03), y, 0.04, held_out)
      >>> check.message.partition(" at")[0], round(check.error, 2)
      ('the error', 0.03)
      >>> check_prediction(mean, np.full(shape, 0.01), y, 0.04, held_out).message.partition(": ")[2]
      'the uncertainty is too small'
    """
    measurement = np.asarray(measurement)
    held_out = np.broadcast_to(np.asarray(held_out, bool), measurement.shape)
    noise = np.broadcast_to(np.square(np.asarray(noise_std, np.float64)), measurement.shape)
    predicted = np.broadcast_to(np.square(np.asarray(predicted_std, np.float64)), measurement.shape)
    predicted_mean = np.asarray(predicted_mean)
    num = int(held_out.sum())
    is_finite = all(np.isfinite(x[held_out]).all() for x in (predicted_mean, noise, predicted))
    if not num or not is_finite:
        if not num:
            message = "no measurement was held out, so the prediction is not checked"
        elif np.isnan(np.asarray(noise_std)).any():
            message = "the noise level is unknown, so the prediction is not checked"
        else:
            message = "the prediction is not finite, so it is not checked"
        nan = math.nan
        return PredictiveCheck(num, nan, nan, nan, nan, nan, nan, nan, message)
    terms = _terms(predicted_mean, measurement, noise, limits)
    excess = np.where(held_out, terms.excess, 0.0)
    slope = np.where(held_out, terms.slope, 0.0)
    v, v_error = _mean_squared_error(excess, slope, held_out)
    low, high = (math.sqrt(max(v + sign * _NUM_ERRORS * v_error, 0.0)) for sign in (-1, 1))
    weights = slope[held_out]
    predicted_variance = float((weights * predicted[held_out]).sum() / weights.sum())
    predicted_error = max(math.sqrt(predicted_variance), STD_FLOOR)
    variance = terms.variance + terms.mean_slope**2 * predicted
    z_rms, coverage, nll = _whole_residual(terms.residual[held_out], variance[held_out])
    num_pixels = int(held_out.any(axis=-1).sum()) if held_out.ndim == 3 else num
    return PredictiveCheck(
        num,
        math.sqrt(max(v, 0.0)),
        low,
        high,
        predicted_error,
        z_rms,
        coverage,
        nll,
        _conclusion(num, num_pixels, low / predicted_error, high / predicted_error),
        squared_error=v,
        squared_error_std=v_error,
    )


class _Terms(NamedTuple):
    """The terms of each measurement, of its shape."""

    residual: np.ndarray
    """r = y - m(p)."""
    variance: np.ndarray
    """V, the variance of y at x = p."""
    mean_slope: np.ndarray
    """m'."""
    excess: np.ndarray
    """r^2 - V - c r."""
    slope: np.ndarray
    """g, the slope of the mean of `excess` by e^2."""


def _terms(
    predicted_mean: np.ndarray, measurement: np.ndarray, noise: np.ndarray, limits: Limits
) -> _Terms:
    """The terms, given the variance `noise` before clipping."""
    if limits == _UNCLIPPED:
        residual = measurement - predicted_mean
        excess = np.square(np.abs(residual).astype(np.float64)) - noise
        return _Terms(residual, noise, np.ones(noise.shape), excess, np.ones(noise.shape))
    m = moments_of_clipped(predicted_mean, np.sqrt(noise), limits)
    residual = measurement - m.mean
    c = m.variance_slope / m.slope
    excess = residual**2 - m.variance - c * residual
    g = m.slope**2 + m.variance_curvature / 2 - c * m.curvature / 2
    return _Terms(residual, m.variance, m.slope, excess, g)


def _mean_squared_error(
    excess: np.ndarray, slope: np.ndarray, held_out: np.ndarray
) -> tuple[float, float]:
    """The estimate v and its standard error, from terms that are 0 where nothing was held out."""
    total = float(slope.sum())
    v = float(excess.sum()) / total
    if held_out.ndim == 3:
        excess, slope = excess.sum(axis=-1), slope.sum(axis=-1)
        held_out = np.asarray(held_out.any(axis=-1))
    of_pixels, weights = excess[held_out], slope[held_out]
    num_pixels = len(of_pixels)
    v_error = float(np.sqrt(np.sum(np.square(of_pixels - v * weights)))) / total
    return v, v_error * math.sqrt(num_pixels / max(num_pixels - 1, 1))


def _whole_residual(residual: np.ndarray, variance: np.ndarray) -> tuple[float, float, float]:
    """Root mean square of z, coverage of the 90 % interval, and NLL of the residuals, the noise included."""
    std = np.sqrt(variance)
    if np.iscomplexobj(residual):
        residual = np.concatenate([residual.real, residual.imag])
        std = np.concatenate([std, std]) / math.sqrt(2)
    std = np.maximum(std, STD_FLOOR)
    z = np.abs(residual.astype(np.float64)) / std
    coverage = float(np.mean(z <= norm.ppf(0.5 + COVERAGE_LEVEL / 2)))
    return float(np.sqrt(np.mean(z**2))), coverage, gaussian_nll(z, std)


def _conclusion(num: int, num_pixels: int, low: float, high: float) -> str:
    """The message, given both ends of the interval of the error, in predicted standard deviations."""
    where = f"at {num} held-out measurements"
    size = f"{low:.2f} to {high:.2f} times the predicted deviation"
    if num_pixels < _LEAST_PIXELS:
        return f"{num} held-out measurements are too few to tell whether the uncertainty is right"
    if high == 0:
        return f"the residuals {where} are smaller than the noise: the noise level is too high"
    if high < 1:
        return f"the error {where} is {size}: the uncertainty is too large"
    if low > 1:
        return f"the error {where} is {size}: the uncertainty is too small"
    if low * _WIDEST >= 1 and high <= _WIDEST:
        return f"the error {where} is {size}: as predicted"
    return (
        f"the error {where} is {size}: they are too few to tell whether the uncertainty is right "
        "(--set sgld.held_out_fraction=0.2 hides more)"
    )
