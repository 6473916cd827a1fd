"""From a measurement to a `Case`.

The task determines the operator, the shape of the image and a preview by a classical method. `finish_image` corrects
an estimate by that which is known about its values.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array, Case, Operator, Problem
from dip_jax.config import TaskConfig
from dip_jax.errors import InputError
from dip_jax.images.jpeg_file import JpegFile
from dip_jax.images.read import MIN_SIDE
from dip_jax.operators import jpeg_intervals
from dip_jax.operators.basic import Mask
from dip_jax.operators.bayer import Bayer
from dip_jax.operators.checks import adjoint, check_operator
from dip_jax.operators.from_function import as_operator
from dip_jax.operators.sensing import SubsampledFourier
from dip_jax.tasks.clipped_noise import correct_clipping
from dip_jax.tasks.from_operator import default_preview
from dip_jax.tasks.geometry import geometry_notes
from dip_jax.tasks.registry import is_built_in, reported_errors, require_side_input, task_of
from dip_jax.tasks.task import Shape, SideInputs, Task

_MAX_IMAGE = 3.0  # 99 % quantile of an image in [0, 1] with the strongest noise, or of a preview from few angles
_DESCRIPTIONS = {
    "mask": "a mask (--mask, white = known)",
    "guide": "a guide, an image of the same scene (--guide)",
    "kernel": "a blur kernel (--kernel)",
    "jpeg": "a JPEG file",
    "operator": "an operator (operator=...)",
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
      guide: Image of the same scene, such as a flash image.
      kernel: Blur kernel.
      jpeg: JPEG file whose decoded image is the measurement.
      operator: Operator that replaces the one of the task.
      shape: Height, width and channels of the image; None if the measurement determines them.
      is_known: Boolean, same shape as the measurement: False for values that are not data. None means all are.

    Returns:
      A case whose preview is made by a classical method.

    Raises:
      InputError: If an input is missing, not used by the task, or does not fit.

    Example:
      >>> import numpy as np
      >>> case = build_case(TaskConfig(name="demosaic"), "photo", np.full((40, 36, 1), 0.5))
      >>> case.shape, case.preview_name
      ((40, 36, 3), 'bilinear')
    """
    task = task_of(config)
    side_inputs = SideInputs(mask, guide, kernel, jpeg, operator)
    for kind, value in side_inputs._asdict().items():
        if value is not None:
            require_side_input(task, kind)
    measurement = _check_measurement(task, np.asarray(measurement))
    if task.prepare is not None:
        measurement, side_inputs = task.prepare(config, measurement, side_inputs)
    shape = shape or _image_shape(config, measurement.shape, side_inputs)
    _check_shape(shape)
    operator = build_operator(config, shape, side_inputs)
    predicted = jax.eval_shape(operator, jax.ShapeDtypeStruct(shape, jnp.float32))
    y, tolerance = measurement, None
    if jpeg is not None:
        y, tolerance = jpeg_intervals.intervals(jpeg)
    _check_prediction(config, y, predicted, shape)
    y = only_measured(operator, y)
    problem = Problem(
        operator,
        jnp.asarray(y, predicted.dtype),
        jnp.float32(_noise_std(config)),
        code_image=_code_image(guide, shape) if task.code_from_guide else None,
        weights=_weights(config, y, None if jpeg is not None else is_known),
        tolerance=None if tolerance is None else jnp.asarray(tolerance),
        peak=jnp.float32(config.peak) if config.noise in ("poisson", "poisson_gauss") else None,
    )
    preview, preview_name = _preview(config, measurement, problem, shape)
    return Case(
        name,
        problem,
        shape,
        notes=(*_range_notes(task, preview), *geometry_notes(config, problem, shape)),
        preview=preview,
        preview_name=preview_name,
        jpeg=jpeg,
        paste_known=config.paste_known and (jpeg is not None or config.noise == "gaussian"),
    )


def target_case(config: TaskConfig) -> Case:
    """Builds the case of a task that takes no image, because its settings determine the measurement.

    Args:
      config: The task.

    Raises:
      InputError: If the task needs an image, or a setting is missing.
    """
    make_target = task_of(config).target
    if make_target is None:
        raise InputError(
            f"{config.name} needs an image: use build_case for a degraded one, simulate_case for a clean one."
        )
    name, measurement = make_target(config)
    return build_case(config, name, measurement)


