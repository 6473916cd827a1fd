"""Posterior sampling by Langevin dynamics: average over the posterior instead of stopping early.

The weights w have the posterior density exp(-U(w) / T) with the energy

    U(w) = k L(w) + (p / 2) |w|^2.

L is the loss of `fit`, a mean over n measured values. The factor k turns it into the negative log
likelihood (`losses.nll_scale`): n / (2 noise_std^2) for Gaussian noise. p is the precision of a
normal prior of the weights. T is the temperature; T = 1 gives the posterior of Bayes' rule.

A sampler is a gradient transformation of optax that adds noise, so `fit` uses it as its optimizer.
At T = 0 it equals an optimizer of optax. `build_sgld` accumulates the outputs: their mean is the
estimate, and their standard deviation its uncertainty.

References:
  Welling and Teh, Bayesian Learning via Stochastic Gradient Langevin Dynamics, 2011.
  Cheng, Gadelha, Maji and Sheldon, A Bayesian Perspective on the Deep Image Prior, 2019.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dip_jax import fast_random
from dip_jax.base import Algorithm, Array, Info, Params, Problem
from dip_jax.config import Likelihood, SgldConfig
from dip_jax.fit import ExtraArgs
from dip_jax.keys import sampler_key
from dip_jax.losses import nll_scale
from dip_jax.posterior.moments import Moments, add_sample, start_moments
from dip_jax.problem import assumed_variance, informative_mask, num_measurements

_PROBE_STEP = 1e-3  # of the finite difference of `_hessian_diagonal`
_RADIAL_TOLERANCE = 1e-3  # |w . grad L| / (|w| |grad L|) that counts as 0


class SamplerState(NamedTuple):
    """State of a sampler."""

    num_steps: Array
    """Steps made."""
    moment: Params
    """Running mean V of the squared gradients of U; empty without a preconditioner."""
    radial: Params
    """With `constrain_norm`, for each array w the sums over the steps of |w . grad L| and
    |w| |grad L|, `[2]`; else empty."""
    optimizer: Any
    """State of Adam in `paper`; else empty."""
    noise_var: Array
    """Latest sample of the noise variance; NaN if it is not sampled."""


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


def build_sampler(
    config: SgldConfig, *, learning_rate: float, num_steps: int
) -> optax.GradientTransformationExtraArgs:
    """Returns the sampler that `config.sampler` selects.

    With the energy gradient g = grad U, the step size e, the temperature T and n ~ N(0, 1) drawn in
    each step:

    * `sgld`: w <- w - e g + sqrt(2 e T) n.
    * `psgld`: w <- w - e (P g - T G) + sqrt(2 e T P) n, with the diagonal preconditioner of
      RMSprop, P = 1 / (d + sqrt(V)) for the damping d. V follows g^2 during the burn-in and is then
      frozen. With a constant P the stationary distribution is the posterior, up to the O(e) error
      of the steps, and G = dP / dw is 0. With `freeze=False` V always follows; `gamma` then adds G,
      estimated by one random probe of the Hessian.
    * `csgld`: as `psgld`, in cycles. In each cycle e falls to 0 along a half cosine, and the first
      fraction `explore_fraction` runs at temperature 0 and gives no samples.
    * `paper`: Adam on the mean loss, then w <- w + 2 learning_rate sqrt(T) n for convolution
      kernels. This is not Langevin dynamics: the noise does not scale with sqrt(e), is not
      preconditioned like the drift, and does not depend on the noise of the image. It reproduces
      the code of 2019.

    The first `warm_up` steps run at temperature 0 (not in `paper`).

    With `constrain_norm`, kernels whose norm has no effect (those in front of a normalization) keep
    their norm: they walk on a sphere, with one value of P for each kernel. The posterior of their
    direction is the same, because the prior is isotropic.

    Args:
      config: The settings.
      learning_rate: `fit.learning_rate`, which is e in `psgld` and `csgld`, and the learning rate
        of Adam in `paper`.
      num_steps: Steps in total, for the schedules.

    Returns:
      A transformation with `update(grads, state, params, *, key, scale, step, ...)` for gradients
      of the loss L. `key` is a random key and `scale` is k. `step` is the step of the run, if that is
      not the number of calls. If the noise is sampled, `update` takes `half_misfit` =
      |A x - y|^2 / 2 and `half_count` = n / 2 (both without the half for complex values), and
      `noise_var`, the variance that k assumes. With `gamma` it takes `value_fn`.

    References:
      Li, Chen, Carlson and Carin, Preconditioned Stochastic Gradient Langevin Dynamics, 2016.
      Zhang, Li, Zhang, Chen and Wilson, Cyclical Stochastic Gradient MCMC, 2020.
      Cheng et al., 2019, and its code, for `paper`.

    Example:
      At temperature 0, and without a prior, `sgld` is gradient descent:

      >>> import jax
      >>> import jax.numpy as jnp
      >>> config = SgldConfig(sampler="sgld", temperature=0, prior_precision=0, step_size=0.25)
      >>> sampler = build_sampler(config, learning_rate=0.25, num_steps=1000)
      >>> w, grads = jnp.array([1.0, 2.0]), jnp.array([4.0, 8.0])
      >>> updates, _ = sampler.update(grads, sampler.init(w), w, key=jax.random.key(0))
      >>> updates.tolist()
      [-1.0, -2.0]
    """
    if config.sampler == "paper":
        return _build_paper(config, learning_rate)
    is_preconditioned = config.sampler in ("psgld", "csgld")
    schedule = build_schedule(config, learning_rate, num_steps)
    freeze_step = max(config.phases(num_steps)[1], 1)  # V needs at least one gradient

    def init(params: Params) -> SamplerState:
        moment = jax.tree.map(jnp.zeros_like, params) if is_preconditioned else ()
        radial = jax.tree.map(lambda w: jnp.zeros(2), params) if config.constrain_norm else ()
        return SamplerState(jnp.int32(0), moment, radial, (), jnp.float32(jnp.nan))

    def update(
        grads: Params,
        state: SamplerState,
        params: Params,
        *,
        key: Array,
        scale: Array | float = 1.0,
        step: Array | None = None,
        **extra: Any,
    ) -> tuple[Params, SamplerState]:
        step = state.num_steps if step is None else step
        noise_var_key, probe_key, walk_key = jax.random.split(key, 3)
        noise_var = state.noise_var
        if config.noise == "sampled":
            noise_var = _draw_noise_var(
                noise_var_key, config, extra["half_misfit"], extra["half_count"]
            )
            scale = scale * extra["noise_var"] / noise_var

        def energy_gradient(loss_grads: Params, params: Params) -> Params:
            return jax.tree.map(
                lambda g, w: scale * g + config.prior_precision * w, loss_grads, params
            )

        energy_grads = energy_gradient(grads, params)
        step_size, temperature = schedule(step, scale)
        moment = state.moment
        preconditioner = jax.tree.map(jnp.ones_like, energy_grads)
        if is_preconditioned:
            is_adapting = not config.freeze or step < freeze_step
            squares = jax.tree.map(lambda g: g * g, energy_grads)
            if config.constrain_norm:
                squares = jax.tree.map(_isotropic, squares)
            moment = jax.tree.map(
                lambda v, s: jnp.where(is_adapting, v + (1 - config.decay) * (s - v), v),
                moment,
                squares,
            )
            last = jnp.minimum(step, freeze_step - 1) if config.freeze else step
            bias_correction = 1 - jnp.float32(config.decay) ** (last + 1)
            preconditioner = jax.tree.map(
                lambda v: 1 / (config.damping + jnp.sqrt(v / bias_correction)), moment
            )
        drift = jax.tree.map(lambda p, g: p * g, preconditioner, energy_grads)
        if is_preconditioned and config.gamma and not config.freeze:
            hessian = _hessian_diagonal(
                probe_key,
                lambda w: energy_gradient(jax.grad(extra["value_fn"])(w), w),
                params,
                energy_grads,
            )
            # P = 1 / (d + r) with r = sqrt(V / c) for the bias correction c, so G = dP/dw =
            # -P^2 dr/dw with dr/dw = (1 - decay) g h / (c r) for the Hessian's diagonal h.
            rate = (1 - config.decay) / bias_correction
            drift = jax.tree.map(
                lambda d, p, g, h: d + temperature * p**2 * rate * g * h / (1 / p - config.damping),
                drift,
                preconditioner,
                energy_grads,
                hessian,
            )
        noise = _normal_like(walk_key, energy_grads)
        noise_scale = jnp.sqrt(2 * step_size * temperature)
        updates = jax.tree.map(
            lambda d, p, n: -step_size * d + noise_scale * jnp.sqrt(p) * n,
            drift,
            preconditioner,
            noise,
        )
        radial = state.radial
        if config.constrain_norm:
            radial = jax.tree.map(_add_radial, radial, params, grads)
            updates = jax.tree.map(_constrain_norm, updates, params, radial)
        return updates, SamplerState(state.num_steps + 1, moment, radial, (), noise_var)

    return optax.GradientTransformationExtraArgs(init, update)


def build_schedule(
    config: SgldConfig, learning_rate: float, num_steps: int
) -> Callable[[Array, Array | float], tuple[Array, Array]]:
    """Returns `schedule(step, scale) -> (step_size, temperature)`.

    * `psgld`: `learning_rate` in the warm-up, then e_0, and e_0 (1 + t / b)^-c at t steps after the
      burn-in of b steps. e_0 is `step_size`, by default `learning_rate`; c is `step_decay`.
    * `sgld`: the same without the warm-up. By default e_0 = 1 / k, so that a step follows the
      gradient of the mean loss.
    * `csgld`: learning_rate (1 + cos(pi f)) / 2 for the phase f, from 0 to 1, in each of
      `num_cycles` cycles.

    The temperature is 0 in the warm-up and in the exploration of `csgld`, otherwise `temperature`.

    Args:
      config: The settings.
      learning_rate: `fit.learning_rate`.
      num_steps: Steps in total.
    """
    warm_up, burn_in = config.phases(num_steps)

    def schedule(step: Array, scale: Array | float) -> tuple[Array, Array]:
        step = jnp.asarray(step)
        is_sampling = step >= warm_up
        if config.sampler == "csgld":
            phase = config.cycle_phase(step, num_steps)
            step_size = learning_rate / 2 * (1 + jnp.cos(jnp.pi * phase))
            is_sampling &= phase >= config.explore_fraction
        else:
            is_plain = config.sampler == "sgld"
            first: Array | float = 1 / scale if is_plain else learning_rate
            first = first if config.step_size is None else config.step_size
            elapsed = jnp.maximum(step - burn_in, 0) / max(burn_in, 1)
            step_size = first * (1 + elapsed) ** -config.step_decay
            step_size = jnp.where(is_sampling | is_plain, step_size, learning_rate)
        return step_size, jnp.where(is_sampling, config.temperature, 0.0)

    return schedule


def sampler_args(likelihood: Likelihood) -> ExtraArgs:
    """Returns the arguments of a sampler's `update`, for `build_fit(..., extra_args=...)`.

    Args:
      likelihood: The likelihood of the fit.

    Example:
      >>> from dip_jax import build_config, build_fit, build_net
      >>> config = build_config("denoise_small", overrides=["fit.method=sgld"])
      >>> sampler = build_sampler(config.sgld, learning_rate=0.01, num_steps=100)
      >>> extra_args = sampler_args(config.fit.likelihood)
      >>> net = build_net(config.net, (64, 64, 3))
      >>> build_fit(config.fit, net, optimizer=sampler, extra_args=extra_args)._fields
      ('init', 'step')
    """

    def build(
        problem: Problem, *, loss: Array, step: Array, key: Array, shape: tuple[int, ...]
    ) -> dict[str, Any]:
        return {
            "key": sampler_key(key),
            "step": step,
            "scale": nll_scale(likelihood, problem),
            **_noise_statistics(problem, loss, shape),
        }

    return build


def build_sgld(config: SgldConfig, algorithm: Algorithm, *, num_steps: int) -> Algorithm:
    """Returns a fit that samples.

    The samples are the outputs of the steps after the burn-in whose number is a multiple of `thin`,
    except those that the guard rejects and those of the exploration of `csgld`. The state holds
    their `posterior.moments`.

    Args:
      config: The settings.
      algorithm: A fit with a sampler as its optimizer.
      num_steps: Steps in total.

    Example:
      >>> from dip_jax.base import Net
      >>> from dip_jax.config import FitConfig
      >>> from dip_jax.fit import build_fit
      >>> net = Net(lambda key: {}, lambda params, code: code, (2, 2, 1), (2, 2, 1))
      >>> sampler = build_sampler(SgldConfig(), learning_rate=0.01, num_steps=1000)
      >>> args = sampler_args("gaussian")
      >>> fit = build_fit(FitConfig(optimize="code"), net, optimizer=sampler, extra_args=args)
      >>> sgld = build_sgld(SgldConfig(), fit, num_steps=1000)
    """
    total = config.num_samples(num_steps)

    def init(key: Array, problem: Problem) -> SgldState:
        fit = algorithm.init(key, problem)
        return SgldState(fit, start_moments(fit.average, config.keep_samples))

    def step(problem: Problem, state: SgldState) -> tuple[SgldState, Info]:
        sampled = config.is_sample(state.fit.step, num_steps)
        fit, info = algorithm.step(problem, state.fit)
        sampled &= info.accepted
        moments = jax.lax.cond(
            sampled, lambda: add_sample(state.moments, info.image, total), lambda: state.moments
        )
        mean = jnp.where(moments.num_samples > 0, moments.mean, info.average)
        return SgldState(fit, moments), info._replace(mean=mean, sampled=sampled)

    return Algorithm(init, step)


def _build_paper(config: SgldConfig, learning_rate: float) -> optax.GradientTransformationExtraArgs:
    """The sampler of the 2019 code: Adam with weight decay, then noise on the kernels."""
    optimizer = optax.chain(
        optax.add_decayed_weights(config.weight_decay), optax.adam(learning_rate)
    )
    noise_scale = 2 * learning_rate * np.sqrt(config.temperature)

    def init(params: Params) -> SamplerState:
        return SamplerState(
            jnp.int32(0), (), (), optimizer.init(params), noise_var=jnp.float32(jnp.nan)
        )

    def update(
        grads: Params, state: SamplerState, params: Params, *, key: Array, **extra: Any
    ) -> tuple[Params, SamplerState]:
        del extra
        updates, adam_state = optimizer.update(grads, state.optimizer, params)
        updates = jax.tree.map(
            lambda u, n: u + noise_scale * n if _is_kernel(u) else u,
            updates,
            _normal_like(key, updates),
        )
        return updates, state._replace(num_steps=state.num_steps + 1, optimizer=adam_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _is_kernel(w: Array) -> bool:
    """Whether an array is a convolution kernel `[k, k, C_in, C_out]`, which no other params are."""
    return w.ndim == 4


def _isotropic(squares: Array) -> Array:
    """The mean of the squares for a kernel: on a sphere, P must be equal in all directions."""
    return jnp.full_like(squares, jnp.mean(squares)) if _is_kernel(squares) else squares


def _normal_like(key: Array, tree: Params) -> Params:
    """Standard normal numbers in the structure of `tree`, all from one stream."""
    leaves, structure = jax.tree.flatten(tree)
    drawn, first = [], 0
    for leaf in leaves:
        drawn.append(fast_random.normal(key, leaf.shape, first=first))
        first += leaf.size
    return jax.tree.unflatten(structure, drawn)


def _add_radial(radial: Array, w: Array, grad: Array) -> Array:
    """Adds |w . grad L| and |w| |grad L| of one step to their sums."""
    norms = jnp.linalg.norm(w) * jnp.linalg.norm(grad)
    return radial + jnp.stack([jnp.abs(jnp.sum(w * grad)), norms])


def _constrain_norm(update: Array, w: Array, radial: Array) -> Array:
    """The update of w, projected so that |w| stays if it has no effect on the loss.

    The norm of a kernel has no effect if w . grad L(w) = 0 everywhere (Euler, for functions
    homogeneous of degree 0). Sums over all steps decide, because a single gradient may be almost 0.
    """
    if not _is_kernel(w):
        return update
    moved = w + update
    rescaled = moved * (jnp.linalg.norm(w) / jnp.maximum(jnp.linalg.norm(moved), 1e-30))
    return jnp.where(radial[0] <= _RADIAL_TOLERANCE * radial[1], rescaled - w, update)


def _noise_statistics(problem: Problem, loss: Array, shape: tuple[int, ...]) -> dict[str, Array]:
    """The statistics for sampling the noise variance; XLA drops them if they are not used.

    Values that do not depend on the image, e.g. missing pixels, do not count.
    """
    half = 1.0 if jnp.iscomplexobj(problem.measurement) else 0.5
    # Any key: the mask depends only on the zeros of the operator.
    count = jnp.sum(informative_mask(jax.random.key(0), problem, shape))
    return {
        "half_misfit": half * num_measurements(problem) * loss,
        "half_count": half * count,
        "noise_var": assumed_variance(problem),
    }


def _draw_noise_var(
    key: Array, config: SgldConfig, half_misfit: Array, half_count: Array | float
) -> Array:
    """Draws the noise variance given the outputs, from the inverse gamma distribution.

    Its shape is noise_shape + n / 2 and its scale noise_rate + |A x - y|^2 / 2.
    """
    shape = config.noise_shape + half_count
    scale = config.noise_rate + half_misfit
    return scale / jax.random.gamma(key, shape)


def _hessian_diagonal(
    key: Array, gradient: Callable[[Params], Params], params: Params, grads: Params
) -> Params:
    """Estimates the diagonal of the Hessian by one probe of random signs b.

    It is the finite difference b (g(w + h b) - g(w)) / h, because the gradients of the convolutions
    cannot be differentiated again.

    References:
      Hutchinson, A stochastic estimator of the trace of the influence matrix, 1990.
    """
    probe = jax.tree.map(jnp.sign, _normal_like(key, params))
    shifted = gradient(jax.tree.map(lambda w, b: w + _PROBE_STEP * b, params, probe))
    return jax.tree.map(lambda b, s, g: b * (s - g) / _PROBE_STEP, probe, shifted, grads)
