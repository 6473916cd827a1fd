"""A check of predictions on held-out measurements, which needs no reference."""

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from dip_jax.posterior.calibration import COVERAGE_LEVEL, STD_FLOOR, gaussian_nll


class PredictiveCheck(NamedTuple):
    """Comparison of held-out measurements with their prediction; NaN if there are none."""

    num_held_out: int
    """Number of held-out measurements."""
    z_rms: float
    """Root mean square of residual / predicted standard deviation: 1 if calibrated, more if the
    predicted one is too small."""
    coverage_90: float
    """Fraction of the held-out measurements inside their 90 % interval."""
    nll: float
    """Mean negative log likelihood of a held-out measurement."""
    message: str
    """The result in a sentence."""


def check_prediction(
    predicted_mean: np.ndarray,
    predicted_std: np.ndarray,
    measurement: np.ndarray,
    noise_std: np.ndarray | float,
    held_out: np.ndarray,
) -> PredictiveCheck:
    """Compares held-out measurements with their prediction.

    A held-out y is assumed to be normal about the predicted mean, with the variance predicted_std^2
    + noise_std^2. The real and the imaginary part of a complex y have half of it each.

    Args:
      predicted_mean: Mean of A x over the samples, of the measurement's shape.
      predicted_std: Standard deviation of A x over the samples, of the measurement's shape.
      measurement: The measurement y.
      noise_std: Standard deviation of the noise, (mean |noise|^2)^(1/2) for a complex y; NaN for
        unknown.
      held_out: True where y was held out, of the measurement's shape or one that broadcasts to it.

    Example:
      >>> import numpy as np
      >>> rng = np.random.default_rng(0)
      >>> shape = (100, 100)
      >>> mean, held_out = rng.random(shape), rng.random(shape) < 0.1
      >>> y = mean + rng.normal(0, np.hypot(0.03, 0.04), shape)
      >>> check = check_prediction(mean, np.full(shape, 0.03), y, 0.04, held_out)
      >>> print(check.message.partition(";")[0])
      the errors at 1001 held-out measurements are as large as predicted
      >>> check = check_prediction(mean, np.full(shape, 0.01), y, 0.01, held_out)
      >>> round(check.z_rms, 1), round(check.coverage_90, 1)
      (3.5, 0.4)
    """
    measurement = np.asarray(measurement)
    held_out = np.broadcast_to(np.asarray(held_out, bool), measurement.shape)
    residual = (measurement - np.asarray(predicted_mean))[held_out]
    variance = np.square(np.asarray(predicted_std, np.float64)) + np.square(np.asarray(noise_std))
    std = np.sqrt(np.broadcast_to(variance, measurement.shape)[held_out])
    if np.iscomplexobj(residual):
        residual = np.concatenate([residual.real, residual.imag])
        std = np.concatenate([std, std]) / math.sqrt(2)
    num = int(held_out.sum())
    if not num or not np.isfinite(std).all() or not np.isfinite(residual).all():
        if not num:
            message = "no measurement was held out, so the prediction is not checked"
        elif np.isnan(np.asarray(noise_std)).any():
            message = "the noise level is unknown, so the prediction is not checked"
        else:
            message = "the prediction is not finite, so it is not checked"
        return PredictiveCheck(num, math.nan, math.nan, math.nan, message)
    std = np.maximum(std, STD_FLOOR)
    z = np.abs(residual.astype(np.float64)) / std
    z_rms = float(np.sqrt(np.mean(z**2)))
    coverage = float(np.mean(z <= norm.ppf(0.5 + COVERAGE_LEVEL / 2)))
    # For n independent normal values, z_rms is 1 +- (2 n)^(-1/2).
    slack = max(0.05, 3 / math.sqrt(2 * z.size))
    if abs(z_rms - 1) <= slack:
        size = "as large as predicted"
    elif z_rms > 1:
        size = f"{z_rms:.2f} times as large as predicted, so the uncertainty is too small"
    else:
        size = f"{z_rms:.2f} times as large as predicted, so the uncertainty is too large"
    message = (
        f"the errors at {num} held-out measurements are {size}; "
        f"{100 * coverage:.0f} % are within the 90 % interval"
    )
    return PredictiveCheck(num, z_rms, coverage, gaussian_nll(z, std), message)
