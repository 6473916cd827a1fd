"""Named tasks: from a measurement to a `Case`.

A task determines the operator, the shape of the image, a preview by a classical method, and the values that are
known exactly.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array, Case, Operator, Problem
from dip_jax.config import TASKS, TaskConfig
from dip_jax.errors import InputError
from dip_jax.fields import require_choice
from dip_jax.images.jpeg_file import JpegFile
from dip_jax.images.read import MIN_SIDE
from dip_jax.operators import jpeg_intervals
from dip_jax.operators.basic import Identity, Mask
from dip_jax.operators.bayer import Bayer
from dip_jax.operators.blur import Blur, center_kernel, check_kernel, gaussian_kernel, motion_kernel
from dip_jax.operators.checks import adjoint, check_operator
from dip_jax.operators.downsample import Downsample
from dip_jax.operators.from_file import CustomOperator, load_operator
from dip_jax.operators.jpeg import Coefficients
from dip_jax.operators.radon import Radon, num_detectors
from dip_jax.operators.sensing import RandomMatrix, SubsampledFourier
from dip_jax.tasks.baselines import demosaic_bilinear, filtered_back_projection, upsample_bicubic
from dip_jax.tasks.geometry import geometry_notes

Shape = tuple[int, int, int]
_MAX_IMAGE = 3.0  # 99 % quantile of an image in [0, 1] with the strongest noise, or of a preview from few angles


class SideInputs(NamedTuple):
    """Additional inputs of a measurement; each belongs to certain tasks."""

    mask: np.ndarray | None = None
    """(inpaint, compressed_sensing) `[H, W]`, 1 where a pixel or frequency is known and 0 where it is missing."""
    guide: np.ndarray | None = None
    """(flash) Image `[H, W, 3]` that serves as the code."""
    kernel: np.ndarray | None = None
    """(deblur) Blur kernel `[p, q]`."""
    jpeg: JpegFile | None = None
    """(dejpeg) The JPEG file, for `task.jpeg=intervals`."""
    operator: Operator | None = None
    """(compressed_sensing, custom) The operator itself, if the config cannot describe it."""


_TASKS_OF = {
    "mask": ("inpaint", "compressed_sensing"),
    "guide": ("flash",),
    "kernel": ("deblur",),
    "jpeg": ("dejpeg",),
    "operator": ("compressed_sensing", "custom"),
}


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
    is_known: np.ndarray | None = None,
) -> Case:
    """Builds the case of a measurement, without a reference.

    Args:
      config: The task and its noise model.
      name: Name of the image; its random numbers follow from the name.
      measurement: Degraded image `[H, W, C]` in [0, 1], or the measurement of the task's operator.
      mask: See `SideInputs`, as for `guide`, `kernel`, `jpeg` and `operator`.
      guide: Flash image.
      kernel: Blur kernel.
      jpeg: JPEG file whose decoded image is the measurement.
      operator: Operator that replaces the one of the task.
      shape: Height, width and channels of the image; None if the measurement determines them.
      is_known: Boolean, same shape as the measurement: False for values that are not data. None means all are.

    Returns:
      A case whose preview is made by a classical method.

    Raises:
      InputError: If the task is unknown, or an input is missing, not used by the task, or does not fit.

    Example:
      >>> import numpy as np
      >>> case = build_case(TaskConfig(name="demosaic"), "photo", np.full((40, 36, 1), 0.5))
      >>> case.shape, case.preview_name
      ((40, 36, 3), 'bilinear')
    """
    require_choice("task", config.name, TASKS)
    side_inputs = SideInputs(mask, guide, kernel, jpeg, operator)
    _check_side_inputs(config, side_inputs)
    measurement = _check_measurement(config, np.asarray(measurement))
    if config.name == "compressed_sensing" and config.frequencies == "center":
        measurement = np.fft.ifftshift(measurement, axes=(0, 1))
        mask = None if mask is None else np.fft.ifftshift(mask)
        side_inputs = side_inputs._replace(mask=mask)
    shape = shape or _image_shape(config, measurement.shape, side_inputs)
    _check_shape(shape)
    operator = build_operator(config, shape, side_inputs)
    if config.name == "custom":
        check_operator(operator, shape)
    predicted = jax.eval_shape(operator, jax.ShapeDtypeStruct(shape, jnp.float32))
    y, tolerance = measurement, None
    if jpeg is not None:
        y, tolerance = jpeg_intervals.intervals(jpeg)
    _check_prediction(config, y, predicted, shape)
    if isinstance(operator, Mask | SubsampledFourier):
        # The values that were not measured are not data, whatever the file holds.
        y = y * np.asarray(operator.mask).reshape(*operator.mask.shape[:2], 1)
    problem = Problem(
        operator,
        jnp.asarray(y, predicted.dtype),
        jnp.float32(_noise_std(config)),
        code_image=_code_image(config, guide, shape),
        weights=_weights(config, y, None if jpeg is not None else is_known),
        tolerance=None if tolerance is None else jnp.asarray(tolerance),
        peak=jnp.float32(config.peak) if config.noise in ("poisson", "poisson_gauss") else None,
    )
    preview, preview_name = _preview(config, measurement, problem, shape)
    return Case(
        name,
        problem,
        shape,
        notes=(*_range_notes(config, preview), *geometry_notes(config, problem, shape)),
        preview=preview,
        preview_name=preview_name,
        jpeg=jpeg,
    )


def build_operator(config: TaskConfig, shape: Shape, side_inputs: SideInputs) -> Operator:
    """The operator of a task for images of one shape.

    Args:
      config: The task.
      shape: Height, width and channels of the images.
      side_inputs: The mask, the kernel, the JPEG file or the operator itself, if the task needs one.

    Raises:
      InputError: If a side input is missing or does not fit.

    Example:
      >>> build_operator(TaskConfig(name="super_resolve", factor=2), (64, 64, 3), SideInputs())
      Downsample(factor=2, filter='lanczos2')
    """
    if side_inputs.operator is not None:
        return side_inputs.operator
    match config.name:
        case "inpaint":
            return Mask(jnp.asarray(_known_pixels(side_inputs.mask, shape)[..., None]))
        case "dejpeg" if side_inputs.jpeg is not None:
            return jpeg_intervals.coefficients_of(side_inputs.jpeg)
        case "super_resolve":
            return Downsample(config.factor, config.filter)
        case "deblur":
            return Blur(jnp.asarray(_blur_kernel(config, side_inputs.kernel)), config.boundary)
        case "demosaic":
            return Bayer(config.pattern)
        case "compressed_sensing":
            return _fourier_operator(config, side_inputs.mask)
        case "ct":
            return _radon(config, shape)
        case "custom" if not config.operator:
            raise InputError("custom needs an operator: --operator=path.py:function.")
        case "custom":
            return load_operator(config.operator, shape)
    return Identity()


def operator_class(config: TaskConfig) -> type[Operator]:
    """The class of a task's operator, known before an image is read.

    A dejpeg image that is not a JPEG file gets `Identity` in place of `Coefficients`.

    Example:
      >>> operator_class(TaskConfig(name="inpaint")).__name__
      'Mask'
    """
    match config.name:
        case "inpaint":
            return Mask
        case "dejpeg" if config.jpeg == "intervals":
            return Coefficients
        case "super_resolve":
            return Downsample
        case "deblur":
            return Blur
        case "demosaic":
            return Bayer
        case "compressed_sensing":
            return RandomMatrix if config.sensing == "gaussian" else SubsampledFourier
        case "ct":
            return Radon
        case "custom":
            return CustomOperator
    return Identity


def restore_known_values(
    config: TaskConfig, case: Case, image: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Replaces values of an estimate that are known exactly, if `task.paste_known` is set.

    For inpainting and demosaicing without noise, the measured values replace those of the estimate, except saturated
    ones. For dejpeg by intervals, the result is an image near the estimate whose coefficients lie in the intervals of
    the file.

    Args:
      config: The task.
      case: The case.
      image: Estimate `[H, W, C]`.

    Returns:
      The image `[H, W, C]`, and notes for the user.

    Example:
      >>> import numpy as np
      >>> task, mask = TaskConfig(name="inpaint"), np.eye(40)
      >>> case = build_case(task, "photo", np.full((40, 40, 1), 0.5), mask=mask)
      >>> image, _ = restore_known_values(task, case, np.full((40, 40, 1), 0.25))
      >>> image[:2, :2, 0].tolist()
      [[0.5, 0.25], [0.25, 0.5]]
    """
    operator, y = case.problem.operator, case.problem.measurement
    if not config.paste_known:
        return image, ()
    if case.jpeg is not None:
        image = jpeg_intervals.project(case.jpeg, image)
        fraction = jpeg_intervals.fraction_kept(case.jpeg, image)
        return image, (
            f"compressed again with the file's tables, {fraction:.2%} of its coefficients match",
        )
    # These operators copy some values of the image and lack the others, so A A^T y = y.
    selects_values = isinstance(operator, Mask | Bayer)
    is_exact = config.noise == "gaussian" and float(case.problem.noise_std) == 0
    if selects_values and is_exact:
        spread = adjoint(operator, image.shape)
        # The known values are selected, not added to the estimate, so that they are exact to the bit.
        counts = jnp.ones_like(y) if case.problem.weights is None else case.problem.weights
        image = np.where(np.asarray(spread(counts)) > 0, np.asarray(spread(y)), image)
    return image, ()


