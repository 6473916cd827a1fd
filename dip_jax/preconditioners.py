"""Preconditioners of Langevin dynamics: one positive factor P for each weight, and its divergence.

References:
  Li, Chen, Carlson and Carin, Preconditioned Stochastic Gradient Langevin Dynamics, 2016.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from dip_jax import fast_random
from dip_jax.base import Array, Params


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


class RmsState(NamedTuple):
    """State of `frozen_rms`."""

    moment: Params
    """V, not yet corrected for its bias."""
    num_adapted: Array
    """Number of gradients in V."""


def frozen_rms(
    freeze_step: int,
    *,
    decay: float = 0.999,
    damping: float = 1e-3,
    per_kernel: bool = False,
    adapts: Callable[[Array], Array] | None = None,
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
      adapts: `adapts(step)`, whether V follows the gradient of a step before `freeze_step`; by default of all. At
        temperature 0 gradients vanish, so a V that follows them makes P as large as 1 / d.

    Example:
      >>> preconditioner = frozen_rms(1, damping=0.0)
      >>> w, g = jnp.array([1.0, 1.0]), jnp.array([2.0, 4.0])
      >>> state = preconditioner.init(w)
      >>> found, state = preconditioner.update(g, state, w, step=jnp.int32(0), key=None)
      >>> found.matrix.round(4).tolist()
      [0.5, 0.25]
    """

    def init(params: Params) -> RmsState:
        return RmsState(jax.tree.map(jnp.zeros_like, params), jnp.int32(0))

    def update(
        grads: Params, state: RmsState, params: Params, *, step: Array, key: Array, **extra: Any
    ) -> tuple[Preconditioning, RmsState]:
        del params, key, extra
        squares = _squares(grads, per_kernel)
        is_adapting = step < freeze_step
        if adapts is not None:
            is_adapting &= adapts(step)
        is_adapting |= state.num_adapted == 0
        moment = jax.tree.map(
            lambda v, s: jnp.where(is_adapting, v + (1 - decay) * (s - v), v), state.moment, squares
        )
        num_adapted = state.num_adapted + is_adapting
        weight = 1 - jnp.float32(decay) ** num_adapted
        return Preconditioning(_inverse_root(moment, weight, damping)), RmsState(
            moment, num_adapted
        )

    return Preconditioner(init, update)


class PreconditionerState(NamedTuple):
    """State of `scale_by_preconditioner`."""

    num_steps: Array
    """Number of calls."""
    preconditioner: Any
    """State of the preconditioner."""


def scale_by_preconditioner(
    preconditioner: Preconditioner,
) -> optax.GradientTransformationExtraArgs:
    """Returns the transformation g <- P g, for optimizers.

    Args:
      preconditioner: The preconditioner.
    """

    def init(params: Params) -> PreconditionerState:
        return PreconditionerState(jnp.int32(0), preconditioner.init(params))

    def update(
        grads: Params,
        state: PreconditionerState,
        params: Params,
        *,
        step: Array | None = None,
        key: Array | None = None,
        **extra: Any,
    ) -> tuple[Params, PreconditionerState]:
        step = state.num_steps if step is None else step
        key = jax.random.key(0) if key is None else key
        found, inner = preconditioner.update(
            grads, state.preconditioner, params, step=step, key=key, **extra
        )
        scaled = jax.tree.map(lambda p, g: p * g, found.matrix, grads)
        return scaled, PreconditionerState(state.num_steps + 1, inner)

    return optax.GradientTransformationExtraArgs(init, update)


def is_kernel(w: Array) -> bool:
    """Returns whether an array has four axes, as the kernel `[k, k, C_in, C_out]` of a convolution.

    Args:
      w: A weight.
    """
    return w.ndim == 4


def normal_like(key: Array, tree: Params) -> Params:
    """Returns standard normal numbers in the structure of a tree, all from one stream.

    Args:
      key: Random key, consumed.
      tree: A tree of arrays.
    """
    leaves, structure = jax.tree.flatten(tree)
    drawn, first = [], 0
    for leaf in leaves:
        drawn.append(fast_random.normal(key, leaf.shape, first=first))
        first += leaf.size
    return jax.tree.unflatten(structure, drawn)


def _squares(grads: Params, per_kernel: bool) -> Params:
    squares = jax.tree.map(lambda g: g * g, grads)
    return jax.tree.map(_isotropic, squares) if per_kernel else squares


def _isotropic(squares: Array) -> Array:
    """The mean of the squares for a kernel: on a sphere, P must be equal in all directions."""
    return jnp.full_like(squares, jnp.mean(squares)) if is_kernel(squares) else squares


def _inverse_root(moment: Params, weight: Array, damping: float) -> Params:
    return jax.tree.map(lambda v: 1 / (damping + jnp.sqrt(v / weight)), moment)
