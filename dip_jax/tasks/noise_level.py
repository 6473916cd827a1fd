"""The noise level of a measurement, estimated if it is unknown.

`noise_std` is the standard deviation of the noise that all values share. Photons (`Problem.peak`) add noise of
variance value / peak.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pywt
from scipy import ndimage
from skimage.restoration import estimate_sigma

from dip_jax.base import Case
from dip_jax.clipping import MUCH_CLIPPED, Limits, std_before_clipping
from dip_jax.config import Config
from dip_jax.ensemble.similar_patches import channel_basis
from dip_jax.errors import InputError
from dip_jax.operators.basic import Identity
from dip_jax.problem import MIN_NOISE_STD, informative_mask
from dip_jax.tasks.clipped_noise import confirmed_limits, fractions_at_limits, limits_of
from dip_jax.tasks.settings import check_settings

_MIN_SIDE = 16
_MIN_BLOCKS = 256
_NEED_LEVEL = ("discrepancy", "sure", "all")
_NORMAL_MEDIAN = 0.6744898  # the median of |n|, n ~ N(0, 1)
_LIMIT_DISTANCE = (
    1.5  # noise levels between a local mean and a limit at which clipping hardly matters
)
_NUM_ROUNDS = 4
_MAX_NOISE_RATIO = 2.0  # of noise at half and at full resolution, between white and blurred noise
# Structure of clean photos at half resolution, in color differences and in gray images, is mostly below these levels.
_SHARED_COLOR_NOISE = 7 / 255
_SHARED_NOISE = 24 / 255


def estimate_noise_std(case: Case, *, before_clipping: bool = False) -> float:
    """Estimates the standard deviation of white Gaussian noise from a measurement alone.

    The estimate is median |w| / 0.6745, the mean over channels, for the finest diagonal wavelet coefficients w
    (scikit-image's `estimate_sigma`). Images have little energy in these coefficients; white noise has the same energy
    in all. If values are missing, w = (a - b - c + d) / 2 for each block [[a, b], [c, d]] of known neighbors.

    Texture counts as noise: for clean photos in scikit-image the estimate is 0.4 to 4.4 gray levels, and 5 to 11 for
    grass and gravel. Variances add, so texture matters less in strong noise: for noise of 15 gray levels the estimate
    is 14.6 to 16.3 (17 to 20 for grass and gravel), for 25 it is 23 to 28. Clipping to [0, 1] reduces the noise: for 50
    gray levels the estimate is 40 to 50. Smooth noise (in denoised, resized or JPEG images) and single bad pixels (salt
    and pepper) hardly change the estimate.

    The level before clipping is estimated from the coefficients whose local mean has at least 1.5 noise levels to 0 and
    to 1. For clipped noise of 15, 25 and 50 gray levels on six photos, it is 15 to 17, 25 to 26 and 47 to 49.

    Args:
      case: The case.
      before_clipping: Estimate the level that the noise had before it was clipped to [0, 1].

    Returns:
      The standard deviation in [0, 1] units. NaN if the measurement is not an image (frequencies, sinograms,
      coefficients, mosaics), has photon noise, or has too few known neighbors.

    References:
      Donoho and Johnstone, Ideal spatial adaptation by wavelet shrinkage, 1994, section 4.2.

    Example:
      >>> import numpy as np
      >>> from dip_jax.base import Problem
      >>> from dip_jax.operators import Identity
      >>> noisy = 0.5 + 0.1 * np.random.default_rng(0).standard_normal((64, 64, 1))
      >>> case = Case("photo", Problem(Identity(), noisy.astype(np.float32), np.nan), noisy.shape)
      >>> print(f"{estimate_noise_std(case):.1f}")
      0.1
    """
    problem = case.problem
    y = np.asarray(problem.measurement)
    if problem.peak is not None or not _is_image(case):
        return float("nan")
    key = jax.random.key(0)
    mask = jax.jit(informative_mask, static_argnums=2)(key, problem, case.shape)
    is_known = np.broadcast_to(np.asarray(mask) > 0, y.shape)
    is_whole = is_known.all() and min(y.shape[:2]) >= _MIN_SIDE
    if is_whole and not before_clipping:
        return float(np.mean(estimate_sigma(y, channel_axis=-1)))
    channels = [
        _wavelet_coefficients(y[..., c])
        if is_whole
        else _known_coefficients(y[..., c], is_known[..., c])
        for c in range(y.shape[-1])
    ]
    if before_clipping:
        means, details = (np.concatenate(parts) for parts in zip(*channels, strict=True))
        return _std_within_limits(means, details)
    return float(np.mean([_std(details) for _, details in channels]))


def with_noise_std(case: Case, *, before_clipping: bool = False) -> Case:
    """Adds an estimate of the noise level, and a note that states it, to a case.

    Args:
      case: The case.
      before_clipping: See `estimate_noise_std`.

    Returns:
      The case, with `Case.is_stored_level`; unchanged if its noise level is known or cannot be estimated.
    """
    if not np.isnan(float(case.problem.noise_std)):
        return case
    noise_std = estimate_noise_std(case, before_clipping=before_clipping)
    if np.isnan(noise_std):
        return case
    return _with_level(case, noise_std)._replace(is_stored_level=not before_clipping)


def clipped_noise_of(
    case: Case, image: np.ndarray, sampled_std: float = math.nan
) -> tuple[float, Limits]:
    """Returns the noise level before clipping, and the limits at which the noise was clipped.

    A stated level is that before clipping. A level that was estimated from the stored values, or sampled with
    `losses.gaussian`, is that of the stored noise: the former is estimated again, the latter is corrected by
    `clipping.std_before_clipping`.

    Args:
      case: The case.
      image: Estimate of the clean image `[H, W, C]`.
      sampled_std: Mean of the sampled noise levels; NaN if the level was not sampled.

    Returns:
      The standard deviation and the limits; without limits, the sampled level or that of the case.
    """
    noise_std, is_sampled = float(case.problem.noise_std), bool(np.isfinite(sampled_std))
    level = sampled_std if is_sampled else noise_std
    limits = limits_of(case) if case.limits == Limits() else case.limits
    if limits == Limits() or not level > 0:
        return level, Limits()
    before = level
    if is_sampled:
        before = std_before_clipping(sampled_std, image, limits)
    elif case.is_stored_level:
        estimated = estimate_noise_std(case, before_clipping=True)
        before = level if np.isnan(estimated) else estimated  # too few coefficients
    limits = confirmed_limits(case, limits, image, before)
    return (level if limits == Limits() else before), limits


def _with_level(case: Case, noise_std: float) -> Case:
    """The case with an estimated noise level, unless it knows one."""
    if np.isnan(noise_std) or not np.isnan(float(case.problem.noise_std)):
        return case
    problem = case.problem._replace(noise_std=jnp.float32(noise_std))
    note = f"noise estimated: {255 * noise_std:.1f} gray levels"
    if case.value_range is not None and case.value_range != (0, 255):
        low, high = case.value_range
        note += f" of 255, {noise_std * (high - low):.3g} in the values of the file"
    return case._replace(problem=problem, notes=(*case.notes, note))


def noise_of_neighbors(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the noise level of each channel at full and at half resolution.

    The mean of four neighbors has half of their noise if it is white, and more if they share it. So both levels are
    equal for white noise; that at half resolution is higher if neighbors share noise. They are estimated as in
    `estimate_noise_std`, from the diagonal Haar coefficients of the image and of its means of 2 x 2 pixels.

    The channels are those of `channel_basis`: brightness, then color differences, which have little texture. On six
    photos with white noise of 10 to 50 gray levels, the ratio in color differences is 0.9 to 1.2. Noise that is blurred
    by a Gaussian of 0.7 pixels gives 2.5 to 2.9, and white noise that was saved as JPEG with halved color gives 6 to 13.

    Args:
      image: `[H, W, C]`, at least 4 x 4.

    Returns:
      Two standard deviations, each `[C]`.

    Example:
      >>> import numpy as np
      >>> white = np.random.default_rng(0).standard_normal((128, 128, 1))
      >>> full, half = noise_of_neighbors(white)
      >>> print(f"{full[0]:.1f} {half[0]:.1f}")
      1.0 1.0
    """
    fine, means = _diagonal_and_means(image @ channel_basis(image.shape[-1]).T)
    coarse, _ = _diagonal_and_means(means)
    full, half = (
        np.median(np.abs(details), axis=(0, 1)) / _NORMAL_MEDIAN for details in (fine, coarse)
    )
    return full, 2 * half


def _diagonal_and_means(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Diagonal Haar coefficients and means of blocks of 2 x 2 pixels."""
    height, width = (side // 2 * 2 for side in image.shape[:2])
    a, b, c, d = (image[row:height:2, column:width:2] for row in (0, 1) for column in (0, 1))
    return (a - b - c + d) / 2, (a + b + c + d) / 4


def _with_shared_noise(case: Case, config: Config) -> Case:
    """Adds a note if neighbors seem to share their noise, which rules that hide pixels take for structure.

    An ensemble hides blocks of pixels instead. If it does not know the noise level, it gets that of the noise which is
    shared: brightness at full resolution (JPEG keeps it) or colors at half resolution, whichever is more.
    """
    problem, y = case.problem, np.asarray(case.problem.measurement)
    if not isinstance(problem.operator, Identity) or problem.weights is not None:
        return case
    if problem.peak is not None or min(y.shape[:2]) < _MIN_SIDE:
        return case
    full, half = noise_of_neighbors(y)
    # Brightness has too much texture, if there are color differences.
    first = 1 if y.shape[-1] > 1 else 0
    # Without noise, the difference is that of the structure of the image.
    least = _SHARED_COLOR_NOISE if y.shape[-1] > 1 else _SHARED_NOISE
    is_shared = (half[first:] > _MAX_NOISE_RATIO * full[first:]) & (half[first:] > least)
    if not is_shared.any():
        return case
    note = "neighboring pixels seem to share their noise, as in resized, demosaiced or JPEG images"
    if config.stop.rule != "cross_validation":
        return _with_note(
            case,
            f"{note}; hidden pixels do not reveal such noise, so the result may keep it: reduce the image to half its "
            "size, choose fewer steps (--num_steps), or state the level (--stop=discrepancy --noise_std=...)",
        )
    case = _with_note(
        case, f"{note}; the networks hide blocks of pixels for it, which costs detail"
    )
    case = case._replace(shares_noise=True)
    if not _uses_patches(config):
        return case
    return _with_level(case, max(full[0], half[first:].mean()))


def resolve_noise(case: Case, config: Config) -> Case:
    """Adds the noise level that the settings need to a case, and notes about the consequences.

    Sampling, the stopping rules `discrepancy` and `sure`, and the likelihood `tobit` need the noise level. If it is
    unknown, it is estimated; for `tobit`, it is that before clipping. For intervals, it is only checked that it can be. A resolved case is returned unchanged.

    Args:
      case: The case.
      config: The settings.

    Returns:
      The case; unchanged if the settings need no noise level.

    Raises:
      InputError: If the settings do not fit the task (`check_settings`), or sampling, `tobit` or intervals need a noise
        level that is neither known nor can be estimated.
    """
    check_settings(config)  # each case passes here before its fit, also from Python
    if config.fit.intervals != "none":
        require_known_noise(case)
    if config.fit.likelihood == "tobit":
        case = require_noise_std(case, before_clipping=True)
    if config.fit.method == "sgld":
        if config.sgld.sampler == "paper" or "poisson" in config.fit.likelihood:
            return case
        return require_noise_std(_with_clipping(case, config))
    if config.stop.rule in ("held_out", "wmv", "emv", "cross_validation"):
        case = _with_shared_noise(case, config)
    case = _with_limits(case, config)
    if config.stop.rule in _NEED_LEVEL:
        return _for_stopping_rule(case, config)
    return with_noise_std(case) if _uses_patches(config) else case


def samples_clipped_noise(config: Config) -> bool:
    """Returns whether samples have the likelihood of clipped noise if much of an image was clipped.

    Args:
      config: The settings.
    """
    return (
        config.task.clipping == "auto"
        and config.task.noise == "gaussian"
        and config.fit.likelihood == "gaussian"
        and config.sgld.sampler != "paper"
        and config.sgld.noise == "known"
    )


def _with_clipping(case: Case, config: Config) -> Case:
    """Adds the noise level before clipping, and a note, to a case whose samples have the likelihood of clipped noise."""
    is_copy = isinstance(case.problem.operator, Identity)
    fraction = sum(fractions_at_limits(case)) if is_copy else 0.0
    if not samples_clipped_noise(config) or fraction < MUCH_CLIPPED:
        return case
    note = f"{fraction:.0%} of the values are black or white, so the likelihood is that of clipped noise (task.clipping)"
    return _with_note(with_noise_std(case, before_clipping=True), note)


def _uses_patches(config: Config) -> bool:
    """Whether the settings combine similar patches, which needs the level of Gaussian noise."""
    is_gaussian = config.task.noise == "gaussian" and config.fit.likelihood == "gaussian"
    return is_gaussian and (config.fit.filter == "nonlocal" or config.fit.code == "guided")


def require_noise_std(case: Case, *, before_clipping: bool = False) -> Case:
    """Adds the noise level that a sampler or `losses.tobit` needs to a case, and a note if it is very low.

    Args:
      case: The case.
      before_clipping: The level is that before clipping, which `losses.tobit` needs; see `estimate_noise_std`.

    Returns:
      The case; unchanged if its noise level is known, or for photons.

    Raises:
      InputError: If the noise level is neither known nor can be estimated.
    """
    case = with_noise_std(case, before_clipping=before_clipping)
    noise_std, has_photons = float(case.problem.noise_std), case.problem.peak is not None
    if np.isnan(noise_std) and not has_photons:
        subject = "The likelihood of clipped noise" if before_clipping else "Sampling"
        raise InputError(
            f"{subject} needs the noise level, and it cannot be estimated from this measurement; set "
            "Problem.noise_std in [0, 1], or --noise_std=... of 255."
        )
    if noise_std < MIN_NOISE_STD and not has_photons:
        verb = "fitted" if before_clipping else "sampled"
        return _with_note(
            case, f"{verb} with a noise level of {255 * MIN_NOISE_STD:.2g} gray levels"
        )
    return case


def require_known_noise(case: Case) -> None:
    """Checks that the noise of a case is known or can be estimated.

    Args:
      case: The case.

    Raises:
      InputError: If it is not, or if the noise is that of a JPEG file.
    """
    problem = case.problem
    if case.jpeg is not None or problem.tolerance is not None:
        raise InputError(
            f"{case.name}: intervals expect Gaussian noise or photons, got the rounded coefficients of a JPEG file; use "
            "--intervals=none."
        )
    if problem.peak is None and math.isnan(float(with_noise_std(case).problem.noise_std)):
        raise InputError(
            f"{case.name}: intervals need the noise level, and it cannot be estimated from this measurement; set "
            "Problem.noise_std in [0, 1], or --noise_std=... of 255."
        )


def _with_limits(case: Case, config: Config) -> Case:
    """Sets `Case.limits`, and the noise level that they need, if noise was clipped."""
    is_gaussian = config.task.noise == "gaussian" and config.fit.likelihood == "gaussian"
    if config.task.clipping != "auto" or not is_gaussian:
        return case
    limits = limits_of(case)
    if limits == case.limits:
        return case
    if np.isnan(float(case.problem.noise_std)):
        # These rules compare residuals, so they need the level of the stored noise.
        if config.stop.rule in _NEED_LEVEL:
            return case
        case = with_noise_std(case, before_clipping=True)
    return case._replace(limits=limits)


def _for_stopping_rule(case: Case, config: Config) -> Case:
    # For these noise models the estimated Gaussian sigma is not the level that the rules need.
    is_gaussian = config.fit.likelihood not in ("interval", "laplace")
    if config.task.noise != "salt_and_pepper" and is_gaussian:
        case = with_noise_std(case)
    is_noise_free = np.nan_to_num(float(case.problem.noise_std)) == 0
    rule = config.stop.rule
    if rule != "all" and is_noise_free and case.problem.peak is None:
        note = f"the rule {rule} needs a noise level (--noise_std); without one it never fires"
        return _with_note(case, note)
    return case


def _with_note(case: Case, note: str) -> Case:
    return case if note in case.notes else case._replace(notes=(*case.notes, note))


def _is_image(case: Case) -> bool:
    """Whether the measurement has the channels of the image, and its sides or the same fraction of both.

    Neighbors in the measurement then count as neighbors in the image, also for a user's operator.
    """
    y = case.problem.measurement
    if y.ndim != 3 or jnp.iscomplexobj(y) or y.shape[-1] != case.shape[-1]:
        return False
    factor = max(1, round(case.shape[0] / y.shape[0]))
    return y.shape[:2] == tuple(-(-side // factor) for side in case.shape[:2])


def _wavelet_coefficients(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Local means and finest diagonal coefficients of one channel `[H, W]`, each as a vector."""
    approximation, (_, _, details) = pywt.dwt2(y, "db2")
    # White noise is as strong in both, so the means must be smoother for a choice by them.
    return ndimage.uniform_filter(approximation / 2, 3).ravel(), details.ravel()


def _known_coefficients(y: np.ndarray, is_known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Local means and diagonal Haar coefficients of the fully known blocks of one channel `[H, W]`."""
    a, b, c, d = (
        np.s_[row : row - 1 or None, column : column - 1 or None]
        for row in (0, 1)
        for column in (0, 1)
    )
    whole = is_known[a] & is_known[b] & is_known[c] & is_known[d]
    values, share = (
        ndimage.uniform_filter(np.asarray(image, np.float64), 3)
        for image in (np.where(is_known, y, 0), is_known)
    )
    means = (values / np.maximum(share, 1e-9))[a]
    return means[whole], ((y[a] - y[b] - y[c] + y[d]) / 2)[whole]


def _std(details: np.ndarray) -> float:
    """The noise level of diagonal coefficients; NaN for too few."""
    if details.size < _MIN_BLOCKS:
        return float("nan")
    return float(np.median(np.abs(details)) / _NORMAL_MEDIAN)


def _std_within_limits(means: np.ndarray, details: np.ndarray) -> float:
    """The noise level of the coefficients whose local mean is far from 0 and 1, or of all if these are too few."""
    noise_std = _std(details)
    for _ in range(_NUM_ROUNDS):
        margin = _LIMIT_DISTANCE * noise_std
        chosen = details[(means > margin) & (means < 1 - margin)]
        if chosen.size < _MIN_BLOCKS:
            break
        noise_std = _std(chosen)
    return noise_std
