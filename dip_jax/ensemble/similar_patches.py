"""Denoising by linear combinations of similar patches (NL-Ridge), a closed-form estimate.

Each reference patch is joined by the K patches of its window that resemble it most. The rows of Y,
`[K, n]`, are these patches with their n pixels, and the estimate of each is a combination of all,

    X = T Y,   T = argmin E |T Y - X_clean|^2,

which has a closed form in both stages. Unbiased risk, with s the noise level:

    T = I - n s^2 (Y Y')^-1   (its eigenvalues are bounded below by `_LEAST_FACTOR`),

and, with a pilot estimate whose patches are the rows of P and which stands for the clean image,

    T = P P' (P P' + e n s^2 I)^-1,

where e = 1 for the second stage, and less for a pilot from outside (`_SHRINKAGE`). If the noise was clipped,
s^2 is the mean variance of a group (`dip_jax.clipping`).

The code is NumPy's and runs on the host while the devices fit: it needs no compilation for each size of image.

Patches overlap; the estimate of a pixel is the mean over all patches with the weights 1 / |t|^2, t
the row of T that made the patch, because |t|^2 is the share of noise that is left.

References:
  Herbreteau and Kervrann, Towards a Unified View of Unsupervised Non-Local Methods for Image Denoising:
    the NL-Ridge Approach, 2022, sections 3 and 4.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy import ndimage

from dip_jax.clipping import Limits, variance_of_clipped
from dip_jax.errors import InputError

_WINDOW = 12
"""Largest distance of a similar patch from its reference in rows and in columns."""
_STRIDE = 4
"""Distance of neighboring reference patches."""
_REFERENCES_AT_ONCE = 4096
"""Number of reference patches whose distances are in memory."""


class PatchGroups(NamedTuple):
    """Size and number of similar patches."""

    patch: int
    """Height and width of a patch."""
    number: int
    """Number K of similar patches."""


# Stronger noise needs larger patches to find similar ones, and more of them: up to these noise levels, the groups of
# the first and of the second stage (Herbreteau and Kervrann, table 1).
_STAGES = (
    (20 / 255, PatchGroups(7, 18), PatchGroups(7, 55)),
    (35 / 255, PatchGroups(9, 18), PatchGroups(9, 90)),
    (np.inf, PatchGroups(11, 20), PatchGroups(11, 120)),
)
_WITH_PILOT = PatchGroups(7, 48)

_LEAST_FACTOR = -1.0
"""Least eigenvalue of T in the first stage. On four noisy photos, results with it are equal or up to 0.06 dB better than
without a bound; 0 costs 0.1 to 0.9 dB."""

_SHRINKAGE = 0.6
"""e; below 1, because a pilot lacks some of the energy of the clean image, which a full n s^2 would take for noise."""

_MEAN_SIDE = 5
"""Height and width of the means from which the variance in the first stage follows."""
_UNCLIPPED = Limits()

MIN_SIDE = 24
"""The corner of a smaller image would have fewer patches in its window than a group needs."""


def nonlocal_ridge(noisy: np.ndarray, noise_std: float, limits: Limits = _UNCLIPPED) -> np.ndarray:
    """Denoises an image by its similar patches: both stages of NL-Ridge.

    Args:
      noisy: `[H, W, C]`, with H and W at least 24; white noise.
      noise_std: Standard deviation of the noise before clipping, in the units of the image.
      limits: The limits at which the noise was clipped.

    Returns:
      `[H, W, C]` float32.

    Raises:
      InputError: If the noise level is not positive, or the image is smaller than a patch.

    Example:
      >>> import numpy as np
      >>> clean = np.tile(np.linspace(0, 1, 32)[:, None, None], (1, 32, 1))
      >>> noisy = clean + 0.1 * np.random.default_rng(0).standard_normal(clean.shape)
      >>> error = nonlocal_ridge(noisy, 0.1) - clean
      >>> bool(error.std() < 0.04)
      True
    """
    _check(noisy, noise_std)
    basis = channel_basis(noisy.shape[-1])
    y = (noisy @ basis.T).astype(np.float32)
    # Noise hides which patches are similar; the mean of the channels has the best signal.
    one, two = next((one, two) for level, one, two in _STAGES if noise_std <= level)
    means = ndimage.uniform_filter(noisy, (_MEAN_SIDE, _MEAN_SIDE, 1))
    variance = _variance(means, noise_std, limits)
    first = _filter(y, y, y[..., :1], variance, groups=one, has_pilot=False)
    variance = _variance(first @ basis, noise_std, limits)
    second = _filter(y, first, first[..., :1], variance, groups=two, has_pilot=True)
    return second @ basis.astype(np.float32)


def filter_with_pilot(
    noisy: np.ndarray, pilot: np.ndarray, noise_std: float, limits: Limits = _UNCLIPPED
) -> np.ndarray:
    """Denoises an image by its similar patches, as a pilot estimate shows them.

    Args:
      noisy: `[H, W, C]`; white noise.
      pilot: An estimate of the clean image, same shape.
      noise_std: Standard deviation of the noise before clipping, in the units of the image.
      limits: The limits at which the noise was clipped.

    Returns:
      `[H, W, C]` float32.

    Raises:
      InputError: If the noise level is not positive, or the image is smaller than a patch.
    """
    _check(noisy, noise_std)
    basis = channel_basis(noisy.shape[-1])
    y, p = ((image @ basis.T).astype(np.float32) for image in (noisy, pilot))
    variance = _SHRINKAGE * _variance(pilot, noise_std, limits)
    estimate = _filter(y, p, p, variance, groups=_WITH_PILOT, has_pilot=True)
    return estimate @ basis.astype(np.float32)


def channel_basis(channels: int) -> np.ndarray:
    """Returns the orthonormal basis `[C, C]` in which the channels are denoised: the cosines of DCT-II.

    The first row is the mean of all channels. For red, green and blue, the others are red - blue and
    red - 2 green + blue. The basis keeps white noise white.

    Args:
      channels: Number C of channels.

    Example:
      >>> (channel_basis(3) * np.sqrt([[3], [2], [6]])).round(3).tolist()
      [[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]]
    """
    rows, columns = np.mgrid[0:channels, 0:channels]
    cosines = np.cos(np.pi * (2 * columns + 1) * rows / (2 * channels))
    basis = cosines / np.linalg.norm(cosines, axis=1, keepdims=True)
    return np.where(np.abs(basis) < 1e-12, 0.0, basis)


def _variance(means: np.ndarray, noise_std: float, limits: Limits) -> np.ndarray:
    """Variance of the noise in each channel of the basis, `[H, W, C]`, for the means of the noisy values."""
    basis = channel_basis(means.shape[-1])
    return (variance_of_clipped(means, noise_std, limits) @ (basis.T**2)).astype(np.float32)


def _check(noisy: np.ndarray, noise_std: float) -> None:
    if not noise_std > 0:
        raise InputError(f"noise_std must be above 0, got {noise_std}; state or estimate it.")
    least = MIN_SIDE
    if noisy.ndim != 3 or min(noisy.shape[:2]) < least:
        raise InputError(
            f"Expected an image [H, W, C] of at least {least} x {least}, got the shape {noisy.shape}."
        )


def _filter(
    y: np.ndarray,
    pilot: np.ndarray,
    guide: np.ndarray,
    variance: np.ndarray,
    *,
    groups: PatchGroups,
    has_pilot: bool,
) -> np.ndarray:
    """Denoises all channels; `guide` decides which patches are similar. All arrays are `[H, W, C]`."""
    size, (height, width, channels) = groups.patch, y.shape
    rows, columns = (_starts(side, size) for side in (height, width))
    images = np.concatenate([y, pilot, variance], axis=-1)
    patches = sliding_window_view(images, (size, size), axis=(0, 1))  # [H', W', 3 C, size, size]
    offset = (np.arange(size)[:, None] * width + np.arange(size)).ravel()  # [n]
    total, count = (np.zeros((channels, height * width)) for _ in range(2))
    for r, c in _corners(guide, rows, columns, groups):
        cut = patches[r, c].reshape(*r.shape, 3 * channels, size * size)
        noisy, of_pilot, of_noise = np.split(cut.transpose(0, 2, 1, 3), 3, axis=1)  # [R, C, K, n]
        level = of_noise.mean(axis=(-2, -1), keepdims=True)  # [R, C, 1, 1]
        weights = _pilot_weights(of_pilot, level) if has_pilot else _unbiased_weights(noisy, level)
        estimates = weights @ noisy  # [R, C, K, n]
        shares = 1 / np.maximum((weights**2).sum(axis=-1, keepdims=True), 1 / groups.number)
        band = np.s_[r.min() * width : (r.max() + size) * width]  # the pixels of these patches
        pixels = ((r * width + c)[..., None] + offset - band.start).ravel()
        for channel in range(channels):
            share = np.broadcast_to(shares[:, channel], estimates[:, channel].shape)
            values = share * estimates[:, channel]
            for sums, added in ((count, share), (total, values)):
                sums[channel, band] += np.bincount(pixels, added.ravel(), band.stop - band.start)
    return (total / count).T.reshape(y.shape).astype(np.float32)


def _starts(side: int, size: int) -> np.ndarray:
    """First rows, or columns, of the reference patches; the last patch ends at the border."""
    return np.unique([*range(0, side - size, _STRIDE), side - size])


def _corners(
    guide: np.ndarray, rows: np.ndarray, columns: np.ndarray, groups: PatchGroups
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the rows and the columns of the similar patches of each row of references, both `[R, K]`."""
    number = -(-len(rows) * len(columns) // _REFERENCES_AT_ONCE)
    for block in np.array_split(rows, number):
        down, right = np.divmod(_nearest(guide, block, columns, groups), 2 * _WINDOW + 1)
        top = block[:, None, None] + down - _WINDOW
        left = columns[:, None] + right - _WINDOW
        yield from zip(top, left, strict=True)


def _nearest(
    guide: np.ndarray, rows: np.ndarray, columns: np.ndarray, groups: PatchGroups
) -> np.ndarray:
    """The shifts of the K patches that are most similar to each reference, `[rows, columns, K]`.

    Shifts are counted in the order of the rows of the window. A patch that leaves the image is infinitely far.
    """
    size, (height, width, _) = groups.patch, guide.shape
    shifts = np.arange(-_WINDOW, _WINDOW + 1)
    distances = np.full((len(shifts) ** 2, len(rows), len(columns)), np.inf, np.float32)
    for index, (down, right) in enumerate(itertools.product(shifts, shifts)):
        r = rows[(rows + down >= 0) & (rows + down <= height - size)]
        c = columns[(columns + right >= 0) & (columns + right <= width - size)]
        if not r.size or not c.size:
            continue
        here = np.s_[r[0] : r[-1] + size, c[0] : c[-1] + size]
        there = np.s_[r[0] + down : r[-1] + down + size, c[0] + right : c[-1] + right + size]
        squares = ((guide[here] - guide[there]) ** 2).sum(axis=-1)
        sums = _patches_sum(squares, size)[np.ix_(r - r[0], c - c[0])]
        places = np.ix_([index], np.searchsorted(rows, r), np.searchsorted(columns, c))
        distances[places] = sums
    distances[len(distances) // 2] = -1  # the reference itself, even if others are equal to it
    order = np.argpartition(distances, groups.number - 1, axis=0)[: groups.number]
    return np.moveaxis(order, 0, -1)


def _patches_sum(values: np.ndarray, size: int) -> np.ndarray:
    """Sums over all patches of an image `[H, W]`, by their corner."""
    height, width = (side - size + 1 for side in values.shape)
    down = functools.reduce(np.add, (values[i : height + i] for i in range(size)))
    return functools.reduce(np.add, (down[:, i : width + i] for i in range(size)))


def _unbiased_weights(noisy: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """T of the first stage for groups `[..., K, n]`."""
    pixels = noisy.shape[-1]
    eigenvalues, vectors = np.linalg.eigh(noisy @ np.swapaxes(noisy, -1, -2))
    factors = 1 - pixels * variance[..., 0] / np.maximum(eigenvalues, 1e-12)
    # Where the noise is weaker than stated, such as in clipped shadows, large negative factors would amplify it.
    factors = np.maximum(factors, _LEAST_FACTOR)
    return (vectors * factors[..., None, :]) @ np.swapaxes(vectors, -1, -2)


def _pilot_weights(pilot: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """T of the second stage for groups `[..., K, n]`."""
    number, pixels = pilot.shape[-2:]
    moments = pilot @ np.swapaxes(pilot, -1, -2)
    # Equal patches have moments of rank 1, to which float32 cannot add less than a millionth.
    scale = np.trace(moments, axis1=-2, axis2=-1)[..., None, None]
    ridge = pixels * variance + 1e-6 * scale + 1e-12
    regularized = moments + ridge * np.eye(number, dtype=np.float32)
    # The two matrices commute, so the order of the product does not matter.
    return np.linalg.solve(regularized, moments)
