"""Checks of the geometry that a task assumes: angles, centers, and the order of frequencies."""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from skimage.restoration import estimate_sigma

from dip_jax.base import Problem
from dip_jax.config import TaskConfig
from dip_jax.operators.blur import Blur
from dip_jax.operators.from_file import CustomOperator
from dip_jax.operators.radon import Radon
from dip_jax.operators.sensing import SubsampledFourier
from dip_jax.problem import measure

_MAX_MISFIT = 0.02  # of the variance; right angles leave 0.5 %, half of the range of angles 3 %


def geometry_notes(
    config: TaskConfig, problem: Problem, shape: tuple[int, int, int]
) -> tuple[str, ...]:
    """Returns a warning for each way in which a measurement or a kernel contradicts the assumed geometry.

    Args:
      config: The task.
      problem: The measurement and its operator.
      shape: `(H, W, C)` of the image.
    """
    y, operator = np.asarray(problem.measurement), problem.operator
    if isinstance(operator, Radon):
        return tuple(_sinogram_notes(operator, y, shape[0]))
    if isinstance(operator, SubsampledFourier):
        return tuple(_spectrum_notes(y))
    if isinstance(operator, CustomOperator):
        return tuple(_custom_notes(operator, y, shape))
    if isinstance(operator, Blur) and config.kernel == "file":
        return tuple(_kernel_notes(np.asarray(operator.kernel)))
    return ()


def misfit_notes(problem: Problem, image: np.ndarray) -> tuple[str, ...]:
    """Returns a warning if a restored image explains a sinogram much less well than its noise allows.

    Args:
      problem: The measurement and its operator.
      image: The restored image `[H, W, C]`.
    """
    if not isinstance(problem.operator, Radon):
        return ()
    y = np.asarray(problem.measurement)
    misfit = float(np.mean((np.asarray(measure(problem.operator, jnp.asarray(image))) - y) ** 2))
    variance, noise = float(np.var(y)), estimate_sigma(y, average_sigmas=True, channel_axis=-1) ** 2
    if misfit < _MAX_MISFIT * variance or misfit < 4 * noise:
        return ()
    return (
        f"{misfit / variance:.1%} of the variance of the sinogram remains unexplained, and the noise accounts for "
        f"{noise / variance:.1%}; check the angles, the center and the detector, or run more steps",
    )


def _sinogram_notes(operator: Radon, y: np.ndarray, side: int) -> Iterator[str]:
    sums = y.astype(np.float64).sum(axis=-1)  # [P, angles]
    first, last, scale = sums[:, 0], sums[:, -1], max(float(np.linalg.norm(sums[:, 0])), 1e-30)
    num_angles = sums.shape[1]
    if len(operator.angles) > 8 and max(np.abs(operator.angles)) < 7:
        yield "all angles lie within 7 degrees; if they are radians, give them in degrees"
    if not operator.angles and num_angles > 2:
        half = num_angles // 2
        turned = np.linalg.norm(sums[:, half] - first[::-1]) / scale
        if (
            num_angles % 2 == 0
            and turned < 0.5 * np.linalg.norm(sums[:, half] - sums[:, half - 1]) / scale
        ):
            yield (
                f"angle {half} mirrors angle 0 (difference {turned:.1%}), so the angles seem to cover a full turn; list them "
                "with --angles"
            )
        mirrored = np.linalg.norm(last - first[::-1]) / scale
        neighbor = np.linalg.norm(last - sums[:, -2]) / scale
        if mirrored < 0.5 * neighbor:
            yield (
                f"the last angle mirrors the first (difference {mirrored:.1%}, between neighbors {neighbor:.1%}), so "
                "the angles seem to include 0 and 180 degrees; list them with --angles"
            )
    if operator.detectors is None:
        # At the angle t, an image of this side casts a shadow of side (|cos t| + |sin t|).
        halves = side / 2 * np.abs(operator.directions()).sum(axis=-1) + 1
        distances = np.abs(np.arange(sums.shape[0]) - operator.detector_center(side))
        is_outside = distances[:, None] > halves
        fractions = (sums * is_outside).sum(axis=0) / np.maximum(sums.sum(axis=0), 1e-30)
        fraction = float(np.max(fractions))
        if fraction > 0.01:
            yield (
                f"at one angle {fraction:.1%} of the sum lies beyond the shadow of an image of {side} x {side}, which the number of "
                "detectors implies; if the detector is as long as a side of the image, add --set task.circle=True"
            )
    assumed, center = operator.detector_center(side), _detector_center(sums, operator.directions())
    if center is not None and abs(center - assumed) > 1:
        yield (
            f"the projections turn about detector {center:.1f}, not {assumed:g}; set "
            f"--set task.detector_center={center:.1f} if the angles are right"
        )
    total = sums.sum(axis=0)
    spread = float(np.std(total) / max(abs(float(np.mean(total))), 1e-30))
    if spread > 0.1:
        yield (
            f"the sums of the angles differ by {spread:.0%}, but each should see the whole image; is the detector too "
            "short?"
        )


