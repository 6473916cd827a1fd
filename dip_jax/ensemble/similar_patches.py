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

Patches overlap; the estimate of a pixel is the mean over all patches with the weights 1 / |t|^2, t
the row of T that made the patch, because |t|^2 is the share of noise that is left.

References:
  Herbreteau and Kervrann, Towards a Unified View of Unsupervised Non-Local Methods for Image Denoising:
    the NL-Ridge Approach, 2022, sections 3 and 4.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import ndimage

from dip_jax.base import Array
from dip_jax.clipping import Limits, variance_of_clipped
from dip_jax.errors import InputError

_WINDOW = 12
"""Largest distance of a similar patch from its reference in rows and in columns."""
_STRIDE = 4
"""Distance of neighboring reference patches."""


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
    y = jnp.asarray(noisy @ basis.T, jnp.float32)
    # Noise hides which patches are similar; the mean of the channels has the best signal.
    one, two = next((one, two) for level, one, two in _STAGES if noise_std <= level)
    means = ndimage.uniform_filter(noisy, (_MEAN_SIDE, _MEAN_SIDE, 1))
    variance = _variance(means, noise_std, limits)
    first = _filter(y, y, y[..., :1], variance, groups=one, has_pilot=False)
    variance = _variance(np.asarray(first) @ basis, noise_std, limits)
    second = _filter(y, first, first[..., :1], variance, groups=two, has_pilot=True)
    return np.asarray(second) @ basis.astype(np.float32)


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
    y, p = (jnp.asarray(image @ basis.T, jnp.float32) for image in (noisy, pilot))
    variance = _SHRINKAGE * _variance(pilot, noise_std, limits)
    estimate = _filter(y, p, p, variance, groups=_WITH_PILOT, has_pilot=True)
    return np.asarray(estimate) @ basis.astype(np.float32)


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


@functools.partial(jax.jit, static_argnames=("groups", "has_pilot"))
def _filter(
    y: Array, pilot: Array, guide: Array, variance: Array, *, groups: PatchGroups, has_pilot: bool
) -> Array:
    """Denoises all channels; `guide` decides which patches are similar. All arrays are `[H, W, C]`."""
    size = groups.patch
    height, width, _ = y.shape
    rows, columns = (jnp.asarray(_starts(side, size)) for side in (height, width))
    padded = jnp.pad(guide, [(_WINDOW, _WINDOW), (_WINDOW, _WINDOW), (0, 0)])

    def denoise_row(sums: tuple[Array, Array], row: Array) -> tuple[tuple[Array, Array], None]:
        """Adds the patches of one row of references to the sums."""
        distances = _distances(padded, row, columns, size, (height, width))
        _, nearest = lax.top_k(-distances, groups.number)  # [R, K]
        down, right = jnp.divmod(nearest, 2 * _WINDOW + 1)
        pixels = _pixels(row + down - _WINDOW, columns[:, None] + right - _WINDOW, size)

        def cut(image: Array) -> Array:
            return jnp.moveaxis(image[pixels], -1, 1)  # [R, C, K, n]

        noisy = cut(y)
        of_group = cut(variance).mean(axis=(-2, -1), keepdims=True)  # [R, C, 1, 1]
        if has_pilot:
            weights = _pilot_weights(cut(pilot), of_group)
        else:
            weights = _unbiased_weights(noisy, of_group)
        estimates = jnp.matmul(weights, noisy, precision="highest")
        shares = 1 / jnp.maximum(jnp.sum(weights**2, -1, keepdims=True), 1 / groups.number)

        def add(total: Array, values: Array) -> Array:
            return total.at[pixels].add(jnp.moveaxis(values, 1, -1))

        total, count = sums
        count = add(count, jnp.broadcast_to(shares, estimates.shape))
        return (add(total, shares * estimates), count), None

    zeros = jnp.zeros_like(y)
    (total, count), _ = lax.scan(denoise_row, (zeros, zeros), rows)
    return total / count


def _pixels(top: Array, left: Array, size: int) -> tuple[Array, Array]:
    """Rows and columns of the pixels of patches with corners `[R, K]`, each `[R, K, n]`."""
    down, right = (jnp.asarray(index.ravel()) for index in np.mgrid[0:size, 0:size])
    return top[..., None] + down[None, None], left[..., None] + right[None, None]


def _starts(side: int, size: int) -> np.ndarray:
    """First rows, or columns, of the reference patches; the last patch ends at the border."""
    return np.unique([*range(0, side - size, _STRIDE), side - size])


def _distances(
    padded: Array, row: Array, columns: Array, size: int, shape: tuple[int, int]
) -> Array:
    """Squared distances of the patches in the window of each reference of a row, `[R, shifts]`.

    Shifts are in the order of the rows of the window. A patch that leaves the image is infinitely far.
    """
    height, width = shape
    shifts = jnp.arange(-_WINDOW, _WINDOW + 1)
    strip = lax.dynamic_slice_in_dim(padded, row, 2 * _WINDOW + size)
    reference = strip[_WINDOW : _WINDOW + size, _WINDOW : _WINDOW + width]

    def of_shift(down: Array, right: Array) -> Array:
        start = (down + _WINDOW, right + _WINDOW, 0)
        other = lax.dynamic_slice(strip, start, reference.shape)
        squares = jnp.sum((reference - other) ** 2, (0, 2))
        sums = functools.reduce(jnp.add, (squares[i : width - size + 1 + i] for i in range(size)))
        inside = (row + down >= 0) & (row + down <= height - size)
        inside &= (columns + right >= 0) & (columns + right <= width - size)
        # The reference itself always belongs to the group, even if others are equal to it.
        distance = jnp.where((down == 0) & (right == 0), -1.0, sums[columns])
        return jnp.where(inside, distance, jnp.inf)

    downs, rights = jnp.meshgrid(shifts, shifts, indexing="ij")
    return jax.vmap(of_shift, out_axes=1)(downs.ravel(), rights.ravel())


def _unbiased_weights(noisy: Array, variance: Array) -> Array:
    """T of the first stage for groups `[..., K, n]`."""
    pixels = noisy.shape[-1]
    moments = jnp.matmul(noisy, jnp.swapaxes(noisy, -1, -2), precision="highest")
    eigenvalues, vectors = jnp.linalg.eigh(moments)
    factors = 1 - pixels * variance[..., 0] / jnp.maximum(eigenvalues, 1e-12)
    # Where the noise is weaker than stated, such as in clipped shadows, large negative factors would amplify it.
    factors = jnp.maximum(factors, _LEAST_FACTOR)
    return jnp.matmul(
        vectors * factors[..., None, :], jnp.swapaxes(vectors, -1, -2), precision="highest"
    )


def _pilot_weights(pilot: Array, variance: Array) -> Array:
    """T of the second stage for groups `[..., K, n]`."""
    number, pixels = pilot.shape[-2:]
    moments = jnp.matmul(pilot, jnp.swapaxes(pilot, -1, -2), precision="highest")
    identity = jnp.broadcast_to(jnp.eye(number), moments.shape)
    regularized = moments + (pixels * variance + 1e-12) * identity
    # The two matrices commute, so the order of the product does not matter.
    return jnp.linalg.solve(regularized, moments)
