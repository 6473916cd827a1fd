"""Tomography: the sums of an image along parallel lines in several directions.

Geometry and values are those of `skimage.transform.radon(image, angles, circle=False)`: at each angle the image
is rotated about its pixel `[N // 2, N // 2]` with bilinear interpolation, and its columns are summed. The detector
is as long as the diagonal, so it sees the whole image at every angle.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dip_jax.base import Array
from dip_jax.errors import InputError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Radon:
    """A x = the sinogram of a square image: `[N, N, C] -> [P, num_angles, C]`, P = ceil(sqrt(2) N).

    The angles are equally spaced in [0, 180) degrees. A value is a sum over pixels. The center of the detector
    is at index P // 2.

    References:
      Kak and Slaney, Principles of Computerized Tomographic Imaging, 1988, section 3.1.

    Example:
      >>> import jax.numpy as jnp
      >>> image = jnp.array([[1.0, 2.0], [3.0, 4.0]])[..., None]
      >>> Radon(1)(image).ravel().tolist()  # the sums of the columns, in a detector of 3 pixels
      [4.0, 6.0, 0.0]
    """

    num_angles: int = dataclasses.field(metadata={"static": True})
    """Number of angles in 180 degrees."""
    is_linear: ClassVar[bool] = True

    def __call__(self, image: Array) -> Array:
        """Measures `image`.

        Raises:
          InputError: If the image is not square or there is no angle.
        """
        if image.ndim != 3 or image.shape[0] != image.shape[1]:
            raise InputError(
                f"Tomography needs a square image [N, N, C], got {list(image.shape)}; crop it or pad "
                "it with zeros."
            )
        if self.num_angles < 1:
            raise InputError(f"Tomography needs at least 1 angle, got {self.num_angles}.")
        return _project(image, image.shape[0], self.num_angles)


def num_detectors(side: int) -> int:
    """Values per angle of an image `[side, side]`: its diagonal, rounded up.

    Example:
      >>> num_detectors(100)
      142
    """
    return int(np.ceil(np.sqrt(2) * side))


# The automatic transpose would scatter each interpolated value. At one angle, however, a pixel touches at most
# three detectors, so the hand-written transpose gathers too.
@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _project(image: Array, side: int, num_angles: int) -> Array:
    """The sinogram `[P, num_angles, C]` of an image `[side, side, C]`.

    With r, c, i, j counted from the center, point (r, c) of the rotated image lies at row i = r cos - c sin and
    column j = r sin + c cos of the image.
    """
    detectors = num_detectors(side)
    # With a frame of zeros every point beyond the image reads zero. `squares` holds each pixel with its
    # neighbors to the right and below, so that one read gives four values.
    width = side + 2
    framed = jnp.pad(image, ((1, 2), (1, 2), (0, 0)))
    corners = [framed[a : a + width, b : b + width] for a in (0, 1) for b in (0, 1)]
    squares = jnp.stack(corners, axis=2).reshape(width * width, 4, image.shape[2])
    centered = jnp.arange(detectors, dtype=jnp.float32) - detectors // 2
    r, c = centered[:, None], centered[None, :]

    def project_angle(direction: Array) -> Array:
        cos, sin = direction
        i, j = (
            jnp.clip(position + (side // 2 + 1), 0, side + 1)
            for position in (cos * r - sin * c, sin * r + cos * c)
        )
        above, left = _fix(jnp.floor(i), jnp.floor(j))
        weights = [_tent(i - above - a) * _tent(j - left - b) for a in (0, 1) for b in (0, 1)]
        index = above.astype(jnp.int32) * width + left.astype(jnp.int32)
        values = squares.at[index].get(mode="promise_in_bounds")
        return (jnp.stack(weights, axis=-1)[..., None] * values).sum(axis=(0, 2))

    return lax.map(project_angle, _directions(num_angles)).swapaxes(0, 1)


def _project_forward(image: Array, side: int, num_angles: int) -> tuple[Array, None]:
    return _project(image, side, num_angles), None


def _project_backward(side: int, num_angles: int, _: None, dy: Array) -> tuple[Array]:
    """Back projection, the exact transpose: each pixel gathers from the detectors that it touches."""
    detectors, center = num_detectors(side), num_detectors(side) // 2
    centered = jnp.arange(side, dtype=jnp.float32) - side // 2
    i, j = centered[:, None], centered[None, :]
    margin = 3  # a corner's neighbors may lie beyond the detector, where they read zero
    sinogram = jnp.pad(dy, ((margin, margin), (0, 0), (0, 0))).swapaxes(0, 1)

    def add_angle(image: Array, angle: tuple[Array, Array]) -> tuple[Array, None]:
        (cos, sin), values = angle
        # The point of the rotated image that lies on the pixel, rounded to the nearest grid point.
        row, column = _fix(jnp.round(cos * i + sin * j), jnp.round(cos * j - sin * i))
        for dc in (-1, 0, 1):
            c = column + dc
            weight = jnp.zeros_like(c)
            for dr in (-1, 0, 1):
                r = row + dr
                is_inside = (r >= -center) & (r < detectors - center)
                overlap = _tent(cos * r - sin * c - i) * _tent(sin * r + cos * c - j)
                weight += jnp.where(is_inside, overlap, 0)
            index = c.astype(jnp.int32) + (center + margin)
            image += weight[..., None] * values.at[index].get(mode="promise_in_bounds")
        return image, None

    start = jnp.zeros((side, side, dy.shape[2]), dy.dtype)
    return (lax.scan(add_angle, start, (_directions(num_angles), sinogram))[0],)


_project.defvjp(_project_forward, _project_backward)


def _directions(num_angles: int) -> Array:
    """`[num_angles, 2]`: cosine and sine of each angle, computed in float64 and rounded once."""
    angles = np.pi * np.arange(num_angles) / num_angles
    return jnp.asarray(np.stack([np.cos(angles), np.sin(angles)], axis=-1), jnp.float32)


def _tent(distance: Array) -> Array:
    """The weight of a pixel at a distance in bilinear interpolation."""
    return jnp.maximum(0, 1 - jnp.abs(distance))


def _fix(*rounded: Array) -> list[Array]:
    """Keeps XLA from recomputing a rounded value at each use, possibly with another result."""
    return lax.optimization_barrier(list(rounded))
