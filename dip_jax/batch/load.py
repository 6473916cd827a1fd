"""Reads the files of one image and builds its case."""

import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dip_jax.base import Case
from dip_jax.config import Config, TaskConfig, parse_range
from dip_jax.errors import InputError
from dip_jax.images.array_file import SUFFIXES as ARRAY_SUFFIXES
from dip_jax.images.array_file import read_array
from dip_jax.images.decode import peek
from dip_jax.images.decoded import Tags
from dip_jax.images.read import MIN_SIDE, StoredImage, read_image, read_mask
from dip_jax.images.side_inputs import read_guide, read_kernel
from dip_jax.images.value_range import AUTO
from dip_jax.images.write import stored_like
from dip_jax.keys import image_key, simulation_key
from dip_jax.operators.basic import Mask
from dip_jax.storage.paths import AnyPath, as_os_error, file_version, local_copy
from dip_jax.tasks.cases import build_case, target_case
from dip_jax.tasks.registry import reported_errors, require_side_input, task_of
from dip_jax.tasks.simulate import simulate_case
from dip_jax.tasks.task import MeasurementFile, SideInputs

# Previews within these limits count as images in [0, 1]: those from few angles overshoot.
_MIN_WHITE, _MAX_WHITE = 0.25, 2.0
_MARGIN = 1.1  # the white that is chosen, as a multiple of the 99 % quantile of the preview


class ImageFiles(NamedTuple):
    """The files of one image."""

    image: AnyPath
    """The image, or a measurement as an array."""
    reference: AnyPath | None
    """The reference; None if there is none with the stem of the image."""
    side_inputs: dict[str, AnyPath | None]
    """The mask, guide and kernel that the run has, by name; None if no file has the stem of the image."""
    is_degraded: bool
    """Whether `image` is degraded; if not, the degradation is simulated on it."""
    needs_reference: bool
    """Whether the run has references, so that a missing one is an error."""
    operator: AnyPath | None = None
    """The file with the operator, for the task custom."""
    page: int | None = None
    """The page or frame of the image in its file, from 0; None for the first image."""

    def digest(self) -> str:
        """Returns a checksum of the content of all files.

        Raises:
          OSError: If a file cannot be read.
        """
        checksum = hashlib.sha256()
        for path in (self.image, self.reference, *self.side_inputs.values(), self.operator):
            if path is not None:
                checksum.update(_file_digest(path, file_version(path)))
        return checksum.hexdigest()


class LoadedInput(NamedTuple):
    """An image of a run after it was read."""

    case: Case
    """The case to restore."""
    template: StoredImage
    """The stored image whose file type, depth and range the restored image takes."""


def load_input(config: Config, name: str, files: ImageFiles, *, max_pixels: int) -> LoadedInput:
    """Reads the files of one image and builds its case.

    Args:
      config: The settings.
      name: The name of the image; its random numbers follow from the name and from the seed.
      files: The files of the image.
      max_pixels: Larger images are refused before they are decoded.

    Raises:
      InputError: If a file is missing, cannot be read, or does not fit the task or the other files.
    """
    with reported_errors(config.task), _local(files) as local:
        return _load(config, name, local, max_pixels)


def load_target(config: Config) -> LoadedInput:
    """Builds the case of a task that takes no files; its image is written as an 8-bit PNG.

    Args:
      config: The settings.

    Raises:
      InputError: If a setting is missing.
    """
    with reported_errors(config.task):
        case = target_case(config.task)
    return LoadedInput(case, StoredImage(np.zeros(case.shape, np.float32)))


def _load(config: Config, name: str, files: ImageFiles, max_pixels: int) -> LoadedInput:
    stored, measurement = _read_measurement(config.task, files, max_pixels)
    side_inputs, side_notes = _read_side_inputs(config.task, files, measurement, max_pixels)
    # Whatever lies in the holes must not set the range of values; 8 bits have a fixed one.
    has_holes = side_inputs.mask is not None and task_of(config.task).measurement == "image"
    if has_holes and stored is not None and stored.dtype != np.uint8:
        used = np.asarray(side_inputs.mask)[..., np.newaxis] > 0
        stored, measurement = _read_measurement(config.task, files, max_pixels, used)
    notes = () if stored is None else stored.notes
    notes += side_notes
    white: Any = 1.0  # the size of the range of values
    if stored is not None:
        white = stored.high - stored.low
    elif files.is_degraded:
        white, range_notes = _array_white(config.task, name, measurement, side_inputs)
        notes += range_notes
        measurement = measurement if white == 1 else measurement / white
    task = _in_pixel_units(config.task, white)
    if files.is_degraded:
        file = MeasurementFile(files.image, stored, measurement)
        side_inputs, derived_notes = _derive_side_inputs(task, file, side_inputs)
        notes += derived_notes
        is_known = None if stored is None else stored.is_known
        case = build_case(task, name, measurement, **side_inputs._asdict(), is_known=is_known)
        if files.needs_reference:
            reference_range = task.value_range if stored is not None else f"0,{white!r}"
            case = _with_reference(
                case, files, stored, task, side_inputs, reference_range, max_pixels
            )
    else:
        _require_complete(files.image, stored)
        key = simulation_key(image_key(config.run.seed, name))
        mask, guide, kernel, *_ = side_inputs
        case = simulate_case(key, task, name, measurement, mask=mask, guide=guide, kernel=kernel)
    if stored is None:
        case = case._replace(notes=notes + case.notes, value_range=(0.0, white))
        return LoadedInput(case, _array_template(case, white))
    template = stored_like(stored, case.shape)
    notes += template.notes[len(stored.notes) :]
    template = _fill_alpha(template, case)
    value_range = None
    if isinstance(stored.low, float) and isinstance(stored.high, float):
        value_range = (stored.low, stored.high)
    case = case._replace(notes=notes + case.notes, value_range=value_range)
    return LoadedInput(case, template)


