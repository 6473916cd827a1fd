"""The loss that a fit minimizes: the misfit of a likelihood, and total variation.

A misfit compares each value of the prediction p = A x with the measured value y. It is 0 for p = y
and never negative, because the guard of `fit` compares losses by their ratio. The loss is the mean
of the misfit over the n measured values with weight 1. Times the factor k of `nll_scale`, it is the
negative log likelihood up to a constant.

| likelihood | misfit | k |
|---|---|---|
| `gaussian` | (p - y)^2 | n / (2 noise_std^2) |
| `laplace` | abs(p - y) | n sqrt(2) / noise_std |
| `poisson` | p - y + y log(y / p) | n peak |
| `poisson_gauss` | the same of p + s and y + s, s = peak noise_std^2 | n peak |
| `interval` | max(abs(p - y) - tolerance, 0)^2 + pull (p - y)^2 | n / (2 noise_std^2) |
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp

from dip_jax.base import Array, Problem
from dip_jax.config import Likelihood, Variation
from dip_jax.errors import InputError
from dip_jax.fields import require_choice
from dip_jax.problem import assumed_variance, num_measurements

# Added to both counts of a deviance: with no expected photon, one photon would be impossible.
_BACKGROUND = 1e-4
# A deviance continues along its tangent below this expectation.
_MIN_EXPECTED = 1e-5
_SMOOTHING = 1e-3


def gaussian(problem: Problem, prediction: Array) -> Array:
    """Returns the misfit |p - y|^2 of normal noise.

    The mean over n values, times n / (2 noise_std^2), is the negative log likelihood; for complex
    values, times n / noise_std^2 with noise_std^2 = mean |noise|^2.

    Args:
      problem: The problem, with the measurement y.
      prediction: p = A x, same shape as the measurement.

    Example:
      >>> import jax.numpy as jnp
      >>> from dip_jax.operators import Identity
      >>> problem = Problem(Identity(), jnp.array([0.0, 1.0]), noise_std=0.1)
      >>> gaussian(problem, jnp.array([0.5, 1.0])).tolist()
      [0.25, 0.0]
    """
    return jnp.square(jnp.abs(prediction - problem.measurement))


def laplace(problem: Problem, prediction: Array) -> Array:
    """Returns the misfit |p - y| of noise with rare large outliers, such as salt and pepper.

    The mean over n values, times n / b, is the negative log likelihood of Laplace noise of scale b.

    Args:
      problem: The problem, with the measurement y.
      prediction: p = A x, same shape as the measurement.

    References:
      Aravkin, Burke and Pillonetto, Sparse/robust estimation and Kalman smoothing with nonsmooth
        log-concave densities, 2013 (the l1 penalty as a Laplace likelihood).
    """
    return jnp.abs(prediction - problem.measurement)


def poisson(problem: Problem, prediction: Array) -> Array:
    """Returns the misfit p - y + y log(y / p) of photon counts, half the Poisson deviance.

    y peak photons were counted, and p peak were expected. The mean over n values, times n peak, is
    the negative log likelihood. A background of 1e-4 is added to both p and y.

    Args:
      problem: The problem, with the measurement y.
      prediction: p = A x, same shape as the measurement.

    References:
      Csiszar, Why least squares and maximum entropy?, 1991 (the I-divergence).
      McCullagh and Nelder, Generalized Linear Models, 1989, section 2.3 (the deviance).
    """
    return _deviance(prediction + _BACKGROUND, problem.measurement + _BACKGROUND)


def poisson_gauss(problem: Problem, prediction: Array) -> Array:
    """Returns the misfit of photon counts with read-out noise: `poisson` of p + s and y + s.

    y peak is Poisson(p peak) plus normal noise of variance (peak noise_std)^2. With s = peak
    noise_std^2, the mean and the variance of (y + s) peak are equal, as for a Poisson variable. The
    mean over n values, times n peak, is the negative log likelihood. An unknown `noise_std` counts
    as no read-out noise.

    Args:
      problem: The problem, with the measurement y, `noise_std` and `peak`.
      prediction: p = A x, same shape as the measurement.

    Raises:
      InputError: If the problem has no `peak`.

    References:
      Snyder, Hammoud and White, Image recovery from data acquired with a charge-coupled-device
        camera, 1993.
      Chouzenoux et al., A convex approach for image restoration with exact Poisson-Gaussian
        likelihood, 2015 (the shifted Poisson).
    """
    peak = _require_peak("poisson_gauss", problem)
    noise_std = jnp.nan_to_num(jnp.asarray(problem.noise_std))
    shift = jnp.asarray(peak) * noise_std**2 + _BACKGROUND
    return _deviance(prediction + shift, problem.measurement + shift)


def interval(problem: Problem, prediction: Array, *, pull: float = 0.0) -> Array:
    """Returns the misfit max(|p - y| - tolerance, 0)^2 + pull |p - y|^2 of quantized values.

    Without `pull`, all values inside an interval are equal, and the network fills it with noise.
    True values are more often near the center. Without a tolerance, the misfit is `gaussian`.

    Args:
      problem: The problem, with the measurement y and `tolerance`.
      prediction: p = A x, same shape as the measurement.
      pull: Weight of the squared distance to the center of the interval.

    Example:
      >>> import jax.numpy as jnp
      >>> from dip_jax.operators import Identity
      >>> problem = Problem(Identity(), jnp.zeros(2), 0.0, tolerance=jnp.array([0.5, 0.5]))
      >>> interval(problem, jnp.array([0.25, 1.0])).tolist()
      [0.0, 0.25]
    """
    if problem.tolerance is None:
        return gaussian(problem, prediction)
    excess = jnp.abs(prediction - problem.measurement) - problem.tolerance
    return jnp.square(jnp.maximum(excess, 0)) + pull * gaussian(problem, prediction)


_MISFITS: dict[Likelihood, Callable[..., Array]] = {
    "gaussian": gaussian,
    "poisson": poisson,
    "poisson_gauss": poisson_gauss,
    "laplace": laplace,
    "interval": interval,
}


def build_likelihood(
    name: Likelihood, *, interval_pull: float = 0.0
) -> Callable[[Problem, Array], Array]:
    """Returns the loss of a likelihood, `loss(problem, prediction) -> scalar`.

    It is the mean of the misfit over the measured values with weight 1, without the margin of a
    canvas.

    Args:
      name: The likelihood.
      interval_pull: `pull` of `interval`.

    Raises:
      InputError: For an unknown name.

    Example:
      >>> import jax.numpy as jnp
      >>> from dip_jax.operators import Identity
      >>> loss = build_likelihood("laplace")
      >>> problem = Problem(Identity(), jnp.zeros(4), 0.1, weights=jnp.array([1.0, 1.0, 1.0, 0.0]))
      >>> float(loss(problem, jnp.array([1.0, 2.0, 3.0, 99.0])))
      2.0
    """
    require_choice("likelihood", name, tuple(_MISFITS))
    misfit = _MISFITS[name]
    if name == "interval":
        misfit = functools.partial(interval, pull=interval_pull)

    def loss(problem: Problem, prediction: Array) -> Array:
        values = misfit(problem, prediction)
        if problem.weights is not None:
            return jnp.sum(values * problem.weights) / jnp.sum(problem.weights)
        mean = jnp.mean(values)
        return mean if problem.region is None else mean / jnp.mean(problem.region)

    return loss


def loss_floor(name: Likelihood) -> float:
    """Returns the loss of an error of a quarter of a gray level; smaller losses count as equal."""
    error = 0.25 / 255
    return error if name == "laplace" else error**2


def nll_scale(name: Likelihood, problem: Problem) -> Array | float:
    """Returns the factor k that turns the loss into the negative log likelihood.

    With v = `assumed_variance(problem)` and n = `num_measurements(problem)`, it is n / (2 v) for
    `gaussian` and `interval` (n / v for complex values), n sqrt(2 / v) for `laplace`, and n peak
    for `poisson` and `poisson_gauss`.

    Args:
      name: The likelihood.
      problem: The problem.

    Raises:
      InputError: For a Poisson likelihood if the problem has no `peak`.

    Example:
      >>> import jax.numpy as jnp
      >>> from dip_jax.operators import Identity
      >>> problem = Problem(Identity(), jnp.zeros((5, 4, 1)), noise_std=0.1)
      >>> round(float(nll_scale("gaussian", problem)))
      1000
    """
    n = num_measurements(problem)
    if name in ("poisson", "poisson_gauss"):
        return n * _require_peak(name, problem)
    variance = assumed_variance(problem)
    if name == "laplace":
        return n * jnp.sqrt(2.0 / variance)
    parts = 1 if jnp.iscomplexobj(problem.measurement) else 2
    return n / (parts * variance)


def total_variation(image: Array, form: Variation, *, region: Array | None = None) -> Array:
    """Returns the sum of the norm of the gradient over pixels and channels.

    * `isotropic`: sum (d_h^2 + d_w^2)^(1/2). Its gradient is 0 where the image is flat (NaN in the
      2018 code).
    * `smooth`: sum (d_h^2 + d_w^2 + e^2)^(1/2) - e, with e = 1e-3.

    d_h and d_w are forward differences, at the pixels that have both neighbors. A signal (one row)
    has only d_w.

    Args:
      image: `[H, W, C]`.
      form: `isotropic` or `smooth`.
      region: Canvas mask `[H, W, 1]`: 1 = image, a rectangle in the top left corner, 0 = margin.

    References:
      Rudin, Osher and Fatemi, Nonlinear total variation based noise removal, 1992.

    Example:
      >>> import jax.numpy as jnp
      >>> image = jnp.array([[0.0, 3.0], [4.0, 0.0]])[..., None]
      >>> float(total_variation(image, "isotropic"))
      5.0
    """
    rows = image if image.shape[0] == 1 else image[:-1]
    squares = (rows[:, 1:] - rows[:, :-1]) ** 2
    if image.shape[0] > 1:
        squares += (image[1:, :-1] - image[:-1, :-1]) ** 2
    if region is not None:
        squares = squares * region[1:, 1:]
    if form == "smooth":
        return jnp.sum(jnp.sqrt(squares + _SMOOTHING**2) - _SMOOTHING)
    # `where` on both sides of the root: the gradient of an unused sqrt(0) would still be NaN.
    is_flat = squares == 0
    return jnp.sum(jnp.where(is_flat, 0.0, jnp.sqrt(jnp.where(is_flat, 1.0, squares))))


def _require_peak(name: str, problem: Problem) -> Array | float:
    if problem.peak is None:
        raise InputError(f"{name} expects the photons at a value of 1, got no Problem.peak.")
    return problem.peak


def _deviance(expected: Array, counted: Array) -> Array:
    """Half the Poisson deviance of an expectation e and a count c; negative counts count as 0.

    Computed as c (r - log(1 + r)) with r = (e - c) / c, which is never negative in float32, unlike
    e - c + c log(c / e). Below e = 1e-5 it continues along its tangent, whose gradient increases
    negative expectations.
    """
    counted = jnp.maximum(counted, 0)
    is_positive = counted > _MIN_EXPECTED  # the ratio of a smaller count would overflow
    divisor = jnp.where(is_positive, counted, 1.0)
    inside = jnp.maximum(expected, _MIN_EXPECTED)
    ratio = (inside - divisor) / divisor
    value = jnp.where(is_positive, divisor * (ratio - jnp.log1p(ratio)), inside)
    slope = jnp.where(is_positive, 1 - divisor / _MIN_EXPECTED, 0.0)
    return value + slope * jnp.minimum(expected - _MIN_EXPECTED, 0)
