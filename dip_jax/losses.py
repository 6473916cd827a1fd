"""Losses: the misfit between a prediction p = A x and the measurement y.

Any function `loss(prediction, problem)` is a loss; see `base.Loss`. The likelihoods of this file are
losses that also know the factor k which turns the mean over the n measured values with weight 1
into the negative log likelihood, up to a constant; samplers need it. Their misfit is never negative,
because the guard of `fit` compares losses by their ratio, and 0 for p = y (in `tobit`, of a value between
the limits).

| likelihood | misfit | k |
|---|---|---|
| `gaussian` | (p - y)^2 | n / (2 noise_std^2) |
| `gaussian_or_tobit` | `tobit` if 5 % of the values or more are 0 or 1, otherwise `gaussian`; of samplers | n / (2 noise_std^2) |
| `tobit` | (p - y)^2 for 0 < y < 1, -2 noise_std^2 log P(clipped) for y = 0 and 1 | n / (2 noise_std^2) |
| `laplace` | abs(p - y) | n sqrt(2) / noise_std |
| `poisson` | p - y + y log(y / p) | n peak |
| `poisson_gauss` | the same of p + s and y + s, s = peak noise_std^2 | n peak |
| `interval` | max(abs(p - y) - tolerance, 0)^2 + pull (p - y)^2 | n / (2 noise_std^2) |
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr

from dip_jax.base import Array, Loss, Problem
from dip_jax.clipping import MUCH_CLIPPED
from dip_jax.errors import InputError
from dip_jax.operators.basic import Identity
from dip_jax.problem import MIN_NOISE_STD, assumed_variance, num_measurements, visible_weights

# Added to both counts of a deviance: with no expected photon, one photon would be impossible.
_BACKGROUND = 1e-4
# A deviance continues along its tangent below this expectation.
_MIN_EXPECTED = 1e-5
_QUARTER_LEVEL = 0.25 / 255
# Above this many noise levels the tail of the normal distribution is computed by its series, to 1e-8.
_TAIL = 10.0


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """A loss that is a likelihood, so it can be sampled.

    Example:
      The likelihood of Cauchy noise of scale 0.1, whose negative log density is log(1 + (r / 0.1)^2):

      >>> import jax.numpy as jnp
      >>> from dip_jax.operators import Identity
      >>> cauchy = Likelihood(
      ...     lambda prediction, problem: jnp.log1p(((prediction - problem.measurement) / 0.1) ** 2),
      ...     nll_scale=num_measurements,
      ... )
      >>> problem = Problem(Identity(), jnp.zeros(3), noise_std=0.1)
      >>> [f"{value:.3f}" for value in cauchy(jnp.array([0.0, 0.1, 0.3]), problem)]
      ['0.000', '0.693', '2.303']
    """

    misfit: Loss
    """`misfit(prediction, problem)`, the misfit of each measured value."""
    nll_scale: Callable[[Problem], Array | float]
    """`nll_scale(problem)`, the factor k that turns the mean misfit into the negative log likelihood."""
    needs_noise_std: bool = False
    """Whether `nll_scale` needs a `Problem.noise_std`; if it is unknown, it is estimated for a sampler."""
    floor: float = _QUARTER_LEVEL**2
    """Loss of an error of a quarter of a gray level; the guard takes smaller losses for equal."""
    models_clipping: bool = False
    """Whether the misfit depends on the noise level before values were clipped to [0, 1]; if it is unknown, it is
    estimated for any fit."""

    def __call__(self, prediction: Array, problem: Problem, /) -> Array:
        """Returns the misfit of each measured value.

        Args:
          prediction: p = A x, same shape as the measurement.
          problem: The problem, with the measurement y.
        """
        return self.misfit(prediction, problem)


def gaussian_misfit(prediction: Array, problem: Problem) -> Array:
    """Returns the misfit |p - y|^2 of normal noise.

    The mean over n values, times n / (2 noise_std^2), is the negative log likelihood; for complex
    values, times n / noise_std^2 with noise_std^2 = mean |noise|^2.

    Args:
      prediction: p = A x, same shape as the measurement.
      problem: The problem, with the measurement y.

    Example:
      >>> import jax.numpy as jnp
      >>> from dip_jax.operators import Identity
      >>> problem = Problem(Identity(), jnp.array([0.0, 1.0]), noise_std=0.1)
      >>> gaussian_misfit(jnp.array([0.5, 1.0]), problem).tolist()
      [0.25, 0.0]
    """
    return jnp.square(jnp.abs(prediction - problem.measurement))


def tobit_misfit(prediction: Array, problem: Problem) -> Array:
    """Returns the misfit of normal noise after which values were clipped to [0, 1].

    It is (p - y)^2 for 0 < y < 1. A value at a limit only tells that the noisy value was beyond it. With s^2 =
    `assumed_variance(problem)` and the distribution F of N(0, 1), the misfit is

        -2 s^2 log F(-p / s)          for y <= 0,
        -2 s^2 log F((p - 1) / s)     for y >= 1.

    At a limit it falls from 1.39 s^2 to 0 as p goes beyond it, and approaches (p - y)^2 on the other side. The mean
    over n values, times n / (2 s^2), is the negative log likelihood. An unknown `noise_std` counts as
    `MIN_NOISE_STD`: no misfit beyond a limit, and (p - y)^2 on the other side.

    A pixel that `operators.Mask` hides has y = p = 0, so it adds 1.39 s^2, which is constant.

    Args:
      prediction: p = A x, same shape as the measurement.
      problem: The problem, with the measurement y and `noise_std`.

    Raises:
      InputError: If the measurement is complex.

    Example:
      >>> import jax.numpy as jnp
      >>> from dip_jax.operators import Identity
      >>> problem = Problem(Identity(), jnp.array([0.0, 0.0, 0.5, 1.0]), noise_std=0.1)
      >>> misfit = tobit_misfit(jnp.array([-1.0, 0.5, 0.0, 1.0]), problem)
      >>> [f"{value:.4f}" for value in misfit]
      ['0.0000', '0.3013', '0.2500', '0.0139']

    References:
      Tobin, Estimation of relationships for limited dependent variables, 1958.
      Foi, Clipped noisy images: heteroskedastic modeling and practical denoising, 2009, section 2.
    """
    y = problem.measurement
    if jnp.iscomplexobj(y):
        raise InputError(
            "tobit expects pixels that were clipped to [0, 1], got a complex measurement; use gaussian."
        )
    variance = assumed_variance(problem)
    variance = jnp.where(jnp.isnan(variance), MIN_NOISE_STD**2, variance)
    noise_std = jnp.sqrt(variance)
    inside = jnp.where(y <= 0, prediction, 1 - prediction)  # signed distance to the limit
    at_limit = -2 * variance * _log_tail(inside / noise_std)
    return jnp.where((y <= 0) | (y >= 1), at_limit, gaussian_misfit(prediction, problem))


def gaussian_or_tobit_misfit(prediction: Array, problem: Problem) -> Array:
    """Returns `tobit_misfit` if much of a noisy image was clipped, and `gaussian_misfit` otherwise.

    Much is a fraction `clipping.MUCH_CLIPPED` of the values with weight 1. Only a copy of the image (`operators.Identity`) counts,
    because other measurements may have values of 0 and 1 for other reasons.

    Args:
      prediction: p = A x, same shape as the measurement.
      problem: The problem, with the measurement y and `noise_std`, that before clipping.

    Example:
      >>> import jax.numpy as jnp
      >>> from dip_jax.operators import Identity
      >>> problem = Problem(Identity(), jnp.array([0.0, 0.5, 0.5, 0.5]), noise_std=0.1)
      >>> p = jnp.array([-1.0, 0.5, 0.5, 0.4])
      >>> [f"{value:.2f}" for value in gaussian_or_tobit_misfit(p, problem)]
      ['0.00', '0.00', '0.00', '0.01']
    """
    plain, y = gaussian_misfit(prediction, problem), problem.measurement
    if not isinstance(problem.operator, Identity):
        return plain
    weights = visible_weights(problem)
    clipped = jnp.sum(weights * ((y == 0) | (y == 1)))
    is_much = clipped >= MUCH_CLIPPED * jnp.sum(weights)
    return jnp.where(is_much, tobit_misfit(prediction, problem), plain)


def laplace_misfit(prediction: Array, problem: Problem) -> Array:
    """Returns the misfit |p - y| of noise with rare large outliers, such as salt and pepper.

    The mean over n values, times n / b, is the negative log likelihood of Laplace noise of scale b.

    Args:
      prediction: p = A x, same shape as the measurement.
      problem: The problem, with the measurement y.

    References:
      Aravkin, Burke and Pillonetto, Sparse/robust estimation and Kalman smoothing with nonsmooth
        log-concave densities, 2013 (the l1 penalty as a Laplace likelihood).
    """
    return jnp.abs(prediction - problem.measurement)


def poisson_misfit(prediction: Array, problem: Problem) -> Array:
    """Returns the misfit p - y + y log(y / p) of photon counts, half the Poisson deviance.

    y peak photons were counted, and p peak were expected. The mean over n values, times n peak, is
    the negative log likelihood. A background of 1e-4 is added to both p and y.

    Args:
      prediction: p = A x, same shape as the measurement.
      problem: The problem, with the measurement y.

    References:
      Csiszar, Why least squares and maximum entropy?, 1991 (the I-divergence).
      McCullagh and Nelder, Generalized Linear Models, 1989, section 2.3 (the deviance).
    """
    return _deviance(prediction + _BACKGROUND, problem.measurement + _BACKGROUND)


def poisson_gauss_misfit(prediction: Array, problem: Problem) -> Array:
    """Returns the misfit of photon counts with read-out noise: `poisson_misfit` of p + s and y + s.

    y peak is Poisson(p peak) plus normal noise of variance (peak noise_std)^2. With s = peak
    noise_std^2, the mean and the variance of (y + s) peak are equal, as for a Poisson variable. The
    mean over n values, times n peak, is the negative log likelihood. An unknown `noise_std` counts
    as no read-out noise.

    Args:
      prediction: p = A x, same shape as the measurement.
      problem: The problem, with the measurement y, `noise_std` and `peak`.

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


