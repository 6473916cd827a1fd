"""Denoising: the measurement is the image itself."""

from dip_jax.operators.basic import Identity
from dip_jax.tasks.task import Task

DENOISE = Task(
    "denoise",
    assumes_no_noise=False,
    operator_class=lambda config: Identity,
    noise_std=25 / 255,
)
