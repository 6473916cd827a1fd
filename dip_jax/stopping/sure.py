"""Stop at the minimum of Stein's unbiased risk estimate."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dip_jax.base import Algorithm, Array, Info, Problem, Shape, Stopper
from dip_jax.keys import informative_key, probe_key
from dip_jax.problem import informative_mask, measure, noise_variance
from dip_jax.stopping.minimum import stop_at_minimum


class SureMemory(NamedTuple):
    """The second fit."""

    twin: Any
    """State of the fit to the perturbed measurement."""
    probe: Array
    """Random signs b, of the measurement's shape, 0 where a value is not informative. For a complex
    measurement, real and imaginary part have a sign each, divided by sqrt(2)."""


def sure(
    algorithm: Algorithm, *, epsilon: float = 0.3, window: int = 100, patience: float = 0.5
) -> Stopper:
    """The rule that stops at the minimum of Stein's unbiased risk estimate.

    Signal: R_t = mean |A m - y|^2 - mean v + 2 mean(v b (A m' - A m) / e), e = epsilon
    sqrt(v), over the informative values. Its expectation is that of |A m - A x|^2 for any
    estimator. m' is the estimate of a *twin*, a second fit to y + e b with random signs b, from the
    same initial weights, code and perturbations. Its difference from m gives a Monte Carlo estimate
    of the divergence of A m. The noise variance v is noise_std^2, plus y / peak for photons, which
    is the first-order form of the Poisson unbiased risk estimate.

    Needs: the noise level, or photons. Without both (NaN), the rule never fires. Pixels clipped to
    [0, 1] have less noise than stated, which overweights the divergence.

    Cost: twice the time and memory of the fit.

    Choice of `epsilon`: fits are chaotic, so the twin ends as far away as a fit from another
    seed. That difference does not depend on b, and adds noise of 2 sqrt(v) |A m' - A m| / (n
    epsilon) to the mean over n values: less, the larger e is. But the twin fits noise that is
    larger by a factor (1 + epsilon^2)^(1/2), and its divergence is that of a fit to this
    noise, so a large e stops too early (measured in
    docs/development/results.md#cost-and-choice-of-the-settings).

    Args:
      algorithm: The fit.
      epsilon: Perturbation of the twin's measurement, in standard deviations of the noise.
      window: See `minimum.stop_at_minimum`.
      patience: See `minimum.stop_at_minimum`.

    References:
      Stein, Estimation of the mean of a multivariate normal distribution, 1981.
      Ramani, Blu and Unser, Monte-Carlo SURE, 2008.
      Luisier, Blu and Unser, Fast interscale wavelet denoising of Poisson-corrupted images, 2010.
      Le Montagner, Angelini and Olivo-Marin, An unbiased risk estimator for image denoising in the
        presence of mixed Poisson-Gaussian noise, 2014. (The two last for photons, here to first
        order and with a Monte Carlo divergence.)
    """

    def init_memory(key: Array, problem: Problem, shape: Shape) -> SureMemory:
        y = problem.measurement
        mask = informative_mask(informative_key(key), problem, shape)
        signs = jax.random.rademacher(probe_key(key), (2, *y.shape), dtype=mask.dtype)
        b = (signs[0] + 1j * signs[1]) / jnp.sqrt(2.0) if jnp.iscomplexobj(y) else signs[0]
        return SureMemory(algorithm.init(key, problem, shape), mask * b)

    def signal(memory: SureMemory, problem: Problem, info: Info) -> tuple[SureMemory, Array]:
        y, b = problem.measurement, memory.probe
        std = jnp.sqrt(noise_variance(problem, y))
        # NaN from an unknown noise level must not reach the weights of the twin.
        shifted = y + epsilon * jnp.nan_to_num(std) * b
        twin, twin_info = algorithm.step(problem._replace(measurement=shifted), memory.twin)
        prediction = measure(problem.operator, info.estimate)
        change = measure(problem.operator, twin_info.estimate) - prediction
        mask = (jnp.abs(b) > 0).astype(std.dtype)
        residual = mask * (jnp.square(jnp.abs(prediction - y)) - std**2)
        # v / e = std / epsilon
        divergence = std * jnp.real(jnp.conj(b) * change) / epsilon
        risk = jnp.sum(residual + 2 * divergence) / jnp.sum(mask)
        return SureMemory(twin, b), jnp.where(twin.diverged, jnp.nan, risk)

    return stop_at_minimum(
        signal,
        name="sure",
        init_memory=init_memory,
        lag=algorithm.lag,
        window=window,
        patience=patience,
        needs_start=True,
    )