def _check_side_inputs(config: TaskConfig, side_inputs: SideInputs) -> None:
    for kind, tasks in _TASKS_OF.items():
        if getattr(side_inputs, kind) is not None and config.name not in tasks:
            raise InputError(f"A {kind} belongs to {' or '.join(tasks)}, got task {config.name}.")


def _check_measurement(config: TaskConfig, measurement: np.ndarray) -> np.ndarray:
    """The measurement, with a channel axis where the task needs one."""
    if not np.isfinite(measurement).all():
        raise InputError("A measurement must be finite, got NaN or infinity.")
    if measurement.ndim == 2 and config.name in ("ct", "compressed_sensing"):
        measurement = measurement[..., None]
    is_image = config.name not in ("ct", "compressed_sensing", "custom")
    if is_image and measurement.ndim != 3:
        raise InputError(f"An image must be [H, W, C], got {measurement.shape}.")
    if is_image and measurement.dtype.kind in "ui":
        raise InputError(
            f"An image must be float in [0, 1], got {measurement.dtype} from {measurement.min()} to "
            f"{measurement.max()}; divide it by its white, e.g. 255."
        )
    if is_image and float(np.quantile(measurement, 0.99)) > _MAX_IMAGE:
        raise InputError(
            f"An image must be float in [0, 1], got values from {measurement.min():.3g} to {measurement.max():.3g}; divide "
            "it by its white, e.g. 255."
        )
    return measurement


