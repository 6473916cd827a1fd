"""Langevin dynamics as gradient transformations of optax.

The weights w have the density exp(-U(w) / T) with the energy U(w) = k L(w) + (p / 2) |w|^2, for a
mean loss L and the temperature T. A sampler is a chain of the transformations of this file:

* `energy_gradient` turns the gradient of L into that of U,
* `langevin_step` makes the step with its noise, with any preconditioner,
* `constrain_norm` keeps the norm of kernels whose norm has no effect,
* `add_kernel_noise` adds noise after the step of an optimizer, as the code of 2019 does.

The noise of a step must have the covariance of its preconditioner, and a member of a chain sees only
updates. So a preconditioner is an argument of `langevin_step`, not a member of the chain.

In addition to the arguments of optax, `update` takes `key`, a random key, and optionally `scale`, the
factor k (1 by default), `step`, the step of the run (by default the number of calls), and `step_factor`, a factor of the
step size (1 by default).

References:
  Welling and Teh, Bayesian Learning via Stochastic Gradient Langevin Dynamics, 2011.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from dip_jax.base import Array, Params
from dip_jax.preconditioners import (
    Preconditioner,
    Preconditioning,
    is_kernel,
    normal_like,
)

_RADIAL_TOLERANCE = 1e-3  # |w . grad L| / (|w| |grad L|) that counts as 0


class Schedule(Protocol):
    """Step size and temperature of each step; see `schedules`."""

    def __call__(self, step: Array, scale: Array | float, /) -> tuple[Array, Array]:
        """Returns the step size e and the temperature T.

        Args:
          step: The step, or an array of steps.
          scale: The factor k of the loss in the energy.
        """
        ...


class EnergyState(NamedTuple):
    """State of `energy_gradient`."""

    precision: Params
    """Precision p of the prior, a scalar for each array of weights."""
    noise_var: Array
    """Noise variance of the last step, if it is sampled; otherwise NaN."""


def energy_gradient(
    prior_precision: float | None = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """Returns the transformation of the gradient of L into that of U: g <- k g + p w.

    Args:
      prior_precision: Precision p (1 / variance) of the normal prior of each weight. None for a prior as wide as the
        initial weights, see `prior_precisions`.

    Example:
      >>> transformation = energy_gradient(prior_precision=2.0)
      >>> w, g = jnp.array([1.0]), jnp.array([3.0])
      >>> transformation.update(g, transformation.init(w), w, scale=10.0)[0].tolist()
      [32.0]
    """

    def init(params: Params) -> EnergyState:
        return EnergyState(prior_precisions(params, prior_precision), jnp.float32(jnp.nan))

    def update(
        grads: Params,
        state: EnergyState,
        params: Params,
        *,
        scale: Array | float = 1.0,
        noise_var: Array | float = jnp.nan,
        **extra: Any,
    ) -> tuple[Params, EnergyState]:
        del extra
        energy = jax.tree.map(lambda g, p, w: scale * g + p * w, grads, state.precision, params)
        return energy, EnergyState(state.precision, jnp.float32(noise_var))

    return optax.GradientTransformationExtraArgs(init, update)


def prior_precisions(params: Params, prior_precision: float | None) -> Params:
    """Returns the precision p of the prior of each array of weights, scalars in the structure of the weights.

    Without a given precision it is 1 / mean(w^2) of the initial values, so that the prior is that of a random network;
    for an array of zeros it is 1.

    Args:
      params: The initial weights.
      prior_precision: The precision of all weights; None for that of their initial values.

    Example:
      >>> prior_precisions({"kernel": jnp.array([0.5, -0.5]), "bias": jnp.zeros(2)}, None)
      {'bias': Array(1., dtype=float32), 'kernel': Array(4., dtype=float32)}
    """

    def of_array(w: Array) -> Array:
        if prior_precision is not None:
            return jnp.float32(prior_precision)
        square = jnp.mean(jnp.square(w))
        return 1 / jnp.where(square > 0, square, 1.0)

    return jax.tree.map(of_array, params)


class LangevinState(NamedTuple):
    """State of `langevin_step`."""

    num_steps: Array
    """Number of calls."""
    preconditioner: Any
    """State of the preconditioner; empty without one."""


def langevin_step(
    schedule: Schedule, *, preconditioner: Preconditioner | None = None
) -> optax.GradientTransformationExtraArgs:
    """Returns the step of Langevin dynamics, w <- w - e (P g - T G) + sqrt(2 e T P) n.

    Here g is the gradient of the energy, e the step size, T the temperature, P the preconditioner
    with the divergence G, and n ~ N(0, 1).

    Args:
      schedule: Step size and temperature, such as `schedules.constant(1e-3)`.
      preconditioner: P and G; None for P = 1.

    Example:
      At temperature 0 it is gradient descent:

      >>> from dip_jax.schedules import constant
      >>> transformation = langevin_step(constant(0.25, temperature=0.0))
      >>> w, g = jnp.array([1.0, 2.0]), jnp.array([4.0, 8.0])
      >>> transformation.update(g, transformation.init(w), w, key=jax.random.key(0))[0].tolist()
      [-1.0, -2.0]
    """

    def init(params: Params) -> LangevinState:
        inner = () if preconditioner is None else preconditioner.init(params)
        return LangevinState(jnp.int32(0), inner)

    def update(
        grads: Params,
        state: LangevinState,
        params: Params,
        *,
        key: Array,
        scale: Array | float = 1.0,
        step: Array | None = None,
        step_factor: Array | float = 1.0,
        **extra: Any,
    ) -> tuple[Params, LangevinState]:
        step = state.num_steps if step is None else step
        _, probe_key, walk_key = jax.random.split(key, 3)  # the first draws the noise variance
        step_size, temperature = schedule(step, scale)
        step_size = step_factor * step_size
        preconditioning, inner = Preconditioning(jax.tree.map(jnp.ones_like, grads)), ()
        if preconditioner is not None:
            preconditioning, inner = preconditioner.update(
                grads, state.preconditioner, params, step=step, key=probe_key, scale=scale, **extra
            )
        drift = jax.tree.map(lambda p, g: p * g, preconditioning.matrix, grads)
        if preconditioning.divergence is not None:
            drift = jax.tree.map(
                lambda d, g: d - temperature * g, drift, preconditioning.divergence
            )
        noise_scale = jnp.sqrt(2 * step_size * temperature)
        updates = jax.tree.map(
            lambda d, p, n: -step_size * d + noise_scale * jnp.sqrt(p) * n,
            drift,
            preconditioning.matrix,
            normal_like(walk_key, grads),
        )
        return updates, LangevinState(state.num_steps + 1, inner)

    return optax.GradientTransformationExtraArgs(init, update)


class NormState(NamedTuple):
    """State of `constrain_norm`."""

    inner: Any
    """State of the inner transformation."""
    radial: Params
    """For each array w the sums over the steps of |w . grad L| and |w| |grad L|, `[2]`."""


def constrain_norm(inner: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Returns `inner` with a constraint: kernels whose norm has no effect keep their norm.

    Kernels in front of a normalization have no such effect; they then walk on a sphere. The
    posterior of their direction is the same, because the prior is isotropic. A preconditioner of
    `inner` must have one value for each kernel (`per_kernel=True`).

    The norm of a kernel has no effect if w . grad L(w) = 0 everywhere (Euler, for functions
    homogeneous of degree 0). Sums over all steps decide, because a single gradient may be almost 0.

    Args:
      inner: A transformation of the gradient of L into the step of w.
    """
    inner_update = optax.with_extra_args_support(inner).update

    def init(params: Params) -> NormState:
        return NormState(inner.init(params), jax.tree.map(lambda w: jnp.zeros(2), params))

    def update(
        grads: Params, state: NormState, params: Params, **extra: Any
    ) -> tuple[Params, NormState]:
        updates, inner_state = inner_update(grads, state.inner, params, **extra)
        radial = jax.tree.map(_add_radial, state.radial, params, grads)
        updates = jax.tree.map(_constrain_norm, updates, params, radial)
        return updates, NormState(inner_state, radial)

    return optax.GradientTransformationExtraArgs(init, update)


