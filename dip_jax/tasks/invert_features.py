"""Inversion of features: an image whose activations in a classifier are those of another image.

The activations are divided by their root mean square, so the loss is |Phi(x) - Phi(x0)|^2 / |Phi(x0)|^2.

References:
  Mahendran and Vedaldi, Understanding deep image representations by inverting them, 2015.
  Ulyanov, Vedaldi and Lempitsky, Deep Image Prior, 2018, natural pre-image.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Operator
from dip_jax.classifiers.efficientnet_lite import SIDE, reduction, up_to
from dip_jax.classifiers.weights import load_weights
from dip_jax.config import TaskConfig
from dip_jax.errors import InputError
from dip_jax.operators.activations import Activations
from dip_jax.tasks.task import Measured, Shape, SideInputs, Task


def _prepare(config: TaskConfig, measurement: np.ndarray, side_inputs: SideInputs) -> Measured:
    """Divides the activations by their root mean square, and the operator too."""
    if side_inputs.operator is not None:  # of a simulation, whose noise is not to be divided again
        return measurement, side_inputs
    scale = np.float32(np.sqrt(np.mean(np.square(measurement, dtype=np.float64))))
    if scale == 0:
        raise InputError("invert_features expects activations of an image, got only zeros.")
    operator = Activations(up_to(load_weights(), config.layer), jnp.asarray(scale), config.layer)
    return measurement / scale, side_inputs._replace(operator=operator)


def _degrade(config: TaskConfig, reference: np.ndarray, side_inputs: SideInputs) -> Measured:
    operator = Activations(up_to(load_weights(), config.layer), jnp.float32(1), config.layer)
    y = np.asarray(jax.jit(lambda image: operator(image))(jnp.asarray(reference)))
    return _prepare(config, y, side_inputs)


def _shape(config: TaskConfig, measured: tuple[int, ...], side_inputs: SideInputs) -> Shape:
    """The largest RGB image with activations of this size, or that with which the classifier was trained."""
    factor = reduction(config.layer)
    if factor is None or len(measured) != 3:
        return SIDE, SIDE, 3
    return factor * measured[0], factor * measured[1], 3


def _operator(config: TaskConfig, shape: Shape, side_inputs: SideInputs) -> Operator:
    if side_inputs.operator is None:
        raise InputError("invert_features expects the activations of an image.")
    return side_inputs.operator


INVERT_FEATURES = Task(
    "invert_features",
    measurement="array",
    side_inputs=("operator",),
    settings=("layer", "image_shape"),
    counts_photons=False,
    prepare=_prepare,
    shape=_shape,
    operator=_operator,
    operator_class=lambda config: Activations,
    degrade=_degrade,
)
