"""The Gaussian-process view: what a network's random weights say about images before any data.

With many channels, the output of a random convolutional network on stationary random codes tends to a
Gaussian process whose covariance depends on the lag alone. That kernel follows a recursion over the layers,
or is estimated from images that the network makes at random weights; regression with it is the
deep image prior's posterior in the limit, without any training.

A kernel is a table of its values at lags, that of lag 0 first: `[L]` for signals, `[Lh, Lw]` for pictures.
Everything but the networks is float64 on the host, for kernel matrices are badly conditioned.

References:
  Cheng, Gadelha, Maji and Sheldon, A Bayesian Perspective on the Deep Image Prior, 2019.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg, optimize

from dip_jax.base import Array, InputError, Net, Params
from dip_jax.codes import build_code
from dip_jax.config import FitConfig

_BATCH = 256  # images whose spectra are held at once
_LEAST_RATIO = 1e-6  # of the noise's variance to the process's, in the search


def input_kernel(distance: np.ndarray, input_std: float) -> np.ndarray:
    """K(d) = exp(-d^2 / (4 s^2)): white noise smoothed by a Gaussian of standard deviation s.

    Args:
      distance: Lags d in pixels, any shape.
      input_std: s in pixels; 0 for white noise, K(d) = 1 where d = 0 and 0 elsewhere.
    """
    distance = np.asarray(distance, np.float64)
    if input_std == 0:
        return (distance == 0).astype(np.float64)
    return np.exp(-((distance / (2 * input_std)) ** 2))


def conv_kernel(
    kernel: np.ndarray, *, weight_var: float = 1.0, bias_var: float = 0.0
) -> np.ndarray:
    """K'(d) = b + w K(d): a convolution with independent weights of mean 0.

    The size of the filter does not matter: it shifts both places alike.

    Args:
      kernel: A kernel.
      weight_var: w, the variance of a weight times the number of weights of an output (3 in, 9 in).
      bias_var: b, the variance of a bias.
    """
    return bias_var + weight_var * np.asarray(kernel, np.float64)


def relu_kernel(kernel: np.ndarray) -> np.ndarray:
    """K'(d) = K(0) / (2 pi) (sin t + (pi - t) cos t) with cos t = K(d) / K(0): a rectifier.

    It halves the variance.

    References:
      Cho and Saul, Kernel Methods for Deep Learning, 2009 (the arc-cosine kernel of order 1).
    """
    kernel = np.asarray(kernel, np.float64)
    variance = kernel.flat[0]
    cosine = np.clip(kernel / variance, -1, 1)
    angle = np.arccos(cosine)
    return variance / (2 * np.pi) * (np.sin(angle) + (np.pi - angle) * cosine)


def network_kernel(distance: np.ndarray, depth: int, input_std: float) -> np.ndarray:
    """The cosine K(d) / K(0) after `depth` times a convolution and a rectifier.

    Each layer brings places together: the cosine grows with the depth at every distance, towards 1.

    Args:
      distance: Lags d in pixels, any shape.
      depth: Layers; a last convolution does not change the cosine.
      input_std: As for `input_kernel`.

    References:
      Cheng et al. 2019, theorem 1.
    """
    distance = np.asarray(distance, np.float64)
    kernel = input_kernel(np.concatenate([[0.0], distance.ravel()]), input_std)
    for _ in range(depth):
        kernel = relu_kernel(conv_kernel(kernel))
    return (kernel[1:] / kernel[0]).reshape(distance.shape)


def conv_relu_net(
    size: int, *, depth: int, width: int = 128, input_depth: int = 128, channels: int = 1
) -> Net:
    """A network for signals: `depth` times a convolution and a rectifier, and a last convolution.

    Kernels have 3 taps, no bias and no padding, so that nothing happens at borders; weights are drawn from
    N(0, 1 / (3 in)). Its params are `{"conv_0": [1, 3, in, out], ...}`.

    Args:
      size: Pixels of the signal that it makes.
      depth: Rectified layers.
      width: Their channels.
      input_depth: Channels of the code.
      channels: Of the signal; for random weights they are independent in the limit.

    Returns:
      A `Net` for codes `[1, size + 2 (depth + 1), input_depth]`; see `smooth_code`.
    """
    depths = (input_depth, *(width,) * depth, channels)
    code_shape = (1, size + 2 * (depth + 1), input_depth)

    def init(key: Array) -> Params:
        params = {}
        for i, key_i in enumerate(jax.random.split(key, depth + 1)):
            shape = (1, 3, depths[i], depths[i + 1])
            params[f"conv_{i}"] = (3 * depths[i]) ** -0.5 * jax.random.normal(key_i, shape)
        return params

    def apply(params: Params, code: Array) -> Array:
        x = code
        for i in range(depth + 1):
            kernel, length = params[f"conv_{i}"][0], x.shape[1] - 2
            taps = [jnp.dot(x[:, a : a + length], kernel[a]) for a in range(3)]
            x = taps[0] + taps[1] + taps[2]
            x = jax.nn.relu(x) if i < depth else x
        return x

    return Net(init, apply, code_shape, (1, size, channels))


def smooth_code(key: Array, shape: tuple[int, int, int], input_std: float) -> Array:
    """Normal noise smoothed along the columns by a Gaussian, of variance 1: its kernel is `input_kernel`.

    Args:
      key: Random key, consumed.
      shape: `(1, W, C)`.
      input_std: Standard deviation of the Gaussian in pixels; 0 for white noise.
    """
    radius = int(np.ceil(4 * input_std))
    height, width, depth = shape
    white = jax.random.normal(key, (height, width + 2 * radius, depth))
    if radius == 0:
        return white
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / input_std) ** 2)
    taps /= np.linalg.norm(taps)
    rows = [np.pad(taps, (i, width - 1 - i)) for i in range(width)]
    return jnp.einsum("ij,hjc->hic", jnp.asarray(np.stack(rows), jnp.float32), white)


def prior_images(
    key: Array, net: Net, num: int, *, code_fn: Callable[[Array], Array] | None = None
) -> Array:
    """Draws images from a network's prior: new params and a new code for each.

    Args:
      key: Random key, consumed.
      net: Any network.
      num: How many images.
      code_fn: `code_fn(key) -> code`; by default uniform noise as in a fit.

    Returns:
      `[num, H, W, C]`.
    """
    draw_code = code_fn or (lambda key: build_code(key, FitConfig(), net.code_shape))

    def draw(key: Array) -> Array:
        key_params, key_code = jax.random.split(key)
        return net.apply(net.init(key_params), draw_code(key_code))

    return jax.jit(lambda keys: jax.lax.map(draw, keys))(jax.random.split(key, num))


def estimate_kernel(images: np.ndarray, max_lag: int) -> np.ndarray:
    """K(i, j) = mean of x(p) x(p + lag) over images, channels, places p and lags (+-i, +-j).

    The process has mean 0: subtract its mean before. Near the borders of its image a network is
    not stationary: hand over the central part.

    Args:
      images: `[N, H, W, C]`, or `[N, 1, W, C]` for signals.
      max_lag: The largest lag in pixels, less than W (and H, where it is not 1).

    Returns:
      `[max_lag + 1, max_lag + 1]`, symmetric (rows and columns play the same role in the networks), or
      `[1, max_lag + 1]` for signals.
    """
    num, height, width, channels = images.shape
    if max_lag >= width or (height > 1 and max_lag >= height):
        raise InputError(
            f"max_lag must be less than the images' sides, came {max_lag} and {height, width}."
        )
    row_lag = max_lag if height > 1 else 0
    # Padded by as many zeros as there are lags, a circular correlation wraps nothing but zeros.
    padded = (height + row_lag, width + max_lag)
    power = np.zeros((padded[0], padded[1] // 2 + 1))
    for first in range(0, num, _BATCH):
        block = np.asarray(images[first : first + _BATCH], np.float64)
        spectrum = np.fft.rfft2(block, s=padded, axes=(1, 2))
        power += np.sum(spectrum.real**2 + spectrum.imag**2, axis=(0, 3))
    sums = np.fft.irfft2(power, s=padded)
    rows, columns = np.arange(row_lag + 1), np.arange(max_lag + 1)
    total = (sums[np.ix_(rows, columns)] + sums[np.ix_(-rows, columns)]) / 2
    places = np.outer(height - rows, width - columns)
    kernel = total / (places * num * channels)
    return kernel if height == 1 else (kernel + kernel.T) / 2


def covariance_matrix(kernel: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The matrix K[i, j] = K(|p_i - p_j|), row and column lags apart.

    Args:
      kernel: `[Lh, Lw]`, with all lags that occur.
      places: Rows and columns `[N, 2]`, integers.

    Returns:
      `[N, N]`.
    """
    lags = np.abs(places[:, None] - places[None])
    return kernel[lags[..., 0], lags[..., 1]]