@contextlib.contextmanager
def _local(files: ImageFiles) -> Iterator[ImageFiles]:
    """A context with local copies of remote files; errors name the remote ones."""
    with contextlib.ExitStack() as stack:
        copies: dict[Path, AnyPath] = {}

        def copy(path: AnyPath | None) -> Path | None:
            if path is None or isinstance(path, Path):
                return path
            local = stack.enter_context(local_copy(path))
            copies[local] = path
            return local

        try:
            yield files._replace(
                image=copy(files.image),
                reference=copy(files.reference),
                side_inputs={kind: copy(path) for kind, path in files.side_inputs.items()},
            )
        except InputError as error:
            text = str(error)
            for local, path in copies.items():
                text = text.replace(str(local), str(path))
            raise InputError(text) from None


def _array_white(
    task: TaskConfig, name: str, measurement: np.ndarray, side_inputs: SideInputs
) -> tuple[float, tuple[str, ...]]:
    """The value of white in the image behind a measured array, and a note about it.

    The operator of a task that measures an `array` is linear, so a measurement divided by the white of its image is the
    measurement of an image in [0, 1]. The white comes from the preview, and is 1 if the preview uses [0, 1].
    """
    fixed = parse_range(task.value_range)
    if fixed is not None:
        if fixed[0] != 0:
            raise InputError(
                f"--range={task.value_range}: expected 0,HIGH for a measured array, whose image has its black at 0."
            )
        return fixed[1], ()
    has_unit = task_of(task).measurement == "array" and task_of(task).preview is not None
    if task.value_range == "container" or not has_unit:
        return 1.0, ()
    plain = dataclasses.replace(task, noise_std=None, noise_unit="gray")
    file = MeasurementFile(Path(name), None, measurement)
    side_inputs, _ = _derive_side_inputs(task, file, side_inputs)
    preview = build_case(plain, name, measurement, **side_inputs._asdict()).preview
    reached = float(np.quantile(np.asarray(preview), 0.99))
    if not reached > 0 or _MIN_WHITE <= reached <= _MAX_WHITE:
        return 1.0, ()
    white = float(f"{_MARGIN * reached:.2g}")
    return white, (
        f"the image seems to reach {reached:.3g}: values from 0 to {white:g} are mapped to [0, 1]; --range=0,HIGH "
        "changes this",
    )


def _in_pixel_units(task: TaskConfig, size: Any) -> TaskConfig:
    """The task with a noise level in the unit of pixels, for a range of values of a size."""
    if task.noise_unit == "gray" or task.noise_std is None:
        return task
    if isinstance(size, np.ndarray):
        raise InputError(
            "task.noise_unit=file needs a common range of all bands: set it with --range=LOW,HIGH, or use "
            "task.noise_unit=gray."
        )
    if task.noise_std > size:
        raise InputError(
            f"task.noise_std={task.noise_std:g} exceeds the range of the values, {size:g}; lower it, or set the range "
            "with --range."
        )
    return dataclasses.replace(task, noise_std=task.noise_std / size, noise_unit="gray")


def _fill_alpha(template: StoredImage, case: Case) -> StoredImage:
    """Makes the pixels opaque that inpainting fills in."""
    operator, alpha = case.problem.operator, template.alpha
    if alpha is None or not isinstance(operator, Mask):
        return template
    is_missing = np.asarray(operator.mask).reshape(alpha.shape) == 0
    return template._replace(alpha=np.where(is_missing, alpha.max(), alpha))


def _require_complete(path: Path, stored: StoredImage | None) -> None:
    if stored is not None and stored.is_known is not None:
        raise InputError(
            f"{path}: a reference must be complete, but {np.sum(~stored.is_known):,} of its values are missing or "
            "outliers; crop or repair it."
        )


