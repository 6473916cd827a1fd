"""Compressed sensing: random frequencies of the image, or random sums."""

import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array, Operator, Problem
from dip_jax.config import TaskConfig
from dip_jax.errors import InputError
from dip_jax.operators.checks import adjoint
from dip_jax.operators.sensing import (
    RandomMatrix,
    SubsampledFourier,
    random_frequencies,
    random_matrix,
)
from dip_jax.tasks.task import Derived, Measured, MeasurementFile, Preview, Shape, SideInputs, Task


def _prepare(config: TaskConfig, measurement: np.ndarray, side_inputs: SideInputs) -> Measured:
    """Moves frequency 0 to the corner."""
    if config.frequencies != "center":
        return measurement, side_inputs
    mask = None if side_inputs.mask is None else np.fft.ifftshift(side_inputs.mask)
    return np.fft.ifftshift(measurement, axes=(0, 1)), side_inputs._replace(mask=mask)


def _operator(config: TaskConfig, shape: Shape, side_inputs: SideInputs) -> Operator:
    if side_inputs.operator is not None:
        return side_inputs.operator
    if config.sensing == "gaussian":
        raise InputError(
            "The random matrix is available only in a simulation: give a --reference, or provide a matrix as "
            "--task=custom --operator=path.py:function."
        )
    if side_inputs.mask is None:
        raise InputError("compressed_sensing needs to know which frequencies were measured.")
    return SubsampledFourier(jnp.asarray(side_inputs.mask > 0, jnp.float32))


def _operator_class(config: TaskConfig) -> type[Operator]:
    return RandomMatrix if config.sensing == "gaussian" else SubsampledFourier


def _preview(
    config: TaskConfig, measurement: np.ndarray, problem: Problem, shape: Shape
) -> Preview:
    return np.asarray(adjoint(problem.operator, shape)(problem.measurement)), "adjoint"


def _derive(config: TaskConfig, file: MeasurementFile, side_inputs: SideInputs) -> Derived:
    """The mask of the values that are not 0, if no mask is given."""
    if side_inputs.mask is not None:
        return side_inputs, ()
    y = file.measurement
    mask = np.abs(y).reshape(*y.shape[:2], -1).any(axis=-1)
    note = f"{mask.mean():.1%} of the frequencies are not zero; these count as measured"
    return side_inputs._replace(mask=mask), (note,)


def _draw(key: Array, config: TaskConfig, shape: Shape, side_inputs: SideInputs) -> SideInputs:
    height, width, channels = shape
    if config.sensing == "gaussian":
        count = max(1, round(config.known_fraction * height * width * channels))
        return side_inputs._replace(operator=RandomMatrix(random_matrix(key, count, shape)))
    if side_inputs.mask is not None:
        return side_inputs
    frequencies = random_frequencies(key, (height, width), config.known_fraction)
    return side_inputs._replace(mask=np.asarray(frequencies))


COMPRESSED_SENSING = Task(
    "compressed_sensing",
    measurement="array",
    side_inputs=("mask", "operator"),
    settings=("known_fraction", "sensing", "frequencies", "image_shape"),
    counts_photons=False,
    prepare=_prepare,
    operator=_operator,
    operator_class=_operator_class,
    preview=_preview,
    derive=_derive,
    draw=_draw,
)