def rbf_kernel(shape: tuple[int, int], lengthscale: float) -> np.ndarray:
    """K(i, j) = exp(-(i^2 + j^2) / (2 l^2)), the radial basis function that GPs are used with by default.

    Args:
      shape: How many row and column lags.
      lengthscale: l in pixels.
    """
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.exp(-(rows**2 + columns**2) / (2 * lengthscale**2))


def posterior(
    kernel: np.ndarray,
    known: np.ndarray,
    measurement: np.ndarray,
    *,
    noise_std: float,
    mean: np.ndarray | float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian-process regression: what the known values say about all of them.

    E[x | y] = m + k S^-1 (y - m), Var[x | y] = diag(K - k S^-1 k'), S = K_known + noise_std^2 I, where k
    holds the columns of K that are known.

    Args:
      kernel: The prior's covariance K of all places `[N, N]`.
      known: Whether a place is known `[N]`, boolean.
      measurement: y, the known values `[num_known]`.
      noise_std: Standard deviation of their noise; some is needed where K is nearly singular.
      mean: The prior's mean m, `[N]` or a number.

    Returns:
      Mean and standard deviation of x (without the noise) `[N]`, `[N]`.

    Raises:
      InputError: If S is not positive definite.

    References:
      Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, algorithm 2.1.
    """
    mean = np.broadcast_to(np.asarray(mean, np.float64), known.shape)
    factor = _cholesky(kernel[np.ix_(known, known)], noise_std**2)
    if factor is None:
        raise InputError(
            f"The kernel is not positive definite with noise_std={noise_std}; raise it."
        )
    half = linalg.solve_triangular(factor, kernel[known], lower=True)
    residual = linalg.solve_triangular(factor, measurement - mean[known], lower=True)
    variance = np.diag(kernel) - np.sum(half**2, axis=0)
    return mean + half.T @ residual, np.sqrt(np.maximum(variance, 0))


class Hyperparameters(NamedTuple):
    """What the data say about a kernel, by maximum likelihood."""

    shape: tuple[float, ...]
    """The arguments of the correlation, such as a lengthscale."""
    scale: float
    """Variance by which the correlation is multiplied."""
    noise_std: float
    """Standard deviation of the noise on the data."""
    mean: float
    """The process's constant mean."""
    log_likelihood: float
    """Of the data, at its maximum."""


def fit_hyperparameters(
    correlation_fn: Callable[..., np.ndarray],
    measurement: np.ndarray,
    *,
    start: tuple[float, ...] = (),
) -> Hyperparameters:
    """Maximizes log N(y | m 1, s (R + g I)) over m, s, g and the arguments of R, all but m positive.

    For given R and g, with S = R + g I and n values, the best are m = 1' S^-1 y / 1' S^-1 1 and
    s = (y - m)' S^-1 (y - m) / n; the others are found by Nelder and Mead's method in their logarithms.

    Args:
      correlation_fn: `correlation_fn(*shape) -> R` between the measured places `[n, n]`.
      measurement: y `[n]`.
      start: Where the search for R's arguments begins; empty where it has none.

    References:
      Rasmussen and Williams 2006, section 5.4.1 (the marginal likelihood).
    """

    def profile(logarithms: np.ndarray) -> Hyperparameters:
        *shape, ratio = (float(value) for value in np.exp(logarithms))
        factor = _cholesky(correlation_fn(*shape), ratio)
        if factor is None:
            return Hyperparameters(tuple(shape), np.nan, np.nan, np.nan, -np.inf)
        ones, y = linalg.solve_triangular(
            factor, np.stack([np.ones_like(measurement), measurement], axis=1), lower=True
        ).T
        mean = ones @ y / (ones @ ones)
        scale = np.mean((y - mean * ones) ** 2)
        log_likelihood = -np.sum(np.log(np.diag(factor)))
        log_likelihood -= len(y) / 2 * (np.log(2 * np.pi * scale) + 1)
        noise_std = np.sqrt(ratio * scale)
        return Hyperparameters(
            tuple(shape), float(scale), float(noise_std), float(mean), float(log_likelihood)
        )

    first = np.log([*start, 1e-2])
    found = optimize.minimize(
        lambda logarithms: -profile(logarithms).log_likelihood,
        first,
        method="Nelder-Mead",
        # Data that hold no noise would have the search go on for ever.
        bounds=[(None, None)] * len(start) + [(np.log(_LEAST_RATIO), None)],
        options={
            "initial_simplex": first + np.vstack([np.zeros_like(first), np.eye(len(first))]),
            "xatol": 1e-2,
            "fatol": 1e-2,
        },
    )
    return profile(found.x)


def _cholesky(matrix: np.ndarray, ridge: float) -> np.ndarray | None:
    """The lower triangular factor of `matrix + ridge I`, or None where there is none."""
    shifted = matrix.copy()
    shifted[np.diag_indices_from(shifted)] += ridge
    try:
        return linalg.cholesky(shifted, lower=True, overwrite_a=True)
    except linalg.LinAlgError:
        return None
