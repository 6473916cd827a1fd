"""JPEG: what a file says of the picture it was made from, and compression as a measurement.

A JPEG file holds, of every 8x8 block of every component, the 64 cosine coefficients c in multiples of a
step q: k = round(c / q). So the picture that was saved is known up to intervals, |c - q k| <= q / 2, and
decoding takes their centers. `jpeg_file` reads k and q, `Coefficients` is the linear map A from a picture to
c, `intervals` gives centers and half widths in its order: |A x - y| <= tolerance. `project` moves a picture
into the intervals and `fraction_kept` saves it again to count what came back. `Jpeg` is the whole way, picture
to decoded picture, with a gradient.

One unit everywhere: a pixel of 1 is 255 gray levels, and so are the coefficients, as the transform is
orthonormal (T.81's own is the same). Sources: ITU-T T.81 (1992), Annex A (components, transform,
quantization) and K (tables); JFIF 1.02 (Y = 0.299 R + 0.587 G + 0.114 B, chroma about 128); Wallace 1992,
"The JPEG still picture compression standard"; the margins and filters are those of the Independent JPEG
Group's libjpeg, which the standard leaves free.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array, InputError
from dip_jax.images.jpeg_file import SUBSAMPLINGS, JpegFile, save_again, to_stored, to_upright

MIN_MATCHING_FRACTION = 0.995
"""Pixels below this share in `matches` are not those of the file."""

_TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.299, -0.587, 0.886], [0.701, -0.587, -0.114]]
) / np.array([[1], [1.772], [1.402]])
_FROM_YCC = np.linalg.inv(_TO_YCC)
_FREQUENCY, _PLACE = np.mgrid[0:8, 0:8]
_DCT = np.cos(np.pi * _FREQUENCY * (2 * _PLACE + 1) / 16) * np.where(_FREQUENCY, 0.5, 8**-0.5)
_LEVEL_SHIFT = 128 / 255

# Annex K.1, for luma and chroma, row by row.
_LUMA = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
_CHROMA = """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Coefficients:
    """A x = all cosine coefficients of a picture, before quantization and without level shift.

    `[H, W, C]` in [0, 1] -> float32 `[n]` in the same unit: component after component, block after block,
    64 each, as in `JpegFile.coefficients`. Chroma is the mean over the pixels that share a value. Blocks
    that jut out repeat the picture's margin as libjpeg does; of a file by another encoder that margin may
    be another.
    """

    subsampling: str = dataclasses.field(default="4:4:4", metadata={"static": True})
    """One of `SUBSAMPLINGS`."""
    orientation: int = dataclasses.field(default=1, metadata={"static": True})
    """How the picture is turned in the file, as Exif numbers it."""
    is_linear: ClassVar[bool] = True

    def __call__(self, image: Array) -> Array:
        """Measures `image`, upright."""
        planes = _planes(to_stored(image, self.orientation), _ratio(self.subsampling))
        return jnp.concatenate([_blocks(plane).ravel() for plane in planes])


def coefficients_of(file: JpegFile) -> Coefficients:
    """The operator that belongs to a file."""
    return Coefficients(file.subsampling, file.orientation)


def intervals(file: JpegFile) -> tuple[np.ndarray, np.ndarray]:
    """What a file says of the picture it was made from: |A x - y| <= tolerance.

    The encoder works on integers: colors and means of chroma are rounded to gray levels before the
    transform. So a few coefficients lie outside: 99.9 % are within 1.5 gray levels of their interval (0.2
    for gray pictures, 2.5 for 4:4:0, whose means libjpeg rounds up), the rest within 4.

    Returns:
      y, the centers q k (+ the level shift, which a linear operator cannot make), and tolerance, q / 2,
      both float32 `[n]` in [0, 1] units and in the order of `Coefficients`.
    """
    centers, widths = [], []
    for k, (blocks, table) in enumerate(zip(file.coefficients, file.tables, strict=True)):
        center = blocks * (table / 255)
        if k == 0:
            center[..., 0, 0] += 8 * _LEVEL_SHIFT
        centers.append(center.ravel())
        widths.append(np.broadcast_to(table / 510, blocks.shape).ravel())
    return np.concatenate(centers).astype(np.float32), np.concatenate(widths).astype(np.float32)


def project(
    file: JpegFile, image: np.ndarray, *, rounds: int = 20, margin: float = 1.5 / 255
) -> np.ndarray:
    """A picture near `image`, in [0, 1], whose coefficients lie inside a file's intervals.

    By projections onto convex sets, in turn: each coefficient is clipped to its interval, the change is
    transformed back (a change of a mean of chroma goes to all its pixels), the pixels are clipped to
    [0, 1].

    Args:
      file: The file.
      image: `[H, W, C]`, upright.
      rounds: How often.
      margin: How far inside the interval, in [0, 1] units, so that rounding to 8 bits and the encoder's
        own rounding do not carry a coefficient over its border; at most 0.8 of the half width.

    Returns:
      float32 `[H, W, C]`.
    """
    y, tolerance = intervals(file)
    room = np.maximum(tolerance - np.float32(margin), 0.2 * tolerance)
    operator = coefficients_of(file)
    estimate = _project(operator, jnp.asarray(image, jnp.float32), y - room, y + room, rounds)
    return np.asarray(estimate)


