"""JPEG artifacts: the measurement is a decoded file, or its coefficients with their quantization intervals."""

import io
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from dip_jax.base import Operator, Problem
from dip_jax.config import TaskConfig
from dip_jax.errors import InputError
from dip_jax.images.jpeg_file import JpegFile, read_jpeg
from dip_jax.operators.basic import Identity
from dip_jax.operators.jpeg import Coefficients
from dip_jax.operators.jpeg_intervals import (
    MIN_MATCHING_FRACTION,
    coefficients_of,
    matching_fraction,
)
from dip_jax.tasks.eight_bits import eight_bit_channels
from dip_jax.tasks.task import Derived, Measured, MeasurementFile, Preview, Shape, SideInputs, Task


def _shape(config: TaskConfig, measured: tuple[int, ...], side_inputs: SideInputs) -> Shape:
    height, width, channels = measured if side_inputs.jpeg is None else side_inputs.jpeg.shape
    return height, width, channels


def _operator(config: TaskConfig, shape: Shape, side_inputs: SideInputs) -> Operator:
    if config.jpeg == "intervals" and config.saturation is not None:
        raise InputError(
            "Coefficients do not show which pixels are saturated: add --set task.jpeg=decoded."
        )
    return Identity() if side_inputs.jpeg is None else coefficients_of(side_inputs.jpeg)


def _operator_class(config: TaskConfig) -> type[Operator]:
    """An image that is not a JPEG file gets `Identity` in place of `Coefficients`."""
    return Coefficients if config.jpeg == "intervals" else Identity


def _preview(
    config: TaskConfig, measurement: np.ndarray, problem: Problem, shape: Shape
) -> Preview:
    return measurement.astype(np.float32), "decoded"


def _derive(config: TaskConfig, file: MeasurementFile, side_inputs: SideInputs) -> Derived:
    if config.jpeg != "intervals":
        return side_inputs, ()
    jpeg, why_not = _read_coefficients(file.path, file.measurement)
    return side_inputs._replace(jpeg=jpeg), (why_not,) if why_not else ()


def _read_coefficients(path: Path, pixels: np.ndarray) -> tuple[JpegFile | None, str]:
    """The coefficients of a JPEG file; otherwise None, and why its decoded image is fitted instead."""
    instead = "its pixels are fitted instead"
    with path.open("rb") as file:
        is_jpeg = file.read(2) == b"\xff\xd8"
    if not is_jpeg:
        return None, f"this is not a JPEG file, so its quantization is unknown; {instead}"
    try:
        jpeg = read_jpeg(path)
    except InputError as error:
        return None, f"{error} ({instead})"
    fraction = matching_fraction(jpeg, pixels)
    if fraction < MIN_MATCHING_FRACTION:
        return None, (
            f"only {fraction:.1%} of the decoded image agrees with the coefficients of the file; {instead}"
        )
    return jpeg, ""


def _degrade(config: TaskConfig, reference: np.ndarray, side_inputs: SideInputs) -> Measured:
    """The decoded image of a JPEG file, and the side inputs with the file."""
    channels = eight_bit_channels(reference)
    merged = channels[0] if len(channels) == 1 else Image.merge("RGB", channels)
    file = io.BytesIO()
    merged.save(file, "JPEG", quality=config.quality)
    decoded = np.asarray(Image.open(file)).reshape(reference.shape).astype(np.float32) / 255
    if config.jpeg == "decoded":
        return decoded, side_inputs
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "simulated.jpg"
        path.write_bytes(file.getvalue())
        return decoded, side_inputs._replace(jpeg=read_jpeg(path))


DEJPEG = Task(
    "dejpeg",
    side_inputs=("jpeg",),
    settings=("jpeg", "quality", "paste_known"),
    assumes_no_noise=False,
    shape=_shape,
    operator=_operator,
    operator_class=_operator_class,
    preview=_preview,
    derive=_derive,
    degrade=_degrade,
    noise_std=None,  # a JPEG file has quantization, not noise
)
