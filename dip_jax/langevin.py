"""Langevin dynamics as gradient transformations of optax.

The weights w have the density exp(-U(w) / T) with the energy U(w) = k L(w) + (p / 2) |w|^2, for a
mean loss L and the temperature T. A sampler is a chain of the transformations of this file:

* `energy_gradient` turns the gradient of L into that of U,
* `langevin_step` makes the step with its noise, with any preconditioner,
* `constrain_norm` keeps the norm of kernels whose norm has no effect,
* `add_kernel_noise` adds noise after the step of an optimizer, as the code of 2019 does.

The noise of a step must have the covariance of its preconditioner, and a chain passes on nothing
but updates. So a preconditioner is an argument of `langevin_step`, not a member of the chain.

In addition to the arguments of optax, `update` takes `key`, a random key, and optionally `scale`, the
factor k (1 by default), and `step`, the step of the run (by default the number of calls).

References:
  Welling and Teh, Bayesian Learning via Stochastic Gradient Langevin Dynamics, 2011.
  Li, Chen, Carlson and Carin, Preconditioned Stochastic Gradient Langevin Dynamics, 2016.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from dip_jax import fast_random
from dip_jax.base import Array, Params

_PROBE_STEP = 1e-3  # of the finite difference of `_hessian_diagonal`
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


class Preconditioning(NamedTuple):
    """A diagonal preconditioner at the current weights."""

    matrix: Params
    """Its diagonal P, in the structure of the weights."""
    divergence: Params | None = None
    """G = dP / dw, in the same structure. None means 0."""


class PreconditionerUpdate(Protocol):
    """Updates a preconditioner with a gradient."""

    def __call__(
        self, grads: Params, state: Any, params: Params, *, step: Array, key: Array, **extra: Any
    ) -> tuple[Preconditioning, Any]:
        """Returns the preconditioner of this step, and the next state.

        Args:
          grads: Gradient of the energy.
          state: The state.
          params: The weights w.
          step: The step.
          key: Random key, consumed.
          **extra: The other arguments of the chain's `update`.
        """
        ...


class Preconditioner(NamedTuple):
    """A preconditioner as two pure functions."""

    init: Callable[[Params], Any]
    """`init(params) -> state`."""
    update: PreconditionerUpdate
    """`update(grads, state, params, *, step, key, **extra) -> (preconditioning, state)`."""


def energy_gradient(prior_precision: float = 1.0) -> optax.GradientTransformationExtraArgs:
    """Returns the transformation of the gradient of L into that of U: g <- k g + p w.

    Args:
      prior_precision: Precision p (1 / variance) of the normal prior of each weight.

    Example:
      >>> transformation = energy_gradient(prior_precision=2.0)
      >>> w, g = jnp.array([1.0]), jnp.array([3.0])
      >>> transformation.update(g, transformation.init(w), w, scale=10.0)[0].tolist()
      [32.0]
    """

    def init(params: Params) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(
        grads: Params,
        state: optax.EmptyState,
        params: Params,
        *,
        scale: Array | float = 1.0,
        **extra: Any,
    ) -> tuple[Params, optax.EmptyState]:
        del extra
        return _energy_gradient(grads, params, scale, prior_precision), state

    return optax.GradientTransformationExtraArgs(init, update)


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
        **extra: Any,
    ) -> tuple[Params, LangevinState]:
        step = state.num_steps if step is None else step
        _, probe_key, walk_key = jax.random.split(key, 3)  # the first draws the noise variance
        step_size, temperature = schedule(step, scale)
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
            _normal_like(walk_key, grads),
        )
        return updates, LangevinState(state.num_steps + 1, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def frozen_rms(
    freeze_step: int, *, decay: float = 0.999, damping: float = 1e-3, per_kernel: bool = False
) -> Preconditioner:
    """Returns the preconditioner of RMSprop until a step, and constant from then on.

    P = 1 / (d + sqrt(V)) for the damping d, where V is the running mean of g^2, corrected for its
    bias. With a constant P, the stationary distribution is the posterior, up to the O(e) error of
    the steps, and G = dP / dw is 0.

    Args:
      freeze_step: Number of steps in which V follows the gradient, at least 1.
      decay: Decay of V per step.
      damping: The damping d, in units of the gradient of the energy.
      per_kernel: One value of P for each convolution kernel, as `constrain_norm` needs it.

    Example:
      >>> preconditioner = frozen_rms(1, damping=0.0)
      >>> w, g = jnp.array([1.0, 1.0]), jnp.array([2.0, 4.0])
      >>> state = preconditioner.init(w)
      >>> found, state = preconditioner.update(g, state, w, step=jnp.int32(0), key=None)
      >>> found.matrix.round(4).tolist()
      [0.5, 0.25]
    """
    freeze_step = max(freeze_step, 1)  # V needs at least one gradient

    def update(
        grads: Params, state: Params, params: Params, *, step: Array, key: Array, **extra: Any
    ) -> tuple[Preconditioning, Params]:
        del params, key, extra
        squares = _squares(grads, per_kernel)
        is_adapting = step < freeze_step
        moment = jax.tree.map(
            lambda v, s: jnp.where(is_adapting, v + (1 - decay) * (s - v), v), state, squares
        )
        weight = _bias_correction(decay, jnp.minimum(step, freeze_step - 1))
        return Preconditioning(_inverse_root(moment, weight, damping)), moment

    return Preconditioner(_zeros_like, update)


def running_rms(
    *,
    decay: float = 0.999,
    damping: float = 1e-3,
    per_kernel: bool = False,
    corrects_drift: bool = False,
    prior_precision: float = 1.0,
) -> Preconditioner:
    """Returns the preconditioner of RMSprop, whose V follows the gradient at all steps.

    P changes with w, so without G its stationary distribution is not the posterior. G is estimated
    by one random probe of the Hessian, which costs a second gradient per step and takes `value_fn`.

    Args:
      decay: See `frozen_rms`.
      damping: See `frozen_rms`.
      per_kernel: See `frozen_rms`.
      corrects_drift: Whether to estimate G.
      prior_precision: p of `energy_gradient`, for G.
    """

    def update(
        grads: Params,
        state: Params,
        params: Params,
        *,
        step: Array,
        key: Array,
        scale: Array | float = 1.0,
        **extra: Any,
    ) -> tuple[Preconditioning, Params]:
        squares = _squares(grads, per_kernel)
        moment = jax.tree.map(lambda v, s: v + (1 - decay) * (s - v), state, squares)
        weight = _bias_correction(decay, step)
        matrix = _inverse_root(moment, weight, damping)
        if not corrects_drift:
            return Preconditioning(matrix), moment

        def gradient(w: Params) -> Params:
            return _energy_gradient(jax.grad(extra["value_fn"])(w), w, scale, prior_precision)

        # P = 1 / (d + r) with r = sqrt(V / c) for the bias correction c, so G = dP/dw =
        # -P^2 dr/dw with dr/dw = (1 - decay) g h / (c r) for the Hessian's diagonal h.
        rate = (1 - decay) / weight
        divergence = jax.tree.map(
            lambda p, g, h: -(p**2) * rate * g * h / (1 / p - damping),
            matrix,
            grads,
            _hessian_diagonal(key, gradient, params, grads),
        )
        return Preconditioning(matrix, divergence), moment

    return Preconditioner(_zeros_like, update)


def scale_by_preconditioner(
    preconditioner: Preconditioner,
) -> optax.GradientTransformationExtraArgs:
    """Returns the transformation g <- P g, for optimizers.

    Args:
      preconditioner: The preconditioner, without a probe of the Hessian.
    """

    def init(params: Params) -> LangevinState:
        return LangevinState(jnp.int32(0), preconditioner.init(params))

    def update(
        grads: Params,
        state: LangevinState,
        params: Params,
        *,
        step: Array | None = None,
        key: Array | None = None,
        **extra: Any,
    ) -> tuple[Params, LangevinState]:
        step = state.num_steps if step is None else step
        key = jax.random.key(0) if key is None else key
        found, inner = preconditioner.update(
            grads, state.preconditioner, params, step=step, key=key, **extra
        )
        scaled = jax.tree.map(lambda p, g: p * g, found.matrix, grads)
        return scaled, LangevinState(state.num_steps + 1, inner)

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
    posterior of their direction is the same, because the prior is isotropic.

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
        **extra: Any,
    ) -> tuple[Params, optax.EmptyState]:
        del params, extra
        noise = _normal_like(key, updates)
        added = jax.tree.map(lambda u, n: u + std * n if is_kernel(u) else u, updates, noise)
        return added, state

    return optax.GradientTransformationExtraArgs(init, update)


def is_kernel(w: Array) -> bool:
    """Returns whether an array is a convolution kernel `[k, k, C_in, C_out]`; no other params are."""
    return w.ndim == 4


def _energy_gradient(
    grads: Params, params: Params, scale: Array | float, prior_precision: float
) -> Params:
    return jax.tree.map(lambda g, w: scale * g + prior_precision * w, grads, params)


def _zeros_like(params: Params) -> Params:
    return jax.tree.map(jnp.zeros_like, params)


def _squares(grads: Params, per_kernel: bool) -> Params:
    squares = jax.tree.map(lambda g: g * g, grads)
    return jax.tree.map(_isotropic, squares) if per_kernel else squares


def _isotropic(squares: Array) -> Array:
    """The mean of the squares for a kernel: on a sphere, P must be equal in all directions."""
    return jnp.full_like(squares, jnp.mean(squares)) if is_kernel(squares) else squares


def _bias_correction(decay: float, step: Array) -> Array:
    """The sum of the weights of the squares of `step` + 1 steps in V."""
    return 1 - jnp.float32(decay) ** (step + 1)


def _inverse_root(moment: Params, weight: Array, damping: float) -> Params:
    return jax.tree.map(lambda v: 1 / (damping + jnp.sqrt(v / weight)), moment)


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
    """The update of w, projected so that |w| stays if it has no effect on the loss."""
    if not is_kernel(w):
        return update
    moved = w + update
    rescaled = moved * (jnp.linalg.norm(w) / jnp.maximum(jnp.linalg.norm(moved), 1e-30))
    return jnp.where(radial[0] <= _RADIAL_TOLERANCE * radial[1], rescaled - w, update)


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
