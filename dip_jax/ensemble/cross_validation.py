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

_LEAST_PIXELS = 16
"""Number of pixels below which errors mean nothing."""

_BLOCK = 2**20
"""Number of values of a channel that are processed at once."""


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
      The weights. Estimates that are not finite have weight 0. If too few pixels are known to judge, the last finite
      estimate has weight 1.
    """
    number, channels = len(predictions), measurement.shape[-1]
    basis = channel_basis(channels)
    rows, columns = np.nonzero(is_known & (folds >= 0))
    finite = np.array([np.isfinite(estimate).all() for estimate in predictions])
    weights, errors = np.zeros((number, channels)), np.full((number, channels), np.inf)
    if len(rows) < _LEAST_PIXELS or not finite.any():
        weights[np.flatnonzero(finite)[-1] if finite.any() else -1] = 1
        return Stack(weights, errors)
    moments = np.zeros((channels, finite.sum(), finite.sum()))
    size = max(1, _BLOCK // predictions[:, :, 0, 0].size)
    for start in range(0, len(rows), size):  # blocks of pixels need less memory than all at once
        block = np.s_[start : start + size]
        r, c = rows[block], columns[block]
        values = predictions[:, :, r, c][finite].astype(np.float64) @ basis.T  # [T, K, P, C]
        unseen = values[:, folds[r, c], np.arange(len(r))] - measurement[r, c] @ basis.T
        spread = values - values.mean(axis=1, keepdims=True)
        moments += np.einsum("tpc,spc->cts", unseen, unseen)
        moments -= np.einsum("tkpc,skpc->cts", spread, spread) / predictions.shape[1]
    for channel, of_channel in enumerate(moments / len(rows)):
        errors[finite, channel] = np.diag(of_channel)
        weights[finite, channel] = _least_on_simplex(of_channel)
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
    if eigenvalues.max() <= 0:  # all errors are 0
        return np.eye(len(moments))[-1]
    eigenvalues = np.maximum(eigenvalues, _LEAST_EIGENVALUE * eigenvalues.max())
    root = np.sqrt(eigenvalues)[:, None] * vectors.T
    # The sum is a further equation, with a weight that outweighs the others.
    strength = 1e3 * np.sqrt(eigenvalues.max())
    system = np.vstack([root, np.full((1, len(root)), strength)])
    weights, _ = nnls(system, np.append(np.zeros(len(root)), strength))
    return weights / weights.sum()
