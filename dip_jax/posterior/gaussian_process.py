"""Gaussian processes as the limit of deep image priors: kernels, regression, hyperparameters.

With many channels, the output of a convolutional network with random weights, on a stationary
random code, tends to a Gaussian process whose covariance depends on the lag alone. Its kernel
follows a recursion over the layers (`network_kernel`), or is estimated from images of networks with
random weights (`estimate_kernel`). Regression with this kernel (`posterior`) gives the posterior of
the deep image prior in the limit, without training.

A kernel is an array of its values at the lags 0, 1, 2, ...: `[L]` for signals, `[Lh, Lw]` for
images. Everything but the networks is float64 on the host, because kernel matrices are badly
conditioned.

References:
  Cheng, Gadelha, Maji and Sheldon, A Bayesian Perspective on the Deep Image Prior, 2019.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg, optimize

from dip_jax.base import Array, Net, Params
from dip_jax.errors import InputError

_BATCH = 256  # images whose spectra are in memory at once
_MIN_RATIO = 1e-6  # lower bound of the noise variance over that of the process, in the search


def input_kernel(distance: np.ndarray, input_std: float) -> np.ndarray:
    """Returns the kernel K(d) = exp(-d^2 / (4 s^2)) of white noise smoothed by a Gaussian.

    Args:
      distance: Lags d in pixels, of any shape.
      input_std: Standard deviation s of the Gaussian in pixels; 0 for white noise, whose kernel is
        1 at d = 0 and 0 elsewhere.

    Example:
      >>> input_kernel([0, 1, 2], input_std=1.0).round(3).tolist()
      [1.0, 0.779, 0.368]
    """
    distance = np.asarray(distance, np.float64)
    if input_std == 0:
        return (distance == 0).astype(np.float64)
    return np.exp(-((distance / (2 * input_std)) ** 2))


def conv_kernel(
    kernel: np.ndarray, *, weight_var: float = 1.0, bias_var: float = 0.0
) -> np.ndarray:
    """Returns the kernel K'(d) = b + w K(d) after a convolution with independent weights of mean 0.

    The size of the filter has no effect, because each tap shifts both pixels by the same lag.

    Args:
      kernel: Kernel K of the input, of any shape.
      weight_var: w, the variance of a weight times the number of weights per output (taps times
        input channels).
      bias_var: b, the variance of a bias.
    """
    return bias_var + weight_var * np.asarray(kernel, np.float64)


def relu_kernel(kernel: np.ndarray) -> np.ndarray:
    """Returns the kernel after a rectifier, which halves the variance.

    K'(d) = K(0) / (2 pi) (sin t + (pi - t) cos t), with cos t = K(d) / K(0).

    Args:
      kernel: Kernel K of the input, of any shape; its first value is K(0).

    References:
      Cho and Saul, Kernel Methods for Deep Learning, 2009 (the arc-cosine kernel of order 1).

    Example:
      >>> relu_kernel([1.0, 0.0]).round(3).tolist()
      [0.5, 0.159]
    """
    kernel = np.asarray(kernel, np.float64)
    variance = kernel.flat[0]
    cosine = np.clip(kernel / variance, -1, 1)
    angle = np.arccos(cosine)
    return variance / (2 * np.pi) * (np.sin(angle) + (np.pi - angle) * cosine)


def network_kernel(distance: np.ndarray, depth: int, input_std: float) -> np.ndarray:
    """Returns the correlation K(d) / K(0) after `depth` layers of a convolution and a rectifier.

    At every distance, it grows towards 1 with the depth.

    Args:
      distance: Lags d in pixels, of any shape.
      depth: Number of layers; a further convolution does not change the correlation.
      input_std: Smoothing of the code in pixels; see `input_kernel`.

    References:
      Cheng et al. 2019, theorem 1.

    Example:
      >>> network_kernel([0, 1, 10], depth=2, input_std=2.0).round(3).tolist()
      [1.0, 0.948, 0.494]
    """
    distance = np.asarray(distance, np.float64)
    kernel = input_kernel(np.concatenate([[0.0], distance.ravel()]), input_std)
    for _ in range(depth):
        kernel = relu_kernel(conv_kernel(kernel))
    return (kernel[1:] / kernel[0]).reshape(distance.shape)


def conv_relu_net(
    size: int, *, depth: int, width: int = 128, input_depth: int = 128, channels: int = 1
) -> Net:
    """Builds a network for signals: rectified convolutions, and a last convolution.

    Convolutions have 3 taps, no bias and no padding, so the output is stationary up to its border.
    Weights are drawn from N(0, 1 / (3 inputs)). The params are `{"conv_0": [1, 3, inputs, outputs],
    ...}`.

    Args:
      size: Pixels of the signal.
      depth: Number of rectified layers.
      width: Channels of the rectified layers.
      input_depth: Channels of the code.
      channels: Channels of the signal; with random weights they are independent in the limit.

    Returns:
      A `Net` from codes `[1, size + 2 (depth + 1), input_depth]`, such as `smooth_code`, to signals
      `[1, size, channels]`.
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
    """Draws normal noise, smoothed along the columns by a Gaussian; its kernel is `input_kernel`.

    Args:
      key: Random key, consumed.
      shape: Shape of the code, `(1, W, C)`.
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
    """Draws images from the prior of a network, each with new params and a new code.

    Args:
      key: Random key, consumed.
      net: Any network.
      num: Number of images.
      code_fn: `code_fn(key) -> code`; None for uniform noise, the default code of a fit.

    Returns:
      `[num, H, W, C]`.
    """
    draw_code = code_fn or (lambda key: 0.1 * jax.random.uniform(key, net.code_shape))

    def draw(key: Array) -> Array:
        key_params, key_code = jax.random.split(key)
        return net.apply(net.init(key_params), draw_code(key_code))

    return jax.jit(lambda keys: jax.lax.map(draw, keys))(jax.random.split(key, num))


def estimate_kernel(images: np.ndarray, max_lag: int) -> np.ndarray:
    """Estimates the kernel of a stationary process of mean 0 from images.

    K(i, j) is the mean of x(p) x(p + lag) over images, channels, pixels p and the lags (+-i, +-j).
    Subtract the mean of the process first, and pass only the central part of images of a network,
    which is not stationary near its borders.

    Args:
      images: `[N, H, W, C]`, or `[N, 1, W, C]` for signals.
      max_lag: Largest lag in pixels, less than W, and less than H for images.

    Returns:
      `[max_lag + 1, max_lag + 1]`, the mean over both orders of rows and columns, or `[1, max_lag +
      1]` for signals.

    Raises:
      InputError: If `max_lag` is too large.

    Example:
      >>> import numpy as np
      >>> white_noise = np.random.default_rng(0).normal(size=(100, 16, 16, 1))
      >>> (estimate_kernel(white_noise, max_lag=1).round(1) + 0.0).tolist()
      [[1.0, 0.0], [0.0, 0.0]]
    """
    num, height, width, channels = images.shape
    if max_lag >= width or (height > 1 and max_lag >= height):
        raise InputError(
            f"max_lag must be less than the sides of the images, got {max_lag} and {height, width}."
        )
    row_lag = max_lag if height > 1 else 0
    # With as many zeros of padding as lags, the circular correlation wraps only zeros.
    padded = (height + row_lag, width + max_lag)
    power = np.zeros((padded[0], padded[1] // 2 + 1))
    for first in range(0, num, _BATCH):
        block = np.asarray(images[first : first + _BATCH], np.float64)
        spectrum = np.fft.rfft2(block, s=padded, axes=(1, 2))
        power += np.sum(spectrum.real**2 + spectrum.imag**2, axis=(0, 3))
    sums = np.fft.irfft2(power, s=padded)
    rows, columns = np.arange(row_lag + 1), np.arange(max_lag + 1)
    total = (sums[np.ix_(rows, columns)] + sums[np.ix_(-rows, columns)]) / 2
    num_pairs = np.outer(height - rows, width - columns)
    kernel = total / (num_pairs * num * channels)
    return kernel if height == 1 else (kernel + kernel.T) / 2


def covariance_matrix(kernel: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Returns the covariance matrix K[i, j] = K(|p_i - p_j|) of pixels.

    Args:
      kernel: `[Lh, Lw]`, for all lags of rows and columns between the pixels.
      positions: Rows and columns of the pixels `[N, 2]`, integers.

    Returns:
      `[N, N]`.

    Example:
      >>> import numpy as np
      >>> kernel = np.array([[1.0, 0.5, 0.2]])
      >>> covariance_matrix(kernel, np.array([[0, 0], [0, 1], [0, 2]])).tolist()
      [[1.0, 0.5, 0.2], [0.5, 1.0, 0.5], [0.2, 0.5, 1.0]]
    """
    lags = np.abs(positions[:, None] - positions[None])
    return kernel[lags[..., 0], lags[..., 1]]


