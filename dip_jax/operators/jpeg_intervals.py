"""The intervals in which a JPEG file puts the coefficients of the image that was saved.

For each cosine coefficient c a file holds k = round(c / q) with a step q, so |c - q k| <= q / 2, and decoding takes
the center q k. `intervals` gives centers and half widths in the order of `Coefficients`: |A x - y| <= tolerance.
`project` moves an image into the intervals.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array
from dip_jax.images.jpeg_file import JpegFile, recompress, to_file_orientation, to_upright
from dip_jax.operators.jpeg import Coefficients
from dip_jax.operators.jpeg_transform import (
    LEVEL_SHIFT,
    chroma_ratio,
    from_coefficients,
    from_planes,
)

MIN_MATCHING_FRACTION = 0.995
"""With a smaller `matching_fraction`, pixels are not those of the file."""


def coefficients_of(file: JpegFile) -> Coefficients:
    """The operator whose measurements are the coefficients of a file."""
    return Coefficients(file.subsampling, file.orientation)


def intervals(file: JpegFile) -> tuple[np.ndarray, np.ndarray]:
    """Centers and half widths of a file's intervals: |A x - y| <= tolerance for the saved image x.

    The encoder works on integers: it rounds colors and means of chroma to gray levels before the transform. So a
    few coefficients lie outside: 99.9 % are within 1.5 gray levels of their interval (0.2 for gray images, 2.5 for
    4:4:0, whose means libjpeg rounds up), all are within 4.

    Args:
      file: A JPEG file.

    Returns:
      y: The centers q k, plus the level shift, which a linear operator cannot make; float32 `[n]` in [0, 1]
        units and in the order of `Coefficients`.
      tolerance: The half widths q / 2, float32 `[n]`.

    Example:
      >>> import numpy as np
      >>> k, q = np.zeros((1, 1, 8, 8), int), np.full((1, 8, 8), 51)
      >>> y, tolerance = intervals(JpegFile(8, 8, "4:4:4", 1, q, (k,)))  # a gray block of 128
      >>> round(float(y[0] * 255 / 8)), round(float(tolerance[0]), 3)
      (128, 0.1)
    """
    centers, half_widths = [], []
    for i, (k, q) in enumerate(zip(file.coefficients, file.tables, strict=True)):
        center = k * (q / 255)
        if i == 0:
            center[..., 0, 0] += 8 * LEVEL_SHIFT
        centers.append(center.ravel())
        half_widths.append(np.broadcast_to(q / 510, k.shape).ravel())
    return (
        np.concatenate(centers).astype(np.float32),
        np.concatenate(half_widths).astype(np.float32),
    )


def project(
    file: JpegFile, image: np.ndarray, *, rounds: int = 20, margin: float = 1.5 / 255
) -> np.ndarray:
    """An image near `image`, in [0, 1], whose coefficients lie inside a file's intervals.

    The method is projection onto convex sets. In each round the coefficients are clipped to their intervals, the
    change is transformed back (a change of a chroma mean goes to all its pixels), and the pixels are clipped to
    [0, 1].

    Args:
      file: The file.
      image: `[H, W, C]`, upright.
      rounds: Number of rounds.
      margin: Distance to keep from the ends of an interval, in [0, 1] units and at most 0.8 of the half width.
        Rounding to 8 bits and the encoder's own rounding then leave the coefficient inside.

    Returns:
      float32 `[H, W, C]`.

    References:
      Zakhor, Iterative Procedures for Reduction of Blocking Effects in Transform Image Coding, 1992.
    """
    y, tolerance = intervals(file)
    half_width = np.maximum(tolerance - np.float32(margin), 0.2 * tolerance)
    low, high = y - half_width, y + half_width
    operator = coefficients_of(file)
    return np.asarray(_project(operator, jnp.asarray(image, jnp.float32), low, high, rounds))


@jax.jit
def _project(operator: Coefficients, image: Array, low: Array, high: Array, rounds: int) -> Array:
    stored = to_file_orientation(image, operator.orientation)
    rows, columns, channels = stored.shape
    ratio = chroma_ratio(operator.subsampling)
    measure_stored = dataclasses.replace(operator, orientation=1)

    def spread(change: Array) -> Array:
        """An image whose coefficients are approximately `change`."""
        planes, start = [], 0
        for k in range(channels):
            v, h = ratio if k else (1, 1)
            a, b = -(-rows // (8 * v)), -(-columns // (8 * h))
            plane = from_coefficients(change[start : start + 64 * a * b].reshape(a, b, 8, 8))
            start += 64 * a * b
            for axis, size in enumerate((-(-rows // v), -(-columns // h))):
                inner, margin = jnp.split(plane, [size - 1], axis)
                plane = jnp.concatenate([inner, margin.mean(axis, keepdims=True)], axis)
            plane = jnp.repeat(jnp.repeat(plane, v, axis=0), h, axis=1)
            planes.append(plane[:rows, :columns])
        return from_planes(planes)

    def body(_: Array, x: Array) -> Array:
        c = measure_stored(x)
        return jnp.clip(x + spread(jnp.clip(c, low, high) - c), 0, 1)

    return to_upright(jax.lax.fori_loop(0, rounds, body, stored), operator.orientation)


def fraction_kept(file: JpegFile, image: np.ndarray) -> float:
    """The fraction of a file's coefficients that stay the same if `image` is saved as the file was.

    Args:
      file: The file, with its tables, subsampling and orientation.
      image: `[H, W, C]` in [0, 1], upright; it is rounded to 8 bits.

    Returns:
      A number in [0, 1].
    """
    again = recompress(file, image)
    pairs = list(zip(file.coefficients, again.coefficients, strict=True))
    return sum(int(np.sum(a == b)) for a, b in pairs) / sum(a.size for a, _ in pairs)


def matching_fraction(file: JpegFile, pixels: np.ndarray) -> float:
    """The fraction of a file's luma coefficients that `pixels` reproduce, up to a gray level.

    It tells whether pixels from elsewhere (a PNG of the file, say) are those of the file. Only whole blocks without
    pixels at 0 or 1 count, because decoders clip, and only luma, because decoders interpolate chroma. The file's own
    pixels reach 0.9973 or more (1.0000 up to a quality of 75). Pixels that are shifted by a row or brightened by 3 %
    fall below `MIN_MATCHING_FRACTION` from a quality of 30 on; at 10 they may pass, because the coarse steps hide the
    change. A retouch lowers the value by at most its fraction of the area.

    Args:
      file: The file.
      pixels: `[H, W, C]` in [0, 1], upright.

    Returns:
      A number in [0, 1]; 0 for pixels of another shape.
    """
    if pixels.shape != file.shape:
        return 0.0
    size = file.coefficients[0].size
    y, tolerance = intervals(file)
    c = np.asarray(_measure(coefficients_of(file), jnp.asarray(pixels, jnp.float32)))
    is_inside = np.abs(c - y)[:size] <= tolerance[:size] + np.float32(1 / 255)
    stored = to_file_orientation(pixels, file.orientation)
    clipped = ((stored <= 0) | (stored >= 1)).any(axis=-1)
    clipped = np.pad(clipped, [(0, -side % 8) for side in clipped.shape], constant_values=True)
    rows, columns = clipped.shape
    counts = ~clipped.reshape(rows // 8, 8, columns // 8, 8).any(axis=(1, 3)).ravel()
    return float(is_inside.reshape(-1, 64)[counts if counts.any() else ...].mean())


@jax.jit
def _measure(operator: Coefficients, image: Array) -> Array:
    return operator(image)
