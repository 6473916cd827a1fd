"""Posterior sampling by Langevin dynamics: average over the posterior instead of stopping early.

The weights w have the posterior density exp(-U(w) / T) with the energy

    U(w) = k L(w) + (p / 2) |w|^2.

L is the loss of `fit`, a mean over n measured values. The factor k turns it into the negative log
likelihood (`losses.nll_scale`): n / (2 noise_std^2) for Gaussian noise. p is the precision of a
normal prior of the weights. T is the temperature; T = 1 gives the posterior of Bayes' rule.

A sampler is a gradient transformation of optax that adds noise, so `fit` uses it as its optimizer.
At T = 0 it equals an optimizer of optax. `sgld`, `psgld` and `paper` build the samplers of the
literature from the transformations of `langevin`; `psgld` with `schedules.cyclical` is cyclical SGLD. `build_sgld` accumulates the outputs: their
mean is the estimate, and their standard deviation its uncertainty.

References:
  Welling and Teh, Bayesian Learning via Stochastic Gradient Langevin Dynamics, 2011.
  Cheng, Gadelha, Maji and Sheldon, A Bayesian Perspective on the Deep Image Prior, 2019.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dip_jax.base import Algorithm, Array, Info, Loss, Params, Problem, SampleSchedule, Shape
from dip_jax.errors import InputError
from dip_jax.fit import ExtraArgs
from dip_jax.keys import sampler_key
from dip_jax.langevin import (
    EnergyState,
    Schedule,
    add_kernel_noise,
    energy_gradient,
    langevin_step,
)
from dip_jax.losses import gaussian, nll_scale
from dip_jax.posterior.moments import Moments, add_sample, start_moments
from dip_jax.preconditioners import Preconditioner
from dip_jax.problem import assumed_variance, informative_mask, num_measurements
from dip_jax.underdamped import DEFAULT_STEP_SIZE, UnderdampedState, underdamped_step
from dip_jax.warm_up import after_warm_up


class SgldState(NamedTuple):
    """State of a fit that samples."""

    fit: Any
    """State of the fit."""
    moments: Moments
    """Moments of the samples."""

    @property
    def step(self) -> Array:
        """Steps made."""
        return self.fit.step

    @property
    def params(self) -> Params:
        """Sampled variables."""
        return self.fit.params

    @property
    def variables(self) -> dict[str, Params]:
        """The inputs `net` (the weights w) and `code` (z), whether they are sampled or constant."""
        return self.fit.variables

    @property
    def average(self) -> Array:
        """Running average of the outputs `[H, W, C]`."""
        return self.fit.average

    @property
    def num_rollbacks(self) -> Array:
        """Rollbacks in total."""
        return self.fit.num_rollbacks

    @property
    def diverged(self) -> Array:
        """Whether the guard has given up."""
        return self.fit.diverged


class NoisePrior(NamedTuple):
    """Inverse-gamma prior of the noise variance, for a noise level that is sampled too."""

    shape: float = 1.0
    """Shape a."""
    rate: float = 1e-3
    """Rate b of the precision 1 / v, which is the scale of v; a variance."""


def sgld(
    schedule: Schedule, *, prior_precision: float | None = 1.0
) -> optax.GradientTransformationExtraArgs:
    """Returns stochastic gradient Langevin dynamics: w <- w - e g + sqrt(2 e T) n.

    Here g is the gradient of the energy U, and n ~ N(0, 1) is drawn in each step.

    Args:
      schedule: Step size e and temperature T; see `schedules`.
      prior_precision: Precision p of the prior of each weight.

    References:
      Welling and Teh, 2011.
    """
    return optax.chain(energy_gradient(prior_precision), langevin_step(schedule))


def psgld(
    schedule: Schedule, preconditioner: Preconditioner, *, prior_precision: float | None = 1.0
) -> optax.GradientTransformationExtraArgs:
    """Returns preconditioned Langevin dynamics: w <- w - e (P g - T G) + sqrt(2 e T P) n.

    With a cyclical schedule it is cyclical SGLD.

    Args:
      schedule: Step size e and temperature T; see `schedules`.
      preconditioner: P and its divergence G, e.g. `preconditioners.frozen_rms(burn_in)`.
      prior_precision: Precision p of the prior of each weight.

    References:
      Li, Chen, Carlson and Carin, Preconditioned Stochastic Gradient Langevin Dynamics, 2016.
      Zhang, Li, Zhang, Chen and Wilson, Cyclical Stochastic Gradient MCMC, 2020.

    Example:
      >>> from dip_jax import preconditioners, schedules
      >>> sampler = psgld(schedules.constant(1e-3), preconditioners.frozen_rms(100))
      >>> w, grads = jnp.ones(2), jnp.ones(2)
      >>> updates, state = sampler.update(grads, sampler.init(w), w, key=jax.random.key(0))
      >>> updates.shape
      (2,)
    """
    return optax.chain(
        energy_gradient(prior_precision), langevin_step(schedule, preconditioner=preconditioner)
    )


def underdamped(
    step_size: float = DEFAULT_STEP_SIZE,
    *,
    warm_up: int,
    burn_in: int,
    friction: float = 0.3,
    temperature: float = 1.0,
    prior_precision: float | None = None,
    optimizer: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Returns underdamped Langevin dynamics (BAOAB) with the Fisher mass, after a warm-up by an optimizer.

    See `underdamped.underdamped_step` for the step and `warm_up.after_warm_up` for the change between the two.

    Args:
      step_size: The step size s; its unit is the inverse root of the mean curvature.
      warm_up: Number of steps of the optimizer.
      burn_in: Number of steps, those of the warm-up included, after which the mass and the length of a step are constant.
      friction: Friction per unit of time.
      temperature: Temperature T, above 0.
      prior_precision: Precision p of the prior of each weight; None for a prior as wide as the initial weights.
      optimizer: The optimizer; by default `optax.adam(0.01)`.

    Raises:
      InputError: If the precision or the temperature is 0.

    References:
      Leimkuhler and Matthews, Robust and efficient configurational molecular sampling via Langevin dynamics, 2013.

    Example:
      >>> sampler = underdamped(0.1, warm_up=10, burn_in=100)
      >>> w, grads = jnp.ones(2), jnp.ones(2)
      >>> updates, state = sampler.update(grads, sampler.init(w), w, key=jax.random.key(0))
      >>> updates.shape
      (2,)
    """
    if prior_precision == 0 or temperature <= 0:
        raise InputError(
            "Underdamped dynamics expects a prior_precision and a temperature above 0, got "
            f"{prior_precision} and {temperature}; use psgld."
        )
    dynamics = optax.chain(
        energy_gradient(prior_precision),
        underdamped_step(
            step_size,
            num_adapt=burn_in,
            friction=friction,
            temperature=temperature,
            prior_precision=prior_precision,
        ),
    )
    return after_warm_up(
        optax.adam(0.01) if optimizer is None else optimizer,
        dynamics,
        num_steps=warm_up,
        prior_precision=prior_precision,
    )