def _spectrum_notes(y: np.ndarray) -> Iterator[str]:
    sizes = np.abs(y).sum(axis=-1)
    position = np.unravel_index(int(np.argmax(sizes)), sizes.shape)
    middle = (sizes.shape[0] // 2, sizes.shape[1] // 2)
    if position != (0, 0) and (sizes[0, 0] > 0 or position == middle):
        ratio = sizes[position] / sizes[0, 0] if sizes[0, 0] > 0 else np.inf
        yield (
            f"the largest frequency lies at {[int(i) for i in position]} and is {ratio:.3g} times that at [0, 0], where "
            "an image has its mean; if frequency 0 is in the middle, add --set task.frequencies=center"
        )
    if np.any(y) and not np.any(np.imag(y)):
        yield "the frequencies are real, so the image is symmetric; give complex frequencies otherwise"


def _custom_notes(
    operator: CustomOperator, y: np.ndarray, shape: tuple[int, int, int]
) -> Iterator[str]:
    image = np.random.default_rng(0).random(shape, np.float32)
    usual = np.asarray(measure(operator, jnp.asarray(image)))
    size, expected = (float(np.sqrt(np.mean(np.abs(values) ** 2))) for values in (y, usual))
    if min(size, expected) > 0 and not 0.01 < size / expected < 100:
        yield (
            f"the measurement is {size / expected:.3g} times as large as that of a usual image; the operator takes images "
            "in [0, 1], so scale one of them"
        )
    if np.iscomplexobj(usual) and np.any(np.imag(usual)) and not np.any(np.imag(y)):
        yield "the measurement is real, but the operator makes complex numbers; was the imaginary part lost?"


def _kernel_notes(kernel: np.ndarray) -> Iterator[str]:
    center = np.array(kernel.shape) // 2
    mass = np.array([np.sum(np.indices(kernel.shape)[k] * kernel) / kernel.sum() for k in (0, 1)])
    offset = mass - center
    if np.abs(offset).max() >= 0.5:
        yield (
            f"the center of mass of the kernel lies {offset.round(2).tolist()} pixels off its center "
            f"{center.tolist()}, so the image moves by as much; if the center is another element, add "
            "--set task.kernel_center=ROW,COLUMN (scipy's convolve2d: half of the sides less one, rounded down)"
        )


def _detector_center(sums: np.ndarray, directions: np.ndarray) -> float | None:
    """The detector that sees the center of rotation, from the centers of mass of all angles; None if unknown.

    The center of mass of the image projects to c + x cos - y sin; least squares finds the center c.
    """
    total = sums.sum(axis=0)
    if sums.shape[1] < 3 or (total <= 0).any():
        return None
    masses = (np.arange(sums.shape[0])[:, None] * sums).sum(axis=0) / total
    design = np.column_stack([np.ones(len(masses)), directions])
    solution, _, rank, _ = np.linalg.lstsq(design, masses)
    return float(solution[0]) if rank == 3 else None
