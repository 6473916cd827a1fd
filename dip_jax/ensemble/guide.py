"""The guide of a network: a classical estimate from the pixels that the network sees.

The guide is a part of the code. It brings the structure that an image repeats, which a network alone finds
late, or not at all, so a fit needs fewer steps and ends nearer to the clean image. A guide from all pixels would
pass on the noise of those that are hidden, and the errors there would not estimate the true error.
"""

import numpy as np
from scipy import ndimage

from dip_jax.clipping import Limits
from dip_jax.ensemble.similar_patches import nonlocal_ridge

# Weights by distance: neighbors, diagonal neighbors, and those two pixels away.
_KERNEL = np.array(
    [
        [0.0, 0.0, 0.5, 0.0, 0.0],
        [0.0, 1.0, 2.0, 1.0, 0.0],
        [0.5, 2.0, 0.0, 2.0, 0.5],
        [0.0, 1.0, 2.0, 1.0, 0.0],
        [0.0, 0.0, 0.5, 0.0, 0.0],
    ]
)


_UNCLIPPED = Limits()


def guide_image(
    measurement: np.ndarray, is_visible: np.ndarray, noise_std: float, limits: Limits = _UNCLIPPED
) -> np.ndarray:
    """Fills the pixels that are not visible, and denoises the image.

    Args:
      measurement: `[H, W, C]`.
      is_visible: Boolean `[H, W]`; the other pixels do not affect the guide.
      noise_std: Standard deviation of the noise before clipping; 0 for no denoising.
      limits: The limits at which the noise was clipped.

    Returns:
      `[H, W, C]` float32.
    """
    filled = fill(measurement, is_visible)
    return nonlocal_ridge(filled, noise_std, limits) if noise_std > 0 else filled


def fill(image: np.ndarray, is_known: np.ndarray) -> np.ndarray:
    """Fills unknown pixels by weighted means of known neighbors, from the border of a gap inwards.

    Args:
      image: `[H, W, C]`.
      is_known: Boolean `[H, W]`; without a known pixel the result is 0.

    Returns:
      `[H, W, C]` float32; known pixels are unchanged.

    Example:
      >>> ramp = np.broadcast_to(np.arange(5.0)[:, None], (5, 5))
      >>> is_known = np.ones((5, 5), bool)
      >>> is_known[2, 2] = False
      >>> float(fill(ramp[..., None], is_known)[2, 2, 0])
      2.0
    """
    known = is_known.astype(np.float64)
    values = np.where(is_known[..., None], image, 0.0)
    while known.any() and not known.all():
        weights = ndimage.convolve(known, _KERNEL, mode="mirror")
        sums = [
            ndimage.convolve(values[..., c], _KERNEL, mode="mirror") for c in range(image.shape[-1])
        ]
        means = np.stack(sums, axis=-1) / np.maximum(weights, 1e-9)[..., None]
        is_new = (known == 0) & (weights > 0)
        values = np.where(is_new[..., None], means, values)
        known = np.where(is_new, 1.0, known)
    return values.astype(np.float32)
