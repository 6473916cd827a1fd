"""Blur by a known kernel, and the kernels of the simulations.

A kernel is `[p, q]` with its center at `[p // 2, q // 2]`. It blurs every channel.
"""

import dataclasses
from typing import ClassVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
from scipy.fft import next_fast_len

from dip_jax.base import Array
from dip_jax.config import Boundary
from dip_jax.errors import InputError

BOUNDARIES: tuple[Boundary, ...] = get_args(Boundary)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Blur:
    """(A x)[i, j] = sum_{a, b} kernel[a, b] x[i + p // 2 - a, j + q // 2 - b], a true convolution.

    The result has the size of the image. It is computed by FFT, so the cost of A and of its gradient hardly
    depends on the size of the kernel.

    Example:
      >>> import jax.numpy as jnp
      >>> image = jnp.array([0.0, 0.0, 4.0, 0.0, 0.0])[None, :, None]
      >>> kernel = jnp.array([[0.25, 0.5, 0.25]])
      >>> jnp.rint(Blur(kernel)(image)).astype(int).ravel().tolist()
      [0, 1, 2, 1, 0]
    """

    kernel: Array
    """`[p, q]`, with odd or even sides, at most those of the image."""
    boundary: Boundary = dataclasses.field(default="reflect", metadata={"static": True})
    """Values beyond the border: `reflect` mirrors the image without repeating the border pixel (scipy's
    `mirror`), `circular` repeats the image (scipy's `wrap`)."""
    is_linear: ClassVar[bool] = True

    def __call__(self, image: Array) -> Array:
        """Blurs `image`: `[H, W, C] -> [H, W, C]`.

        Raises:
          InputError: If the boundary is unknown or the kernel is larger than the image.
        """
        (height, width, _), (p, q) = image.shape, self.kernel.shape
        if self.boundary not in BOUNDARIES:
            raise InputError(
                f"boundary must be one of {', '.join(BOUNDARIES)}, got {self.boundary!r}."
            )
        if p > height or q > width:
            raise InputError(
                f"A blur kernel must fit into the image; the kernel is {p} x {q}, the image {height} x "
                f"{width}. Remove the zero margin of the kernel, or use a larger image."
            )
        x = image.transpose(2, 0, 1)  # an FFT over the last axes needs no copy
        if self.boundary == "circular":
            y = _convolve(x, self.kernel, (height, width))
            return jnp.roll(y, (-(p // 2), -(q // 2)), axis=(1, 2)).transpose(1, 2, 0)
        rows, columns = (p - 1 - p // 2, p // 2), (q - 1 - q // 2, q // 2)
        x = jnp.pad(x, ((0, 0), rows, columns), mode="reflect")
        # The first p - 1 rows and q - 1 columns wrap around; the others are the result.
        sides = (next_fast_len(height + p - 1, real=True), next_fast_len(width + q - 1, real=True))
        y = _convolve(x, self.kernel, sides)
        return y[:, p - 1 : p - 1 + height, q - 1 : q - 1 + width].transpose(1, 2, 0)


def _convolve(x: Array, kernel: Array, sides: tuple[int, int]) -> Array:
    """Circular convolution of each `x[c]` with `kernel`, both zero-padded to `sides`."""
    spectrum = jnp.fft.rfft2(kernel, sides)
    return jnp.fft.irfft2(jnp.fft.rfft2(x, sides) * spectrum[None], sides)


def gaussian_kernel(std: float) -> np.ndarray:
    """A Gaussian kernel, truncated where `scipy.ndimage.gaussian_filter` truncates it.

    kernel[a, b] ~ exp(-((a - r)^2 + (b - r)^2) / (2 std^2)), r = floor(4 std + 1/2), sum 1.

    Args:
      std: Standard deviation in pixels.

    Returns:
      `[2 r + 1, 2 r + 1]` float32.

    Raises:
      InputError: If `std` is not a positive number.

    Example:
      >>> gaussian_kernel(0.5).shape
      (5, 5)
    """
    if not (np.isfinite(std) and std > 0):
        raise InputError(
            f"The standard deviation of a Gaussian kernel must be positive, got {std}."
        )
    radius = int(4 * std + 0.5)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / std) ** 2)
    taps /= taps.sum()
    return np.outer(taps, taps).astype(np.float32)


def motion_kernel(length: float, angle: float) -> np.ndarray:
    """The kernel of a straight motion at constant speed: an anti-aliased line.

    kernel[a, b] ~ max(0, 1 - d), where d is the distance of the pixel from the segment of length `length - 1`
    through the center; sum 1. Length 1 is no motion. Along an axis, an odd integer length n is the mean of n
    pixels.

    Args:
      length: Length of the line in pixels, at least 1.
      angle: Direction in degrees, counterclockwise from the right.

    Returns:
      `[p, q]` float32; p and q are odd and as small as possible.

    Raises:
      InputError: If `length` is below 1, or `length` or `angle` is not finite.

    References:
      MATLAB, Image Processing Toolbox, `fspecial("motion", length, angle)`.

    Example:
      >>> motion_kernel(4, 0).round(3).tolist()
      [[0.125, 0.25, 0.25, 0.25, 0.125]]
    """
    if not (np.isfinite(length) and length >= 1 and np.isfinite(angle)):
        raise InputError(
            "A motion kernel needs a length of at least 1 pixel and an angle in degrees, got "
            f"length {length} and angle {angle}."
        )
    half = (length - 1) / 2
    # Rounding makes sin(180 degrees) zero. Rows run downwards, hence the minus.
    row, column = np.round([-np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))], 9)
    radii = [int(np.ceil(half * abs(direction))) for direction in (row, column)]
    i, j = np.mgrid[-radii[0] : radii[0] + 1, -radii[1] : radii[1] + 1]
    along = np.clip(i * row + j * column, -half, half)
    distance = np.hypot(i - along * row, j - along * column)
    kernel = np.maximum(0, 1 - distance)
    return (kernel / kernel.sum()).astype(np.float32)


