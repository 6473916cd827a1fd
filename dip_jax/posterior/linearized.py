"""The posterior of a fitted network that is linearized in its weights: samples without a Markov chain.

Around the weights w0 of a fit, the network f and the operator A are replaced by their linear parts. With J the Jacobian
of f at w0, A' that of A at f(w0), v the noise variance, c the weights of the measured values and P the precision of the
prior N(0, P^-1) of the weights, the measurement is

    y = A f(w0) + A' J (w - w0) + noise,    noise ~ N(0, v / c).

The posterior of w is then normal, and the deviation x of the image from its mean has the covariance J H^-1 J^T with
H = B^T B + P and B = (c / v)^(1/2) A' J. A sample of x is an optimum for random data (Matheron's rule): with n, e ~ N(0, 1),

    d = P^(-1/2) n,    K = B P^-1 B^T + 1,    K u = B d + e,    x = J (d - P^-1 B^T u).

The covariance of d - P^-1 B^T u is P^-1 - P^-1 B^T K^-1 B P^-1 = H^-1. K has one row for each measured value, and conjugate
gradients solve K u = B d + e. They need only products with K, for which two passes through the network suffice.

References:
  Antoran, Barbano, Leuschner, Hernandez-Lobato and Jin, Uncertainty Estimation for Computed Tomography with a Linearised
    Deep Image Prior, 2022.
  Antoran, Padhy, Barbano, Nalisnick, Janz and Hernandez-Lobato, Sampling-based inference for large linear models, with
    application to linearised Laplace, 2022 (sample-then-optimize; the update of the prior).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse.linalg import LinearOperator, cg

from dip_jax.base import Array, Net, NetApply, Params, Problem
from dip_jax.errors import InputError
from dip_jax.langevin import prior_precisions
from dip_jax.preconditioners import normal_like
from dip_jax.problem import assumed_variance, measure, visible_weights

_NUM_PROBES = 2
"""Samples that estimate the effective dimension for `prior_scale`; it is a sum over all measured values."""
_UPDATE_TOLERANCE = 0.03
"""Relative residual of the systems that only update `prior_scale`."""
_LEAST_FACTOR = 0.01
"""Least factor of an update."""
_SETTLED = 0.1
"""Relative change of `prior_scale` below which it is not updated again."""
_RESIDUAL_LIMIT = 0.1
"""Residual above which the samples are reported as too wide."""


class LinearizedPosterior(NamedTuple):
    """Posterior of the image under the linearized network, as NumPy arrays."""

    std: np.ndarray
    """Standard deviation `[H, W, C]`, the root mean square of `samples`."""
    samples: np.ndarray
    """Deviations from the posterior mean `[S, H, W, C]`."""
    prior_scale: float
    """Factor s on the variances of the prior."""
    effective_dimension: float
    """Number g = tr(B H^-1 B^T) of directions that the measurement determines."""
    residual: float
    """Largest |K u - b| / |b| of the systems K u = b that were solved for the samples. If it is not small, `std` is too
    large; raise `iterations`."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user about samples that are too wide."""
        if not np.isfinite(self.std).all():
            return ("the samples of the linearized network are not finite",)
        if self.residual <= _RESIDUAL_LIMIT:
            return ()
        return (
            f"the equations of the linearized network are solved up to {self.residual:.0%}, so the standard deviation is "
            "too large; use fit.intervals=bootstrap",
        )


