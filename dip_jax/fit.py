"""The point estimate: a network fitted to one measurement, with the running average of its outputs.

    min over w of  loss(A f(z + s n; w), y) + tv_weight TV(f),   n ~ N(0, 1) fresh in every step,

by any optimizer of optax; the loss is the mean of |A f - y|^2 unless another likelihood is chosen (`losses`).
What is fitted are the weights w, the code z, or both. `fit` is handed the net and returns an `Algorithm`; it knows neither tasks
nor when to stop. Its state is everything that the next step needs, so it can be saved and resumed.

References:
  Ulyanov, Vedaldi and Lempitsky, Deep Image Prior, 2018, sections 2 and 3.1.

"""

import functools
import inspect
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import lax

from dip_jax import fast_random as noise
from dip_jax.base import Algorithm, Array, Info, InputError, Net, Params, Problem
from dip_jax.codes import build_code
from dip_jax.config import FitConfig
from dip_jax.fields import require_choice
from dip_jax.losses import build_likelihood, loss_floor, total_variation


class Snapshot(NamedTuple):
    """Where the guard goes back to."""

    params: Params
    opt_state: Any
    level: Array


class FitState(NamedTuple):
    """What the next step needs."""

    step: Array
    """Steps made, including those undone."""
    key: Array
    """Data of the random key, `[2]` uint32; step t uses `fold_in(key, t)`."""
    frozen: dict[str, Params]
    """What is not fitted, of `net` (the weights w) and `code` (z, `[Hc, Wc, C_in]`)."""
    params: dict[str, Params]
    """What is fitted, of the same two."""
    opt_state: Any
    average: Array
    """Running average of the outputs `[H, W, C]`."""
    num_averaged: Array
    """Outputs in it."""
    level: Array
    """Running average of the accepted losses: what a spike is measured against."""
    snapshot: Snapshot
    num_good: Array
    """Accepted steps since the snapshot or the last return to it."""
    num_returns: Array
    """Returns to the present snapshot."""
    num_rollbacks: Array
    """Returns in all."""
    diverged: Array
    """True once the guard has given up."""


# They take a learning rate but more besides: a key of their own, or they are deprecated.
_UNSUITABLE = {"noisy_sgd", "optimistic_adam"}


def optimizer_names() -> tuple[str, ...]:
    """The optimizers of optax that need no more than a learning rate."""
    names = []
    for name in set(dir(optax)) - _UNSUITABLE:
        candidate = getattr(optax, name)
        if inspect.isfunction(candidate) and not name.startswith("_"):
            signature = inspect.signature(candidate)
            returns = getattr(signature.return_annotation, "__name__", "")
            if "learning_rate" in signature.parameters and "GradientTransformation" in returns:
                names.append(name)
    return tuple(sorted(names))


def build_optimizer(
    name: str, learning_rate: float, b2: float | None = None
) -> optax.GradientTransformationExtraArgs:
    """The optimizer of that name in optax.

    Args:
      name: One of `optimizer_names`.
      learning_rate: Constant.
      b2: Decay of its second moment; None for optax's own.

    Raises:
      InputError: For an unknown name, one that needs more than a learning rate, or a `b2` for one without.
    """
    require_choice("optimizer", name, optimizer_names())
    build = getattr(optax, name)
    if b2 is not None:
        if "b2" not in inspect.signature(build).parameters:
            raise InputError(f"optax.{name} has no b2: set fit.b2=none, or take adam.")
        build = functools.partial(build, b2=b2)
    try:
        optimizer = build(learning_rate=learning_rate)
    except TypeError as error:
        raise InputError(f"optax.{name} needs more than a learning rate: {error}.") from None
    return optax.with_extra_args_support(optimizer)


class ExtraArgs(Protocol):
    """Builds the arguments that an optimizer's `update` takes in addition to those of optax."""

    def __call__(
        self, problem: Problem, *, loss: Array, step: Array, key: Array, shape: tuple[int, ...]
    ) -> dict[str, Any]:
        """Returns the arguments by name.

        Args:
          problem: The problem that the fit sees.
          loss: The loss of this step, a scalar.
          step: Number of steps before this one.
          key: The random key of this step; the fit itself uses it as it is.
          shape: `(H, W, C)` of the image.
        """
        ...