def center_kernel(kernel: np.ndarray, center: tuple[int, int]) -> np.ndarray:
    """Pads a kernel with zeros so that an element of it becomes the center.

    Args:
      kernel: `[p, q]`.
      center: Row and column of the element.

    Raises:
      InputError: If the kernel has no such element.

    Example:
      >>> center_kernel(np.array([[0.25, 0.75]]), (0, 0)).tolist()
      [[0.0, 0.25, 0.75]]
    """
    if any(c >= side for c, side in zip(center, kernel.shape, strict=True)):
        raise InputError(
            f"The center of the kernel must be one of its elements, {list(kernel.shape)}, got {list(center)}."
        )
    halves = [max(c, side - 1 - c) for c, side in zip(center, kernel.shape, strict=True)]
    before = [half - c for half, c in zip(halves, center, strict=True)]
    sizes = [
        (b, 2 * half + 1 - side - b)
        for b, half, side in zip(before, halves, kernel.shape, strict=True)
    ]
    return np.pad(kernel, sizes)


def check_kernel(kernel: np.ndarray, *, normalize: bool = False) -> np.ndarray:
    """Returns a kernel as float32 if it can be a blur kernel.

    Args:
      kernel: `[p, q]`.
      normalize: Whether to scale it to sum 1; otherwise its sum must be 1 within 0.001.

    Returns:
      The kernel, `[p, q]` float32.

    Raises:
      InputError: If it is not a finite real array `[p, q]`, or its sum is not positive or not 1.

    Example:
      >>> check_kernel([[1, 3]], normalize=True).tolist()
      [[0.25, 0.75]]
    """
    kernel = np.asarray(kernel)
    if kernel.ndim != 2 or kernel.size == 0 or not np.issubdtype(kernel.dtype, np.number):
        raise InputError(
            f"A blur kernel must be an array of numbers [p, q], got {kernel.dtype} {list(kernel.shape)}."
        )
    if np.iscomplexobj(kernel):
        raise InputError(f"A blur kernel must be real, got {kernel.dtype}.")
    kernel = kernel.astype(np.float64)
    bad = int(np.sum(~np.isfinite(kernel)))
    if bad:
        raise InputError(f"The blur kernel has {bad} values of {kernel.size} that are not finite.")
    total = float(kernel.sum())
    if total <= 0:
        raise InputError(
            f"The sum of the blur kernel must be 1, got {total:.6g}, which cannot be scaled to 1. "
            "Give a kernel that keeps the brightness."
        )
    if normalize:
        kernel = kernel / total
    elif abs(total - 1) > 1e-3:
        raise InputError(
            f"The sum of the blur kernel must be 1 within 0.001, got {total:.6g}, which would change "
            "the brightness. To scale it to 1: --set task.normalize_kernel=true."
        )
    return kernel.astype(np.float32)
