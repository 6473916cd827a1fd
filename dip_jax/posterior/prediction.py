"""A check of posterior predictions on measurements that no chain has seen."""

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from dip_jax.posterior.calibration import COVERAGE_LEVEL, STD_FLOOR, gaussian_nll


class PredictiveCheck(NamedTuple):
    """How held-out measurements compare with their prediction."""

    num_held: int
    z_rms: float
    """Root mean square of residual / predicted std: 1 if calibrated, more if the std is too small."""
    coverage_90: float
    nll: float
    """Mean negative log likelihood of a held-out value."""
    sentence: str


def check_prediction(
    predicted_mean: np.ndarray,
    predicted_std: np.ndarray,
    measurement: np.ndarray,
    noise_std: np.ndarray | float,
    held: np.ndarray,
) -> PredictiveCheck:
    """Compares measurements that were held out of the fit with their prediction; needs no reference.

    A held-out y is taken to be normal about the predicted mean, with the variance predicted_std^2 +
    noise_std^2. Of a complex y, where noise_std^2 is the mean of |noise|^2, its real and its imaginary part
    have half of that each.

    Args:
      predicted_mean: Mean of A x over the samples, of the measurement's shape.
      predicted_std: Its standard deviation, of that shape.
      measurement: y.
      noise_std: The noise's standard deviation; NaN for unknown.
      held: True where y was held out, of the measurement's shape or one that broadcasts to it.
    """
    measurement = np.asarray(measurement)
    held = np.broadcast_to(np.asarray(held, bool), measurement.shape)
    residual = (measurement - np.asarray(predicted_mean))[held]
    variance = np.square(np.asarray(predicted_std, np.float64)) + np.square(np.asarray(noise_std))
    std = np.sqrt(np.broadcast_to(variance, measurement.shape)[held])
    if np.iscomplexobj(residual):
        residual = np.concatenate([residual.real, residual.imag])
        std = np.concatenate([std, std]) / math.sqrt(2)
    num = int(held.sum())
    if not num or not np.isfinite(std).all() or not np.isfinite(residual).all():
        if not num:
            sentence = "no measurement was held out, so the prediction is not checked"
        elif np.isnan(np.asarray(noise_std)).any():
            sentence = "the noise level is unknown, so the prediction is not checked"
        else:
            sentence = "the prediction is not finite, so it is not checked"
        return PredictiveCheck(num, math.nan, math.nan, math.nan, sentence)
    std = np.maximum(std, STD_FLOOR)
    z = np.abs(residual.astype(np.float64)) / std
    z_rms = float(np.sqrt(np.mean(z**2)))
    coverage = float(np.mean(z <= norm.ppf(0.5 + COVERAGE_LEVEL / 2)))
    # Of n independent normal values it is 1 +- (2 n)^(-1/2).
    slack = max(0.05, 3 / math.sqrt(2 * z.size))
    if abs(z_rms - 1) <= slack:
        words = "as large as predicted"
    elif z_rms > 1:
        words = f"{z_rms:.2f} times as large as predicted, so the uncertainty is too small"
    else:
        words = f"{z_rms:.2f} times as large as predicted, so the uncertainty is too large"
    sentence = (
        f"the errors at {num} held-out measurements are {words}; "
        f"{100 * coverage:.0f} % are within the 90 % interval"
    )
    return PredictiveCheck(num, z_rms, coverage, gaussian_nll(z, std), sentence)