def add_kernel_noise(std: float) -> optax.GradientTransformationExtraArgs:
    """Returns the transformation u <- u + std n of the updates of convolution kernels, n ~ N(0, 1).

    With a `step_factor` c it is c u + sqrt(c) std n.

    Args:
      std: Standard deviation of the noise.

    References:
      Cheng, Gadelha, Maji and Sheldon, A Bayesian Perspective on the Deep Image Prior, 2019 (its
        code).
    """

    def init(params: Params) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(
        updates: Params,
        state: optax.EmptyState,
        params: Params | None = None,
        *,
        key: Array,
        step_factor: Array | float = 1.0,
        **extra: Any,
    ) -> tuple[Params, optax.EmptyState]:
        del params, extra
        noise_std = jnp.sqrt(jnp.asarray(step_factor)) * std

        def of_array(u: Array, n: Array) -> Array:
            return step_factor * u + (noise_std * n if is_kernel(u) else 0)

        return jax.tree.map(of_array, updates, normal_like(key, updates)), state

    return optax.GradientTransformationExtraArgs(init, update)


def _add_radial(radial: Array, w: Array, grad: Array) -> Array:
    """Adds |w . grad L| and |w| |grad L| of one step to their sums."""
    norms = jnp.linalg.norm(w) * jnp.linalg.norm(grad)
    return radial + jnp.stack([jnp.abs(jnp.sum(w * grad)), norms])


def _constrain_norm(update: Array, w: Array, radial: Array) -> Array:
    """The update of w, projected so that |w| stays if it has no effect on the loss."""
    if not is_kernel(w):
        return update
    moved = w + update
    rescaled = moved * (jnp.linalg.norm(w) / jnp.maximum(jnp.linalg.norm(moved), 1e-30))
    return jnp.where(radial[0] <= _RADIAL_TOLERANCE * radial[1], rescaled - w, update)