def linearized_posterior(
    net: Net,
    params: Params,
    code: Array,
    problem: Problem,
    *,
    key: Array,
    num_samples: int = 16,
    prior_precision: float | None = None,
    prior_scale: float | None = None,
    num_updates: int = 5,
    iterations: int = 1000,
    tolerance: float = 1e-2,
) -> LinearizedPosterior:
    """Samples the posterior of the image under a network that is linearized around a fit.

    The prior is N(0, s P^-1). A given `prior_scale` is s. Otherwise s maximizes the evidence of the linear model: with the
    residual r = (c / v)^(1/2) (y - A f(w0)) + B w0 and K u = r, its most probable weights m = s P^-1 B^T u have
    m^T P m = s u^T (r - u), and MacKay's update is s <- m^T P m / g with the effective dimension g, the mean of |B d|^2 over
    samples d of the posterior of w. The network need not be at its most probable weights, so m takes the place of w0.

    Measured values of weight 0 have no effect. The network and its operator need a derivative in reverse mode only.

    Args:
      net: The network.
      params: Its weights w0.
      code: Its code.
      problem: The problem, with a known `noise_std`; v is `assumed_variance(problem)`.
      key: Random key, consumed.
      num_samples: Number S of samples. The relative error of `std` is (2 S)^(-1/2).
      prior_precision: Precision of the prior of each weight, before `prior_scale`. None for a prior as wide as the initial
        weights, see `langevin.prior_precisions`.
      prior_scale: Factor s on the variances of the prior; None for that of largest evidence.
      num_updates: Most updates of s, from s = 1; they end when s has settled, and have no effect if `prior_scale` is
        given.
      iterations: Most iterations of conjugate gradients for each system. If they do not suffice, `std` is far too large:
        the residual of a system is an error of its sample, in units of the noise. Check `residual`.
      tolerance: Relative residual at which they end.

    Raises:
      InputError: If the noise level is unknown.

    Example:
      A pixel that is a weight with the prior N(0, 1), measured with noise of variance 1, has the posterior variance 1 / 2:

      >>> from dip_jax.operators import Identity
      >>> net = Net(lambda key: jnp.ones((1, 2, 1)), lambda params, code: params, (1, 2, 1), (1, 2, 1))
      >>> problem = Problem(Identity(), jnp.zeros((1, 2, 1)), noise_std=1.0)
      >>> key, w0 = jax.random.key(0), jnp.zeros((1, 2, 1))
      >>> found = linearized_posterior(net, w0, w0, problem, key=key, prior_scale=1.0, num_samples=400)
      >>> (found.std**2).round(1).ravel().tolist()
      [0.5, 0.5]
    """
    if not np.isfinite(assumed_variance(problem)):
        raise InputError("linearized_posterior expects a known noise level, got noise_std=nan.")
    init_key, draw_key = jax.random.split(key)
    precision = prior_precisions(net.init(init_key), prior_precision)
    push = functools.partial(_push, net.apply, params, code, problem)
    pull = functools.partial(_pull, net.apply, params, code, problem, precision)

    def gram(u: np.ndarray) -> np.ndarray:
        """B P^-1 B^T u."""
        return np.asarray(push(pull(jnp.asarray(u)))[1], np.float64)

    def solve(
        scale: float, right: np.ndarray, start: np.ndarray | None = None, rtol: float = tolerance
    ) -> np.ndarray:
        """K^-1 of the right side, from a first guess."""
        matrix = LinearOperator(
            (right.size, right.size), matvec=lambda u: scale * gram(u) + u, dtype=np.float64
        )
        return cg(matrix, right, start, rtol=rtol, maxiter=iterations)[0]

    # J d, B d and e for s = 1; those of another s follow, because the model is linear.
    draws = []
    for one in jax.random.split(draw_key, num_samples):
        d, noise = _draw(one, params, problem, precision)
        image, values = push(d)
        draws.append(
            (np.asarray(image), np.asarray(values, np.float64), np.asarray(noise, np.float64))
        )

    def right_side(scale: float, values: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return np.sqrt(scale) * values + noise

    scale = 1.0 if prior_scale is None else prior_scale
    if prior_scale is None:
        residual = _residual(net.apply, params, code, problem) + push(params)[1]
        r = np.asarray(residual, np.float64)
        u, probes = np.zeros_like(r), [np.zeros_like(r)] * min(_NUM_PROBES, num_samples)
        for _ in range(num_updates):
            u = solve(scale, r, u, _UPDATE_TOLERANCE)
            probes = [
                solve(scale, right_side(scale, values, noise), start, _UPDATE_TOLERANCE)
                for (_, values, noise), start in zip(draws, probes, strict=False)
            ]
            # B times the posterior sample is u - e, from the definition of K.
            dimensions = [
                np.sum((one - noise) ** 2) for one, (*_, noise) in zip(probes, draws, strict=False)
            ]
            # Of a system that is not solved, the product could be negative.
            factor = max(float(u @ (r - u) / np.mean(dimensions)), _LEAST_FACTOR)
            scale *= factor
            if abs(factor - 1) < _SETTLED:
                break

    samples, dimensions, residuals = [], [], []
    for image, values, noise in draws:
        b = right_side(scale, values, noise)
        u = solve(scale, b)
        correction, fitted = push(pull(jnp.asarray(u)))
        samples.append(np.sqrt(scale) * image - scale * np.asarray(correction))
        dimensions.append(np.sum((u - noise) ** 2))
        misfit = b - u - scale * np.asarray(fitted, np.float64)
        residuals.append(np.linalg.norm(misfit) / np.linalg.norm(b))
    images = np.stack(samples).astype(np.float32)
    return LinearizedPosterior(
        std=np.sqrt(np.mean(np.square(images), axis=0)),
        samples=images,
        prior_scale=scale,
        effective_dimension=float(np.mean(dimensions)),
        residual=float(np.max(residuals)),
    )


def jacobian_product(function: Callable[[Any], Any], point: Any, direction: Any) -> Any:
    """Returns J v for the Jacobian J of a function, by two passes in reverse mode.

    The first gives the linear function u -> J^T u, whose own transpose is J. `jax.jvp` would need a derivative in forward
    mode, which functions with `jax.custom_vjp` lack, such as the convolutions of this package.

    Args:
      function: A function of a pytree.
      point: The point at which it is linearized.
      direction: v, of the structure of the point.

    Example:
      >>> float(jacobian_product(lambda x: x**2, 3.0, 1.0))
      6.0
    """
    output, transpose = jax.vjp(function, point)
    zeros = jax.tree.map(jnp.zeros_like, output)
    return jax.vjp(lambda u: transpose(u)[0], zeros)[1](direction)[0]


def _whiten(problem: Problem, values: Array) -> Array:
    """(c / v)^(1/2) times measured values, as real numbers `[n]`; v is shared by the parts of complex ones."""
    scaled = jnp.sqrt(visible_weights(problem) / assumed_variance(problem)) * values
    if not jnp.iscomplexobj(scaled):
        return scaled.ravel()
    return jnp.sqrt(2.0) * jnp.concatenate([scaled.real.ravel(), scaled.imag.ravel()])


def _model(apply: NetApply, code: Array, problem: Problem, params: Params) -> tuple[Array, Array]:
    """The image `[H, W, C]` of the weights, and its measured values in units of the noise `[n]`."""
    image = apply(params, code)
    inside = image if problem.region is None else image * problem.region
    return image, _whiten(problem, measure(problem.operator, inside))


@functools.partial(jax.jit, static_argnums=0)
def _residual(apply: NetApply, params: Params, code: Array, problem: Problem) -> Array:
    """The measured values minus those of the network, in units of the noise `[n]`."""
    return _whiten(problem, problem.measurement) - _model(apply, code, problem, params)[1]


@functools.partial(jax.jit, static_argnums=0)
def _push(
    apply: NetApply, params: Params, code: Array, problem: Problem, direction: Params
) -> tuple[Array, Array]:
    """J d `[H, W, C]` and B d `[n]` for a direction d of the weights."""
    direction = jax.tree.map(lambda d, w: d.astype(w.dtype), direction, params)
    return jacobian_product(functools.partial(_model, apply, code, problem), params, direction)


@functools.partial(jax.jit, static_argnums=0)
def _pull(
    apply: NetApply, params: Params, code: Array, problem: Problem, precision: Params, u: Array
) -> Params:
    """P^-1 B^T u for values u `[n]`."""
    values, transpose = jax.vjp(lambda w: _model(apply, code, problem, w)[1], params)
    return jax.tree.map(lambda g, p: g / p, transpose(u.astype(values.dtype))[0], precision)


@jax.jit
def _draw(key: Array, params: Params, problem: Problem, precision: Params) -> tuple[Params, Array]:
    """Weights d ~ N(0, P^-1) and noise e `[n]`, which is 0 for values of weight 0."""
    weights_key, noise_key = jax.random.split(key)
    normal = normal_like(weights_key, params)
    one = 1 + 1j if jnp.iscomplexobj(problem.measurement) else 1
    is_used = _whiten(problem, jnp.full_like(problem.measurement, one)) != 0
    noise = jax.random.normal(noise_key, is_used.shape) * is_used
    return jax.tree.map(lambda n, p: n / jnp.sqrt(p), normal, precision), noise
