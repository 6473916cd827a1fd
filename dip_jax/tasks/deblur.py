"""Deblurring: the blur kernel is known."""

import jax.numpy as jnp
import numpy as np

from dip_jax.config import TaskConfig
from dip_jax.errors import InputError
from dip_jax.operators.blur import Blur, center_kernel, check_kernel, gaussian_kernel, motion_kernel
from dip_jax.tasks.task import Shape, SideInputs, Task


def _operator(config: TaskConfig, shape: Shape, side_inputs: SideInputs) -> Blur:
    return Blur(jnp.asarray(_kernel(config, side_inputs.kernel)), config.boundary)


def _kernel(config: TaskConfig, kernel: np.ndarray | None) -> np.ndarray:
    """The kernel, float32 `[p, q]` with sum 1."""
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


DEBLUR = Task(
    "deblur",
    side_inputs=("kernel",),
    settings=(
        "kernel",
        "kernel_std",
        "kernel_length",
        "kernel_angle",
        "normalize_kernel",
        "kernel_center",
        "boundary",
    ),
    operator=_operator,
    operator_class=lambda config: Blur,
    noise_std=2 / 255,
)
