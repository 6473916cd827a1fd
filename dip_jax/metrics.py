"""Distances of an image from its reference."""

import math

import jax.numpy as jnp
import numpy as np
from skimage.metrics import structural_similarity

from dip_jax.base import Array


def mse(image: Array, reference: Array) -> Array:
    """Returns the mean squared error over all pixels and channels."""
    return jnp.mean(jnp.square(image - reference))


def psnr(image: Array, reference: Array, *, region: Array | None = None) -> Array:
    """Returns the peak signal-to-noise ratio in dB, -10 log10(mse), for images in [0, 1].

    It runs inside compiled steps; `psnr_on_host` is for reports.

    Args:
      image: The estimate `[H, W, C]`.
      reference: The ground truth `[H, W, C]`.
      region: Canvas mask `[H, W, 1]`: 1 = image, 0 = margin, where both images must be 0.

    Example:
      >>> import jax.numpy as jnp
      >>> round(float(psnr(jnp.full((2, 2, 3), 0.6), jnp.full((2, 2, 3), 0.5))), 3)
      20.0
    """
    fraction = 1.0 if region is None else jnp.mean(region)
    return -10 * jnp.log10(mse(image, reference) / fraction)


def psnr_on_host(image: np.ndarray, reference: np.ndarray) -> float:
    """Returns `psnr` in float64; infinite for equal images."""
    error = float(np.mean(np.square(image.astype(np.float64) - reference)))
    return -10 * math.log10(error) if error else math.inf


def ssim(image: np.ndarray, reference: np.ndarray) -> float:
    """Returns the structural similarity of two images in [0, 1], with scikit-image's defaults.

    References:
      Wang, Bovik, Sheikh and Simoncelli, Image quality assessment, 2004.
    """
    return float(structural_similarity(image, reference, channel_axis=-1, data_range=1.0))
