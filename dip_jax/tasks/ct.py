"""Tomography: the measurement is a sinogram of parallel beams."""

import math

import numpy as np

from dip_jax.base import Problem
from dip_jax.config import TaskConfig
from dip_jax.errors import InputError
from dip_jax.operators.radon import Radon, num_detectors
from dip_jax.tasks.baselines import filtered_back_projection
from dip_jax.tasks.task import Preview, Shape, SideInputs, Task


def _num_angles(config: TaskConfig) -> int:
    return len(config.angles) or config.num_angles


def _shape(config: TaskConfig, measured: tuple[int, ...], side_inputs: SideInputs) -> Shape:
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


def _operator(config: TaskConfig, shape: Shape, side_inputs: SideInputs) -> Radon:
    detectors = shape[0] if config.circle else None
    return Radon(_num_angles(config), config.angles, detectors, config.detector_center)


def _preview(
    config: TaskConfig, measurement: np.ndarray, problem: Problem, shape: Shape
) -> Preview:
    estimate = filtered_back_projection(
        measurement, shape, angles=config.angles, center=config.detector_center
    )
    return estimate, "filtered back-projection"


CT = Task(
    "ct",
    measurement="array",
    settings=("num_angles", "angles", "circle", "detector_center"),
    shape=_shape,
    operator=_operator,
    operator_class=lambda config: Radon,
    preview=_preview,
)