def interval_misfit(prediction: Array, problem: Problem, *, pull: float = 0.0) -> Array:
    """Returns the misfit max(|p - y| - tolerance, 0)^2 + pull |p - y|^2 of quantized values.

    Without `pull`, all values inside an interval are equal, and the network fills it with noise.
    True values are more often near the center. Without a tolerance, the misfit is `gaussian_misfit`.

    Args:
      prediction: p = A x, same shape as the measurement.
      problem: The problem, with the measurement y and `tolerance`.
      pull: Weight of the squared distance to the center of the interval.

    Example:
      >>> import jax.numpy as jnp
      >>> from dip_jax.operators import Identity
      >>> problem = Problem(Identity(), jnp.zeros(2), 0.0, tolerance=jnp.array([0.5, 0.5]))
      >>> interval_misfit(jnp.array([0.25, 1.0]), problem).tolist()
      [0.0, 0.25]
    """
    if problem.tolerance is None:
        return gaussian_misfit(prediction, problem)
    excess = jnp.abs(prediction - problem.measurement) - problem.tolerance
    return jnp.square(jnp.maximum(excess, 0)) + pull * gaussian_misfit(prediction, problem)


def _gaussian_scale(problem: Problem) -> Array:
    """Returns n / (2 v) for the noise variance v; n / v for complex values."""
    parts = 1 if jnp.iscomplexobj(problem.measurement) else 2
    return num_measurements(problem) / (parts * assumed_variance(problem))


