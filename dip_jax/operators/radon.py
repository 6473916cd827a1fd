"""Tomography: the sums of an image along parallel lines in several directions.

Values are those of `skimage.transform.radon`: at each angle the image is rotated about its pixel `[N // 2, N // 2]`
with bilinear interpolation, and its columns are summed. By default the detector is as long as the diagonal, so it sees
the whole image at every angle (`circle=False`).
"""

import dataclasses
import functools
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dip_jax.base import Array
from dip_jax.errors import InputError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Radon:
    """A x = the sinogram of a square image: `[N, N, C] -> [P, num_angles, C]`.

    A value is a sum over pixels.

    References:
      Kak and Slaney, Principles of Computerized Tomographic Imaging, 1988, section 3.1.

    Example:
      >>> import jax.numpy as jnp
      >>> image = jnp.array([[1.0, 2.0], [3.0, 4.0]])[..., None]
      >>> Radon(1)(image).ravel().tolist()  # the sums of the columns, in a detector of 3 pixels
      [4.0, 6.0, 0.0]
    """

    num_angles: int = dataclasses.field(metadata={"static": True})
    """Number of angles."""
    angles: tuple[float, ...] = dataclasses.field(default=(), metadata={"static": True})
    """The angles in degrees, any; empty for equal spacing in [0, 180)."""
    detectors: int | None = dataclasses.field(default=None, metadata={"static": True})
    """Number P of detectors; None for the diagonal, ceil(sqrt(2) N). With fewer, the corners are not seen."""
    center: float | None = dataclasses.field(default=None, metadata={"static": True})
    """Index of the detector that sees the center of rotation, also between two detectors; None for P // 2."""
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
        if self.num_angles < 1 or len(self.angles) not in (0, self.num_angles):
            raise InputError(
                f"Tomography needs at least 1 angle and as many values as angles, got {self.num_angles} "
                f"angles and {len(self.angles)} values."
            )
        return _project(image, self._geometry(image.shape[0]))

    def directions(self) -> np.ndarray:
        """Returns cosine and sine of each angle, `[num_angles, 2]` float64."""
        angles = np.asarray(self._geometry(1).angles)
        return np.stack([np.cos(angles), np.sin(angles)], axis=-1)

    def detector_center(self, side: int) -> float:
        """Returns the index of the detector that sees the center of an image `[side, side]`."""
        return self._geometry(side).center

    def _geometry(self, side: int) -> "_Geometry":
        detectors = num_detectors(side) if self.detectors is None else self.detectors
        center = float(detectors // 2) if self.center is None else float(self.center)
        angles = np.pi * np.arange(self.num_angles) / self.num_angles
        if self.angles:
            angles = np.deg2rad(self.angles)
        return _Geometry(side, tuple(angles.tolist()), detectors, center)


class _Geometry(NamedTuple):
    side: int
    angles: tuple[float, ...]
    """In radians."""
    detectors: int
    center: float


def num_detectors(side: int) -> int:
    """Values per angle of an image `[side, side]`: its diagonal, rounded up.

    Example:
      >>> num_detectors(100)
      142
    """
    return int(np.ceil(np.sqrt(2) * side))


# The automatic transpose would scatter each interpolated value. At one angle, however, a pixel touches at most
# three detectors, so the hand-written transpose gathers too.
@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _project(image: Array, geometry: _Geometry) -> Array:
    """The sinogram `[P, num_angles, C]` of an image `[side, side, C]`.

    With r, c, i, j counted from the center, point (r, c) of the rotated image lies at row i = r cos - c sin and
    column j = r sin + c cos of the image.
    """
    side = geometry.side
    # With a frame of zeros every point beyond the image reads zero. `squares` holds each pixel with its
    # neighbors to the right and below, so that one read gives four values.
    width = side + 2
    framed = jnp.pad(image, ((1, 2), (1, 2), (0, 0)))
    corners = [framed[a : a + width, b : b + width] for a in (0, 1) for b in (0, 1)]
    squares = jnp.stack(corners, axis=2).reshape(width * width, 4, image.shape[2])
    r = _rows(side)[:, None]
    c = jnp.arange(geometry.detectors, dtype=jnp.float32)[None, :] - geometry.center

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

    return lax.map(project_angle, _directions(geometry.angles)).swapaxes(0, 1)


def _project_forward(image: Array, geometry: _Geometry) -> tuple[Array, None]:
    return _project(image, geometry), None


def _project_backward(geometry: _Geometry, _: None, dy: Array) -> tuple[Array]:
    """Back projection, the exact transpose: each pixel gathers from the detectors that it touches."""
    side, detectors = geometry.side, geometry.detectors
    first, diagonal = -(num_detectors(side) // 2), num_detectors(side)
    whole, fraction = int(geometry.center // 1), geometry.center % 1
    sees_all = detectors >= diagonal and geometry.center == detectors // 2
    centered = jnp.arange(side, dtype=jnp.float32) - side // 2
    i, j = centered[:, None], centered[None, :]
    margin = 3  # a corner's neighbors may lie beyond the detector, where they read zero
    sinogram = jnp.pad(dy, ((margin, margin), (0, 0), (0, 0))).swapaxes(0, 1)

    def add_angle(image: Array, angle: tuple[Array, Array]) -> tuple[Array, None]:
        (cos, sin), values = angle
        x = cos * j - sin * i
        # The point of the rotated image that lies on the pixel, rounded to the nearest grid point.
        row, column = _fix(jnp.round(cos * i + sin * j), jnp.round(x + fraction if fraction else x))
        for dc in (-1, 0, 1):
            k = column + dc  # the detector, counted from the center rounded down
            c = k - fraction if fraction else k
            weight = jnp.zeros_like(c)
            for dr in (-1, 0, 1):
                r = row + dr
                is_inside = (r >= first) & (r < first + diagonal)
                overlap = _tent(cos * r - sin * c - i) * _tent(sin * r + cos * c - j)
                weight += jnp.where(is_inside, overlap, 0)
            index = k.astype(jnp.int32) + (whole + margin)
            if not sees_all:  # beyond the detector, where the margin reads zero
                index = jnp.clip(index, 0, detectors + 2 * margin - 1)
            image += weight[..., None] * values.at[index].get(mode="promise_in_bounds")
        return image, None

    start = jnp.zeros((side, side, dy.shape[2]), dy.dtype)
    return (lax.scan(add_angle, start, (_directions(geometry.angles), sinogram))[0],)


_project.defvjp(_project_forward, _project_backward)


def _rows(side: int) -> Array:
    """The rows of a rotated image, counted from its center: as many as its diagonal."""
    diagonal = num_detectors(side)
    return jnp.arange(diagonal, dtype=jnp.float32) - diagonal // 2


def _directions(angles: tuple[float, ...]) -> Array:
    """`[num_angles, 2]`: cosine and sine of each angle, computed in float64 and rounded once."""
    return jnp.asarray(np.stack([np.cos(angles), np.sin(angles)], axis=-1), jnp.float32)


def _tent(distance: Array) -> Array:
    """The weight of a pixel at a distance in bilinear interpolation."""
    return jnp.maximum(0, 1 - jnp.abs(distance))


def _fix(*rounded: Array) -> list[Array]:
    """Keeps XLA from recomputing a rounded value at each use, possibly with another result."""
    return lax.optimization_barrier(list(rounded))