def rbf_kernel(shape: tuple[int, int], lengthscale: float) -> np.ndarray:
    """Returns the radial basis function K(i, j) = exp(-(i^2 + j^2) / (2 l^2)).

    Args:
      shape: Number of row and column lags.
      lengthscale: Lengthscale l in pixels.

    Example:
      >>> rbf_kernel((1, 3), lengthscale=1.0).round(3).tolist()
      [[1.0, 0.607, 0.135]]
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
    """Returns mean and standard deviation of a Gaussian process, given some of its values.

    E[x | y] = m + k S^-1 (y - m), Var[x | y] = diag(K - k S^-1 k'), with S = K_known + noise_std^2
    I and k the columns of K of the known values.

    Args:
      kernel: Covariance matrix K of the prior `[N, N]`; see `covariance_matrix`.
      known: Whether a value is known `[N]`, boolean.
      measurement: The known values y `[num_known]`.
      noise_std: Standard deviation of the noise on y; it must be positive if K is nearly singular.
      mean: Mean m of the prior, `[N]` or a number.

    Returns:
      Mean `[N]` and standard deviation `[N]` of x, without the noise.

    Raises:
      InputError: If S is not positive definite.

    References:
      Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, algorithm 2.1.

    Example:
      Three neighbors, of which the outer two are known:

      >>> import numpy as np
      >>> kernel = covariance_matrix(rbf_kernel((1, 3), 2.0), np.array([[0, 0], [0, 1], [0, 2]]))
      >>> known = np.array([True, False, True])
      >>> mean, std = posterior(kernel, known, np.array([1.0, 2.0]), noise_std=0.0)
      >>> mean.round(2).tolist()
      [1.0, 1.65, 2.0]
    """
    mean = np.broadcast_to(np.asarray(mean, np.float64), known.shape)
    factor = _cholesky(kernel[np.ix_(known, known)], noise_std**2)
    if factor is None:
        raise InputError(
            f"The covariance is not positive definite with noise_std={noise_std}; raise noise_std."
        )
    half = linalg.solve_triangular(factor, kernel[known], lower=True)
    residual = linalg.solve_triangular(factor, measurement - mean[known], lower=True)
    variance = np.diag(kernel) - np.sum(half**2, axis=0)
    return mean + half.T @ residual, np.sqrt(np.maximum(variance, 0))


class Hyperparameters(NamedTuple):
    """Hyperparameters of a Gaussian process by maximum likelihood."""

    correlation_args: tuple[float, ...]
    """Arguments of the correlation function, such as a lengthscale."""
    scale: float
    """Variance of the process, a factor on the correlation."""
    noise_std: float
    """Standard deviation of the noise on the measurement."""
    mean: float
    """Constant mean of the process."""
    log_likelihood: float
    """Maximum of the log likelihood of the measurement."""


def fit_hyperparameters(
    correlation_fn: Callable[..., np.ndarray],
    measurement: np.ndarray,
    *,
    start: tuple[float, ...] = (),
) -> Hyperparameters:
    """Fits the hyperparameters of a Gaussian process by maximum likelihood.

    It maximizes log N(y | m 1, s (R + g I)) over m, s, g and the arguments of R, all but m
    positive. For given R and g, with S = R + g I and n values, the best m is 1' S^-1 y / 1' S^-1 1
    and the best s is (y - m)' S^-1 (y - m) / n. The others follow from a Nelder-Mead search in
    their logarithms.

    Args:
      correlation_fn: `correlation_fn(*arguments) -> R`, the correlation matrix `[n, n]` of the
        measured pixels.
      measurement: The measured values y `[n]`.
      start: Arguments of the correlation at which the search starts; empty if there are none.

    References:
      Rasmussen and Williams 2006, section 5.4.1 (the marginal likelihood).

    Example:
      >>> import numpy as np
      >>> positions = np.stack([np.zeros(60, int), np.arange(60)], axis=-1)
      >>> def correlation(lengthscale):
      ...     return covariance_matrix(rbf_kernel((1, 60), lengthscale), positions)
      >>> covariance = correlation(3.0) + 0.1**2 * np.eye(60)
      >>> y = np.random.default_rng(0).multivariate_normal(np.zeros(60), covariance)
      >>> found = fit_hyperparameters(correlation, y, start=(1.0,))
      >>> round(found.correlation_args[0]), round(found.noise_std, 1)
      (3, 0.1)
    """

    def profile(logarithms: np.ndarray) -> Hyperparameters:
        *arguments, ratio = (float(value) for value in np.exp(logarithms))
        factor = _cholesky(correlation_fn(*arguments), ratio)
        if factor is None:
            return Hyperparameters(tuple(arguments), np.nan, np.nan, np.nan, -np.inf)
        ones, y = linalg.solve_triangular(
            factor, np.stack([np.ones_like(measurement), measurement], axis=1), lower=True
        ).T
        mean = ones @ y / (ones @ ones)
        scale = np.mean((y - mean * ones) ** 2)
        log_likelihood = -np.sum(np.log(np.diag(factor)))
        log_likelihood -= len(y) / 2 * (np.log(2 * np.pi * scale) + 1)
        noise_std = np.sqrt(ratio * scale)
        return Hyperparameters(
            tuple(arguments), float(scale), float(noise_std), float(mean), float(log_likelihood)
        )

    first = np.log([*start, 1e-2])
    found = optimize.minimize(
        lambda logarithms: -profile(logarithms).log_likelihood,
        first,
        method="Nelder-Mead",
        # Without this bound the search would not end for a measurement without noise.
        bounds=[(None, None)] * len(start) + [(np.log(_MIN_RATIO), None)],
        options={
            "initial_simplex": first + np.vstack([np.zeros_like(first), np.eye(len(first))]),
            "xatol": 1e-2,
            "fatol": 1e-2,
        },
    )
    return profile(found.x)


def _cholesky(matrix: np.ndarray, ridge: float) -> np.ndarray | None:
    """The lower triangular factor of `matrix + ridge I`; None if that is not positive definite."""
    shifted = matrix.copy()
    shifted[np.diag_indices_from(shifted)] += ridge
    try:
        return linalg.cholesky(shifted, lower=True, overwrite_a=True)
    except linalg.LinAlgError:
        return None
