"""Inpainting: pixels are missing."""

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array
from dip_jax.config import TaskConfig
from dip_jax.errors import InputError
from dip_jax.operators.basic import Mask
from dip_jax.tasks.task import Derived, MeasurementFile, Shape, SideInputs, Task


def _operator(config: TaskConfig, shape: Shape, side_inputs: SideInputs) -> Mask:
    mask = np.asarray(side_inputs.mask)
    if mask.shape != shape[:2]:
        raise InputError(f"The mask must have the image's size {shape[:2]}, got {mask.shape}.")
    if not mask.any() or mask.all():
        raise InputError(
            "The mask must have known (1) and missing (0) pixels, got "
            f"{'no missing' if mask.any() else 'no known'} ones."
        )
    return Mask(jnp.asarray((mask > 0).astype(np.float32)[..., None]))


def _derive(config: TaskConfig, file: MeasurementFile, side_inputs: SideInputs) -> Derived:
    """The mask of transparent pixels, if no mask is given; and the fraction of missing pixels."""
    source, stored = "", file.stored
    if side_inputs.mask is None and stored is not None and stored.alpha is not None:
        side_inputs = side_inputs._replace(mask=(stored.alpha > 0).astype(np.float32))
        source = " (the transparent ones)"
    mask = side_inputs.mask
    if mask is None or not np.any(mask) or np.all(mask):  # `build_case` refuses it
        return side_inputs, ()
    fraction = np.mean(mask == 0)
    return side_inputs, (f"{fraction:.1%} of the pixels are missing{source} and are filled in",)


def _draw(key: Array, config: TaskConfig, shape: Shape, side_inputs: SideInputs) -> SideInputs:
    if side_inputs.mask is not None:
        return side_inputs
    known = jax.random.bernoulli(key, config.known_fraction, shape[:2])
    return side_inputs._replace(mask=np.asarray(known))


INPAINT = Task(
    "inpaint",
    side_inputs=("mask",),
    required=("mask",),
    settings=("known_fraction", "paste_known"),
    operator=_operator,
    operator_class=lambda config: Mask,
    derive=_derive,
    draw=_draw,
)
