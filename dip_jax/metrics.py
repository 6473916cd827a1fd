"""How far an image is from its reference. These run inside compiled steps; reports use scikit-image too."""

import math

import jax.numpy as jnp
import numpy as np
from skimage.metrics import structural_similarity

from dip_jax.base import Array


def mse(image: Array, reference: Array) -> Array:
    """Mean squared error over all pixels and channels."""
    return jnp.mean(jnp.square(image - reference))


def psnr(image: Array, reference: Array, *, region: Array | None = None) -> Array:
    """Peak signal-to-noise ratio in dB: -10 log10(mse), for images in [0, 1], channels together.

    Args:
      image: The estimate `[H, W, C]`.
      reference: The truth `[H, W, C]`.
      region: `[H, W, 1]`, 1 where the picture is; elsewhere both images must be 0.
    """
    fraction = 1.0 if region is None else jnp.mean(region)
    return -10 * jnp.log10(mse(image, reference) / fraction)


def psnr_on_host(image: np.ndarray, reference: np.ndarray) -> float:
    """`psnr` in float64, for reports; infinite for equal images."""
    error = float(np.mean(np.square(image.astype(np.float64) - reference)))
    return -10 * math.log10(error) if error else math.inf


def ssim(image: np.ndarray, reference: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004, as scikit-image has it) for images in [0, 1]."""
    return float(structural_similarity(image, reference, channel_axis=-1, data_range=1.0))
