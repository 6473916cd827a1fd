"""A sampler that starts where an optimizer has arrived.

An optimizer needs a few hundred steps to the weights that a sampler would reach in thousands. Between the two,

* each filter whose norm has no effect gets the norm that the prior gives it, because the sampler would take thousands
  of steps to get there, and a step rotates a filter the less the larger its norm;
* each pair (scale, bias) whose norm has no effect is kept constant from then on. The posterior is conditional on it.
  Its angle has jumps, where the scale changes its sign, and no step is short enough for them.

`scale_invariance` finds both from the gradients of the warm-up.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from dip_jax.base import Array, Params
from dip_jax.langevin import prior_precisions
from dip_jax.scale_invariance import (
    RadialSums,
    add_gradient,
    find_invariance,
    rescale_filters,
    start_sums,
)


class WarmUpState(NamedTuple):
    """State of `after_warm_up`."""

    num_steps: Array
    """Number of calls."""
    has_norms: Array
    """Whether the filters have the norms of the prior."""
    optimizer: Any
    """State of the optimizer."""
    sampler: Any
    """State of the sampler."""
    sums: RadialSums
    """What the gradients of the warm-up tell about norms."""
    precision: Params
    """Precision p of the prior, a scalar for each array."""


def after_warm_up(
    optimizer: optax.GradientTransformation,
    sampler: optax.GradientTransformation,
    *,
    num_steps: int,
    prior_precision: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Returns the transformation that is an optimizer for some steps, and then a sampler.

    The first step after the optimizer is the change of the norms. A `step_factor` multiplies the updates of the
    optimizer and is passed to the sampler. The sampler's `update` also gets `moves`, a tree of a scalar for each array: 0
    for those that are kept constant, and 1 for the others.

    Args:
      optimizer: A transformation of the gradient of L.
      sampler: A transformation of the gradient of L.
      num_steps: Number of steps of the optimizer.
      prior_precision: See `langevin.energy_gradient`. A filter of D weights gets the norm sqrt(D / p).

    Example:
      >>> from dip_jax.langevin import langevin_step
      >>> from dip_jax.schedules import constant
      >>> both = after_warm_up(optax.sgd(0.5), langevin_step(constant(0.25, temperature=0.0)), num_steps=1)
      >>> w, g = jnp.ones(2), jnp.ones(2)
      >>> state = both.init(w)
      >>> for _ in range(3):
      ...     updates, state = both.update(g, state, w, key=jax.random.key(0))
      ...     print(updates.tolist())
      [-0.5, -0.5]
      [0.0, 0.0]
      [-0.25, -0.25]
    """
    start_optimizer, start_sampler = optimizer.init, sampler.init
    optimize = optax.with_extra_args_support(optimizer).update
    sample = optax.with_extra_args_support(sampler).update

    def init(params: Params) -> WarmUpState:
        return WarmUpState(
            num_steps=jnp.int32(0),
            has_norms=jnp.bool_(False),
            optimizer=start_optimizer(params),
            sampler=start_sampler(params),
            sums=start_sums(params),
            precision=prior_precisions(params, prior_precision),
        )

    def update(
        grads: Params,
        state: WarmUpState,
        params: Params,
        *,
        step: Array | None = None,
        step_factor: Array | float = 1.0,
        **extra: Any,
    ) -> tuple[Params, WarmUpState]:
        # A rollback sets back the number of calls, but not the step of the run.
        step = state.num_steps if step is None else step
        phase = (step >= num_steps).astype(jnp.int32) * (1 + state.has_norms)
        sums = lax.cond(
            phase < 2, lambda: add_gradient(state.sums, params, grads), lambda: state.sums
        )
        is_filter, is_pair = find_invariance(sums, params)

        def of_optimizer() -> tuple[Params, Any, Any]:
            updates, new = optimize(grads, state.optimizer, params, step=step, **extra)
            return jax.tree.map(lambda u: step_factor * u, updates), new, state.sampler

        def of_norms() -> tuple[Params, Any, Any]:
            scales = jax.tree.map(lambda p: 1 / jnp.sqrt(p), state.precision)
            rescaled = rescale_filters(params, is_filter, scales)
            return jax.tree.map(jnp.subtract, rescaled, params), state.optimizer, state.sampler

        def of_sampler() -> tuple[Params, Any, Any]:
            moves = jax.tree.map(lambda pair: 1 - pair.astype(jnp.float32), is_pair)
            updates, new = sample(
                grads,
                state.sampler,
                params,
                moves=moves,
                step=step,
                step_factor=step_factor,
                **extra,
            )
            return updates, state.optimizer, new

        updates, optimizer_state, sampler_state = lax.switch(
            phase, (of_optimizer, of_norms, of_sampler)
        )
        return updates, WarmUpState(
            state.num_steps + 1, phase > 0, optimizer_state, sampler_state, sums, state.precision
        )

    return optax.GradientTransformationExtraArgs(init, update)