@functools.lru_cache(maxsize=64)  # one mask may serve thousands of images
def _file_digest(path: AnyPath, version: tuple[int, int]) -> bytes:
    with as_os_error(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _read_measurement(
    task: TaskConfig, files: ImageFiles, max_pixels: int, used: np.ndarray | None = None
) -> tuple[StoredImage | None, np.ndarray]:
    """The stored image and its pixels; for an array file, None and the array."""
    path, known = files.image, task_of(task)
    is_array = path.suffix.lower() in ARRAY_SUFFIXES and known.measurement != "image"
    if is_array and files.is_degraded:
        if files.page:
            raise InputError(
                f"{path}: expected an image of several pages, got an array; leave out --page."
            )
        return None, read_array(path)
    if known.measurement == "array" and files.is_degraded:
        raise InputError(
            f"{path}: {known.name} takes a measurement as .npy, got an image; to simulate a measurement "
            "from an image, pass it as --reference."
        )
    # A degraded image that is enlarged may be smaller than the restored one has to be.
    factor = known.scale(task) if files.is_degraded else 1
    stored = read_image(
        path,
        max_pixels=max_pixels,
        min_side=-(-MIN_SIDE // factor),
        value_range=task.value_range,
        page=files.page,
        used=used,
    )
    return stored, stored.pixels


def _read_side_inputs(
    task: TaskConfig, files: ImageFiles, measurement: np.ndarray, max_pixels: int
) -> tuple[SideInputs, tuple[str, ...]]:
    """The mask, guide and kernel as arrays, and notes for the user."""
    arrays: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    for kind, path in files.side_inputs.items():
        if path is None:
            raise InputError(
                f"{files.image}: no {kind} has its stem {files.image.stem!r}; rename one, or give one "
                f"{kind} for all images."
            )
        require_side_input(task_of(task), kind)
        if kind == "kernel":
            array, kind_notes = read_kernel(path, max_pixels=max_pixels)
        elif kind == "guide":
            array, kind_notes = read_guide(path, measurement.shape[:2], max_pixels=max_pixels)
        elif path.suffix.lower() in ARRAY_SUFFIXES and task_of(task).measurement != "image":
            array, kind_notes = np.abs(read_array(path)), ()
        else:
            array, kind_notes = read_mask(path, measurement.shape[:2], max_pixels=max_pixels)
        arrays[kind] = array
        notes += kind_notes
    return SideInputs(**arrays), notes


def _derive_side_inputs(
    task: TaskConfig, file: MeasurementFile, side_inputs: SideInputs
) -> tuple[SideInputs, tuple[str, ...]]:
    """Side inputs that follow from the measurement itself, and notes for the user."""
    derive = task_of(task).derive
    return (side_inputs, ()) if derive is None else derive(task, file, side_inputs)


def _with_reference(
    case: Case,
    files: ImageFiles,
    stored: StoredImage | None,
    task: TaskConfig,
    side_inputs: SideInputs,
    value_range: str,
    max_pixels: int,
) -> Case:
    reference = _read_reference(files, stored, value_range, max_pixels)
    # A side that the factor does not divide was rounded up: take the size of the reference.
    surplus = [m - n for m, n in zip(case.shape[:2], reference.shape[:2], strict=True)]
    if all(0 <= n < task_of(task).scale(task) for n in surplus) and max(surplus) > 0:
        measurement = np.asarray(case.problem.measurement)
        case = build_case(
            task, case.name, measurement, **side_inputs._asdict(), shape=reference.shape
        )
    if reference.shape != case.shape:
        raise InputError(
            f"{files.reference}: expected a reference of the shape of the image, {case.shape}, got "
            f"{reference.shape}; crop or resize it."
        )
    return case._replace(reference=reference)


def _read_reference(
    files: ImageFiles, stored: StoredImage | None, value_range: str, max_pixels: int
) -> np.ndarray:
    if files.reference is None:
        raise InputError(
            f"{files.image}: no reference has its stem {files.image.stem!r}; rename one, or leave the "
            "image out."
        )
    # Equal types have equal units, so they need the same range; noise widens that of the image.
    header = peek(files.reference)
    page = files.page if header is not None and header.num_pages > 1 else None
    read = functools.partial(read_image, files.reference, max_pixels=max_pixels, page=page)
    is_array = files.reference.suffix.lower() in ARRAY_SUFFIXES
    # The white of a measured array is in the unit of an array, and not in gray levels of an image file.
    clean = read(value_range=value_range if stored is not None or is_array else AUTO)
    if (
        stored is not None
        and stored.dtype == clean.dtype
        and isinstance(stored.low, float)
        and isinstance(clean.low, float)
        and (stored.low, stored.high) != (clean.low, clean.high)
    ):
        clean = read(value_range=f"{stored.low!r},{stored.high!r}")
    _require_complete(files.reference, clean)
    return clean.pixels


def _array_template(case: Case, white: float) -> StoredImage:
    """A template for a float32 array: a measurement has no depth or format to keep."""
    layout = "HWC" if case.shape[-1] > 1 else "HW"
    pixels = np.zeros(case.shape, np.float32)
    return StoredImage(pixels, None, np.dtype(np.float32), 0.0, white, ".npy", Tags(layout=layout))
