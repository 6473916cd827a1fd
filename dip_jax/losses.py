"""What a fit minimizes: a likelihood for the measurement, and total variation where it is asked for.

A likelihood compares the prediction p = A f(z) with the measurement y, value by value, by a misfit that is
0 for a perfect prediction and never negative (the guard of `fit` compares losses by their ratio). The
loss is its mean over the measurements that count. Each docstring says how the mean over n measurements
relates to the negative log likelihood, up to a constant.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp

from dip_jax.base import Array, InputError, Problem
from dip_jax.fields import require_choice
from dip_jax.problem import assumed_variance, num_measurements

# Added to both sides of a deviance: a prediction of no photons would make one photon impossible.
_DARK = 1e-4
_DARKEST = 1e-5
_SMOOTHING = 1e-3


def gaussian(problem: Problem, prediction: Array) -> Array:
    """|p - y|^2; times n / (2 noise_std^2) it is the negative log likelihood.

    Of complex numbers, where noise_std^2 is the mean of |noise|^2, times n / noise_std^2.
    """
    return jnp.square(jnp.abs(prediction - problem.measurement))


def laplace(problem: Problem, prediction: Array) -> Array:
    """|p - y|: noise with rare large outliers, as salt and pepper; times n / b for a scale b.

    References:
      Aravkin, Burke and Pillonetto, Sparse/robust estimation and Kalman smoothing with nonsmooth
      log-concave densities, 2013 (the l1 penalty as a Laplace likelihood).
    """
    return jnp.abs(prediction - problem.measurement)


def poisson(problem: Problem, prediction: Array) -> Array:
    """P - y + y log(y / p), half the deviance: y peak photons were counted, p peak expected; times n peak.

    References:
      Csiszar, Why least squares and maximum entropy?, 1991 (the I-divergence); McCullagh and Nelder,
      Generalized Linear Models, 1989, section 2.3 (the deviance).
    """
    return _deviance(prediction + _DARK, problem.measurement + _DARK)


def poisson_gauss(problem: Problem, prediction: Array) -> Array:
    """Photons and read-out noise: the Poisson misfit of y + s and p + s, s = peak noise_std^2; times n peak.

    y peak is Poisson(p peak) plus normal noise of variance (peak noise_std)^2. Added that variance, the sum
    has mean and variance equal again, as a Poisson variable has.

    References:
      Snyder, Hammoud and White, Image recovery from data acquired with a charge-coupled-device camera,
      1993; Chouzenoux et al., A convex approach for image restoration with exact
      Poisson-Gaussian likelihood, 2015 (the shifted Poisson).

    Raises:
      InputError: If the problem says no peak.
    """
    if problem.peak is None:
        raise InputError("poisson_gauss needs the photons of a white pixel, Problem.peak.")
    noise_std = jnp.nan_to_num(jnp.asarray(problem.noise_std))  # unknown: none
    shift = jnp.asarray(problem.peak) * noise_std**2 + _DARK
    return _deviance(prediction + shift, problem.measurement + shift)


def interval(problem: Problem, prediction: Array, *, pull: float = 0.0) -> Array:
    """max(|p - y| - tolerance, 0)^2 + pull |p - y|^2: quantized values.

    Without a pull all values of an interval are alike, and what the network has no opinion about wanders in
    it as noise; the values themselves lie more often near its middle. Without a tolerance it is `gaussian`.
    """
    if problem.tolerance is None:
        return gaussian(problem, prediction)
    beyond = jnp.abs(prediction - problem.measurement) - problem.tolerance
    return jnp.square(jnp.maximum(beyond, 0)) + pull * gaussian(problem, prediction)


_MISFITS: dict[str, Callable[..., Array]] = {
    "gaussian": gaussian,
    "poisson": poisson,
    "poisson_gauss": poisson_gauss,
    "laplace": laplace,
    "interval": interval,
}


def loss_floor(name: str) -> float:
    """A loss of this likelihood below which differences mean nothing: a quarter of a gray level."""
    level = 0.25 / 255
    return level if name == "laplace" else level**2


def build_likelihood(name: str, *, interval_pull: float = 0.0) -> Callable[[Problem, Array], Array]:
    """The likelihood of that name as `loss(problem, prediction) -> scalar`.

    The mean is over the measurements with weight 1, and over the picture where it was padded.

    Args:
      name: One of `config.LIKELIHOODS`.
      interval_pull: See `interval`.

    Raises:
      InputError: For an unknown name.
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


def nll_scale(name: str, problem: Problem) -> Array | float:
    """What makes the negative log likelihood of the loss: n / (2 noise_std^2), n peak, ...

    Laplace noise of standard deviation noise_std has b = noise_std / sqrt(2). Quantized values are taken as
    Gaussian, with noise_std.

    Raises:
      InputError: For a Poisson likelihood if the problem says no peak.
    """
    n = num_measurements(problem)
    if name in ("poisson", "poisson_gauss"):
        if problem.peak is None:
            raise InputError(f"{name} needs the photons of a white pixel, Problem.peak.")
        return n * problem.peak
    variance = assumed_variance(problem)
    if name == "laplace":
        return n * jnp.sqrt(2.0 / variance)
    parts = 1 if jnp.iscomplexobj(problem.measurement) else 2
    return n / (parts * variance)


def total_variation(image: Array, form: str, *, region: Array | None = None) -> Array:
    """The sum of the gradient's length over pixels and channels.

    isotropic: sum (d_h^2 + d_w^2)^(1/2); smooth: sum (d_h^2 + d_w^2 + e^2)^(1/2) - e with e = 1e-3, which has
    a gradient everywhere. d_h, d_w are forward differences at the pixels that have both neighbors; of a
    signal, one row high, d_w alone. (The 2018 code's gradient of the first is not a number where the image is flat; here it is 0.)

    Args:
      image: `[H, W, C]`.
      form: `isotropic` or `smooth`.
      region: `[H, W, 1]`, 1 where the picture is, a rectangle in the top left corner.

    References:
      Rudin, Osher and Fatemi, Nonlinear total variation based noise removal, 1992.
    """
    above = image if image.shape[0] == 1 else image[:-1]
    squares = (above[:, 1:] - above[:, :-1]) ** 2
    if image.shape[0] > 1:
        squares += (image[1:, :-1] - image[:-1, :-1]) ** 2
    if region is not None:
        squares = squares * region[1:, 1:]
    if form == "smooth":
        return jnp.sum(jnp.sqrt(squares + _SMOOTHING**2) - _SMOOTHING)
    flat = squares == 0
    return jnp.sum(jnp.where(flat, 0.0, jnp.sqrt(jnp.where(flat, 1.0, squares))))


def _deviance(expected: Array, counted: Array) -> Array:
    """Half the Poisson deviance of an expectation e and a count c; a count below 0 is none.

    c (r - log(1 + r)) with r = (e - c) / c: not negative in float32 either, where e - c + c log(c / e) is.
    Below e = 1e-5 it goes on along its tangent, so that a negative expectation is pulled back.
    """
    counted = jnp.maximum(counted, 0)
    some = counted > _DARKEST  # fewer are none: the ratio would overflow
    safe = jnp.where(some, counted, 1.0)
    inside = jnp.maximum(expected, _DARKEST)
    ratio = (inside - safe) / safe
    value = jnp.where(some, safe * (ratio - jnp.log1p(ratio)), inside)
    slope = jnp.where(some, 1 - safe / _DARKEST, 0.0)
    return value + slope * jnp.minimum(expected - _DARKEST, 0)
