"""Super-resolution: the measurement is the image at a fraction of its size."""

import numpy as np
from PIL import Image

from dip_jax.base import Problem
from dip_jax.config import TaskConfig
from dip_jax.operators.downsample import Downsample
from dip_jax.tasks.baselines import upsample_bicubic
from dip_jax.tasks.eight_bits import eight_bit_channels
from dip_jax.tasks.task import Measured, Preview, Shape, SideInputs, Task


def _preview(
    config: TaskConfig, measurement: np.ndarray, problem: Problem, shape: Shape
) -> Preview:
    return upsample_bicubic(measurement, config.factor, shape), "bicubic"


def _degrade(config: TaskConfig, reference: np.ndarray, side_inputs: SideInputs) -> Measured:
    """The image reduced by Pillow's Lanczos filter in 8 bits, `[ceil(H / f), ceil(W / f), C]`."""
    factor, (height, width, _) = config.factor, reference.shape
    margins = [(0, -height % factor), (0, -width % factor), (0, 0)]
    image = np.pad(reference, margins, mode="edge")
    size = image.shape[1] // factor, image.shape[0] // factor
    small = [c.resize(size, Image.Resampling.LANCZOS) for c in eight_bit_channels(image)]
    return np.stack([np.asarray(c) for c in small], axis=-1).astype(np.float32) / 255, side_inputs


SUPER_RESOLVE = Task(
    "super_resolve",
    settings=("factor", "filter"),
    scale=lambda config: config.factor,
    operator=lambda config, shape, side_inputs: Downsample(config.factor, config.filter),
    operator_class=lambda config: Downsample,
    preview=_preview,
    degrade=_degrade,
)
