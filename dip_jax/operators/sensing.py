"""Compressed sensing: few frequencies, or few random sums, of an image."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array
from dip_jax.errors import InputError

MAX_ENTRIES = 200_000_000
"""Entries of the largest random matrix that is drawn: 0.8 GB."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SubsampledFourier:
    """A x = mask F x, where F is the unitary two-dimensional Fourier transform of each channel.

    The measurement is `[H, W, C]` complex64, and zero at the frequencies that are not measured. The zero
    frequency is at `[0, 0]`.

    Example:
      >>> import jax.numpy as jnp
      >>> mask = jnp.array([[1.0, 0.0], [0.0, 0.0]])
      >>> SubsampledFourier(mask)(jnp.ones((2, 2, 1)))[..., 0].tolist()
      [[(2+0j), 0j], [0j, 0j]]
    """

    mask: Array
    """`[H, W]`, 1 where a frequency is measured and 0 where it is not."""
    is_linear: ClassVar[bool] = True

    def __call__(self, image: Array) -> Array:
        """Measures `image` `[H, W, C]`.

        Raises:
          InputError: If the mask has another size.
        """
        if image.shape[:2] != self.mask.shape:
            raise InputError(
                f"The frequency mask is {list(self.mask.shape)}, so the image must have that size; got "
                f"{list(image.shape[:2])}."
            )
        return jnp.fft.fft2(image, axes=(0, 1), norm="ortho") * self.mask[..., None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RandomMatrix:
    """A x = matrix x, with the image as one vector: `[H, W, C] -> [m]`.

    Example:
      >>> import jax.numpy as jnp
      >>> RandomMatrix(jnp.array([[1.0, -1.0]]))(jnp.array([[[0.75], [0.5]]])).tolist()
      [0.25]
    """

    matrix: Array
    """`[m, H * W * C]`; see `random_matrix`."""
    is_linear: ClassVar[bool] = True

    def __call__(self, image: Array) -> Array:
        """Measures `image`.

        Raises:
          InputError: If the matrix has another number of columns than the image has values.
        """
        if image.size != self.matrix.shape[1]:
            raise InputError(
                f"The matrix is for {self.matrix.shape[1]} values, but the image {list(image.shape)} has "
                f"{image.size}."
            )
        # Without "highest" a GPU would round the operands to 10 bits.
        return jnp.matmul(self.matrix, image.reshape(-1), precision="highest")


def random_matrix(key: Array, num_measurements: int, shape: tuple[int, int, int]) -> Array:
    """A matrix of independent normal entries of mean 0 and variance 1 / m, so that E |A x|^2 = |x|^2.

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

    Example:
      >>> import jax
      >>> random_matrix(jax.random.key(0), 5, (4, 3, 1)).shape
      (5, 12)
    """
    if num_measurements < 1:
        raise InputError(f"At least 1 measurement is needed, got {num_measurements}.")
    num_values = int(np.prod(shape))
    if num_measurements * num_values > MAX_ENTRIES:
        raise InputError(
            f"A random matrix for {num_measurements} measurements of {num_values} values needs "
            f"{4e-9 * num_measurements * num_values:.1f} GB (at most {4e-9 * MAX_ENTRIES:.1f}); use a "
            "smaller image, fewer measurements or task.sensing=fourier."
        )
    entries = jax.random.normal(key, (num_measurements, num_values), jnp.float32)
    return entries / np.float32(np.sqrt(num_measurements))


def random_frequencies(key: Array, shape: tuple[int, ...], fraction: float) -> np.ndarray:
    """A random choice of frequencies to measure, dense at low and sparse at high frequencies.

    A quarter of the measurements are the lowest frequencies. The others are drawn without replacement with
    weights (1 - r)^3, where r is the distance from the zero frequency in units of the largest distance.

    Args:
      key: Random key.
      shape: `(H, W)` or `(H, W, C)`; all channels share the choice.
      fraction: Fraction of the frequencies to measure, in (0, 1].

    Returns:
      `[H, W]` float32 with round(fraction H W) ones (at least one), the zero frequency at `[0, 0]`.

    Raises:
      InputError: If `fraction` is not in (0, 1].

    References:
      Lustig, Donoho and Pauly, Sparse MRI, 2007, section "Incoherent sampling" (variable density).

    Example:
      >>> import jax
      >>> mask = random_frequencies(jax.random.key(0), (8, 8), 0.25)
      >>> mask.sum().item(), mask[0, 0].item()
      (16.0, 1.0)
    """
    if not 0 < fraction <= 1:
        raise InputError(f"The fraction of measured frequencies must be in (0, 1], got {fraction}.")
    height, width = shape[:2]
    count = max(1, round(fraction * height * width))
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :]).ravel()
    by_radius = np.argsort(radius, kind="stable")
    lowest, others = np.split(by_radius, [-(-count // 4)])
    # The indices with the largest log weight + Gumbel noise are a draw without replacement.
    weights = (1 - radius[others] / max(radius.max(), 1e-30)) ** 3
    noise = np.asarray(jax.random.gumbel(key, radius.shape), np.float64)
    scores = np.log(np.maximum(weights, 1e-12)) + noise[others]
    drawn = others[np.argsort(-scores, kind="stable")[: count - len(lowest)]]
    mask = np.zeros(height * width, np.float32)
    mask[lowest] = mask[drawn] = 1
    return mask.reshape(height, width)
