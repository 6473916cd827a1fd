"""Compressed sensing: few frequencies, or few random sums, of a picture."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array, InputError

MAX_ENTRIES = 200_000_000
"""Entries of the largest random matrix that is drawn: 0.8 GB."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SubsampledFourier:
    """A x = mask F x, F the unitary two-dimensional Fourier transform of each channel.

    The measurement is `[H, W, C]` complex64, zero where nothing was measured. The zero frequency is at
    `[0, 0]`, as the transform has it.
    """

    mask: Array
    """`[H, W]`, 1 where a frequency was measured and 0 where it was not."""
    is_linear: ClassVar[bool] = True

    def __call__(self, image: Array) -> Array:
        """Measures `image` `[H, W, C]`; InputError if the mask has another size."""
        if image.shape[:2] != self.mask.shape:
            raise InputError(
                f"The mask of frequencies is {list(self.mask.shape)}, so the picture must be of that "
                f"size; came {list(image.shape[:2])}."
            )
        return jnp.fft.fft2(image, axes=(0, 1), norm="ortho") * self.mask[..., None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RandomMatrix:
    """A x = matrix x, the picture as one vector: `[H, W, C] -> [m]`."""

    matrix: Array
    """`[m, H * W * C]`; see `random_matrix`."""
    is_linear: ClassVar[bool] = True

    def __call__(self, image: Array) -> Array:
        """Measures `image`; InputError if the matrix is for another number of values."""
        if image.size != self.matrix.shape[1]:
            raise InputError(
                f"The matrix is for {self.matrix.shape[1]} values, but the picture "
                f"{list(image.shape)} has {image.size}."
            )
        # A GPU would round the factors to 10 bits.
        return jnp.matmul(self.matrix, image.reshape(-1), precision="highest")


def random_matrix(key: Array, num_measurements: int, shape: tuple[int, int, int]) -> Array:
    """Independent normal entries of mean 0 and variance 1 / m, so that |A x| = |x| on average.

    Args:
      key: Random key.
      num_measurements: m.
      shape: `(H, W, C)` of the image.

    Returns:
      `[m, H * W * C]` float32.

    Raises:
      InputError: If m is below 1, or the matrix has more than `MAX_ENTRIES` entries.

    References:
      Candes and Tao, Near-Optimal Signal Recovery From Random Projections, 2006.
    """
    if num_measurements < 1:
        raise InputError(f"At least 1 measurement is needed, came {num_measurements}.")
    num_values = int(np.prod(shape))
    if num_measurements * num_values > MAX_ENTRIES:
        raise InputError(
            f"A random matrix for {num_measurements} measurements of {num_values} values needs "
            f"{4e-9 * num_measurements * num_values:.1f} GB (at most {4e-9 * MAX_ENTRIES:.1f}); use a "
            "smaller picture, fewer measurements or task.sensing=fourier."
        )
    entries = jax.random.normal(key, (num_measurements, num_values), jnp.float32)
    return entries / np.float32(np.sqrt(num_measurements))


def random_frequencies(key: Array, shape: tuple[int, ...], fraction: float) -> np.ndarray:
    """Which frequencies to measure: the lowest for certain, higher ones more and more rarely.

    A quarter of the measurements are the lowest frequencies. The others are drawn without replacement
    with weights (1 - r)^3, r the distance from the zero frequency in units of the largest.

    Args:
      key: Random key.
      shape: `(H, W)`, or `(H, W, C)` whose channels are measured alike.
      fraction: Share of the frequencies to measure, in (0, 1].

    Returns:
      `[H, W]` float32 with round(fraction H W) ones (at least one), the zero frequency at `[0, 0]`.

    Raises:
      InputError: If `fraction` is not in (0, 1].

    References:
      Lustig, Donoho and Pauly, Sparse MRI, 2007, section "Incoherent sampling" (variable density).
    """
    if not 0 < fraction <= 1:
        raise InputError(
            f"The fraction of measured frequencies must be in (0, 1], came {fraction}."
        )
    height, width = shape[:2]
    count = max(1, round(fraction * height * width))
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]).ravel()
    by_radius = np.argsort(radius, kind="stable")
    core, others = np.split(by_radius, [-(-count // 4)])
    # The largest of log weight + Gumbel noise are a draw without replacement.
    weights = (1 - radius[others] / max(radius.max(), 1e-30)) ** 3
    noise = np.asarray(jax.random.gumbel(key, radius.shape), np.float64)
    scores = np.log(np.maximum(weights, 1e-12)) + noise[others]
    drawn = others[np.argsort(-scores, kind="stable")[: count - len(core)]]
    mask = np.zeros(height * width, np.float32)
    mask[core] = mask[drawn] = 1
    return mask.reshape(height, width)
