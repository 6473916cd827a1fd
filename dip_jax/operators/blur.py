"""Blur by a known point spread, and the kernels that a simulation draws.

A kernel is `[p, q]`, its center at `[p // 2, q // 2]`; every channel is blurred alike.
"""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy.fft import next_fast_len

from dip_jax.base import Array, InputError

Boundary = Literal["reflect", "circular"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Blur:
    """(A x)[i, j] = sum_{a, b} kernel[a, b] x[i + p // 2 - a, j + q // 2 - b], a true convolution.

    The result has the size of the picture. It is computed by FFT, so that the size of the kernel costs
    nothing, neither here nor in the gradient.
    """

    kernel: Array
    """`[p, q]`, of any size, odd or even, that fits into the picture."""
    boundary: Boundary = dataclasses.field(default="reflect", metadata={"static": True})
    """Beyond the border: `reflect` (the border pixel is not repeated; scipy's `mirror`) or `circular`
    (the picture again; scipy's `wrap`)."""
    is_linear: ClassVar[bool] = True

    def __call__(self, image: Array) -> Array:
        """Blurs `image`: `[H, W, C] -> [H, W, C]`.

        Raises:
          InputError: If the kernel does not fit into the picture.
        """
        (height, width, _), (p, q) = image.shape, self.kernel.shape
        if self.boundary not in ("reflect", "circular"):
            raise InputError(f"boundary must be reflect or circular, came {self.boundary!r}.")
        if p > height or q > width:
            raise InputError(
                f"A blur needs a kernel that fits into the picture; the kernel is {p} x {q}, the picture "
                f"{height} x {width}. Crop the kernel to where it is not zero, or use a larger picture."
            )
        x = image.transpose(2, 0, 1)  # the transform runs over the last axes without copies
        if self.boundary == "circular":
            y = _convolve(x, self.kernel, (height, width))
            return jnp.roll(y, (-(p // 2), -(q // 2)), axis=(1, 2)).transpose(1, 2, 0)
        rows, columns = (p - 1 - p // 2, p // 2), (q - 1 - q // 2, q // 2)
        x = jnp.pad(x, ((0, 0), rows, columns), mode="reflect")
        # The first p - 1 rows wrap around; those that remain are the result.
        sides = (next_fast_len(height + p - 1, real=True), next_fast_len(width + q - 1, real=True))
        y = _convolve(x, self.kernel, sides)
        return y[:, p - 1 : p - 1 + height, q - 1 : q - 1 + width].transpose(1, 2, 0)


def _convolve(x: Array, kernel: Array, sides: tuple[int, int]) -> Array:
    """Circular convolution of each `x[c]` with `kernel`, both filled up with zeros to `sides`."""
    spectrum = jnp.fft.rfft2(kernel, sides)
    return jnp.fft.irfft2(jnp.fft.rfft2(x, sides) * spectrum[None], sides)


def gaussian_kernel(std: float) -> np.ndarray:
    """A Gaussian, cut off where `scipy.ndimage.gaussian_filter` cuts it.

    kernel[a, b] ~ exp(-((a - r)^2 + (b - r)^2) / (2 std^2)), r = floor(4 std + 1/2), sum 1.

    Args:
      std: Standard deviation in pixels.

    Returns:
      `[2 r + 1, 2 r + 1]` float32.

    Raises:
      InputError: If `std` is not positive.
    """
    if not (np.isfinite(std) and std > 0):
        raise InputError(f"The std of a Gaussian kernel must be a positive number, came {std}.")
    radius = int(4 * std + 0.5)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / std) ** 2)
    taps /= taps.sum()
    return np.outer(taps, taps).astype(np.float32)


def motion_kernel(length: float, angle: float) -> np.ndarray:
    """A straight, even motion: a line of `length` pixels, anti-aliased.

    kernel[a, b] ~ max(0, 1 - d), d the distance of the pixel from the segment of length `length - 1`
    through the center; sum 1. A length of 1 is no motion; along an axis, an odd whole length is a mean of so
    many pixels.

    Args:
      length: In pixels, at least 1.
      angle: In degrees, counter-clockwise from the right.

    Returns:
      `[p, q]` float32, p and q odd and as small as possible.

    Raises:
      InputError: If `length` is below 1, or one of the two is not finite.

    References:
      MATLAB, Image Processing Toolbox, `fspecial("motion", length, angle)`.
    """
    if not (np.isfinite(length) and length >= 1 and np.isfinite(angle)):
        raise InputError(
            "A motion kernel needs a length of at least 1 pixel and an angle in degrees, came "
            f"length {length} and angle {angle}."
        )
    half = (length - 1) / 2
    # Rounded, so that sin(180 degrees) is zero; rows run downwards.
    row, column = np.round([-np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))], 9)
    radii = [int(np.ceil(half * abs(direction))) for direction in (row, column)]
    i, j = np.mgrid[-radii[0] : radii[0] + 1, -radii[1] : radii[1] + 1]
    along = np.clip(i * row + j * column, -half, half)
    distance = np.hypot(i - along * row, j - along * column)
    kernel = np.maximum(0, 1 - distance)
    return (kernel / kernel.sum()).astype(np.float32)


def check_kernel(kernel: np.ndarray, *, normalize: bool = False) -> np.ndarray:
    """Refuses a kernel that cannot be a point spread.

    Args:
      kernel: `[p, q]`.
      normalize: Scale it to sum 1; otherwise its sum must be 1 within 0.001.

    Returns:
      The kernel, float32.

    Raises:
      InputError: If it is not a finite array `[p, q]`, or its sum is not positive or not 1.
    """
    kernel = np.asarray(kernel)
    if kernel.ndim != 2 or kernel.size == 0 or not np.issubdtype(kernel.dtype, np.number):
        raise InputError(
            f"A blur kernel must be numbers [p, q], came {kernel.dtype} {list(kernel.shape)}."
        )
    if np.iscomplexobj(kernel):
        raise InputError(f"A blur kernel must be real, came {kernel.dtype}.")
    kernel = kernel.astype(np.float64)
    bad = int(np.sum(~np.isfinite(kernel)))
    if bad:
        raise InputError(f"The blur kernel has {bad} values of {kernel.size} that are not finite.")
    total = float(kernel.sum())
    if total <= 0:
        raise InputError(
            f"The sum of the blur kernel must be 1, came {total:.6g}; it cannot be scaled to 1. "
            "Give a kernel that keeps the brightness."
        )
    if normalize:
        kernel = kernel / total
    elif abs(total - 1) > 1e-3:
        raise InputError(
            f"The sum of the blur kernel must be 1 within 0.001, came {total:.6g}, which would change "
            "the brightness. To scale it to 1: --set task.normalize_kernel=true."
        )
    return kernel.astype(np.float32)