def _image_shape(config: TaskConfig, measured: tuple[int, ...], side_inputs: SideInputs) -> Shape:
    """Height, width and channels of the image behind a measurement of shape `measured`."""
    if config.image_shape:
        height, width, channels = config.image_shape
        return height, width, channels
    if side_inputs.jpeg is not None:
        return side_inputs.jpeg.shape
    name = config.name
    if name == "ct":
        return _ct_shape(config, measured)
    if len(measured) != 3:
        function = f" and the operator {config.operator}" if config.operator else ""
        raise InputError(
            f"{name} cannot derive the image's size from a measurement of shape {measured}{function}; state it with "
            "--set task.image_shape=H,W,C."
        )
    height, width, channels = measured
    if name == "demosaic":
        if channels != 1:
            raise InputError(
                f"{name} takes an image of one channel, got {channels}; save it as gray, or pass it as "
                "--reference to simulate from."
            )
        return height, width, 3
    if name == "super_resolve":
        return config.factor * height, config.factor * width, channels
    return height, width, channels


def _num_angles(config: TaskConfig) -> int:
    return len(config.angles) or config.num_angles


def _radon(config: TaskConfig, shape: Shape) -> Radon:
    detectors = shape[0] if config.circle else None
    return Radon(_num_angles(config), config.angles, detectors, config.detector_center)


