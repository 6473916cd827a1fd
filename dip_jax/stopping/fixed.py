"""The rule that runs all steps."""

from typing import NamedTuple

import jax.numpy as jnp

from dip_jax.base import Array, Info, Problem, RuleReport, Stopper


def view_all(state: object, problem: Problem) -> Problem:
    """Returns the problem as it is: the `view` of a rule that hides nothing from the estimator."""
    del state
    return problem


class FixedState(NamedTuple):
    """State of `fixed`."""

    estimate_step: Array
    """The last accepted step."""
    done: Array
    """Always False."""


def fixed() -> Stopper:
    """The rule that never fires: all steps run, and the estimate of the last one is returned."""

    def init(key: Array, problem: Problem, shape: tuple[int, ...]) -> FixedState:
        del key, problem, shape
        return FixedState(jnp.int32(0), jnp.bool_(False))

    def update(
        state: FixedState, problem: Problem, step: Array, info: Info
    ) -> tuple[FixedState, Array]:
        del problem
        estimate_step = jnp.where(info.accepted, step, state.estimate_step)
        return FixedState(estimate_step, state.done), info.accepted

    def reports(state: FixedState) -> dict[str, RuleReport]:
        return {"fixed": RuleReport(jnp.float32(jnp.nan), state.estimate_step, state.done)}

    return Stopper(init, view_all, update, reports)