def only_measured(operator: Operator, y: np.ndarray) -> np.ndarray:
    """Returns a measurement with 0 in place of values that were not measured, whatever a file holds there.

    Args:
      operator: The operator.
      y: The measurement.
    """
    if not isinstance(operator, Mask | SubsampledFourier):
        return y
    return y * np.asarray(operator.mask).reshape(*operator.mask.shape[:2], 1)


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
    task = task_of(config)
    _check_required(task, side_inputs)
    operator = as_operator(task.operator(config, shape, side_inputs), shape)
    if not is_built_in(task):
        check_operator(operator, shape)
    return operator


def operator_class(config: TaskConfig) -> type[Operator]:
    """The class of a task's operator, known before an image is read; `Operator` if it is not known.

    Example:
      >>> operator_class(TaskConfig(name="inpaint")).__name__
      'Mask'
    """
    find_class = task_of(config).operator_class
    with reported_errors(config):
        return Operator if find_class is None else find_class(config)


def finish_image(case: Case, estimate: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Returns the image of an estimate: without the effect of clipped noise, and with the values that are known exactly.

    Args:
      case: The case.
      estimate: `[H, W, C]`.

    Returns:
      The image `[H, W, C]`, and notes for the user.
    """
    image, clipping_notes = correct_clipping(case, estimate)
    image, notes = restore_known_values(case, image)
    return image, (*clipping_notes, *notes)


def restore_known_values(case: Case, image: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Replaces values of an estimate that are known exactly, if `Case.paste_known` is set.

    For inpainting and demosaicing without noise, the measured values replace those of the estimate, except saturated
    ones. For dejpeg by intervals, the result is an image near the estimate whose coefficients lie in the intervals of
    the file.

    Args:
      case: The case.
      image: Estimate `[H, W, C]`.

    Returns:
      The image `[H, W, C]`, and notes for the user.

    Example:
      >>> import numpy as np
      >>> task, mask = TaskConfig(name="inpaint"), np.eye(40)
      >>> case = build_case(task, "photo", np.full((40, 40, 1), 0.5), mask=mask)
      >>> image, _ = restore_known_values(case, np.full((40, 40, 1), 0.25))
      >>> image[:2, :2, 0].tolist()
      [[0.5, 0.25], [0.25, 0.5]]
    """
    operator, y = case.problem.operator, case.problem.measurement
    if not case.paste_known:
        return image, ()
    if case.jpeg is not None:
        image = jpeg_intervals.project(case.jpeg, image)
        fraction = jpeg_intervals.fraction_kept(case.jpeg, image)
        return image, (
            f"compressed again with the file's tables, {fraction:.2%} of its coefficients match",
        )
    is_known = known_values(case)
    if is_known is not None:
        # The known values are selected, not added to the estimate, so that they are exact to the bit.
        image = np.where(is_known, np.asarray(adjoint(operator, image.shape)(y)), image)
    return image, ()


def known_values(case: Case) -> np.ndarray | None:
    """Returns which values of the image are measured exactly, so that `restore_known_values` replaces them.

    Args:
      case: The case.

    Returns:
      True where a value is known, boolean `[H, W, C]`; None if no value is.

    Example:
      >>> import numpy as np
      >>> task, mask = TaskConfig(name="inpaint"), np.eye(40)
      >>> case = build_case(task, "photo", np.full((40, 40, 1), 0.5), mask=mask)
      >>> known_values(case)[:2, :2, 0].tolist()
      [[True, False], [False, True]]
    """
    is_exact = case.problem.peak is None and float(case.problem.noise_std) == 0
    if not (case.paste_known and case.jpeg is None and is_exact):
        return None
    return measured_values(case)


def measured_values(case: Case) -> np.ndarray | None:
    """Returns which values of the image are measured themselves, by an operator that copies some and lacks the others.

    Args:
      case: The case.

    Returns:
      True where a value is measured, boolean `[H, W, C]`; None for other operators.
    """
    operator, y = case.problem.operator, case.problem.measurement
    # For these operators A A^T y = y.
    if not isinstance(operator, Mask | Bayer):
        return None
    counts = jnp.ones_like(y) if case.problem.weights is None else case.problem.weights
    return np.asarray(adjoint(operator, case.shape)(counts)) > 0


def _check_required(task: Task, side_inputs: SideInputs) -> None:
    for kind in task.required:
        if getattr(side_inputs, kind) is None:
            instead = "" if task.draw is None else ", or a clean image to simulate it (--reference)"
            raise InputError(f"{task.name} needs {_DESCRIPTIONS[kind]}{instead}.")


def _check_measurement(task: Task, measurement: np.ndarray) -> np.ndarray:
    """The measurement, with a channel axis where the task needs one."""
    if not np.isfinite(measurement).all():
        raise InputError("A measurement must be finite, got NaN or infinity.")
    if measurement.ndim == 2 and task.measurement == "array":
        measurement = measurement[..., None]
    is_image = task.measurement == "image"
    if is_image and measurement.ndim != 3:
        raise InputError(f"An image must be [H, W, C], got {measurement.shape}.")
    if is_image and measurement.dtype.kind in "ui":
        raise InputError(
            f"An image must be float in [0, 1], got {measurement.dtype} from {measurement.min()} to "
            f"{measurement.max()}; divide it by its white, e.g. 255."
        )
    if is_image and not _may_have_range(measurement):
        raise InputError(
            f"An image must be float in [0, 1], got values from {measurement.min():.3g} to {measurement.max():.3g}; map "
            "its black to 0 and its white to 1, e.g. divide it by 255."
        )
    return measurement


def _may_have_range(measurement: np.ndarray) -> bool:
    """Whether black may be 0 and white 1, with noise of any strength.

    Noise makes neighbors differ; an image whose black is below 0, e.g. at -1, is dark without such differences.
    """
    low, high = np.quantile(measurement, (0.1, 0.99))
    noise_std = np.median(np.abs(np.diff(measurement, axis=1))) / 0.954  # of normal noise
    return bool(low >= -0.2 - 1.5 * noise_std and high <= _MAX_IMAGE)


def _image_shape(config: TaskConfig, measured: tuple[int, ...], side_inputs: SideInputs) -> Shape:
    """Height, width and channels of the image behind a measurement of shape `measured`."""
    if config.image_shape:
        height, width, channels = config.image_shape
        return height, width, channels
    task = task_of(config)
    if task.shape is not None:
        return task.shape(config, measured, side_inputs)
    if len(measured) != 3:
        function = f" and the operator {config.operator}" if config.operator else ""
        raise InputError(
            f"{task.name} cannot derive the image's size from a measurement of shape {measured}{function}; state it with "
            "--set task.image_shape=H,W,C."
        )
    factor, (height, width, channels) = task.scale(config), measured
    return factor * height, factor * width, channels


def _check_shape(shape: Shape) -> None:
    if min(shape[:2]) < MIN_SIDE:
        raise InputError(
            f"An image needs at least {MIN_SIDE} pixels in height and in width, got {shape[:2]}; "
            "enlarge or pad it."
        )


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
    is_exact = config.noise == "gaussian" and task_of(config).assumes_no_noise
    return 0.0 if is_exact else math.nan


def _code_image(guide: np.ndarray | None, shape: Shape) -> Array:
    """The guide as the code, float32 `[H, W, 3]`."""
    if guide is None:
        raise InputError("The code of the network is the guide image; give one (--guide).")
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
    preview = task_of(config).preview
    if preview is not None:
        return preview(config, measurement, problem, shape)
    return default_preview(problem, shape)


def _range_notes(task: Task, preview: np.ndarray | None) -> tuple[str, ...]:
    """A warning if the unit of the measurement puts the image far from [0, 1]."""
    if task.measurement != "array" or task.preview is None or preview is None:
        return ()
    high = float(np.quantile(preview, 0.99))
    if 0.02 < high < _MAX_IMAGE:  # previews from few angles overshoot
        return ()
    return (
        f"the image seems to reach {high:.3g}, but estimates lie in [0, 1]: divide the measurement by "
        "about that value",
    )
