"""The step at which the mean of several networks is best, by what each of them has not seen.

With f_k the estimate of network k at some step, y the measurement, and k(p) the fold of pixel p, the
expected error of the networks with respect to the clean image is, up to the variance of the noise,

    e = mean_p (y(p) - f_k(p)(p))^2.

The error of their mean is smaller by the spread of the networks, mean_p mean_k (f_k - mean_k f_k)^2. Both
are computed for each channel of an orthonormal basis, because color differences overfit earlier than
brightness: each channel of the returned image is that of its own best step.
"""

from typing import NamedTuple

import numpy as np

from dip_jax.ensemble.similar_patches import channel_basis


class ChannelSteps(NamedTuple):
    """The best step of each channel."""

    indices: np.ndarray
    """Index of the best estimate for each channel of the basis, `[C]` int."""
    errors: np.ndarray
    """Estimated mean squared error of the mean, plus the variance of the noise, `[T, C]`."""


def best_steps(
    predictions: np.ndarray, measurement: np.ndarray, folds: np.ndarray, is_known: np.ndarray
) -> ChannelSteps:
    """Finds the best of T steps for each channel.

    Args:
      predictions: Predicted measurements of K networks at T steps, `[T, K, H, W, C]`.
      measurement: `[H, W, C]`.
      folds: `[H, W]`, the network that has not seen the pixel; a pixel of a network that is missing is -1.
      is_known: Boolean `[H, W]`, the pixels with a measured value in each channel.

    Returns:
      The steps; a channel whose errors are not finite gets the last one.
    """
    basis = channel_basis(measurement.shape[-1])
    rows, columns = np.nonzero(is_known & (folds >= 0))
    networks = folds[rows, columns]
    y = measurement[rows, columns] @ basis.T
    errors = np.zeros((len(predictions), len(basis)))
    for t, prediction in enumerate(predictions):  # one step at a time, which saves memory
        values = prediction[:, rows, columns].astype(np.float64) @ basis.T  # [K, P, C]
        unseen = values[networks, np.arange(len(networks))]
        errors[t] = np.mean((unseen - y) ** 2, axis=0) - np.mean(values.var(axis=0), axis=0)
    finite = np.where(np.isfinite(errors), errors, np.inf)
    indices = np.where(np.isfinite(finite).any(axis=0), finite.argmin(axis=0), len(errors) - 1)
    return ChannelSteps(indices, errors)


def select_steps(estimates: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Returns the image whose channels, in the basis, are those of the given steps.

    Args:
      estimates: `[T, ..., H, W, C]`.
      indices: Index of the step of each channel, `[C]`.

    Returns:
      `[..., H, W, C]` float32.

    Example:
      >>> estimates = np.random.default_rng(0).random((4, 5, 6, 3))
      >>> bool(np.allclose(select_steps(estimates, np.array([2, 2, 2])), estimates[2]))
      True
    """
    basis = channel_basis(estimates.shape[-1])
    channels = [estimates[t] @ basis[c] for c, t in enumerate(indices)]
    return (np.stack(channels, axis=-1) @ basis).astype(np.float32)
