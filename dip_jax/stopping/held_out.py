"""Stopping rules that hold the answer against the data: the noise is known, or some data are kept back.

They judge `Info.answer`, the running average m_t, so what they like is what is handed out. A m costs
one application of the operator per step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dip_jax.base import Algorithm, Array, Info, Problem, Stopper, Verdict
from dip_jax.config import StopConfig
from dip_jax.stopping.minimum import Minimum, start_minimum, verdict, warm_up, watch
from dip_jax.stopping.variance_rules import see_all
from dip_jax.tasks.noise_level import counted, noise_variance, visible_weights

# Folded into the image's key, which the estimator uses as it is.
_PLACES, _DRAW, _SIGNS = 2, 3, 4


class DiscrepancyState(NamedTuple):
    """What `discrepancy` needs of the past."""

    counts: Array
    """Of the measurement's shape, 1 where a value says something."""
    ratio: Array
    """Misfit over noise at the last step."""
    answer_step: Array
    done: Array


class HeldOutState(NamedTuple):
    """What `held_out` needs of the past."""

    minimum: Minimum
    held: Array
    """Of the measurement's shape, 1 where a value is kept out of the fit."""

    @property
    def done(self) -> Array:
        """Whether it has fired."""
        return self.minimum.done


class SureState(NamedTuple):
    """What `sure` needs of the past."""

    minimum: Minimum
    twin: Any
    """The state of the fit to the perturbed measurement."""
    probe: Array
    """The directions b, of the measurement's shape: random signs (of complex numbers, one for each part, over
    sqrt(2)), 0 where a value says nothing."""

    @property
    def done(self) -> Array:
        """Whether it has fired."""
        return self.minimum.done


def discrepancy(config: StopConfig) -> Stopper:
    """The first step at which the answer's misfit is that of the noise.

    mean |A m - y|^2 <= discrepancy_factor mean v,  v = noise_std^2, or A m / peak + noise_std^2 for photons.

    The factor is 0.9 by default, not 1: the answer has always taken a share of the noise with it, so at its best
    its misfit is below that of the noise: on eight pictures of scikit-image at 64 x 64 (coins, ihc, moon, retina; noise
    of 25 grey levels, and 30 photons; a network of 32 channels) by a factor of 0.89 to 0.95, but 1.01 on
    one. There 0.9 stops within 0.2 dB of the best step on seven and 3 dB too late on that one, and 1 too early by 0.1 to
    4 dB on seven.

    Means are over the values that say something. The ratio of the means, not the mean of the ratios: that
    one would hang on how dark the darkest pixels are. There is no warm-up, as the threshold means the same
    at all steps. Without a known noise (NaN, or 0) it never fires.

    References:
      Morozov, On the solution of functional equations by the method of regularization, 1966.

    Args:
      config: `discrepancy_factor`.
    """

    def init(key: Array, problem: Problem, shape: tuple[int, ...]) -> DiscrepancyState:
        counts = counted(jax.random.fold_in(key, _PLACES), problem, shape)
        return DiscrepancyState(counts, jnp.float32(jnp.nan), jnp.int32(0), jnp.bool_(False))

    def update(
        state: DiscrepancyState, problem: Problem, step: Array, info: Info
    ) -> tuple[DiscrepancyState, Array]:
        prediction = problem.operator(info.answer)
        misfit = jnp.sum(state.counts * jnp.square(jnp.abs(prediction - problem.measurement)))
        noise = jnp.sum(state.counts * noise_variance(problem, prediction))
        ratio = jnp.where(noise > 0, misfit / noise, jnp.nan)
        improved = info.accepted & ~state.done
        fired = improved & (ratio <= config.discrepancy_factor)
        answer_step = jnp.where(improved, step, state.answer_step)
        return DiscrepancyState(state.counts, ratio, answer_step, state.done | fired), improved

    def verdicts(state: DiscrepancyState) -> dict[str, Verdict]:
        return {"discrepancy": Verdict(state.ratio, state.answer_step, state.done)}

    return Stopper(init, see_all, update, verdicts)


def held_out(config: StopConfig, *, lag: int, loss: Callable[[Problem, Array], Array]) -> Stopper:
    """The minimum of the answer's loss on measurements that the fit does not see.

    A share `held_share` of the values that say something is drawn, and weighs nothing in the fit. Of a
    measurement with rows, columns and channels all channels of a place are drawn together, because noise and
    picture are alike in them; of others single values. The guard is that of `minimum.watch`. What the
    network makes of a hidden pixel it has from its neighbours, so nothing need be known of the noise but
    that neighbours do not share it.

    Args:
      config: `held_share`, `patience`.
      lag: Steps by which the running average is behind the outputs.
      loss: What the fit minimises, `loss(problem, prediction)`, a mean by weights.
    """

    def init(key: Array, problem: Problem, shape: tuple[int, ...]) -> HeldOutState:
        counts = counted(jax.random.fold_in(key, _PLACES), problem, shape)
        together = counts.max(axis=-1, keepdims=True) if counts.ndim == 3 else counts
        order = jax.random.uniform(jax.random.fold_in(key, _DRAW), together.shape)
        order = jnp.where(together > 0, order, jnp.inf)
        num = jnp.maximum(jnp.round(config.held_share * jnp.sum(together)), 1).astype(jnp.int32)
        last = jnp.sort(order, axis=None)[num - 1]
        return HeldOutState(start_minimum(), counts * (order <= last))

    def view(state: HeldOutState, problem: Problem) -> Problem:
        return problem._replace(weights=visible_weights(problem) * (1 - state.held))

    def update(
        state: HeldOutState, problem: Problem, step: Array, info: Info
    ) -> tuple[HeldOutState, Array]:
        hidden = problem._replace(weights=state.held)
        signal = loss(hidden, problem.operator(info.answer))
        first = warm_up(info.image.shape)
        minimum, improved = watch(state.minimum, signal, step, info, config, first=first, lag=lag)
        return HeldOutState(minimum, state.held), improved

    def verdicts(state: HeldOutState) -> dict[str, Verdict]:
        return {"held_out": verdict(state.minimum)}

    return Stopper(init, view, update, verdicts)


