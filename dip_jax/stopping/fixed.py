"""The rule that runs all steps."""

from typing import NamedTuple

import jax.numpy as jnp

from dip_jax.base import Array, Info, Problem, RuleReport, Stopper


def see_all(state: object, problem: Problem) -> Problem:
    """Most rules keep nothing from the estimator."""
    del state
    return problem


class FixedState(NamedTuple):
    """`fixed` remembers only which step it saw last."""

    estimate_step: Array
    done: Array


def fixed() -> Stopper:
    """All steps are run and the last answer counts."""

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

    return Stopper(init, see_all, update, reports)
