"""A guide from a JPEG file: similar patches, within the quantization intervals of the file.

Each round denoises the guide by its similar patches and projects it on the intervals. The assumed noise level begins
at the error of the decoded image and falls to half of it. A decoded image whose file is lost is denoised once.

All of the file makes the guide, so no pixel is left whose error would tell when to stop: the networks run all their
steps.

References:
  Tirer and Giryes, Image restoration by iterative denoising and backward projections, 2019, section IV.
"""

import dataclasses
import time

import jax.numpy as jnp
import numpy as np

from dip_jax.base import Case
from dip_jax.ensemble.host_threads import one_thread_of_blas
from dip_jax.ensemble.jpeg_error import error_of_decoded, standard_quality
from dip_jax.ensemble.similar_patches import MIN_SIDE, nonlocal_ridge
from dip_jax.images.jpeg_file import JpegFile, to_file_orientation
from dip_jax.operators.basic import Identity
from dip_jax.operators.jpeg import standard_tables
from dip_jax.operators.jpeg_intervals import project

_ROUNDS, _LAST_LEVEL = 6, 0.5
"""The last level is this fraction of the first."""
_LEAST_LEVEL = 0.5 / 255
"""The error of rounding to gray levels."""
_PROBE_SIDE = 48
"""Height and width of the image whose denoising is timed."""


@dataclasses.dataclass(frozen=True)
class JpegGuide:
    """Adds a guide to the problem of a case, for the code `codes.guided`."""

    code_depth: int | None = None
    """Number of channels of the code, of which a guide leaves at least one; None for any number."""

    def added(self, case: Case) -> Case:
        """Returns the case with `Problem.code_image`, or with a note that says what a guide needs.

        Args:
          case: The case.
        """
        if case.problem.code_image is not None:
            return case
        if not self._is_possible(case):
            note = (
                "without guide, which needs a JPEG file, or a decoded one without noise, of at least "
                f"{MIN_SIDE} x {MIN_SIDE}, and fewer channels than the code (net.input_depth)"
            )
            return case if note in case.notes else case._replace(notes=(*case.notes, note))
        problem = case.problem._replace(code_image=jnp.asarray(guide_of_jpeg(case)))
        return case._replace(problem=problem)

    def seconds_on_host(self, case: Case) -> float:
        """Forecasts the seconds that the guide of an image takes, from the denoising of a small image.

        Args:
          case: The case.
        """
        if case.problem.code_image is not None or not self._is_possible(case):
            return 0.0
        small = np.full((_PROBE_SIDE, _PROBE_SIDE, case.shape[2]), 0.5, np.float32)
        clock = time.perf_counter()
        first = _first_level(case)  # the search of the tables takes seconds
        search = time.perf_counter() - clock
        clock = time.perf_counter()
        with one_thread_of_blas():
            nonlocal_ridge(small, first)
        seconds = (_ROUNDS if _file(case) else 1) * (time.perf_counter() - clock)
        return search + seconds * case.shape[0] * case.shape[1] / small[..., 0].size

    def _is_possible(self, case: Case) -> bool:
        height, width, channels = case.shape
        has_room = self.code_depth is None or channels < self.code_depth
        is_jpeg = _file(case) is not None or _is_decoded(case)
        return is_jpeg and min(height, width) >= MIN_SIDE and has_room


def guide_of_jpeg(case: Case) -> np.ndarray:
    """Returns the guide of a case, `[H, W, C]` float32.

    Args:
      case: The coefficients of a JPEG file, or a decoded image without noise level.
    """
    file, image, first = _file(case), _decoded(case), _first_level(case)
    with one_thread_of_blas():
        if file is None:
            return nonlocal_ridge(image, first)
        for level in np.geomspace(first, _LAST_LEVEL * first, _ROUNDS):
            image = project(file, nonlocal_ridge(image, level))
    return image


def _file(case: Case) -> JpegFile | None:
    """The file whose coefficients were measured."""
    return case.jpeg if case.problem.tolerance is not None else None


def _is_decoded(case: Case) -> bool:
    """Whether the measurement is an image without noise level."""
    problem = case.problem
    is_image = isinstance(problem.operator, Identity) and problem.peak is None
    return is_image and bool(np.isnan(float(problem.noise_std)))


def _decoded(case: Case) -> np.ndarray:
    image = case.problem.measurement if _file(case) is None else case.preview
    return np.asarray(image, np.float32)


def _first_level(case: Case) -> float:
    """The error of the decoded image."""
    file, decoded = _file(case), _decoded(case)
    if file is None:
        quality, subsampling = standard_quality(decoded)
        tables = standard_tables(quality, decoded.shape[-1])
    else:
        decoded = to_file_orientation(decoded, file.orientation)
        tables, subsampling = file.tables, file.subsampling
    return max(error_of_decoded(decoded, tables, subsampling), _LEAST_LEVEL)
