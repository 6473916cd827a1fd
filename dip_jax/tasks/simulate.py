"""Simulated damage: from a clean picture to a `Case` with its reference.

The measurement is made by the task's own operator, with two exceptions: as in 2018, a small picture is made
by Pillow's Lanczos filter in 8 bits, so that the model does not know exactly what happened; and a JPEG
is made by an encoder.
"""

import io
import math
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from dip_jax.base import Array, Case, InputError
from dip_jax.config import TASKS, TaskConfig
from dip_jax.fields import require_choice
from dip_jax.images.jpeg_file import read_jpeg
from dip_jax.operators.checks import check_operator
from dip_jax.operators.sensing import RandomMatrix, random_frequencies, random_matrix
from dip_jax.tasks.cases import SideInputs, build_case, build_operator

# Standard deviation where none is given, in [0, 1] units; 0 for the other tasks.
DEFAULT_NOISE_STD = {"denoise": 25 / 255, "flash": 25 / 255, "deblur": 2 / 255}


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
    """Damages a clean picture as the task says.

    y = A x, then noise of the kind `task.noise`:

    * `gaussian`: y + noise_std n, n ~ N(0, 1) (complex where y is), pictures clipped to [0, 1].
    * `poisson`: Poisson(peak y) / peak.
    * `poisson_gauss`: that, plus noise_std n.
    * `salt_and_pepper`: a share `salt_fraction` of the pixels turns black or white.

    Where no mask is given, inpainting keeps `known_fraction` of the pixels at random, the same for all channels,
    and compressed sensing so many frequencies, or makes so many random sums.

    Args:
      key: Random key, consumed.
      config: The task.
      name: The picture's name.
      reference: The clean picture `[H, W, C]`.
      mask: See `tasks.SideInputs`, as for `guide` and `kernel`.
      guide: The flash picture.
      kernel: The point spread.

    Raises:
      InputError: If the picture cannot be damaged so.
    """
    require_choice("task", config.name, TASKS)
    if reference.ndim != 3 or not np.isfinite(reference).all():
        raise InputError(f"A clean picture must be finite [H, W, C], came {reference.shape}.")
    noise_key, aid_key = jax.random.split(key)
    height, width, channels = shape = reference.shape
    if config.name == "demosaic" and channels != 3:
        raise InputError(f"{config.name} needs a clean picture in color, came {channels} channel.")
    aids = SideInputs(mask=mask, guide=guide, kernel=kernel)
    if config.name == "inpaint" and mask is None:
        known = jax.random.bernoulli(aid_key, config.known_fraction, (height, width))
        aids = aids._replace(mask=np.asarray(known))
    if config.name == "compressed_sensing" and config.sensing == "gaussian":
        count = max(1, round(config.known_fraction * height * width * channels))
        aids = aids._replace(operator=RandomMatrix(random_matrix(aid_key, count, shape)))
    elif config.name == "compressed_sensing" and mask is None:
        frequencies = random_frequencies(aid_key, (height, width), config.known_fraction)
        aids = aids._replace(mask=np.asarray(frequencies))

    if config.name == "dejpeg":
        measured, aids = _compress(reference, config, aids)
    elif config.name == "super_resolve":
        measured = _shrink(reference, config.factor)
    else:
        operator = build_operator(config, shape, aids)
        if config.name == "custom":
            check_operator(operator, shape)
        measured = np.asarray(jax.jit(lambda x: operator(x))(jnp.asarray(reference)))
    measured, noise_std = _add_noise(noise_key, config, measured)
    case = build_case(config, name, measured, shape=shape, **aids._asdict())
    problem = case.problem._replace(noise_std=jnp.float32(noise_std))
    return case._replace(problem=problem, reference=reference)


def _add_noise(key: Array, config: TaskConfig, y: np.ndarray) -> tuple[np.ndarray, float]:
    """The measurement with its noise, and what is known of it."""
    if config.name == "dejpeg":  # what a decoder made is exact
        return y, math.nan
    noise_std = config.noise_std
    if noise_std is None:
        noise_std = DEFAULT_NOISE_STD.get(config.name, 0.0) if config.noise == "gaussian" else 0.0
    first, second = jax.random.split(key)
    if config.noise == "salt_and_pepper":
        places = (*y.shape[:-1], 1)
        hit = np.asarray(jax.random.bernoulli(first, config.salt_fraction, places))
        white = np.asarray(jax.random.bernoulli(second, 0.5, places))
        return np.where(hit, white.astype(y.dtype), y), math.nan
    if config.noise in ("poisson", "poisson_gauss"):
        if np.iscomplexobj(y):
            raise InputError("Photons are counted in real numbers, this measurement is complex.")
        # numpy's: jax.random.poisson takes seconds to compile for each shape.
        rng = np.random.default_rng(np.asarray(jax.random.key_data(second)))
        y = (rng.poisson(config.peak * np.maximum(y, 0)) / config.peak).astype(np.float32)
        if config.noise == "poisson":
            return y, noise_std
    if not noise_std:
        return y, noise_std
    # One branch of the key serves pictures as before there were other kinds of noise.
    noise = np.asarray(jax.random.normal(key, y.shape))
    if np.iscomplexobj(y):
        noise = (noise + 1j * np.asarray(jax.random.normal(second, y.shape))) / math.sqrt(2)
    y = (y + np.float32(noise_std) * noise).astype(y.dtype)
    if config.noise == "gaussian" and config.name not in ("ct", "compressed_sensing", "custom"):
        y = np.clip(y, 0, 1)
    return y, noise_std


def _eight_bits(image: np.ndarray) -> list[Image.Image]:
    """Each channel as an 8-bit picture."""
    stored = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return [Image.fromarray(stored[..., c]) for c in range(image.shape[-1])]


def _shrink(image: np.ndarray, factor: int) -> np.ndarray:
    """What Pillow's Lanczos filter makes of a picture in 8 bits, `[ceil(H / f), ceil(W / f), C]`."""
    height, width, _ = image.shape
    margins = [(0, -height % factor), (0, -width % factor), (0, 0)]
    image = np.pad(image, margins, mode="edge")
    size = image.shape[1] // factor, image.shape[0] // factor
    small = [c.resize(size, Image.Resampling.LANCZOS) for c in _eight_bits(image)]
    return np.stack([np.asarray(c) for c in small], axis=-1).astype(np.float32) / 255


def _compress(
    image: np.ndarray, config: TaskConfig, aids: SideInputs
) -> tuple[np.ndarray, SideInputs]:
    """A JPEG of the picture: decoded, and what its file says."""
    channels = _eight_bits(image)
    whole = channels[0] if len(channels) == 1 else Image.merge("RGB", channels)
    file = io.BytesIO()
    whole.save(file, "JPEG", quality=config.quality)
    decoded = np.asarray(Image.open(file)).reshape(image.shape).astype(np.float32) / 255
    if config.jpeg == "decoded":
        return decoded, aids
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "simulated.jpg"
        path.write_bytes(file.getvalue())
        return decoded, aids._replace(jpeg=read_jpeg(path))
