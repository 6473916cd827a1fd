"""When to stop, judged without the reference: rules as pure functions inside the compiled chunk.

A rule sees each step's `Info` and says two things: whether this step's answer is the best so far
(the caller then keeps it) and whether the fit is done. It may keep part of the measurement from the fit. See
`base.Stopper` for the form, `minimum` for what makes a minimum final, and `variance_rules` and `data_rules` for
what is watched.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dip_jax.base import Algorithm, Array, Info, InputError, Problem, Stopper, Verdict
from dip_jax.config import StopConfig
from dip_jax.fields import require_choice
from dip_jax.losses import build_likelihood
from dip_jax.stopping.held_out import discrepancy, held_out, sure
from dip_jax.stopping.variance_rules import emv, see_all, wmv

_DEFAULT = StopConfig().rule  # whose answer `all` hands out


class FixedState(NamedTuple):
    """`fixed` remembers only which step it saw last."""

    answer_step: Array
    done: Array


class UnseenState(NamedTuple):
    """`fixed`, and what is kept from the estimator."""

    fixed: FixedState
    hidden: Any

    @property
    def done(self) -> Array:
        """Never."""
        return self.fixed.done


class AllState(NamedTuple):
    """What the rules side by side need of the past, each its own."""

    rules: dict[str, Any]
    done: Array


def build_stopper(
    config: StopConfig,
    *,
    lag: int = 0,
    algorithm: Algorithm | None = None,
    loss: Callable[[Problem, Array], Array] | None = None,
) -> Stopper:
    """The rule that a config names.

    Its `init` takes the image's own key, the one that the estimator takes, because `sure` starts a second
    fit alike.

    Args:
      config: The rule and its settings.
      lag: Steps by which the answer (a running average) is behind the outputs.
      algorithm: The estimator, which `sure` needs.
      loss: What it minimises, for `held_out`; by default the mean of |p - y|^2.

    Raises:
      InputError: For an unknown rule, or `sure` or `all` without the estimator.
    """
    rules: dict[str, Callable[[], Stopper]] = {
        "fixed": fixed,
        "wmv": lambda: wmv(config, lag=lag),
        "emv": lambda: emv(config, lag=lag),
        "discrepancy": lambda: discrepancy(config),
        "held_out": lambda: held_out(
            config, lag=lag, loss=build_likelihood("gaussian") if loss is None else loss
        ),
    }
    if algorithm is not None:
        rules["sure"] = lambda: sure(config, lag=lag, algorithm=algorithm)
    elif config.rule in ("sure", "all"):
        raise InputError(f"The rule {config.rule} fits a second time: it needs algorithm=...")
    require_choice("stopping rule", config.rule, (*rules, "all"))
    if config.rule == "all":
        return side_by_side({name: build() for name, build in rules.items()})
    return rules[config.rule]()


def fixed() -> Stopper:
    """All steps are run and the last answer counts."""

    def init(key: Array, problem: Problem, shape: tuple[int, ...]) -> FixedState:
        del key, problem, shape
        return FixedState(jnp.int32(0), jnp.bool_(False))

    def update(
        state: FixedState, problem: Problem, step: Array, info: Info
    ) -> tuple[FixedState, Array]:
        del problem
        answer_step = jnp.where(info.accepted, step, state.answer_step)
        return FixedState(answer_step, state.done), info.accepted

    def verdicts(state: FixedState) -> dict[str, Verdict]:
        return {"fixed": Verdict(jnp.float32(jnp.nan), state.answer_step, state.done)}

    return Stopper(init, see_all, update, verdicts)


def unseen(share: float) -> Stopper:
    """`fixed`, with a share of the measurements kept from the estimator, to check its predictions on.

    The same ones for every network, or one chain would have seen what another did not.

    Args:
      share: Of the measurements that say something.
    """
    plain = fixed()
    hiding = held_out(StopConfig(held_share=share), lag=0, loss=build_likelihood("gaussian"))

    def init(key: Array, problem: Problem, shape: tuple[int, ...]) -> UnseenState:
        hidden = hiding.init(jax.random.key(0), problem, shape)
        return UnseenState(plain.init(key, problem, shape), hidden)

    def view(state: UnseenState, problem: Problem) -> Problem:
        return hiding.view(state.hidden, problem)

    def update(
        state: UnseenState, problem: Problem, step: Array, info: Info
    ) -> tuple[UnseenState, Array]:
        new, improved = plain.update(state.fixed, problem, step, info)
        return UnseenState(new, state.hidden), improved

    def verdicts(state: UnseenState) -> dict[str, Verdict]:
        return plain.verdicts(state.fixed)

    return Stopper(init, view, update, verdicts)


def side_by_side(rules: dict[str, Stopper]) -> Stopper:
    """All rules on one fit, to compare them: it runs all steps, and hands out the answer of the default rule.

    What `held_out` keeps from the fit the other rules do not see either, so each does what it would do alone
    for a measurement without those values.

    Args:
      rules: The rules by their names, among them the default one and `held_out`.
    """
    hiding = rules["held_out"]

    def init(key: Array, problem: Problem, shape: tuple[int, ...]) -> AllState:
        held = hiding.init(key, problem, shape)
        visible = hiding.view(held, problem)
        states = {name: rule.init(key, visible, shape) for name, rule in rules.items()}
        return AllState({**states, "held_out": held}, jnp.bool_(False))

    def view(state: AllState, problem: Problem) -> Problem:
        return hiding.view(state.rules["held_out"], problem)

    def update(
        state: AllState, problem: Problem, step: Array, info: Info
    ) -> tuple[AllState, Array]:
        visible = view(state, problem)
        states, improved = {}, {}
        for name, rule in rules.items():
            seen = problem if rule is hiding else visible
            states[name], improved[name] = rule.update(state.rules[name], seen, step, info)
        return AllState(states, state.done), improved[_DEFAULT]

    def verdicts(state: AllState) -> dict[str, Verdict]:
        found: dict[str, Verdict] = {}
        for name, rule in rules.items():
            found |= rule.verdicts(state.rules[name])
        return found

    return Stopper(init, view, update, verdicts)
