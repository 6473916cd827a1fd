"""Named tasks: from pictures to a `Problem`, all that an estimator may know.

Each task either takes a damaged picture as it is, or simulates the damage on a clean one; the clean
one then goes into the `Case` as reference, never into the `Problem`.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array, Case, InputError, Problem
from dip_jax.config import TaskConfig, require_choice
from dip_jax.operators import Identity, Mask

TASKS = ("denoise", "inpaint", "dejpeg")
DEFAULT_NOISE_STD = 25 / 255


def denoise(image: np.ndarray, noise_std: float | None = None) -> Problem:
    """A noisy picture `[H, W, C]`; `noise_std` in [0, 1] units where it is known."""
    level = math.nan if noise_std is None else noise_std
    return Problem(Identity(), jnp.asarray(image, jnp.float32), jnp.float32(level))


def inpaint(image: np.ndarray, mask: np.ndarray, noise_std: float = 0.0) -> Problem:
    """A picture `[H, W, C]` of which only part is known.

    Args:
      image: The picture; what it holds at missing pixels is never looked at.
      mask: `[H, W]`, 1 where known and 0 where missing.
      noise_std: Noise on the known pixels, in [0, 1] units.

    Raises:
      InputError: If the mask has another size, or knows nothing or everything.
    """
    mask = np.asarray(mask)
    if mask.shape != image.shape[:2]:
        raise InputError(
            f"The mask must have the picture's size {image.shape[:2]}, came {mask.shape}."
        )
    if not mask.any() or mask.all():
        raise InputError(
            f"The mask must have known (1) and missing (0) pixels, came "
            f"{'no known' if not mask.any() else 'no missing'} ones."
        )
    operator = Mask(jnp.asarray(mask[..., None] > 0, jnp.float32))
    measurement = operator(jnp.asarray(image, jnp.float32))
    return Problem(operator, measurement, jnp.float32(noise_std))


def dejpeg(image: np.ndarray) -> Problem:
    """A picture `[H, W, C]` with JPEG artefacts, as the file decodes.

    The decoded file is fitted as if it were noisy and the fit is stopped early (Ulyanov et al. 2018,
    section 3.1); the file's quantisation tables are not used.
    """
    return denoise(image, None)


def build_case(
    config: TaskConfig, name: str, image: np.ndarray, *, mask: np.ndarray | None = None
) -> Case:
    """A real damaged picture as a case without reference.

    Args:
      config: The task and what is known of its noise.
      name: The picture's name; its random numbers follow from it.
      image: `[H, W, C]` in [0, 1].
      mask: `[H, W]`, for `inpaint`.

    Raises:
      InputError: For an unknown task, or a mask that is missing or not wanted.
    """
    require_choice("task", config.name, TASKS)
    _check_image(image)
    if config.name == "inpaint":
        if mask is None:
            raise InputError(
                "inpaint needs to know what is missing: give a mask (white = known), or a reference to "
                "simulate from."
            )
        problem = inpaint(image, mask, config.noise_std or 0.0)
    else:
        _refuse_mask(config, mask)
        known = config.noise_std if config.name == "denoise" else None
        problem = denoise(image, known)
    return Case(name, problem, image.shape)


def simulate_case(
    key: Array,
    config: TaskConfig,
    name: str,
    reference: np.ndarray,
    *,
    mask: np.ndarray | None = None,
) -> Case:
    """Damages a clean picture as the task says.

    denoise: y = clip(x + noise_std n, 0, 1) with n standard normal, 25/255 unless given.
    inpaint: the mask, or where there is none a Bernoulli one that keeps `known_share`; noise, if any,
    as above.

    Args:
      key: Random key, consumed.
      config: The task.
      name: The picture's name.
      reference: The clean picture `[H, W, C]`.
      mask: `[H, W]`, for `inpaint`.

    Raises:
      InputError: For a task that cannot be simulated.
    """
    require_choice("task", config.name, TASKS)
    _check_image(reference)
    noise_key, mask_key = jax.random.split(key)
    if config.name == "dejpeg":
        raise InputError(
            "dejpeg takes a JPEG file as it is (--input); there is nothing to simulate."
        )
    noise_std = config.noise_std
    if noise_std is None:
        noise_std = DEFAULT_NOISE_STD if config.name == "denoise" else 0.0
    noise = np.asarray(jax.random.normal(noise_key, reference.shape))
    noisy = np.clip(reference + np.float32(noise_std) * noise, 0, 1).astype(np.float32)
    if config.name == "denoise":
        _refuse_mask(config, mask)
        return Case(name, denoise(noisy, noise_std), reference.shape, reference)
    if mask is None:
        mask = np.asarray(jax.random.bernoulli(mask_key, config.known_share, reference.shape[:2]))
    problem = inpaint(noisy, mask, noise_std)
    return Case(name, problem, reference.shape, reference)


def paste_known(problem: Problem, image: np.ndarray) -> np.ndarray:
    """Puts the known pixels back into an answer: m y + (1 - m) x. Unchanged for other operators."""
    if not isinstance(problem.operator, Mask):
        return image
    mask = np.asarray(problem.operator.mask)
    return np.where(mask > 0, np.asarray(problem.measurement), image)


def _check_image(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[-1] not in (1, 3):
        raise InputError(f"An image must be [H, W, 1] or [H, W, 3], came {image.shape}.")
    if min(image.shape[:2]) < 33:
        raise InputError(f"An image needs at least 33 pixels a side, came {image.shape[:2]}.")
    if not np.isfinite(image).all():
        raise InputError("An image must be finite, came one with NaN or infinity.")


def _refuse_mask(config: TaskConfig, mask: np.ndarray | None) -> None:
    if mask is not None:
        raise InputError(f"A mask belongs to inpaint, the task is {config.name}.")
