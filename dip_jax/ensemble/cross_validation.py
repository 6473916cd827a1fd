"""The combination of several estimates that is best on pixels that no network has seen (stacking).

Each of K networks has T estimates: its guide, and its running averages at some steps. With f_tk the t-th
estimate of network k, y the measurement, and k(p) the fold of pixel p, the error on unseen pixels is

    d_t(p) = f_t,k(p)(p) - y(p).

The mean over the networks has smaller errors; the spread of the networks is the difference. The weights
w minimize the estimated error of the combination sum_t w_t mean_k f_tk,

    w' Q w,   Q = mean_p (d d') - mean_p cov_k(f),   w >= 0,   sum w = 1,

which is the squared error with respect to the clean image plus the variance of the noise. They are
computed for each channel of an orthonormal basis, because color differences overfit earlier than
brightness.

References:
  Breiman, Stacked Regressions, 1996, section 2.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import nnls

from dip_jax.ensemble.similar_patches import channel_basis

_LEAST_EIGENVALUE = 1e-4
"""Eigenvalues of Q below this fraction of the largest are raised to it; the subtraction can make them negative."""


class Stack(NamedTuple):
    """Weights of T estimates."""

    weights: np.ndarray
    """Weight of each estimate in each channel of the basis, `[T, C]`; the sum over T is 1."""
    errors: np.ndarray
    """Estimated mean squared error of the mean of the networks for each estimate alone, plus the variance of the
    noise, `[T, C]`."""


def stack(
    predictions: np.ndarray, measurement: np.ndarray, folds: np.ndarray, is_known: np.ndarray
) -> Stack:
    """Finds the weights of T estimates of K networks.

    Args:
      predictions: Measurements that they predict, `[T, K, H, W, C]`.
      measurement: `[H, W, C]`.
      folds: `[H, W]`, the network that has not seen the pixel; a pixel of a network that is missing is -1.
      is_known: Boolean `[H, W]`, the pixels with a measured value in each channel.

    Returns:
      The weights. Estimates that are not finite have weight 0.
    """
    number, channels = len(predictions), measurement.shape[-1]
    basis = channel_basis(channels)
    rows, columns = np.nonzero(is_known & (folds >= 0))
    networks, pixels = folds[rows, columns], np.arange(len(rows))
    y = measurement[rows, columns] @ basis.T
    weights, errors = np.zeros((number, channels)), np.full((number, channels), np.inf)
    for c in range(channels):
        # [T, K, P]; one channel at a time, which saves memory.
        values = predictions[:, :, rows, columns].astype(np.float64) @ basis[c]
        finite = np.isfinite(values).all(axis=(1, 2))
        values = values[finite]
        unseen = values[:, networks, pixels] - y[:, c]
        spread = (values - values.mean(axis=1, keepdims=True)).reshape(len(values), -1)
        moments = unseen @ unseen.T / unseen.shape[1] - spread @ spread.T / spread.shape[1]
        errors[finite, c] = np.diag(moments)
        weights[finite, c] = _least_on_simplex(moments)
    return Stack(weights, errors)


def combine(estimates: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the weighted sum over the first axis, with weights for each channel of the basis.

    Args:
      estimates: `[T, ..., H, W, C]`.
      weights: `[T, C]`.

    Returns:
      `[..., H, W, C]` float32.

    Example:
      >>> estimates = np.random.default_rng(0).random((4, 5, 6, 3))
      >>> mean = combine(estimates, np.full((4, 3), 0.25))
      >>> bool(np.allclose(mean, estimates.mean(axis=0)))
      True
    """
    basis = channel_basis(estimates.shape[-1])
    total = np.zeros(estimates.shape[1:])
    for estimate, of_channels in zip(estimates, weights, strict=True):
        if of_channels.any():  # an estimate without weight need not be finite
            total += estimate @ (basis.T * of_channels) @ basis
    return total.astype(np.float32)


def _least_on_simplex(moments: np.ndarray) -> np.ndarray:
    """Returns the w >= 0 with sum 1 at which w' Q w is least."""
    eigenvalues, vectors = np.linalg.eigh(moments)
    eigenvalues = np.maximum(eigenvalues, _LEAST_EIGENVALUE * eigenvalues.max())
    root = np.sqrt(eigenvalues)[:, None] * vectors.T
    # The sum is a further equation, with a weight that outweighs the others.
    strength = 1e3 * np.sqrt(eigenvalues.max())
    system = np.vstack([root, np.full((1, len(root)), strength)])
    weights, _ = nnls(system, np.append(np.zeros(len(root)), strength))
    return weights / weights.sum()
