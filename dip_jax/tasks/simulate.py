"""Simulated degradation: from a clean image to a `Case` with its reference.

The operator of the task makes the measurement, unless the task degrades the image by another program (`Task.degrade`).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array, Case
from dip_jax.config import TaskConfig
from dip_jax.errors import InputError
from dip_jax.problem import measure
from dip_jax.tasks.cases import build_case, build_operator
from dip_jax.tasks.registry import task_of
from dip_jax.tasks.task import SideInputs


def simulate_case(
    key: Array,
    config: TaskConfig,
    name: str,
    reference: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    guide: np.ndarray | None = None,
    kernel: np.ndarray | None = None,
) -> Case:
    """Degrades a clean image as the task describes.

    The measurement is y = A x with noise of the model `task.noise`:

    * `gaussian`: y + noise_std n, n ~ N(0, 1) (complex if y is); images are clipped to [0, 1].
    * `poisson`: Poisson(peak y) / peak.
    * `poisson_gauss`: `poisson` plus noise_std n.
    * `salt_and_pepper`: a fraction `salt_fraction` of the pixels becomes black or white.

    Without a mask, inpainting keeps a fraction `known_fraction` of the pixels at random, the same for all channels.
    Compressed sensing keeps the same fraction of the frequencies. With `task.sensing=gaussian`, the number of random
    sums is this fraction of the number of image values.

    Args:
      key: Random key, consumed.
      config: The task.
      name: Name of the image.
      reference: Clean image `[H, W, C]` in [0, 1].
      mask: See `SideInputs`, as for `guide` and `kernel`.
      guide: Flash image.
      kernel: Blur kernel.

    Returns:
      A case with its reference.

    Raises:
      InputError: If the task cannot degrade the image.

    Example:
      >>> import jax, numpy as np
      >>> task = TaskConfig(name="inpaint", known_fraction=0.25)
      >>> case = simulate_case(jax.random.key(0), task, "photo", np.ones((40, 40, 1), np.float32))
      >>> case.problem.measurement.shape, 0.2 < case.problem.measurement.mean() < 0.3
      ((40, 40, 1), Array(True, dtype=bool))
    """
    if reference.ndim != 3 or not np.isfinite(reference).all():
        raise InputError(f"A clean image must be finite [H, W, C], got {reference.shape}.")
    task, side_inputs = task_of(config), SideInputs(mask=mask, guide=guide, kernel=kernel)
    if task.target is not None:
        raise InputError(f"{task.name} takes no image: its settings determine the measurement.")
    noise_key, side_key = jax.random.split(key)
    if task.draw is not None:
        side_inputs = task.draw(side_key, config, reference.shape, side_inputs)
    if task.degrade is not None:
        y, side_inputs = task.degrade(config, reference, side_inputs)
    else:
        operator = build_operator(config, reference.shape, side_inputs)
        y = np.asarray(jax.jit(lambda x: measure(operator, x))(jnp.asarray(reference)))
    y, noise_std = _add_noise(noise_key, config, y)
    case = build_case(config, name, y, shape=reference.shape, **side_inputs._asdict())
    problem = case.problem._replace(noise_std=jnp.float32(noise_std))
    return case._replace(problem=problem, reference=reference)


def _add_noise(key: Array, config: TaskConfig, y: np.ndarray) -> tuple[np.ndarray, float]:
    """The measurement with noise, and the `noise_std` of its problem; NaN if that has no meaning."""
    task, noise_std = task_of(config), config.noise_std
    if task.noise_std is None:
        return y, math.nan
    if noise_std is None:
        noise_std = task.noise_std if config.noise == "gaussian" else 0.0
    first_key, second_key = jax.random.split(key)
    if config.noise == "salt_and_pepper":
        shape = (*y.shape[:-1], 1)
        hit = np.asarray(jax.random.bernoulli(first_key, config.salt_fraction, shape))
        white = np.asarray(jax.random.bernoulli(second_key, 0.5, shape))
        return np.where(hit, white.astype(y.dtype), y), math.nan
    if config.noise in ("poisson", "poisson_gauss"):
        if np.iscomplexobj(y):
            raise InputError(
                "Poisson noise needs a real measurement, got a complex one; use task.noise=gaussian."
            )
        # jax.random.poisson would compile for seconds for each shape.
        rng = np.random.default_rng(np.asarray(jax.random.key_data(second_key)))
        y = (rng.poisson(config.peak * np.maximum(y, 0)) / config.peak).astype(np.float32)
        if config.noise == "poisson":
            return y, noise_std
    if not noise_std:
        return y, noise_std
    # `key`, not `first_key`, so that the noise is the same as in earlier versions.
    noise = np.asarray(jax.random.normal(key, y.shape))
    if np.iscomplexobj(y):
        noise = (noise + 1j * np.asarray(jax.random.normal(second_key, y.shape))) / math.sqrt(2)
    y = (y + np.float32(noise_std) * noise).astype(y.dtype)
    if config.noise == "gaussian" and task.measurement == "image":
        y = np.clip(y, 0, 1)
    return y, noise_std