def fraction_kept(file: JpegFile, image: np.ndarray) -> float:
    """Which share of a file's coefficients comes back if `image` is rounded to 8 bits and saved as the file was.

    Args:
      file: Its tables, subsampling and orientation are taken.
      image: `[H, W, C]` in [0, 1], upright.
    """
    again = save_again(file, image)
    pairs = list(zip(file.coefficients, again.coefficients, strict=True))
    return sum(int(np.sum(a == b)) for a, b in pairs) / sum(a.size for a, _ in pairs)


def matches(file: JpegFile, pixels: np.ndarray) -> float:
    """Which share of a file's luma coefficients lies, for these pixels, within its interval or a gray level.

    To ask whether pixels from elsewhere (a PNG made of the file, say) still are what the file says. Asked are
    whole blocks without pixels at 0 or 1, where decoders clip, and luma alone, as decoders interpolate chroma.
    The file's own pixels reach 0.9973 or more (1.0000 up to a quality of 75). Shifted by a row or brightened
    by 3 % they fall below `MIN_MATCHING_FRACTION` from a quality of 30 on; at 10 they may pass, as the coarse steps
    would have swallowed the change. A retouch costs at most its share of the area.

    Args:
      file: The file.
      pixels: `[H, W, C]` in [0, 1], upright.

    Returns:
      The share; 0 for pixels of another shape.
    """
    if pixels.shape != file.shape:
        return 0.0
    size = file.coefficients[0].size
    y, tolerance = intervals(file)
    c = np.asarray(_measure(coefficients_of(file), jnp.asarray(pixels, jnp.float32)))
    inside = np.abs(c - y)[:size] <= tolerance[:size] + np.float32(1 / 255)
    stored = to_stored(pixels, file.orientation)
    clipped = ((stored <= 0) | (stored >= 1)).any(axis=-1)
    clipped = np.pad(clipped, [(0, -side % 8) for side in clipped.shape], constant_values=True)
    rows, columns = clipped.shape
    asked = ~clipped.reshape(rows // 8, 8, columns // 8, 8).any(axis=(1, 3)).ravel()
    return float(inside.reshape(-1, 64)[asked if asked.any() else ...].mean())


def standard_tables(quality: int, channels: int = 3) -> np.ndarray:
    """The tables of Annex K.1 scaled by libjpeg's quality: q = clip((table s + 50) // 100, 1, 255).

    Args:
      quality: Q of 1 to 100; s = 5000 // Q below 50, 200 - 2 Q from there on.
      channels: 1 for gray, 3 for colors.

    Returns:
      int `[channels, 8, 8]` in gray levels.

    Raises:
      InputError: For another quality.
    """
    if not 1 <= quality <= 100:
        raise InputError(f"JPEG quality must be 1 to 100, came {quality}.")
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    tables = [np.array(text.split(), int).reshape(8, 8) for text in (_LUMA, _CHROMA, _CHROMA)]
    return np.clip((np.stack(tables[:channels]) * scale + 50) // 100, 1, 255)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Jpeg:
    """The picture `[H, W, C]` that is left after saving `image` as a JPEG and decoding it.

    Colors, means of chroma, transform, rounding to multiples of the steps, and back; chroma is interpolated
    as libjpeg does it (a triangle filter). Encoders and decoders round to gray levels in between, this does
    not: on average it is within 1.2 gray levels of Pillow (0.5 for gray), and within 3 everywhere if no
    coefficient is so near to the border of two intervals that the rounding decides.
    """

    tables: Array
    """q, float32 `[C, 8, 8]` in gray levels; see `standard_tables`."""
    subsampling: str = dataclasses.field(default="4:2:0", metadata={"static": True})
    """One of `SUBSAMPLINGS`."""
    soft: bool = dataclasses.field(default=False, metadata={"static": True})
    """False: rounding is exact and has the gradient of the identity (straight through). True: it is
    round(c) + (c - round(c))^3, with its own gradient (Shin and Song 2017)."""
    is_linear: ClassVar[bool] = False

    def __call__(self, image: Array) -> Array:
        """Compresses and decodes `image`."""
        rows, columns, _ = image.shape
        ratio = _ratio(self.subsampling)
        planes = []
        for k, plane in enumerate(_planes(image, ratio)):
            share = (1, 1) if k == 0 else ratio
            shift = _LEVEL_SHIFT if k == 0 else 0.0
            step = self.tables[k][None, None] / 255
            plane = _pixels(step * self._round(_blocks(plane - shift) / step)) + shift
            plane = plane[: -(-rows // share[0]), : -(-columns // share[1])]
            # Decoders hold every component in 8 bits.
            low = shift - _LEVEL_SHIFT
            plane = jnp.clip(plane, low, low + 1)
            for axis in range(2):
                plane = _enlarge(plane, axis) if share[axis] == 2 else plane
            planes.append(plane[:rows, :columns])
        return jnp.clip(_colors(planes), 0, 1)

    def _round(self, values: Array) -> Array:
        whole = jax.lax.stop_gradient(jnp.round(values))
        if self.soft:
            return whole + (values - whole) ** 3
        return whole + (values - jax.lax.stop_gradient(values))


def _planes(image: Array, ratio: tuple[int, int]) -> list[Array]:
    """The components `[rows, columns]`, sides multiples of 8; without level shift, so linear."""
    if image.shape[-1] == 1:
        return [_shrink(image[..., 0], (1, 1))]
    components = jnp.einsum("kc,hwc->khw", _constant(_TO_YCC), image, precision="highest")
    return [_shrink(components[k], ratio if k else (1, 1)) for k in range(3)]


def _colors(planes: list[Array]) -> Array:
    """The image `[H, W, C]` of components `[H, W]`."""
    if len(planes) == 1:
        return planes[0][..., None]
    return jnp.einsum("ck,khw->hwc", _constant(_FROM_YCC), jnp.stack(planes), precision="highest")


def _shrink(plane: Array, ratio: tuple[int, int]) -> Array:
    """Means over `ratio` pixels, on whole blocks.

    As libjpeg: columns are repeated before the mean is taken, rows after it.
    """
    v, h = ratio
    rows, columns = plane.shape
    plane = jnp.pad(plane, [(0, -rows % v), (0, -columns % (8 * h))], mode="edge")
    if ratio != (1, 1):
        plane = plane.reshape(plane.shape[0] // v, v, plane.shape[1] // h, h).mean(axis=(1, 3))
    return jnp.pad(plane, [(0, -plane.shape[0] % 8), (0, 0)], mode="edge")


def _enlarge(plane: Array, axis: int) -> Array:
    """Twice as many values along `axis`, each 3/4 of its own and 1/4 of the nearest other."""
    plane = jnp.moveaxis(plane, axis, 0)
    around = jnp.pad(plane, [(1, 1), (0, 0)], mode="edge")
    pairs = jnp.stack([3 * plane + around[:-2], 3 * plane + around[2:]], axis=1) / 4
    return jnp.moveaxis(pairs.reshape(-1, plane.shape[1]), 0, axis)


def _blocks(plane: Array) -> Array:
    """Cosine transform of all blocks: `[8 a, 8 b]` -> `[a, b, 8, 8]`."""
    rows, columns = plane.shape
    places = plane.reshape(rows // 8, 8, columns // 8, 8)
    dct = _constant(_DCT)
    return jnp.einsum("ui,aibj,vj->abuv", dct, places, dct, precision="highest")


def _pixels(blocks: Array) -> Array:
    """The inverse of `_blocks`."""
    a, b, _, _ = blocks.shape
    dct = _constant(_DCT)
    places = jnp.einsum("ui,abuv,vj->aibj", dct, blocks, dct, precision="highest")
    return places.reshape(8 * a, 8 * b)


@jax.jit
def _measure(operator: Coefficients, image: Array) -> Array:
    return operator(image)


@jax.jit
def _project(operator: Coefficients, image: Array, low: Array, high: Array, rounds: int) -> Array:
    turned = to_stored(image, operator.orientation)
    rows, columns, channels = turned.shape
    ratio = _ratio(operator.subsampling)
    flat = dataclasses.replace(operator, orientation=1)

    def spread(change: Array) -> Array:
        """An image whose coefficients change about as wished."""
        planes, start = [], 0
        for k in range(channels):
            v, h = ratio if k else (1, 1)
            a, b = -(-rows // (8 * v)), -(-columns // (8 * h))
            plane = _pixels(change[start : start + 64 * a * b].reshape(a, b, 8, 8))
            start += 64 * a * b
            for axis, size in enumerate((-(-rows // v), -(-columns // h))):
                inner, margin = jnp.split(plane, [size - 1], axis)
                plane = jnp.concatenate([inner, margin.mean(axis, keepdims=True)], axis)
            plane = jnp.repeat(jnp.repeat(plane, v, axis=0), h, axis=1)
            planes.append(plane[:rows, :columns])
        return _colors(planes)

    def improved(_: Array, x: Array) -> Array:
        c = flat(x)
        return jnp.clip(x + spread(jnp.clip(c, low, high) - c), 0, 1)

    return to_upright(jax.lax.fori_loop(0, rounds, improved, turned), operator.orientation)


def _ratio(subsampling: str) -> tuple[int, int]:
    if subsampling not in SUBSAMPLINGS:
        raise InputError(
            f"JPEG subsampling must be one of {', '.join(SUBSAMPLINGS)}, came {subsampling!r}."
        )
    return SUBSAMPLINGS[subsampling]


def _constant(matrix: np.ndarray) -> Array:
    return jnp.asarray(matrix, jnp.float32)