def _ct_shape(config: TaskConfig, measured: tuple[int, ...]) -> Shape:
    """The shape of the square image behind a sinogram `[detectors, angles, C]`."""
    num_angles = _num_angles(config)
    if len(measured) == 3 and measured[0] == num_angles != measured[1]:
        raise InputError(
            f"ct takes a sinogram [detectors, {num_angles}], got {measured[:2]}: its axes seem to be swapped; transpose it."
        )
    if len(measured) != 3 or measured[1] != num_angles:
        raise InputError(
            f"ct takes a sinogram of {num_angles} angles, [detectors, {num_angles}], got "
            f"{measured[:2]}; list the angles with --angles, or state their number with --set task.num_angles=..."
        )
    if config.circle:
        return measured[0], measured[0], measured[2]
    side = int(measured[0] / math.sqrt(2))
    for candidate in (side + 1, side, side - 1):
        if num_detectors(candidate) == measured[0]:
            return candidate, candidate, measured[2]
    raise InputError(
        f"ct takes a sinogram whose number of detectors is the diagonal of a square image in pixels (as "
        f"skimage.transform.radon with circle=False makes it), got {measured[0]}; an image of {side} x "
        f"{side} has {num_detectors(side)}. With circle=True, add --set task.circle=True."
    )


def _check_shape(shape: Shape) -> None:
    if min(shape[:2]) < MIN_SIDE:
        raise InputError(
            f"An image needs at least {MIN_SIDE} pixels in height and in width, got {shape[:2]}; "
            "enlarge or pad it."
        )


def _known_pixels(mask: np.ndarray | None, shape: Shape) -> np.ndarray:
    """The mask for inpainting, float32 `[H, W]`."""
    if mask is None:
        raise InputError(
            "inpaint needs to know which pixels are missing: give a mask (white = known), or a reference "
            "to simulate from."
        )
    mask = np.asarray(mask)
    if mask.shape != shape[:2]:
        raise InputError(f"The mask must have the image's size {shape[:2]}, got {mask.shape}.")
    if not mask.any() or mask.all():
        raise InputError(
            "The mask must have known (1) and missing (0) pixels, got "
            f"{'no missing' if mask.any() else 'no known'} ones."
        )
    return (mask > 0).astype(np.float32)


def _blur_kernel(config: TaskConfig, kernel: np.ndarray | None) -> np.ndarray:
    """The kernel for deblurring, float32 `[p, q]` with sum 1."""
    if kernel is not None:
        kernel = check_kernel(kernel, normalize=config.normalize_kernel)
        if config.kernel_center:
            row, column = config.kernel_center
            kernel = center_kernel(kernel, (row, column))
        return kernel
    if config.kernel == "file":
        raise InputError("task.kernel=file needs the file (--kernel=...).")
    if config.kernel == "gaussian":
        return gaussian_kernel(config.kernel_std)
    return motion_kernel(config.kernel_length, config.kernel_angle)


def _fourier_operator(config: TaskConfig, mask: np.ndarray | None) -> SubsampledFourier:
    if config.sensing == "gaussian":
        raise InputError(
            "The random matrix is available only in a simulation: give a --reference, or provide a matrix as "
            "--task=custom --operator=path.py:function."
        )
    if mask is None:
        raise InputError("compressed_sensing needs to know which frequencies were measured.")
    return SubsampledFourier(jnp.asarray(mask > 0, jnp.float32))


