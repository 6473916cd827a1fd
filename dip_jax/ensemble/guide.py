"""The guide of a network: a classical estimate from the pixels that the network sees.

The guide is a part of the code. It brings the structure that an image repeats, which a network alone finds
late, or not at all, so a fit needs fewer steps and ends nearer to the clean image. A guide from all pixels would
pass on the noise of those that are hidden, and the errors there would not estimate the true error.

Pixels that are not visible are filled in rounds: the filled image is denoised by its similar patches, and
the denoised values replace the filled ones. With many or large holes the first rounds assume strong noise,
which spreads structure over them (iterative denoising and backward projections).

References:
  Tirer and Giryes, Image restoration by iterative denoising and backward projections, 2019, section IV.
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

_MANY_HOLES = 0.6
"""Fraction of visible pixels below which the assumed noise falls from round to round."""
_FIRST_LEVEL, _FIRST_LEVEL_OF_PILOT, _LAST_LEVEL = 40 / 255, 10 / 255, 3 / 255
# Without noise, more rounds pay. A pilot has the structure already, so its rounds start later.
_ROUNDS_WITH_HOLES, _ROUNDS_WITHOUT_NOISE, _ROUNDS_WITH_PILOT = 12, 24, 8
# Up to these noise levels, the number of rounds that fill few hidden pixels: strong noise leaves nothing to gain.
_ROUNDS = ((20 / 255, 3), (35 / 255, 2), (np.inf, 1))


def guide_image(
    measurement: np.ndarray,
    is_visible: np.ndarray,
    noise_std: float,
    limits: Limits = _UNCLIPPED,
    pilot: np.ndarray | None = None,
) -> np.ndarray:
    """Fills the pixels that are not visible, and denoises the image if it is noisy.

    Args:
      measurement: `[H, W, C]`.
      is_visible: Boolean `[H, W]`; the other pixels do not affect the guide.
      noise_std: Standard deviation of the noise before clipping; 0 for no denoising.
      limits: The limits at which the noise was clipped.
      pilot: An estimate `[H, W, C]` from which the rounds start; None for means of neighbors.

    Returns:
      `[H, W, C]` float32.
    """
    if pilot is None:
        image = fill(measurement, is_visible)
    else:
        image = np.where(is_visible[..., None], measurement, pilot).astype(np.float32)
    if not is_visible.any() or (noise_std == 0 and is_visible.all()):
        return image
    for level in _levels(float(is_visible.mean()), noise_std, has_pilot=pilot is not None):
        denoised = nonlocal_ridge(image, level, limits if noise_std > 0 else _UNCLIPPED)
        image = np.where(is_visible[..., None], measurement, denoised).astype(np.float32)
    return denoised if noise_std > 0 else image


def _levels(visible: float, noise_std: float, *, has_pilot: bool) -> np.ndarray:
    """Noise levels of the rounds, given the fraction of visible pixels."""
    if visible >= _MANY_HOLES and noise_std >= _LAST_LEVEL:
        return np.full(next(rounds for level, rounds in _ROUNDS if noise_std <= level), noise_std)
    first, rounds = _FIRST_LEVEL, _ROUNDS_WITH_HOLES if noise_std > 0 else _ROUNDS_WITHOUT_NOISE
    if has_pilot:
        first, rounds = _FIRST_LEVEL_OF_PILOT, _ROUNDS_WITH_PILOT
    return np.geomspace(max(first, noise_std), max(noise_std, _LAST_LEVEL), rounds)


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
