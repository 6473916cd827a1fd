"""Keep the running averages of some steps, which an ensemble combines when all networks have finished."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from dip_jax.base import Array, Info, Problem, RuleReport, Shape, Stopper
from dip_jax.errors import InputError
from dip_jax.stopping.fixed import FixedState, fixed, view_all


class KeepState(NamedTuple):
    """State of `keep`."""

    fixed: FixedState
    kept: Array
    """Estimates after `every`, 2 `every`, ... steps `[T, H, W, C]`; NaN where there is none yet."""

    @property
    def done(self) -> Array:
        """Always False."""
        return self.fixed.done


def keep(every: int, num_steps: int) -> Stopper:
    """The rule that runs all steps and keeps the estimates of some of them.

    Args:
      every: Number of steps between two kept estimates.
      num_steps: Number of steps of the fit.

    Raises:
      InputError: If no estimate would be kept.
    """
    if not 0 < every <= num_steps:
        raise InputError(
            f"Estimates are kept every {every} steps, which must be from 1 to the number of steps, {num_steps}."
        )
    all_steps = fixed()

    def init(key: Array, problem: Problem, shape: Shape) -> KeepState:
        kept = jnp.full((num_steps // every, *shape), jnp.nan, jnp.float32)
        return KeepState(all_steps.init(key, problem, shape), kept)

    def update(
        state: KeepState, problem: Problem, step: Array, info: Info
    ) -> tuple[KeepState, Array]:
        new, improved = all_steps.update(state.fixed, problem, step, info)
        count, rest = jnp.divmod(step + 1, every)
        is_due = (rest == 0) & (count <= len(state.kept))
        # Only one row is written, because under `vmap` a condition would copy all rows in each step.
        index = jnp.clip(count - 1, 0, len(state.kept) - 1)
        row = lax.dynamic_index_in_dim(state.kept, index, keepdims=False)
        row = jnp.where(is_due, info.estimate, row)
        kept = lax.dynamic_update_index_in_dim(state.kept, row, index, 0)
        return KeepState(new, kept), improved

    def reports(state: KeepState) -> dict[str, RuleReport]:
        return {"cross_validation": all_steps.reports(state.fixed)["fixed"]}

    return Stopper(init, view_all, update, reports)
