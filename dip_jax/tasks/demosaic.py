"""Demosaicing: each pixel of the measurement has one of three colors."""

import numpy as np

from dip_jax.base import Problem
from dip_jax.config import TaskConfig
from dip_jax.errors import InputError
from dip_jax.operators.bayer import Bayer
from dip_jax.tasks.baselines import demosaic_bilinear
from dip_jax.tasks.task import Derived, MeasurementFile, Preview, Shape, SideInputs, Task


def _shape(config: TaskConfig, measured: tuple[int, ...], side_inputs: SideInputs) -> Shape:
    height, width, channels = measured
    if channels != 1:
        raise InputError(
            f"demosaic takes an image of one channel, got {channels}; save it as gray, or pass it as "
            "--reference to simulate from."
        )
    return height, width, 3


def _operator(config: TaskConfig, shape: Shape, side_inputs: SideInputs) -> Bayer:
    if shape[2] != 3:
        raise InputError(
            f"demosaic restores an image in color, got {shape[2]} channel; give a clean image in color, "
            "or leave out task.image_shape."
        )
    return Bayer(config.pattern)


def _preview(
    config: TaskConfig, measurement: np.ndarray, problem: Problem, shape: Shape
) -> Preview:
    return demosaic_bilinear(measurement, config.pattern), "bilinear"


def _derive(config: TaskConfig, file: MeasurementFile, side_inputs: SideInputs) -> Derived:
    """A note if the file states another pattern."""
    pattern = None if file.stored is None else file.stored.tags.bayer_pattern
    if pattern in (None, config.pattern):
        return side_inputs, ()
    return side_inputs, (
        f"the file states the pattern {pattern}, but {config.pattern} is assumed; add --set task.pattern={pattern}",
    )


DEMOSAIC = Task(
    "demosaic",
    settings=("pattern", "paste_known"),
    shape=_shape,
    operator=_operator,
    operator_class=lambda config: Bayer,
    preview=_preview,
    derive=_derive,
)
