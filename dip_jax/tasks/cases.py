"""Named tasks: from what was measured to a `Case`, and its `Problem`, all that an estimator may know.

A task says which operator made the measurement, what shape the image has, how a classical method would
look at the measurement (the preview), and what is known exactly and so put back into the answer.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Case, InputError, Operator, Problem
from dip_jax.config import TASKS, TaskConfig
from dip_jax.fields import require_choice
from dip_jax.images.jpeg_file import JpegFile
from dip_jax.operators import jpeg as jpegs
from dip_jax.operators.basic import Identity, Mask
from dip_jax.operators.bayer import Bayer
from dip_jax.operators.blur import Blur, check_kernel, gaussian_kernel, motion_kernel
from dip_jax.operators.checks import adjoint, check_operator
from dip_jax.operators.downsample import Downsample
from dip_jax.operators.from_file import load_operator
from dip_jax.operators.radon import Radon, num_detectors
from dip_jax.operators.sensing import SubsampledFourier
from dip_jax.tasks.baselines import demosaic_bilinear, filtered_back_projection, upsample_bicubic

MIN_SIDE = 33  # the networks halve a picture five times

Shape = tuple[int, int, int]


class SideInputs(NamedTuple):
    """What belongs to a measurement, where its task wants it."""

    mask: np.ndarray | None = None
    """inpaint: `[H, W]`, 1 where known and 0 where missing; compressed_sensing: likewise of frequencies."""
    guide: np.ndarray | None = None
    """flash: `[H, W, 3]`, the picture that serves as the code."""
    kernel: np.ndarray | None = None
    """deblur: `[k, l]`, the point spread."""
    jpeg: JpegFile | None = None
    """dejpeg: what the file says, for `task.jpeg=intervals`."""
    operator: Operator | None = None
    """The operator itself, where the config cannot say it (a random matrix, or one's own)."""


_WANTED_BY = {
    "mask": ("inpaint", "compressed_sensing"),
    "guide": ("flash",),
    "kernel": ("deblur",),
    "jpeg": ("dejpeg",),
    "operator": ("compressed_sensing", "custom"),
}


def image_shape(config: TaskConfig, measured: tuple[int, ...], aids: SideInputs) -> Shape:
    """Height, width and channels of the image behind a measurement of shape `measured`.

    Raises:
      InputError: If the measurement cannot be one of this task.
    """
    if config.image_shape:
        return config.image_shape  # type: ignore[return-value]
    if aids.jpeg is not None:
        return aids.jpeg.shape
    name = config.name
    if name == "ct":
        return _ct_shape(measured, config.num_angles)
    if name == "compressed_sensing" and len(measured) == 2:
        return (*measured, 1)
    if len(measured) != 3:
        raise InputError(
            f"{name} cannot tell the image's size from a measurement of shape {measured}; say it with "
            "--set task.image_shape=H,W,C."
        )
    height, width, channels = measured
    if name == "demosaic":
        if channels != 1:
            raise InputError(
                f"{name} takes a picture of one channel, came {channels}; save it as gray, or give it as a "
                "--reference to simulate from."
            )
        return height, width, 3
    if name == "super_resolve":
        return config.factor * height, config.factor * width, channels
    return height, width, channels


def build_operator(config: TaskConfig, shape: Shape, aids: SideInputs) -> Operator:
    """The forward model of a task for images of one shape.

    Raises:
      InputError: If what belongs to the task is missing or does not fit.
    """
    if aids.operator is not None:
        return aids.operator
    match config.name:
        case "inpaint":
            return Mask(jnp.asarray(_known(aids.mask, shape)[..., None]))
        case "dejpeg" if aids.jpeg is not None:
            return jpegs.coefficients_of(aids.jpeg)
        case "super_resolve":
            return Downsample(config.factor, config.filter)  # type: ignore[arg-type]
        case "deblur":
            return Blur(jnp.asarray(_kernel(config, aids)), config.boundary)  # type: ignore[arg-type]
        case "demosaic":
            return Bayer(config.pattern)  # type: ignore[arg-type]
        case "compressed_sensing":
            if config.sensing == "gaussian":
                raise InputError(
                    "A random matrix is only known to a simulation: give a --reference, or bring the "
                    "matrix as --task=custom --operator=path.py:function."
                )
            if aids.mask is None:
                raise InputError(
                    "compressed_sensing needs to know which frequencies were measured."
                )
            return SubsampledFourier(jnp.asarray(aids.mask, jnp.float32))
        case "ct":
            return Radon(config.num_angles)
        case "custom" if not config.operator:
            raise InputError("custom needs an operator: --operator=path.py:function.")
        case "custom":
            return load_operator(config.operator, shape)
    return Identity()


def build_case(
    config: TaskConfig,
    name: str,
    measurement: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    guide: np.ndarray | None = None,
    kernel: np.ndarray | None = None,
    jpeg: JpegFile | None = None,
    operator: Operator | None = None,
    shape: Shape | None = None,
) -> Case:
    """What was measured, as a case without reference.

    Args:
      config: The task and what is known of its noise.
      name: The picture's name; its random numbers follow from it.
      measurement: A picture `[H, W, C]` in [0, 1], or what the task's operator makes.
      mask: See `SideInputs`, as for `guide`, `kernel`, `jpeg` and `operator`.
      guide: The flash picture.
      kernel: The point spread.
      jpeg: The JPEG file, whose decoded picture is the measurement.
      operator: The operator itself.
      shape: Height, width and channels of the image; None where the measurement tells.

    Raises:
      InputError: For an unknown task, or something that is missing, not wanted or does not fit.
    """
    require_choice("task", config.name, TASKS)
    aids = SideInputs(mask, guide, kernel, jpeg, operator)
    _check_aids(config, aids)
    measurement = np.asarray(measurement)
    if not np.isfinite(measurement).all():
        raise InputError("A measurement must be finite, came one with NaN or infinity.")
    if measurement.ndim == 2 and config.name in ("ct", "compressed_sensing"):
        measurement = measurement[..., None]
    if config.name not in ("ct", "compressed_sensing", "custom"):
        _check_image(measurement)
    shape = shape or image_shape(config, measurement.shape, aids)
    if min(shape[:2]) < MIN_SIDE:
        raise InputError(f"An image needs at least {MIN_SIDE} pixels a side, came {shape[:2]}.")
    if shape[2] not in (1, 3):
        raise InputError(f"An image has 1 or 3 channels, this one would have {shape[2]}.")
    operator = build_operator(config, shape, aids)
    if config.name == "custom":
        check_operator(operator, shape)
    predicted = jax.eval_shape(operator, jax.ShapeDtypeStruct(shape, jnp.float32))
    y, tolerance = measurement, None
    if aids.jpeg is not None:
        y, tolerance = jpegs.intervals(aids.jpeg)
    if y.shape != predicted.shape:
        raise InputError(
            f"{config.name} makes a measurement of shape {predicted.shape} from an image {shape}, came "
            f"{y.shape}; if the image has another shape, say it with --set task.image_shape=H,W,C."
        )
    if np.iscomplexobj(y) and not jnp.issubdtype(predicted.dtype, jnp.complexfloating):
        raise InputError(f"{config.name} makes real numbers, the measurement is complex.")
    if isinstance(operator, Mask | SubsampledFourier):
        # What lies outside is never looked at.
        y = y * np.asarray(operator.mask).reshape(*operator.mask.shape[:2], 1)
    problem = Problem(
        operator,
        jnp.asarray(y, predicted.dtype),
        jnp.float32(_noise_std(config)),
        code_image=_guide(config, aids, shape),
        weights=_weights(config, y),
        tolerance=None if tolerance is None else jnp.asarray(tolerance),
        peak=jnp.float32(config.peak) if config.noise in ("poisson", "poisson_gauss") else None,
    )
    preview, preview_name = _preview(config, measurement, problem, shape)
    return Case(
        name,
        problem,
        shape,
        notes=_range_notes(config, preview),
        preview=preview,
        preview_name=preview_name,
        jpeg=aids.jpeg,
    )


def restore_known_values(
    config: TaskConfig, case: Case, image: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Puts into an answer what is known exactly, where `task.paste_known` says so.

    Inpainting and demosaicing without noise: x + A^T (y - A x), the known values themselves, saturated
    ones excepted. dejpeg by intervals: a picture near by whose coefficients lie in the file's intervals.

    Args:
      config: The task.
      case: What was measured.
      image: The answer `[H, W, C]`.

    Returns:
      The image, and sentences for the user.
    """
    operator, y = case.problem.operator, case.problem.measurement
    if not config.paste_known:
        return image, ()
    if case.jpeg is not None:
        image = jpegs.project(case.jpeg, image)
        fraction = jpegs.fraction_kept(case.jpeg, image)
        return image, (
            f"compressed again with the file's tables, {fraction:.2%} of its coefficients come back",
        )
    is_exact = config.noise == "gaussian" and float(case.problem.noise_std) == 0
    if isinstance(operator, Mask | Bayer) and is_exact:
        back = adjoint(operator, image.shape)
        # One or the other, not the sum of both: the known values must come back to the bit.
        counts = jnp.ones_like(y) if case.problem.weights is None else case.problem.weights
        image = np.where(np.asarray(back(counts)) > 0, np.asarray(back(y)), image)
    return image, ()


def is_pixelwise(config: TaskConfig) -> bool:
    """Whether the task's operator acts on each pixel alone, so that alike sizes may share a canvas."""
    if config.name == "dejpeg":
        return config.jpeg == "decoded"
    return config.name in ("denoise", "inpaint", "flash", "demosaic")


def _range_notes(config: TaskConfig, preview: np.ndarray | None) -> tuple[str, ...]:
    """A warning where a measurement in units of its own makes an image beyond [0, 1]."""
    if config.name not in ("ct", "compressed_sensing") or preview is None:
        return ()
    high = float(np.quantile(preview, 0.99))
    if 0.02 < high < 3:  # few angles overshoot
        return ()
    return (
        f"the picture seems to reach {high:.3g}, but images are made in [0, 1]: divide the measurement by "
        "about that",
    )


def _check_image(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[-1] not in (1, 3):
        raise InputError(f"An image must be [H, W, 1] or [H, W, 3], came {image.shape}.")


def _check_aids(config: TaskConfig, aids: SideInputs) -> None:
    for aid, tasks in _WANTED_BY.items():
        if getattr(aids, aid) is not None and config.name not in tasks:
            raise InputError(f"A {aid} belongs to {' or '.join(tasks)}, the task is {config.name}.")


def _ct_shape(measured: tuple[int, ...], num_angles: int) -> Shape:
    """The square picture behind a sinogram `[detectors, angles, C]`."""
    if len(measured) != 3 or measured[1] != num_angles:
        raise InputError(
            f"ct takes a sinogram of {num_angles} angles, [detectors, {num_angles}], came "
            f"{measured[:2]}; say how many there are with --set task.num_angles=..."
        )
    side = int(measured[0] / math.sqrt(2))
    for candidate in (side + 1, side, side - 1):
        if num_detectors(candidate) == measured[0]:
            return candidate, candidate, measured[2]
    raise InputError(
        f"ct takes as many detectors as the diagonal of a square picture has pixels (as "
        f"skimage.transform.radon with circle=False gives), came {measured[0]}; "
        f"{num_detectors(side)} would be those of {side} x {side}."
    )


def _known(mask: np.ndarray | None, shape: Shape) -> np.ndarray:
    """The mask of an inpainting, float32 `[H, W]`, checked."""
    if mask is None:
        raise InputError(
            "inpaint needs to know what is missing: give a mask (white = known), or a reference to "
            "simulate from."
        )
    mask = np.asarray(mask)
    if mask.shape != shape[:2]:
        raise InputError(f"The mask must have the picture's size {shape[:2]}, came {mask.shape}.")
    if not mask.any() or mask.all():
        raise InputError(
            "The mask must have known (1) and missing (0) pixels, came "
            f"{'no missing' if mask.any() else 'no known'} ones."
        )
    return (mask > 0).astype(np.float32)


def _kernel(config: TaskConfig, aids: SideInputs) -> np.ndarray:
    if aids.kernel is not None:
        return check_kernel(aids.kernel, normalize=config.normalize_kernel)
    if config.kernel == "file":
        raise InputError("task.kernel=file needs the file (--kernel=...).")
    if config.kernel == "gaussian":
        return gaussian_kernel(config.kernel_std)
    return motion_kernel(config.kernel_length, config.kernel_angle)


def _guide(config: TaskConfig, aids: SideInputs, shape: Shape) -> jax.Array | None:
    if config.name != "flash":
        return None
    if aids.guide is None:
        raise InputError("flash needs the flash picture as its guide (--guide).")
    if aids.guide.shape[:2] != shape[:2]:
        raise InputError(
            f"The guide must have the picture's size {shape[:2]}, came {aids.guide.shape[:2]}; crop or "
            "resize it first."
        )
    return jnp.asarray(aids.guide, jnp.float32)


def _noise_std(config: TaskConfig) -> float:
    """What is known of the noise; NaN for nothing."""
    if config.noise_std is not None:
        return config.noise_std
    exact = config.noise == "gaussian" and config.name not in ("denoise", "dejpeg")
    return 0.0 if exact else math.nan


def _weights(config: TaskConfig, y: np.ndarray) -> jax.Array | None:
    if config.saturation is None:
        return None
    if config.name == "dejpeg" and config.jpeg == "intervals":
        raise InputError(
            "Saturated pixels cannot be told from coefficients: add --set task.jpeg=decoded."
        )
    usable = np.abs(y) < config.saturation
    if not usable.any():
        raise InputError(
            f"No measured value lies below task.saturation={config.saturation:g}; raise it."
        )
    return jnp.asarray(usable, jnp.float32)


def _preview(
    config: TaskConfig, measurement: np.ndarray, problem: Problem, shape: Shape
) -> tuple[np.ndarray | None, str]:
    """What to show of the measurement beside the image, `[H, W, C]`, and its name; None for itself."""
    match config.name:
        case "super_resolve":
            return upsample_bicubic(measurement, config.factor, shape), "bicubic"
        case "demosaic":
            return demosaic_bilinear(measurement, config.pattern), "bilinear"
        case "ct":
            return filtered_back_projection(measurement, shape), "filtered back-projection"
        case "compressed_sensing":
            back = adjoint(problem.operator, shape)
            return np.asarray(back(problem.measurement)), "adjoint"
        case "dejpeg":
            return measurement.astype(np.float32), "decoded"
    if problem.measurement.shape == shape and not jnp.iscomplexobj(problem.measurement):
        return None, "damaged"
    if problem.operator.is_linear:
        image = np.asarray(adjoint(problem.operator, shape)(problem.measurement))
        return image / max(float(np.abs(image).max()), 1e-12), "adjoint"
    return np.full(shape, 0.5, np.float32), "no picture"
