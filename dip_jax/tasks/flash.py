"""Flash pairs: a noisy image, and a flash image of the same scene, which is the code of the network."""

from dip_jax.operators.basic import Identity
from dip_jax.tasks.task import Task

FLASH = Task(
    "flash",
    side_inputs=("guide",),
    required=("guide",),
    code_from_guide=True,
    operator_class=lambda config: Identity,
    noise_std=25 / 255,
)