def build_fit(
    config: FitConfig,
    net: Net,
    *,
    optimizer: optax.GradientTransformation | None = None,
    extra_args: ExtraArgs | None = None,
) -> Algorithm:
    """The fit of one picture as `init(key, problem)` and `step(problem, state)`.

    **Guard.** Adam at this learning rate sometimes jumps. A step whose loss is not finite, or more than
    `guard_ratio` times the running level of the loss (or of what is loss_floor), is undone: params *and* optimizer state go back
    to the last snapshot, the average does not see the bad output, and the step counts as one. A snapshot
    is made after every `guard_every` good steps in a row; until then each return halves the steps. After
    `guard_limit` returns to the same snapshot the fit has diverged. (The 2018 code kept the optimizer's state and stepped on with the gradient
    of the bad params; on CPU it restored nothing.)

    **Running average** of the accepted outputs x_1, x_2, ...: m_t = m_{t-1} + r_t (x_t - m_{t-1}) with
    r_t = 1 - d but r_1 = 1 (`original`), (1 - d) / (1 - d^t) (`corrected`: no early output outweighs
    the others), or 1 (`none`).

    Args:
      config: The settings of the fit.
      net: The network.
      optimizer: Any optax transformation, schedules included; by default the one that `config` names.
      extra_args: Arguments for the `update` of the optimizer, in addition to the `value`, `grad` and `value_fn`
        of optax; none by default. `sgld.sampler_args` makes those of a sampler.

    Returns:
      The algorithm; `Info` belongs to the params before the step.
    """
    if optimizer is None:
        optimizer = build_optimizer(config.optimizer, config.learning_rate, config.b2)
    update = optax.with_extra_args_support(optimizer).update
    likelihood = build_likelihood(config.likelihood, interval_pull=config.interval_pull)
    floor = loss_floor(config.likelihood)
    fitted = ("net", "code") if config.optimize == "both" else (config.optimize,)

    def init(key: Array, problem: Problem) -> FitState:
        code_key, net_key, step_key = jax.random.split(key, 3)
        code = build_code(code_key, config, net.code_shape, image=problem.code_image)
        parts = {"net": net.init(net_key), "code": code}
        params = {name: parts.pop(name) for name in fitted}
        opt_state = optimizer.init(params)
        zero = jnp.int32(0)
        return FitState(
            step=zero,
            key=jax.random.key_data(step_key),
            frozen=parts,
            params=params,
            opt_state=opt_state,
            average=jnp.zeros(net.image_shape, jnp.float32),
            num_averaged=zero,
            level=jnp.float32(jnp.inf),
            # A copy: the state is donated, and a buffer can be given away only once.
            snapshot=jax.tree.map(jnp.copy, Snapshot(params, opt_state, jnp.float32(jnp.inf))),
            num_good=zero,
            num_returns=zero,
            num_rollbacks=zero,
            diverged=jnp.bool_(False),
        )

    def step(problem: Problem, state: FitState) -> tuple[FitState, Info]:
        # 1. The loss at a perturbed code, and its gradient.
        shake: Array | None = None
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        if config.perturbation:
            shake = config.perturbation * noise.normal(key, net.code_shape)

        def loss_fn(params: Params) -> tuple[Array, Array]:
            # Also a code that is fitted is shaken: each step anew, around where it is.
            parts = {**state.frozen, **params}
            code = parts["code"] if shake is None else parts["code"] + shake
            image = net.apply(parts["net"], code)
            if problem.region is not None:
                image = image * problem.region
            loss = likelihood(problem, problem.operator(image))
            if config.tv_weight:
                variation = total_variation(image, config.tv_form, region=problem.region)
                loss += config.tv_weight * variation
            return loss, image

        (loss, image), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        # A loss can be 0, as all values of an interval are alike; from there any other is no jump.
        limit = config.guard_ratio * jnp.maximum(state.level, floor)
        accepted = jnp.isfinite(loss) & (loss <= limit)

        # 2. A step of the optimizer, or back to the snapshot.
        extra: dict[str, Any] = {}
        if extra_args is not None:
            extra = extra_args(problem, loss=loss, step=state.step, key=key, shape=image.shape)

        def advance() -> tuple[Params, Any]:
            updates, opt_state = update(
                grads,
                state.opt_state,
                state.params,
                value=loss,
                grad=grads,
                value_fn=lambda params: loss_fn(params)[0],
                **extra,
            )
            # After a return more carefully: without perturbation the same step would jump again.
            caution = jnp.exp2(-state.num_returns.astype(jnp.float32))
            updates = jax.tree.map(lambda update: caution * update, updates)
            return optax.apply_updates(state.params, updates), opt_state

        params, opt_state = lax.cond(
            accepted, advance, lambda: (state.snapshot.params, state.snapshot.opt_state)
        )
        # The first loss is that of a random network; after it the level follows ten steps behind.
        level = jnp.where(jnp.isinf(state.level), loss, state.level + 0.1 * (loss - state.level))
        level = jnp.where(accepted, level, state.snapshot.level)

        # 3. The guard's bookkeeping. A snapshot is of the params that this step found good, not of those
        # that it made: nobody has seen their loss yet.
        num_good = jnp.where(accepted, state.num_good + 1, 0)
        settled = num_good >= config.guard_every
        snapshot = lax.cond(
            settled,
            lambda: Snapshot(state.params, state.opt_state, level),
            lambda: state.snapshot,
        )
        num_returns = jnp.where(settled, 0, state.num_returns + ~accepted)

        # 4. The average of what was accepted.
        num_averaged = state.num_averaged + accepted
        rate = _average_rate(config, num_averaged)
        average = jnp.where(accepted, state.average + rate * (image - state.average), state.average)
        state = state._replace(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            average=average,
            num_averaged=num_averaged,
            level=level,
            snapshot=snapshot,
            num_good=jnp.where(settled, 0, num_good),
            num_returns=num_returns,
            num_rollbacks=state.num_rollbacks + ~accepted,
            diverged=num_returns >= config.guard_limit,
        )
        return state, Info(loss, image, average, accepted)

    return Algorithm(init, step)


def average_lag(config: FitConfig) -> int:
    """Mean age in steps of the outputs in the running average, d / (1 - d)."""
    if config.average == "none":
        return 0
    return round(config.average_decay / (1 - config.average_decay))


def _average_rate(config: FitConfig, count: Array) -> Array | float:
    """The weight of the newest of `count` outputs."""
    if config.average == "none":
        return 1.0
    if config.average == "original":
        return jnp.where(count <= 1, 1.0, 1 - config.average_decay)
    weight = 1 - jnp.float32(config.average_decay) ** jnp.maximum(count, 1)
    return (1 - config.average_decay) / weight
