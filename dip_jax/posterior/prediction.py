"""A check of predictions on held-out measurements, which needs no reference.

Of a held-out measurement y = x + noise with the prediction m, the squared residual r^2 = |y - m|^2 exceeds the
variance t^2 of the noise by the squared error of the prediction. So

    v = mean(r^2 - t^2)

estimates the mean squared error of m without the clean image. The noise is much larger than the error, so a ratio of r
to its predicted deviation would be near 1 for any predicted deviation of m. v is compared with the deviation alone, with
its standard error: a check that cannot tell says so. It needs the true level of the noise: one that is 4 % too high hides
an error of 0.3 noise levels.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from dip_jax.posterior.calibration import COVERAGE_LEVEL, STD_FLOOR, gaussian_nll

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
    """Estimated root mean squared error of the predicted mean, v^(1/2); 0 if v is negative."""
    error_low: float
    """Lower end of the 95 % interval of `error`."""
    error_high: float
    """Upper end of that interval."""
    predicted_error: float
    """Root mean square of the predicted standard deviation at the held-out measurements."""
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
) -> PredictiveCheck:
    """Compares held-out measurements with their prediction.

    The channels of a pixel share their error, so the standard error of v is that of the sums over pixels.

    Args:
      predicted_mean: Mean of A x over the samples, of the measurement's shape.
      predicted_std: Standard deviation of A x over the samples, of the measurement's shape.
      measurement: The measurement y; with three axes, the last one has the channels of a pixel.
      noise_std: Standard deviation of the noise, (mean |noise|^2)^(1/2) for a complex y; NaN for
        unknown.
      held_out: True where y was held out, of the measurement's shape or one that broadcasts to it.

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
    residual = measurement - np.asarray(predicted_mean)
    num = int(held_out.sum())
    is_finite = all(np.isfinite(x[held_out]).all() for x in (residual, noise, predicted))
    if not num or not is_finite:
        if not num:
            message = "no measurement was held out, so the prediction is not checked"
        elif np.isnan(np.asarray(noise_std)).any():
            message = "the noise level is unknown, so the prediction is not checked"
        else:
            message = "the prediction is not finite, so it is not checked"
        nan = math.nan
        return PredictiveCheck(num, nan, nan, nan, nan, nan, nan, nan, message)
    excess = np.where(held_out, np.square(np.abs(residual).astype(np.float64)) - noise, 0.0)
    v = float(excess.sum()) / num
    of_pixels, counts = excess, held_out
    if measurement.ndim == 3:
        of_pixels, counts = excess.sum(axis=-1), held_out.sum(axis=-1)
    of_pixels, counts = of_pixels[counts > 0], counts[counts > 0]
    num_pixels = len(counts)
    v_error = float(np.sqrt(np.sum(np.square(of_pixels - v * counts)))) / num
    v_error *= math.sqrt(num_pixels / max(num_pixels - 1, 1))
    low, high = (math.sqrt(max(v + sign * _NUM_ERRORS * v_error, 0.0)) for sign in (-1, 1))
    predicted_error = max(math.sqrt(float(predicted[held_out].mean())), STD_FLOOR)
    z_rms, coverage, nll = _whole_residual(residual[held_out], (predicted + noise)[held_out])
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
