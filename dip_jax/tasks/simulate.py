"""Simulated degradation: from a clean image to a `Case` with its reference.

The operator of the task makes the measurement, with two exceptions. For super-resolution, Pillow's Lanczos filter
makes the small image in 8 bits, as in 2018, so the operator does not match the degradation exactly. For dejpeg, a JPEG
encoder makes the file.
"""

import io
import math
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from dip_jax.base import Array, Case
from dip_jax.config import TASKS, TaskConfig
from dip_jax.errors import InputError
from dip_jax.fields import require_choice
from dip_jax.images.jpeg_file import read_jpeg
from dip_jax.operators.checks import check_operator
from dip_jax.operators.sensing import RandomMatrix, random_frequencies, random_matrix
from dip_jax.tasks.cases import SideInputs, build_case, build_operator

DEFAULT_NOISE_STD = {"denoise": 25 / 255, "flash": 25 / 255, "deblur": 2 / 255}
"""Standard deviation of Gaussian noise if the config states none, in [0, 1] units; 0 for the other tasks."""


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
    require_choice("task", config.name, TASKS)
    if reference.ndim != 3 or not np.isfinite(reference).all():
        raise InputError(f"A clean image must be finite [H, W, C], got {reference.shape}.")
    if config.name == "demosaic" and reference.shape[2] != 3:
        raise InputError(
            f"{config.name} needs a clean image in color, got {reference.shape[2]} channel."
        )
    noise_key, side_key = jax.random.split(key)
    side_inputs = SideInputs(mask=mask, guide=guide, kernel=kernel)
    side_inputs = _draw_side_inputs(side_key, config, reference.shape, side_inputs)
    y, side_inputs = _measure(config, reference, side_inputs)
    y, noise_std = _add_noise(noise_key, config, y)
    case = build_case(config, name, y, shape=reference.shape, **side_inputs._asdict())
    problem = case.problem._replace(noise_std=jnp.float32(noise_std))
    return case._replace(problem=problem, reference=reference)


def _draw_side_inputs(
    key: Array, config: TaskConfig, shape: tuple[int, int, int], side_inputs: SideInputs
) -> SideInputs:
    """Adds the random mask or matrix of the task."""
    height, width, channels = shape
    if config.name == "inpaint" and side_inputs.mask is None:
        known = jax.random.bernoulli(key, config.known_fraction, (height, width))
        return side_inputs._replace(mask=np.asarray(known))
    if config.name == "compressed_sensing" and config.sensing == "gaussian":
        count = max(1, round(config.known_fraction * height * width * channels))
        return side_inputs._replace(operator=RandomMatrix(random_matrix(key, count, shape)))
    if config.name == "compressed_sensing" and side_inputs.mask is None:
        frequencies = random_frequencies(key, (height, width), config.known_fraction)
        return side_inputs._replace(mask=np.asarray(frequencies))
    return side_inputs


def _measure(
    config: TaskConfig, reference: np.ndarray, side_inputs: SideInputs
) -> tuple[np.ndarray, SideInputs]:
    """The measurement without noise, and the side inputs; dejpeg adds its file."""
    if config.name == "dejpeg":
        return _compress(config, reference, side_inputs)
    if config.name == "super_resolve":
        return _shrink(reference, config.factor), side_inputs
    operator = build_operator(config, reference.shape, side_inputs)
    if config.name == "custom":
        check_operator(operator, reference.shape)
    return np.asarray(jax.jit(lambda x: operator(x))(jnp.asarray(reference))), side_inputs


def _compress(
    config: TaskConfig, image: np.ndarray, side_inputs: SideInputs
) -> tuple[np.ndarray, SideInputs]:
    """The decoded image of a JPEG file, and the side inputs with the file."""
    channels = _eight_bit_channels(image)
    merged = channels[0] if len(channels) == 1 else Image.merge("RGB", channels)
    file = io.BytesIO()
    merged.save(file, "JPEG", quality=config.quality)
    decoded = np.asarray(Image.open(file)).reshape(image.shape).astype(np.float32) / 255
    if config.jpeg == "decoded":
        return decoded, side_inputs
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "simulated.jpg"
        path.write_bytes(file.getvalue())
        return decoded, side_inputs._replace(jpeg=read_jpeg(path))


def _shrink(image: np.ndarray, factor: int) -> np.ndarray:
    """The image reduced by Pillow's Lanczos filter in 8 bits, `[ceil(H / f), ceil(W / f), C]`."""
    height, width, _ = image.shape
    margins = [(0, -height % factor), (0, -width % factor), (0, 0)]
    image = np.pad(image, margins, mode="edge")
    size = image.shape[1] // factor, image.shape[0] // factor
    small = [c.resize(size, Image.Resampling.LANCZOS) for c in _eight_bit_channels(image)]
    return np.stack([np.asarray(c) for c in small], axis=-1).astype(np.float32) / 255


def _eight_bit_channels(image: np.ndarray) -> list[Image.Image]:
    """Each channel as an 8-bit image."""
    stored = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return [Image.fromarray(stored[..., c]) for c in range(image.shape[-1])]


def _add_noise(key: Array, config: TaskConfig, y: np.ndarray) -> tuple[np.ndarray, float]:
    """The measurement with noise, and the `noise_std` of its problem; NaN if that has no meaning."""
    if config.name == "dejpeg":  # a JPEG file has quantization, not noise
        return y, math.nan
    noise_std = config.noise_std
    if noise_std is None:
        noise_std = DEFAULT_NOISE_STD.get(config.name, 0.0) if config.noise == "gaussian" else 0.0
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
    if config.noise == "gaussian" and config.name not in ("ct", "compressed_sensing", "custom"):
        y = np.clip(y, 0, 1)
    return y, noise_std
