"""Maximization of an activation: an image to which a class or a channel of a classifier responds strongly.

There is no measured image. As in the code of 2018, the measurement is a target that no image reaches, and the loss is
its distance |target - activation|, with the likelihood `laplace`.

References:
  Simonyan, Vedaldi and Zisserman, Deep inside convolutional networks, 2014.
  Ulyanov, Vedaldi and Lempitsky, Deep Image Prior, 2018, activation maximization.
"""

import jax.numpy as jnp
import numpy as np

from dip_jax.classifiers.efficientnet_lite import SIDE, num_channels, up_to
from dip_jax.classifiers.weights import load_weights
from dip_jax.config import TaskConfig
from dip_jax.errors import InputError
from dip_jax.operators.activations import UnitActivation
from dip_jax.tasks.task import Shape, SideInputs, Target, Task


def _target(config: TaskConfig) -> Target:
    return Target(f"{config.layer}-{config.unit}", np.array([config.target], np.float32))


def _shape(config: TaskConfig, measured: tuple[int, ...], side_inputs: SideInputs) -> Shape:
    return SIDE, SIDE, 3


def _operator(config: TaskConfig, shape: Shape, side_inputs: SideInputs) -> UnitActivation:
    weights = up_to(load_weights(), config.layer)
    count = num_channels(weights, config.layer)
    if config.unit is None or config.unit >= count:
        raise InputError(
            f"maximize_activation expects task.unit from 0 to {count - 1}, a channel of {config.layer}, got "
            f"{config.unit}; add --set task.unit=..."
        )
    return UnitActivation(weights, jnp.int32(config.unit), config.layer, config.num_sizes)


MAXIMIZE_ACTIVATION = Task(
    "maximize_activation",
    measurement="array",
    settings=("layer", "unit", "num_sizes", "target", "image_shape"),
    counts_photons=False,
    target=_target,
    shape=_shape,
    operator=_operator,
    operator_class=lambda config: UnitActivation,
)
