"""Posterior sampling by Langevin dynamics: instead of stopping early, average over the posterior.

The weights w have the posterior density exp(-U(w) / T) with

    U(w) = k L(w) + (p / 2) |w|^2.

L is the loss that `fit` minimizes, a mean over n measurements, and k turns it into the negative log
likelihood: k = n / (2 noise_std^2) for a Gaussian one. p is the precision of a normal prior of the
weights, and T the temperature; 1 is Bayes' posterior.

A sampler is a transformation of gradients as optax has them, noise included, so `fit` makes its steps as it
makes those of any optimizer. `build_sgld` then adds up the outputs: their mean is the answer, their
spread its uncertainty. What a sampler does at T = 0 is an optimizer of optax, exactly.

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

from dip_jax import fast_random as noise
from dip_jax.base import Algorithm, Array, Info, Params, Problem
from dip_jax.config import SgldConfig
from dip_jax.fit import ExtraArgs
from dip_jax.keys import sampler_key
from dip_jax.losses import nll_scale
from dip_jax.posterior.moments import Moments, add_sample, start_moments
from dip_jax.problem import assumed_variance, informative_mask, num_measurements


class SamplerState(NamedTuple):
    """What a sampler needs for its next step."""

    num_steps: Array
    """Steps made."""
    moment: Params
    """Running mean V of the squared gradients of U; empty without a preconditioner."""
    radial: Params
    """`constrain_norm`: of each kernel the sums of |w . grad L| and |w| |grad L| so far, `[2]`; else empty."""
    optimizer: Any
    """`paper`: the state of Adam."""
    noise_var: Array
    """The variance of the noise, where it is sampled too."""


class SgldState(NamedTuple):
    """A fit that samples, and what was sampled."""

    fit: Any
    moments: Moments

    @property
    def step(self) -> Array:
        """Steps made."""
        return self.fit.step

    @property
    def params(self) -> Params:
        """What is sampled."""
        return self.fit.params

    @property
    def average(self) -> Array:
        """Running average of the outputs."""
        return self.fit.average

    @property
    def num_rollbacks(self) -> Array:
        """Returns of the guard."""
        return self.fit.num_rollbacks

    @property
    def diverged(self) -> Array:
        """Whether the guard has given up."""
        return self.fit.diverged


def build_sampler(
    config: SgldConfig, *, learning_rate: float, num_steps: int
) -> optax.GradientTransformationExtraArgs:
    """The sampler of that name; e is the step size, g = grad U, n ~ N(0, 1) drawn afresh.

    `sgld`:  w <- w - e g + sqrt(2 e T) n.

    `psgld`: w <- w - e (P g - T G) + sqrt(2 e T P) n, with the diagonal P = 1 / (d + sqrt(V)) that RMSprop
    has. P follows the gradients during the burn-in and is then frozen: with a constant P the
    stationary law is the posterior (but for the step's own error, O(e)), and the term G, the
    derivative of P by w, is 0. With `freeze=False` P goes on, and `gamma` adds G from a probe of the Hessian.

    `csgld`: as `psgld`, in cycles: e falls from its first value to 0 by a cosine, the first
    `explore_fraction` of each cycle goes at temperature 0 and gives no samples.

    `paper`: Adam on the mean loss, then w <- w + 2 learning_rate n on kernels alone. It is no Langevin
    dynamics: the noise is not sqrt(2 e), is not preconditioned as the drift is, and does not know
    the noise of the picture. Kept as it was, because it works.

    With `constrain_norm` kernels whose length has no effect, those in front of a normalization, keep it: the walk is
    on a sphere, with one P for each kernel. Their direction has the same posterior either way, because the
    normal prior is alike in all directions.

    The first `warm_up` steps of all but `paper` go at temperature 0.

    Args:
      config: The settings.
      learning_rate: `fit.learning_rate`, which is e of `psgld` and `csgld`, and Adam's in `paper`.
      num_steps: Steps in all, over which the schedules run.

    Returns:
      A transformation whose `update(grads, state, params, key=key, scale=k)` takes gradients of the loss L. `step` is
      that of the run, where it is not the number of calls. Where the noise is sampled it takes `half_misfit`
      = |A x - y|^2 / 2, `half_count` = n / 2 (without the half of complex numbers) and the `noise_var` that k
      supposes; for `gamma`, `value_fn`.

    References:
      Li, Chen, Carlson and Carin, Preconditioned Stochastic Gradient Langevin Dynamics, 2016.
      Zhang, Li, Zhang, Chen and Wilson, Cyclical Stochastic Gradient MCMC, 2020.
      Cheng et al. 2019, and the code that came with it, for `paper`.
    """
    if config.sampler == "paper":
        return _paper(config, learning_rate)
    preconditioned = config.sampler in ("psgld", "csgld")
    schedule = build_schedule(config, learning_rate, num_steps)
    frozen = max(config.phases(num_steps)[1], 1)  # one gradient at least makes P

    def init(params: Params) -> SamplerState:
        moment = jax.tree.map(jnp.zeros_like, params) if preconditioned else ()
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
        noise_key, probe_key, shake_key = jax.random.split(key, 3)
        noise_var = state.noise_var
        if config.noise == "sampled":
            noise_var = _draw_noise_var(
                noise_key, config, extra["half_misfit"], extra["half_count"]
            )
            scale = scale * extra["noise_var"] / noise_var

        def energy_gradient(grads: Params, params: Params) -> Params:
            return jax.tree.map(lambda g, w: scale * g + config.prior_precision * w, grads, params)

        loss_grads = grads
        grads = energy_gradient(grads, params)
        size, temperature = schedule(step, scale)
        moment = state.moment
        preconditioner = jax.tree.map(jnp.ones_like, grads)
        if preconditioned:
            adapting = not config.freeze or step < frozen
            squares = jax.tree.map(lambda g: g * g, grads)
            if config.constrain_norm:  # on a sphere all directions must be alike
                squares = jax.tree.map(
                    lambda s: jnp.full_like(s, jnp.mean(s)) if s.ndim == 4 else s, squares
                )
            moment = jax.tree.map(
                lambda v, s: jnp.where(adapting, v + (1 - config.decay) * (s - v), v),
                moment,
                squares,
            )
            seen = jnp.minimum(step, frozen - 1) if config.freeze else step
            weight = 1 - jnp.float32(config.decay) ** (seen + 1)
            preconditioner = jax.tree.map(
                lambda v: 1 / (config.damping + jnp.sqrt(v / weight)), moment
            )
        drift = jax.tree.map(lambda p, g: p * g, preconditioner, grads)
        if preconditioned and config.gamma and not config.freeze:
            curvature = _hessian_diagonal(
                probe_key,
                lambda w: energy_gradient(jax.grad(extra["value_fn"])(w), w),
                params,
                grads,
            )
            # P = 1 / (d + r), r = sqrt(V / weight): dP/dw = -P^2 dr/dw, dr/dw = (1 - decay) g h / (r weight)
            share = (1 - config.decay) / weight
            drift = jax.tree.map(
                lambda d, p, g, h: (
                    d + temperature * p**2 * share * g * h / (1 / p - config.damping)
                ),
                drift,
                preconditioner,
                grads,
                curvature,
            )
        shake = _normal_like(shake_key, grads)
        spread = jnp.sqrt(2 * size * temperature)
        updates = jax.tree.map(
            lambda d, p, n: -size * d + spread * jnp.sqrt(p) * n, drift, preconditioner, shake
        )
        radial = state.radial
        if config.constrain_norm:
            radial = jax.tree.map(_add_radial, radial, params, loss_grads)
            updates = jax.tree.map(_keep_length, updates, params, radial)
        return updates, SamplerState(state.num_steps + 1, moment, radial, (), noise_var)

    return optax.GradientTransformationExtraArgs(init, update)


def sampler_args(likelihood: str) -> ExtraArgs:
    """The arguments that a sampler's `update` takes, for `build_fit(..., extra_args=...)`.

    Args:
      likelihood: The likelihood that the fit minimizes, one of `config.LIKELIHOODS`.
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


def _noise_statistics(problem: Problem, loss: Array, shape: tuple[int, ...]) -> dict[str, Array]:
    """What a sampler of the noise's variance needs; of no cost where it is not used.

    Values that no picture changes, missing pixels, tell nothing of the noise.
    """
    half = 1.0 if jnp.iscomplexobj(problem.measurement) else 0.5
    # Any key: it only tells what the operator makes 0.
    count = jnp.sum(informative_mask(jax.random.key(0), problem, shape))
    return {
        "half_misfit": half * num_measurements(problem) * loss,
        "half_count": half * count,
        "noise_var": assumed_variance(problem),
    }


def build_schedule(
    config: SgldConfig, learning_rate: float, num_steps: int
) -> Callable[[Array, Array | float], tuple[Array, Array]]:
    """`schedule(step, k) -> (e, T)`: step size and temperature.

    `psgld`: e_t = e_0 (1 + t / b)^-c for t steps after the burn-in of b steps, e_0 before it, `learning_rate` in the
    warm-up; c = `step_decay` = 0 keeps it. `sgld`: the same, with e_0 in the warm-up too; unless `step_size`
    says e_0, it is 1 / k, which moves the weights by the gradient of the mean loss. `csgld`: e falls by a
    half cosine in each of `num_cycles` cycles.
    """
    warm_up, burn_in = config.phases(num_steps)

    def schedule(step: Array, scale: Array | float) -> tuple[Array, Array]:
        step = jnp.asarray(step)
        hot = step >= warm_up
        if config.sampler == "csgld":
            place = cycle_place(config, step, num_steps)
            size = learning_rate / 2 * (1 + jnp.cos(jnp.pi * place))
            hot &= place >= config.explore_fraction
        else:
            plain = config.sampler == "sgld"
            first: Array | float = 1 / scale if plain else learning_rate
            first = first if config.step_size is None else config.step_size
            after = jnp.maximum(step - burn_in, 0) / max(burn_in, 1)
            size = first * (1 + after) ** -config.step_decay
            size = jnp.where(hot | plain, size, learning_rate)
        return size, jnp.where(hot, config.temperature, 0.0)

    return schedule


def cycle_place(config: SgldConfig, step: Array, num_steps: int) -> Array:
    """Where in its cycle a step is, from 0 to 1."""
    length = -(-num_steps // config.num_cycles)
    return (step % length) / length


def _paper(config: SgldConfig, learning_rate: float) -> optax.GradientTransformationExtraArgs:
    """Adam with weight decay, and noise on kernels, of the mean loss; to the letter of 2019."""
    optimizer = optax.chain(
        optax.add_decayed_weights(config.weight_decay), optax.adam(learning_rate)
    )
    spread = 2 * learning_rate * np.sqrt(config.temperature)

    def init(params: Params) -> SamplerState:
        nothing = jnp.float32(jnp.nan)
        return SamplerState(jnp.int32(0), (), (), optimizer.init(params), nothing)

    def update(
        grads: Params, state: SamplerState, params: Params, *, key: Array, **extra: Any
    ) -> tuple[Params, SamplerState]:
        del extra
        updates, inner = optimizer.update(grads, state.optimizer, params)
        updates = jax.tree.map(
            lambda u, n: u + spread * n if u.ndim == 4 else u, updates, _normal_like(key, updates)
        )
        return updates, state._replace(num_steps=state.num_steps + 1, optimizer=inner)

    return optax.GradientTransformationExtraArgs(init, update)


def _normal_like(key: Array, tree: Params) -> Params:
    """Standard normal numbers in the form of `tree`, all from one draw."""
    leaves, structure = jax.tree.flatten(tree)
    drawn, first = [], 0
    for leaf in leaves:
        drawn.append(noise.normal(key, leaf.shape, first=first))
        first += leaf.size
    return jax.tree.unflatten(structure, drawn)


def _add_radial(radial: Array, w: Array, grad: Array) -> Array:
    """How much of the gradient goes along the weights themselves, summed over the steps."""
    lengths = jnp.linalg.norm(w) * jnp.linalg.norm(grad)
    return radial + jnp.stack([jnp.abs(jnp.sum(w * grad)), lengths])


def _keep_length(update: Array, w: Array, radial: Array) -> Array:
    """The step that leaves a kernel's length as it is, where the loss does not depend on it.

    It does not if w . grad L(w) = 0 everywhere (Euler, for functions homogeneous of degree 0). Judged by
    sums over all steps: a single gradient may be next to nothing.
    """
    if w.ndim != 4:
        return update
    there = w + update
    back = there * (jnp.linalg.norm(w) / jnp.maximum(jnp.linalg.norm(there), 1e-30))
    return jnp.where(radial[0] <= 1e-3 * radial[1], back - w, update)


def _draw_noise_var(
    key: Array, config: SgldConfig, half_misfit: Array, half_count: Array | float
) -> Array:
    """The variance of the noise given the outputs: inverse gamma, shape a + n/2, scale b + |A x - y|^2 / 2."""
    shape = config.noise_shape + half_count
    rate = config.noise_rate + half_misfit
    return rate / jax.random.gamma(key, shape)


def _hessian_diagonal(
    key: Array, gradient: Callable[[Params], Params], params: Params, grads: Params
) -> Params:
    """The diagonal of the Hessian by one random probe b of signs: b (g(w + h b) - g(w)) / h.

    By a difference, for the convolutions' own gradients cannot be differentiated again.

    References:
      Hutchinson, A stochastic estimator of the trace of the influence matrix, 1990.
    """
    step = 1e-3
    probe = jax.tree.map(jnp.sign, _normal_like(key, params))
    there = gradient(jax.tree.map(lambda w, b: w + step * b, params, probe))
    return jax.tree.map(lambda b, a, g: b * (a - g) / step, probe, there, grads)


def build_sgld(config: SgldConfig, algorithm: Algorithm, *, num_steps: int) -> Algorithm:
    """A fit that samples, from a fit whose optimizer is a sampler.

    The outputs of steps t > burn_in with t a multiple of `thin` are the samples, those that the guard
    rejects and those of a cycle's exploration excepted. `samples` says what is kept of them.

    Args:
      config: The settings.
      algorithm: `build_fit` with a sampler for its optimizer.
      num_steps: Steps in all.
    """
    total = config.num_samples(num_steps)

    def init(key: Array, problem: Problem) -> SgldState:
        fit = algorithm.init(key, problem)
        return SgldState(fit, start_moments(fit.average, config.keep_samples))

    def step(problem: Problem, state: SgldState) -> tuple[SgldState, Info]:
        sampled = is_sample(config, state.fit.step, num_steps)
        fit, info = algorithm.step(problem, state.fit)
        sampled &= info.accepted
        moments = jax.lax.cond(
            sampled, lambda: add_sample(state.moments, info.image, total), lambda: state.moments
        )
        mean = jnp.where(moments.num_samples > 0, moments.mean, info.average)
        return SgldState(fit, moments), info._replace(mean=mean, sampled=sampled)

    return Algorithm(init, step)


def is_sample(config: SgldConfig, step: Array, num_steps: int) -> Array:
    """Whether the output of a step is a sample."""
    step = jnp.asarray(step)
    _, burn_in = config.phases(num_steps)
    sampled = (step > burn_in) & (step % config.thin == 0)
    if config.sampler == "csgld":
        sampled &= cycle_place(config, step, num_steps) >= config.explore_fraction
    return sampled