def _check_prediction(
    config: TaskConfig, y: np.ndarray, predicted: jax.ShapeDtypeStruct, shape: Shape
) -> None:
    """Refuses a measurement that differs in shape or type from the result of the operator for an image of `shape`."""
    if y.shape != predicted.shape:
        raise InputError(
            f"{config.name} makes a measurement of shape {predicted.shape} from an image {shape}, got "
            f"{y.shape}; if the image has another shape, state it with --set task.image_shape=H,W,C."
        )
    if np.iscomplexobj(y) and not jnp.issubdtype(predicted.dtype, jnp.complexfloating):
        raise InputError(
            f"{config.name} makes real numbers, got a complex measurement; take its real part."
        )


def _noise_std(config: TaskConfig) -> float:
    """The noise level that the config states or implies; NaN if it is unknown."""
    if config.noise_std is not None:
        return config.noise_std
    is_exact = config.noise == "gaussian" and config.name not in ("denoise", "dejpeg")
    return 0.0 if is_exact else math.nan


def _code_image(config: TaskConfig, guide: np.ndarray | None, shape: Shape) -> Array | None:
    """The guide of a flash pair, float32 `[H, W, 3]`."""
    if config.name != "flash":
        return None
    if guide is None:
        raise InputError("flash needs the flash image as its guide (--guide).")
    if guide.shape[:2] != shape[:2]:
        raise InputError(
            f"The guide must have the image's size {shape[:2]}, got {guide.shape[:2]}; crop or resize it "
            "first."
        )
    return jnp.asarray(guide, jnp.float32)


def _weights(config: TaskConfig, y: np.ndarray, is_known: np.ndarray | None) -> Array | None:
    """1 for known values below the saturation, 0 for the others; None if all are."""
    if config.saturation is None:
        return None if is_known is None else jnp.asarray(is_known, jnp.float32)
    if config.name == "dejpeg" and config.jpeg == "intervals":
        raise InputError(
            "Coefficients do not show which pixels are saturated: add --set task.jpeg=decoded."
        )
    is_usable = np.abs(y) < config.saturation
    if is_known is not None:
        is_usable &= is_known
    if not is_usable.any():
        raise InputError(
            f"No measured value lies below task.saturation={config.saturation:g}; raise it."
        )
    return jnp.asarray(is_usable, jnp.float32)


def _preview(
    config: TaskConfig, measurement: np.ndarray, problem: Problem, shape: Shape
) -> tuple[np.ndarray | None, str]:
    """The preview `[H, W, C]`, or None if the measurement itself is shown; and its label."""
    match config.name:
        case "super_resolve":
            return upsample_bicubic(measurement, config.factor, shape), "bicubic"
        case "demosaic":
            return demosaic_bilinear(measurement, config.pattern), "bilinear"
        case "ct":
            estimate = filtered_back_projection(
                measurement, shape, angles=config.angles, center=config.detector_center
            )
            return estimate, "filtered back-projection"
        case "compressed_sensing":
            return np.asarray(adjoint(problem.operator, shape)(problem.measurement)), "adjoint"
        case "dejpeg":
            return measurement.astype(np.float32), "decoded"
    if problem.measurement.shape == shape and not jnp.iscomplexobj(problem.measurement):
        return None, "degraded"
    if problem.operator.is_linear:
        image = np.asarray(adjoint(problem.operator, shape)(problem.measurement))
        return image / max(float(np.abs(image).max()), 1e-12), "adjoint"
    return np.full(shape, 0.5, np.float32), "no preview"


def _range_notes(config: TaskConfig, preview: np.ndarray | None) -> tuple[str, ...]:
    """A warning if the unit of the measurement puts the image far from [0, 1]."""
    if config.name not in ("ct", "compressed_sensing") or preview is None:
        return ()
    high = float(np.quantile(preview, 0.99))
    if 0.02 < high < _MAX_IMAGE:  # previews from few angles overshoot
        return ()
    return (
        f"the image seems to reach {high:.3g}, but estimates lie in [0, 1]: divide the measurement by "
        "about that value",
    )
