"""The steps of JPEG between pixels and cosine coefficients: components, chroma subsampling, transform.

One unit everywhere: a pixel of 1 is 255 gray levels, and so is a coefficient, because the transform is orthonormal
(as is that of T.81).

References:
  ITU-T T.81, 1992, Annex A (components, transform).
  JFIF 1.02 (Y = 0.299 R + 0.587 G + 0.114 B, chroma about 128).
  The Independent JPEG Group's libjpeg (margins and chroma filters, which the standard leaves open).
"""

import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array
from dip_jax.errors import InputError
from dip_jax.images.jpeg_file import SUBSAMPLINGS

LEVEL_SHIFT = 128 / 255
"""The value that the encoder subtracts from luma before the transform."""

_TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.299, -0.587, 0.886], [0.701, -0.587, -0.114]]
) / np.array([[1], [1.772], [1.402]])
_FROM_YCC = np.linalg.inv(_TO_YCC)
_FREQUENCY, _POSITION = np.mgrid[0:8, 0:8]
_DCT = np.cos(np.pi * _FREQUENCY * (2 * _POSITION + 1) / 16) * np.where(_FREQUENCY, 0.5, 8**-0.5)


def chroma_ratio(subsampling: str) -> tuple[int, int]:
    """Luma rows and columns per chroma value.

    Raises:
      InputError: If the subsampling is not one of `SUBSAMPLINGS`.

    Example:
      >>> chroma_ratio("4:2:2")
      (1, 2)
    """
    if subsampling not in SUBSAMPLINGS:
        raise InputError(
            f"JPEG subsampling must be one of {', '.join(SUBSAMPLINGS)}, got {subsampling!r}."
        )
    return SUBSAMPLINGS[subsampling]


def to_planes(image: Array, ratio: tuple[int, int]) -> list[Array]:
    """The components of an image `[H, W, C]`, luma first; without level shift, so the map is linear.

    Args:
      image: `[H, W, 1]` or `[H, W, 3]`.
      ratio: Luma rows and columns per chroma value.

    Returns:
      Planes `[rows, columns]` whose sides are multiples of 8.
    """
    if image.shape[-1] == 1:
        return [_shrink(image[..., 0], (1, 1))]
    components = jnp.einsum("kc,hwc->khw", _constant(_TO_YCC), image, precision="highest")
    return [_shrink(components[k], ratio if k else (1, 1)) for k in range(3)]


def from_planes(planes: list[Array]) -> Array:
    """The image `[H, W, C]` of components `[H, W]`."""
    if len(planes) == 1:
        return planes[0][..., None]
    return jnp.einsum("ck,khw->hwc", _constant(_FROM_YCC), jnp.stack(planes), precision="highest")


def upsample_chroma(plane: Array, axis: int) -> Array:
    """Twice as many values along `axis`: each has 3/4 of its own value and 1/4 of the nearest other one.

    Example:
      >>> import jax.numpy as jnp
      >>> upsample_chroma(jnp.array([[0.0, 4.0]]), axis=1).tolist()
      [[0.0, 1.0, 3.0, 4.0]]
    """
    plane = jnp.moveaxis(plane, axis, 0)
    around = jnp.pad(plane, [(1, 1), (0, 0)], mode="edge")
    pairs = jnp.stack([3 * plane + around[:-2], 3 * plane + around[2:]], axis=1) / 4
    return jnp.moveaxis(pairs.reshape(-1, plane.shape[1]), 0, axis)


def to_coefficients(plane: Array) -> Array:
    """The cosine transform of all 8x8 blocks: `[8 a, 8 b]` -> `[a, b, 8, 8]`."""
    rows, columns = plane.shape
    blocks = plane.reshape(rows // 8, 8, columns // 8, 8)
    dct = _constant(_DCT)
    return jnp.einsum("ui,aibj,vj->abuv", dct, blocks, dct, precision="highest")


def from_coefficients(coefficients: Array) -> Array:
    """The inverse of `to_coefficients`."""
    a, b, _, _ = coefficients.shape
    dct = _constant(_DCT)
    blocks = jnp.einsum("ui,abuv,vj->aibj", dct, coefficients, dct, precision="highest")
    return blocks.reshape(8 * a, 8 * b)


def _shrink(plane: Array, ratio: tuple[int, int]) -> Array:
    """Means over `ratio` pixels, extended to whole blocks.

    As in libjpeg, columns are repeated before the mean is taken and rows after it.
    """
    v, h = ratio
    rows, columns = plane.shape
    plane = jnp.pad(plane, [(0, -rows % v), (0, -columns % (8 * h))], mode="edge")
    if ratio != (1, 1):
        plane = plane.reshape(plane.shape[0] // v, v, plane.shape[1] // h, h).mean(axis=(1, 3))
    return jnp.pad(plane, [(0, -plane.shape[0] % 8), (0, 0)], mode="edge")


def _constant(matrix: np.ndarray) -> Array:
    return jnp.asarray(matrix, jnp.float32)