def _log_tail(z: Array) -> Array:
    """Returns log F(-z) for the distribution F of N(0, 1).

    Far out it is the asymptotic series, because the gradient of `log_ndtr` is a difference of large numbers: in
    float32 it is 60 % too large at z = 5000.
    """
    is_far = z > _TAIL
    far = jnp.where(is_far, z, _TAIL)
    u = 1 / far**2
    series = jnp.log1p(-u * (1 - 3 * u * (1 - 5 * u * (1 - 7 * u))))
    log_far = -(far**2) / 2 - jnp.log(far) - jnp.log(2 * jnp.pi) / 2 + series
    return jnp.where(is_far, log_far, log_ndtr(-jnp.where(is_far, 0.0, z)))


def _laplace_scale(problem: Problem) -> Array:
    """Returns n / b for the scale b that has the noise variance v.

    v is 2 b^2, and for complex values of the density exp(-|r| / b) / (2 pi b^2) it is 6 b^2.
    """
    ratio = 6.0 if jnp.iscomplexobj(problem.measurement) else 2.0
    return num_measurements(problem) * jnp.sqrt(ratio / assumed_variance(problem))


def _photon_scale(problem: Problem) -> Array | float:
    """Returns n peak."""
    return num_measurements(problem) * _require_peak("Sampling photon counts", problem)


