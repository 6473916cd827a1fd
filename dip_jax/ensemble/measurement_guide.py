"""A guide from all of a measurement without noise: a reduced image, or a JPEG file.

The guide z is found by half-quadratic splitting. Each round denoises it by its similar patches, which assumes noise of a
level s, and then moves it to an image that agrees with the measurement. The level falls from round to round. For a
linear measurement y = A x + noise of level t, the second step is

    argmin_x |A x - y|^2 / t^2 + |x - z|^2 / s^2 = z + A' (A A' + (t / s)^2 I)^-1 (y - A z),

computed by conjugate gradients. For the quantization intervals of a JPEG file it is the projection on them. A decoded
JPEG image whose file is lost is denoised once.

All of the measurement makes the guide, so no pixel is left whose error would tell when to stop. It serves fits of
measurements without noise, which run all their steps.

References:
  Zhang et al., Plug-and-Play Image Restoration with Deep Denoiser Prior, 2021, section 3.
  Tirer and Giryes, Image restoration by iterative denoising and backward projections, 2019, section IV.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array, Case, Operator
from dip_jax.ensemble.host_threads import one_thread_of_blas
from dip_jax.ensemble.jpeg_error import error_of_decoded, standard_quality
from dip_jax.ensemble.similar_patches import MIN_SIDE, nonlocal_ridge
from dip_jax.images.jpeg_file import JpegFile
from dip_jax.operators.basic import Identity
from dip_jax.operators.jpeg import standard_tables
from dip_jax.operators.jpeg_intervals import project
from dip_jax.problem import visible_weights

_FIRST_LEVEL, _LAST_LEVEL, _ROUNDS = 40 / 255, 6 / 255, 24
_ROUNDS_OF_JPEG, _LAST_OF_JPEG = 6, 0.5
"""The last level for a JPEG file is this fraction of the first, the error of the decoded image."""
_ROUNDING = 0.5 / 255
"""Noise level of a measurement without noise, in [0, 1] units of the image."""
_NUM_CONJUGATE_GRADIENTS = 30
_PROBE_SIDE = 48
"""Height and width of the image whose denoising is timed."""


@dataclasses.dataclass(frozen=True)
class MeasurementGuide:
    """Adds a guide to the problem of a case, for the code `codes.guided`."""

    code_depth: int | None = None
    """Number of channels of the code, of which a guide leaves at least one; None for any number."""
    assumes_jpeg: bool = False
    """Take a measured image without noise level for a decoded JPEG image whose file is lost."""

    def added(self, case: Case) -> Case:
        """Returns the case with `Problem.code_image`, or with a note that says what a guide needs.

        Args:
          case: The case.
        """
        if case.problem.code_image is not None:
            return case
        if not self._is_possible(case):
            note = (
                "without guide, which needs a linear measurement with Gaussian noise of a known level or a JPEG file, an "
                f"image of at least {MIN_SIDE} x {MIN_SIDE}, and fewer channels than the code (net.input_depth)"
            )
            return case if note in case.notes else case._replace(notes=(*case.notes, note))
        problem = case.problem._replace(code_image=jnp.asarray(guide_of_measurement(case)))
        return case._replace(problem=problem)

    def seconds_on_host(self, case: Case) -> float:
        """Forecasts the seconds that the guide of an image takes, from the denoising of a small image.

        Args:
          case: The case, with its noise level.
        """
        if case.problem.code_image is not None or not self._is_possible(case):
            return 0.0
        small = np.full((_PROBE_SIDE, _PROBE_SIDE, case.shape[2]), 0.5, np.float32)
        levels = _rounds(case).levels
        clock = time.perf_counter()
        with one_thread_of_blas():
            for level in (levels[0], levels[-1]):
                nonlocal_ridge(small, level)
        seconds = len(levels) / 2 * (time.perf_counter() - clock)
        return seconds * case.shape[0] * case.shape[1] / small[..., 0].size

    def _is_possible(self, case: Case) -> bool:
        problem = case.problem
        has_level = not np.isnan(float(problem.noise_std))
        is_gaussian = problem.peak is None and problem.tolerance is None
        is_linear = problem.operator.is_linear and is_gaussian and has_level
        is_jpeg = _jpeg(case) is not None or (self.assumes_jpeg and _is_decoded(case))
        height, width, channels = case.shape
        has_room = self.code_depth is None or channels < self.code_depth
        return (is_linear or is_jpeg) and min(height, width) >= MIN_SIDE and has_room


def guide_of_measurement(case: Case) -> np.ndarray:
    """Returns the guide of a case, `[H, W, C]` float32.

    Args:
      case: The case: a linear measurement with Gaussian noise of a known level, the coefficients of a JPEG file, or a
        decoded JPEG image.
    """
    image, levels, agree = _rounds(case)
    with one_thread_of_blas():
        for level in levels:
            image = agree(nonlocal_ridge(image, level), level)
    return image


class _Rounds(NamedTuple):
    start: np.ndarray
    """The image `[H, W, C]` that the first round denoises."""
    levels: np.ndarray
    """Noise level of each round."""
    agree: Callable[[np.ndarray, float], np.ndarray]
    """`agree(image, level)` makes a denoised image agree with the measurement."""


def _rounds(case: Case) -> _Rounds:
    problem, jpeg = case.problem, _jpeg(case)
    if jpeg is not None:
        decoded = np.asarray(case.preview, np.float32)
        first = error_of_decoded(decoded, jpeg.tables, jpeg.subsampling)
        first = max(first, _ROUNDING)
        levels = np.geomspace(first, _LAST_OF_JPEG * first, _ROUNDS_OF_JPEG)
        return _Rounds(decoded, levels, lambda image, level: project(jpeg, image))
    if _is_decoded(case):
        decoded = np.asarray(problem.measurement)
        quality, subsampling = standard_quality(decoded)
        tables = standard_tables(quality, decoded.shape[-1])
        level = max(error_of_decoded(decoded, tables, subsampling), _ROUNDING)
        return _Rounds(decoded, np.array([level]), lambda image, level: image)
    start = np.full(case.shape, 0.5, np.float32)
    if case.preview is not None and case.preview.shape == case.shape:
        start = np.asarray(case.preview, np.float32)
    noise_std = float(problem.noise_std)
    last = max(_LAST_LEVEL, noise_std)
    weights = jnp.sqrt(visible_weights(problem))
    y = _real(weights * jnp.where(weights > 0, problem.measurement, 0))

    def agree(image: np.ndarray, level: float) -> np.ndarray:
        moved = _moved(problem.operator, weights, y, jnp.asarray(image), noise_std, level)
        return np.asarray(moved)

    return _Rounds(
        agree(start, _FIRST_LEVEL), np.geomspace(max(_FIRST_LEVEL, last), last, _ROUNDS), agree
    )


def _jpeg(case: Case) -> JpegFile | None:
    """The file whose coefficients were measured."""
    return case.jpeg if case.problem.tolerance is not None else None


def _is_decoded(case: Case) -> bool:
    """Whether the measurement is an image without noise level."""
    problem = case.problem
    is_image = isinstance(problem.operator, Identity) and problem.peak is None
    return is_image and np.isnan(float(problem.noise_std))


@jax.jit
def _moved(
    operator: Operator, weights: Array, y: Array, image: Array, noise_std: float, level: float
) -> Array:
    """The image z + A' (A A' + (t / s)^2 I)^-1 (y - A z) for an estimate z and the levels t and s."""

    def measure(image: Array) -> Array:
        return _real(weights * operator(image))

    # Not `linear_transpose`, because an operator may have a gradient of its own.
    predicted, transpose = jax.vjp(measure, image)
    probe = jax.random.normal(jax.random.key(0), y.shape)
    (back,) = transpose(probe)
    scale = jnp.sum(back**2) / jnp.sum(probe**2)  # the mean eigenvalue of A A'
    ratio = (noise_std**2 + scale * _ROUNDING**2) / level**2
    change, _ = jax.scipy.sparse.linalg.cg(
        lambda v: measure(transpose(v)[0]) + ratio * v,
        y - predicted,
        maxiter=_NUM_CONJUGATE_GRADIENTS,
    )
    return image + transpose(change)[0]


def _real(values: Array) -> Array:
    """Complex values as pairs of real ones along a new axis; real values unchanged."""
    if jnp.iscomplexobj(values):
        return jnp.stack([values.real, values.imag], axis=-1)
    return values
