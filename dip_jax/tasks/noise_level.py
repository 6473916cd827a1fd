"""How much noise a measurement has: what is known of it, value by value, and an estimate where nothing is.

`noise_std` is the standard deviation of what is added to every value alike. Photons (`Problem.peak`) add
noise of their own, whose variance is value / peak.
"""

import jax
import jax.numpy as jnp
import numpy as np
from skimage.restoration import estimate_sigma

from dip_jax.base import Case
from dip_jax.problem import informative_mask

_LEAST_SIDE = 16
_LEAST_BLOCKS = 256
# The median of |n|, n ~ N(0, 1).
_MEDIAN = 0.6744898


def estimate_noise_std(case: Case) -> float:
    """The standard deviation of white Gaussian noise in a measurement, from the measurement alone.

    From the finest diagonal wavelet coefficients w, where a picture has least and white noise as much as
    everywhere: median |w| / 0.6745, channels averaged (scikit-image's `estimate_sigma`). Where values are
    missing, w = (a - b - c + d) / 2 of the blocks of 2 x 2 neighbors that are all known.

    Texture reads as noise: of clean photographs inside scikit-image the estimate is 0.4 to 4.4 gray levels, and
    5 to 11 of grass and gravel, where the truth is 0. Variances add, so it matters less the more noise there is:
    for 15 gray levels it is 14.6 to 16.3 (17 to 20 of grass and gravel), for 25 it is 23 to 28. Values that
    were clipped to [0, 1] have less noise and read so: for 50 it is 40 to 50. Noise that is smooth (in denoised,
    resized or JPEG pictures) hardly shows, and the estimate says nothing of single bad pixels (salt and
    pepper), which cannot be known from the problem.

    Args:
      case: What was measured.

    Returns:
      In [0, 1] units; NaN where it cannot be told: the measurement is no picture (frequencies, sinograms,
      coefficients, mosaics), its noise follows the light (photons), or too few neighbors are known.

    References:
      Donoho and Johnstone, Ideal spatial adaptation by wavelet shrinkage, 1994, section 4.2.
    """
    problem = case.problem
    y = np.asarray(problem.measurement)
    if problem.peak is not None or not _is_image(case):
        return float("nan")
    key = jax.random.key(0)
    counts = jax.jit(informative_mask, static_argnums=2)(key, problem, case.shape)
    known = np.broadcast_to(np.asarray(counts) > 0, y.shape)
    if known.all() and min(y.shape[:2]) >= _LEAST_SIDE:
        return float(np.mean(estimate_sigma(y, channel_axis=-1)))
    stds = [_known_std(y[..., c], known[..., c]) for c in range(y.shape[-1])]
    return float(np.mean(stds))


def with_noise_std(case: Case) -> Case:
    """The case with its noise estimated and a note that says so; unchanged if it is known, or cannot be told."""
    if not np.isnan(float(case.problem.noise_std)):
        return case
    noise_std = estimate_noise_std(case)
    if np.isnan(noise_std):
        return case
    problem = case.problem._replace(noise_std=jnp.float32(noise_std))
    note = f"noise estimated: {255 * noise_std:.1f} gray levels"
    return case._replace(problem=problem, notes=(*case.notes, note))


def _is_image(case: Case) -> bool:
    """Whether the measurement has the channels of the image, and its sides or the same fraction of both.

    Then neighbors in it are taken for neighbors in the picture, also of an operator of the user's own.
    """
    y = case.problem.measurement
    if y.ndim != 3 or jnp.iscomplexobj(y) or y.shape[-1] != case.shape[-1]:
        return False
    factor = max(1, round(case.shape[0] / y.shape[0]))
    return y.shape[:2] == tuple(-(-side // factor) for side in case.shape[:2])


def _known_std(y: np.ndarray, known: np.ndarray) -> float:
    """The noise of one channel `[H, W]` from its fully known blocks; NaN of too few."""
    whole = known[:-1, :-1] & known[:-1, 1:] & known[1:, :-1] & known[1:, 1:]
    details = (y[:-1, :-1] - y[:-1, 1:] - y[1:, :-1] + y[1:, 1:])[whole] / 2
    if details.size < _LEAST_BLOCKS:
        return float("nan")
    return float(np.median(np.abs(details)) / _MEDIAN)