gaussian = Likelihood(gaussian_misfit, _gaussian_scale, needs_noise_std=True)
"""Normal noise of the standard deviation `Problem.noise_std`."""
tobit = Likelihood(tobit_misfit, _gaussian_scale, needs_noise_std=True, models_clipping=True)
"""Normal noise of the standard deviation `Problem.noise_std`, after which values were clipped to [0, 1]."""
gaussian_or_tobit = Likelihood(gaussian_or_tobit_misfit, _gaussian_scale, needs_noise_std=True)
"""`tobit` for images of which much was clipped, and `gaussian` for others."""
laplace = Likelihood(laplace_misfit, _laplace_scale, needs_noise_std=True, floor=_QUARTER_LEVEL)
"""Noise with rare large outliers, of the standard deviation `Problem.noise_std`."""
poisson = Likelihood(poisson_misfit, _photon_scale)
"""Photon counts with a mean of `Problem.peak` at a value of 1."""
poisson_gauss = Likelihood(poisson_gauss_misfit, _photon_scale)
"""Photon counts with read-out noise."""


def interval(*, pull: float = 0.3) -> Likelihood:
    """Returns the likelihood of quantized values; see `interval_misfit`.

    Args:
      pull: Weight of the squared distance to the center of the interval.
    """

    def misfit(prediction: Array, problem: Problem) -> Array:
        return interval_misfit(prediction, problem, pull=pull)

    return Likelihood(misfit, _gaussian_scale, needs_noise_std=True)


def mean_loss(loss: Loss, prediction: Array, problem: Problem) -> Array:
    """Returns the loss of a prediction as a scalar.

    It is the mean of the losses of single values over the measured values with weight 1, without
    the margin of a canvas. If the loss is a scalar already, it is taken as it is, but values with
    weight 0 are set to 0 in the prediction and in the measurement before.

    Args:
      loss: The loss.
      prediction: p = A x, same shape as the measurement.
      problem: The problem, with the measurement y.

    Raises:
      InputError: If the loss has another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from dip_jax.operators import Identity
      >>> problem = Problem(Identity(), jnp.zeros(4), 0.1, weights=jnp.array([1.0, 1.0, 1.0, 0.0]))
      >>> float(mean_loss(laplace, jnp.array([1.0, 2.0, 3.0, 99.0]), problem))
      2.0
    """
    shape = jax.eval_shape(lambda p: loss(p, problem), prediction).shape
    if shape == () and prediction.ndim:
        is_used = visible_weights(problem) > 0
        prediction, y = (jnp.where(is_used, x, 0) for x in (prediction, problem.measurement))
        return loss(prediction, problem._replace(measurement=y))
    if shape != prediction.shape:
        raise InputError(
            f"Expected a loss that is a scalar or has the shape of the measurement {prediction.shape}, got {shape}."
        )
    values = loss(prediction, problem)
    if problem.weights is not None:
        weights = jnp.broadcast_to(problem.weights, values.shape)
        return jnp.sum(values * weights) / jnp.sum(weights)
    mean = jnp.mean(values)
    return mean if problem.region is None else mean / jnp.mean(problem.region)


def loss_floor(loss: Loss) -> float:
    """Returns the `floor` of a likelihood; for any other loss, that of a squared misfit."""
    return loss.floor if isinstance(loss, Likelihood) else _QUARTER_LEVEL**2


def nll_scale(loss: Loss, problem: Problem) -> Array | float:
    """Returns the factor k that turns the mean loss into the negative log likelihood.

    With v = `assumed_variance(problem)` and n = `num_measurements(problem)`, it is n / (2 v) for
    `gaussian`, `tobit` and `interval` (n / v for complex values), n sqrt(2 / v) for `laplace`, and n peak
    for `poisson` and `poisson_gauss`.

    Args:
      loss: The loss.
      problem: The problem.

    Raises:
      InputError: If the loss is no likelihood, or for photons if the problem has no `peak`.

    Example:
      >>> import jax.numpy as jnp
      >>> from dip_jax.operators import Identity
      >>> problem = Problem(Identity(), jnp.zeros((5, 4, 1)), noise_std=0.1)
      >>> round(float(nll_scale(gaussian, problem)))
      1000
    """
    if not isinstance(loss, Likelihood):
        raise InputError(
            "Sampling expects a likelihood, got a loss without nll_scale; wrap it as "
            "losses.Likelihood(loss, nll_scale=...)."
        )
    return loss.nll_scale(problem)


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