def paper(
    learning_rate: float, *, temperature: float = 1.0, weight_decay: float = 5e-8
) -> optax.GradientTransformationExtraArgs:
    """Returns the sampler of the 2019 code: Adam, and noise 2 learning_rate sqrt(T) n on the kernels.

    This is not Langevin dynamics: the noise does not scale with sqrt(e), is not preconditioned like
    the drift, and does not depend on the noise of the image.

    Args:
      learning_rate: Learning rate of Adam.
      temperature: The temperature T.
      weight_decay: Weight decay, relative to the mean loss.

    References:
      Cheng et al., 2019, and its code.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.adam(learning_rate),
        add_kernel_noise(2 * learning_rate * np.sqrt(temperature)),
    )


def sampler_args(loss: Loss, *, noise_prior: NoisePrior | None = None) -> ExtraArgs:
    """Returns the arguments of a sampler's `update`, for `build_fit(..., extra_args=...)`.

    They are `key`, a random key, `step`, the step of the run, `scale`, the factor k of the
    likelihood, and `num_measurements`, the number of measured real values. With a prior of the noise variance v, each step draws v given the outputs from the
    inverse gamma distribution of shape a + n / 2 and rate b + |A x - y|^2 / 2, and k is that of v.
    The draw is also returned, as `noise_var`.

    Args:
      loss: The loss of the fit, a likelihood.
      noise_prior: Prior of the noise variance, for `losses.gaussian` only. None for a noise level
        that is known.

    Raises:
      InputError: If there is a prior of the noise variance for another loss.

    Example:
      >>> from dip_jax import build_fit, losses, nets, schedules
      >>> fit = build_fit(
      ...     nets.skip(),
      ...     optimizer=sgld(schedules.constant(1e-6)),
      ...     extra_args=sampler_args(losses.gaussian),
      ...     perturbation=0.0,
      ... )
    """
    if noise_prior is not None and loss is not gaussian:
        raise InputError(
            "A noise variance that is sampled too expects losses.gaussian, got another loss; leave out noise_prior."
        )
    likelihood = loss

    def build(
        problem: Problem, *, loss: Array, step: Array, key: Array, shape: Shape
    ) -> dict[str, Any]:
        key = sampler_key(key)
        scale = nll_scale(likelihood, problem)
        n = num_measurements(problem)
        if jnp.iscomplexobj(problem.measurement):
            n = 2 * n  # real numbers
        if noise_prior is None:
            return {"key": key, "step": step, "scale": scale, "num_measurements": n}
        draw_key, *_ = jax.random.split(key, 3)  # `langevin_step` uses the others
        noise_var = _draw_noise_var(draw_key, noise_prior, problem, loss, shape)
        scale = scale * assumed_variance(problem) / noise_var
        return {
            "key": key,
            "step": step,
            "scale": scale,
            "num_measurements": n,
            "noise_var": noise_var,
        }

    return build


def build_sgld(
    algorithm: Algorithm, *, samples: SampleSchedule, keep_samples: int = 0
) -> Algorithm:
    """Returns a fit that samples.

    The samples are the outputs of the steps of the schedule, except those that the guard rejects.
    The state holds their `posterior.moments`.

    Args:
      algorithm: A fit with a sampler as its optimizer.
      samples: The steps that give samples.
      keep_samples: Number of samples to keep, evenly spread over the run.

    Raises:
      InputError: If there are fewer than two samples.

    Example:
      >>> from dip_jax import build_fit, losses, nets, schedules
      >>> from dip_jax.sample_schedule import every_nth
      >>> fit = build_fit(
      ...     nets.skip(),
      ...     optimizer=sgld(schedules.constant(1e-6)),
      ...     extra_args=sampler_args(losses.gaussian),
      ...     perturbation=0.0,
      ... )
      >>> build_sgld(fit, samples=every_nth(10, burn_in=300, num_steps=1000)).samples.num_samples
      69
    """
    if samples.num_samples < 2:
        raise InputError(
            f"Sampling expects at least two samples, got {samples.num_samples}; run more steps or shorten the burn-in."
        )

    def init(key: Array, problem: Problem, shape: Shape) -> SgldState:
        fit = algorithm.init(key, problem, shape)
        return SgldState(fit, start_moments(fit.average, keep_samples))

    def step(problem: Problem, state: SgldState) -> tuple[SgldState, Info]:
        sampled = samples.is_sample(state.fit.step)
        fit, info = algorithm.step(problem, state.fit)
        sampled &= info.accepted
        moments = jax.lax.cond(
            sampled,
            lambda: add_sample(state.moments, info.image, samples.num_samples),
            lambda: state.moments,
        )
        mean = jnp.where(moments.num_samples > 0, moments.mean, info.average)
        monitors = monitors_of(getattr(fit, "opt_state", None))
        return SgldState(fit, moments), info._replace(mean=mean, sampled=sampled, monitors=monitors)

    return algorithm._replace(init=init, step=step, samples=samples)


def monitors_of(opt_state: Any) -> dict[str, Array]:
    """Returns the quantities that a sampler states about its last step, scalars by name.

    `noise_std` is the sampled noise level, and NaN if it is not sampled. Underdamped dynamics also has the kinetic
    `temperature`, the `virial` and the `step_size`.

    Args:
      opt_state: The state of a sampler, i.e. of a chain of transformations.
    """
    monitors: dict[str, Array] = {}
    kinds = (EnergyState, UnderdampedState)
    for state in jax.tree.leaves(opt_state, is_leaf=lambda part: isinstance(part, kinds)):
        if isinstance(state, EnergyState):
            monitors["noise_std"] = jnp.sqrt(state.noise_var)
        elif isinstance(state, UnderdampedState):
            for name in ("temperature", "virial", "step_size"):
                monitors[name] = getattr(state, name)
    return monitors


def _draw_noise_var(
    key: Array, prior: NoisePrior, problem: Problem, loss: Array, shape: Shape
) -> Array:
    """Draws the noise variance given the mean loss of the outputs; see `sampler_args`.

    Values that do not depend on the image, e.g. missing pixels, do not count. For complex values,
    neither the count nor the misfit is halved.
    """
    half = 1.0 if jnp.iscomplexobj(problem.measurement) else 0.5
    # Any key: the mask depends only on the zeros of the operator.
    count = jnp.sum(informative_mask(jax.random.key(0), problem, shape))
    misfit = half * num_measurements(problem) * loss
    return (prior.rate + misfit) / jax.random.gamma(key, prior.shape + half * count)