def sure(config: StopConfig, *, lag: int, algorithm: Algorithm) -> Stopper:
    """The minimum of Stein's unbiased estimate of the risk, with a Monte-Carlo divergence.

    R_t = mean |A m - y|^2 - mean v + 2 mean(v b (A m' - A m) / e),   e = sure_epsilon sqrt(v).

    Its mean is that of |A m - A x|^2, whatever the estimator. m' is the answer of a *twin*, a second fit with
    the same weights at the start, code and shakes, to y + e b with random signs b: what it makes of
    e b is the divergence of A m. So each step costs two, in time and in memory. v is the variance of
    the noise: noise_std^2 for Gaussian noise (Stein); for photons y / peak + noise_std^2, which is the
    first-order form of the Poisson unbiased risk estimate.

    `sure_epsilon`: Fits are chaotic, and the twin ends up as far away as another seed would. That
    difference has nothing to do with b and adds 2 sqrt(v) |A m' - A m| / (n sure_epsilon) of noise, n
    values; the larger e, the less. But with e in it the twin has more noise than the fit, by a factor
    (1 + sure_epsilon^2)^(1/2), and the divergence is that of a fit to more noise: with 1 it stops early. On the
    pictures named at `discrepancy` the minimum with 0.3 is within 0.1 dB of the best step on seven of eight (0.7 on the
    other), with 0.1 up to 2.5 dB late and with 1 up to 1 dB early.

    Unknown noise (NaN) is no signal, and the rule never fires. Pictures clipped to [0, 1] have less noise
    than is said, which lifts the divergence's share.

    Args:
      config: `sure_epsilon`, `patience`.
      lag: Steps by which the running average is behind the outputs.
      algorithm: The estimator.

    References:
      Stein, Estimation of the mean of a multivariate normal distribution, 1981.
      Ramani, Blu and Unser, Monte-Carlo SURE, 2008.
      Luisier, Blu and Unser, Fast interscale wavelet denoising of Poisson-corrupted images, 2010;
      Le Montagner, Angelini and Olivo-Marin, An unbiased risk estimator for image denoising in the presence
      of mixed Poisson-Gaussian noise, 2014 (by first order and Monte Carlo).
    """
    epsilon = config.sure_epsilon

    def init(key: Array, problem: Problem, shape: tuple[int, ...]) -> SureState:
        y = problem.measurement
        counts = counted(jax.random.fold_in(key, _PLACES), problem, shape)
        signs = jax.random.rademacher(
            jax.random.fold_in(key, _SIGNS), (2, *y.shape), dtype=counts.dtype
        )
        b = (signs[0] + 1j * signs[1]) / jnp.sqrt(2.0) if jnp.iscomplexobj(y) else signs[0]
        return SureState(start_minimum(), algorithm.init(key, problem), counts * b)

    def update(
        state: SureState, problem: Problem, step: Array, info: Info
    ) -> tuple[SureState, Array]:
        y, b = problem.measurement, state.probe
        std = jnp.sqrt(noise_variance(problem, y))
        # Nothing of an unknown noise may reach the twin's weights.
        shifted = y + epsilon * jnp.nan_to_num(std) * b
        twin, other = algorithm.step(problem._replace(measurement=shifted), state.twin)
        prediction = problem.operator(info.answer)
        change = problem.operator(other.answer) - prediction
        counts = (jnp.abs(b) > 0).astype(std.dtype)
        residual = counts * (jnp.square(jnp.abs(prediction - y)) - std**2)
        # v / e = std / epsilon, where b is a sign.
        divergence = std * jnp.real(jnp.conj(b) * change) / epsilon
        risk = jnp.sum(residual + 2 * divergence) / jnp.sum(counts)
        signal = jnp.where(twin.diverged, jnp.nan, risk)
        first = warm_up(info.image.shape)
        minimum, improved = watch(state.minimum, signal, step, info, config, first=first, lag=lag)
        return SureState(minimum, twin, b), improved

    def verdicts(state: SureState) -> dict[str, Verdict]:
        return {"sure": verdict(state.minimum)}

    return Stopper(init, see_all, update, verdicts)
