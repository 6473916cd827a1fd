"""The point estimate: a network fitted to one measurement, with the running average of its outputs.

    min  loss(A f(z + s n; w), y) + tv_weight TV(f(z + s n; w)),   n ~ N(0, 1) drawn in each step,

over the weights w, the code z, or both. s is the perturbation, and the loss is that of a likelihood
(`losses`). The optimizer is any optax transformation. The state holds everything that the next step
needs, so a fit can be saved and resumed.

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

from dip_jax import fast_random
from dip_jax.base import Algorithm, Array, Info, Net, Params, Problem
from dip_jax.codes import build_code
from dip_jax.config import FitConfig
from dip_jax.errors import InputError
from dip_jax.fields import require_choice
from dip_jax.losses import build_likelihood, loss_floor, total_variation

_LEVEL_RATE = 0.1  # of the running level of the loss, which thus lags ten steps behind


class Snapshot(NamedTuple):
    """A state that the guard restores in a rollback."""

    params: Params
    opt_state: Any
    level: Array
    """Running level of the loss."""


class FitState(NamedTuple):
    """State of a fit."""

    step: Array
    """Steps made, including those undone."""
    key: Array
    """Data of the random key, `[2]` uint32; step t uses `fold_in(key, t)`."""
    frozen: dict[str, Params]
    """Constant ones of the inputs `net` (the weights w) and `code` (z, `[Hc, Wc, C_in]`)."""
    params: dict[str, Params]
    """Fitted ones of these inputs."""
    opt_state: Any
    """State of the optimizer."""
    average: Array
    """Running average of the outputs `[H, W, C]`."""
    num_averaged: Array
    """Number of outputs in the average."""
    level: Array
    """Running level of the accepted losses; infinite before the first."""
    snapshot: Snapshot
    """State for the next rollback."""
    num_accepted: Array
    """Steps accepted in a row since the last snapshot or rollback."""
    num_retries: Array
    """Rollbacks to the current snapshot."""
    num_rollbacks: Array
    """Rollbacks in total."""
    diverged: Array
    """Whether the guard has given up."""


# They need more than a learning rate, or are deprecated.
_UNSUITABLE = {"noisy_sgd", "optimistic_adam"}


def optimizer_names() -> tuple[str, ...]:
    """Returns the names of the optimizers in optax that need no more than a learning rate."""
    names = []
    for name in set(dir(optax)) - _UNSUITABLE:
        candidate = getattr(optax, name)
        if inspect.isfunction(candidate) and not name.startswith("_"):
            signature = inspect.signature(candidate)
            returned = getattr(signature.return_annotation, "__name__", "")
            if "learning_rate" in signature.parameters and "GradientTransformation" in returned:
                names.append(name)
    return tuple(sorted(names))


def build_optimizer(
    name: str, learning_rate: float, b2: float | None = None
) -> optax.GradientTransformationExtraArgs:
    """Returns an optimizer of optax.

    Args:
      name: One of `optimizer_names()`.
      learning_rate: Constant learning rate.
      b2: Decay of the second moment; None for the default of optax.

    Raises:
      InputError: If the name is unknown, or the optimizer has no `b2` but one is given.
    """
    require_choice("optimizer", name, optimizer_names())
    build = getattr(optax, name)
    if b2 is not None:
        if "b2" not in inspect.signature(build).parameters:
            raise InputError(
                f"optax.{name} has no b2, got fit.b2={b2:g}; set fit.b2=none or fit.optimizer=adam."
            )
        build = functools.partial(build, b2=b2)
    try:
        optimizer = build(learning_rate=learning_rate)
    except TypeError as error:
        raise InputError(f"optax.{name} needs more than a learning rate: {error}.") from None
    return optax.with_extra_args_support(optimizer)


class ExtraArgs(Protocol):
    """Returns the arguments that an optimizer's `update` takes in addition to those of optax."""

    def __call__(
        self, problem: Problem, *, loss: Array, step: Array, key: Array, shape: tuple[int, ...]
    ) -> dict[str, Any]:
        """Returns the arguments by name.

        Args:
          problem: The problem that the fit sees.
          loss: Loss of this step, a scalar.
          step: Number of this step.
          key: Random key of this step, which the fit uses too; fold a constant into it.
          shape: Shape of the image, `(H, W, C)`.
        """
        ...


def build_fit(
    config: FitConfig,
    net: Net,
    *,
    optimizer: optax.GradientTransformation | None = None,
    extra_args: ExtraArgs | None = None,
) -> Algorithm:
    """Returns the fit of one image as an algorithm.

    Each step evaluates the loss at a perturbed code, updates the fitted variables by the optimizer,
    and adds the output of the network to a running average.

    **Guard.** With Adam at this learning rate, the loss sometimes spikes. The guard rejects a step
    if its loss L is not finite, or if

        L > guard_ratio max(level, floor),

    where the level follows the accepted losses, level <- level + 0.1 (L - level), and the floor is
    `loss_floor` of the likelihood. A rejected step is a rollback: params and optimizer state return
    to the last snapshot, the average stays, and the step counts as made.

    A snapshot is taken after `guard_every` accepted steps in a row. Until the next snapshot, each
    rollback halves the updates, so that a fit without perturbation does not repeat the spike. After
    `guard_limit` rollbacks to one snapshot the fit has diverged.

    **Running average.** Over the accepted outputs x_1, x_2, ..., with d = `average_decay`,

        m_t = m_{t-1} + r_t (x_t - m_{t-1}).

    * `original`: r_1 = 1 and r_t = 1 - d. The first output has too large a weight at first.
    * `corrected`: r_t = (1 - d) / (1 - d^t). Output s has a weight proportional to d^(t - s).
    * `none`: r_t = 1, the latest output.

    Args:
      config: The settings.
      net: The network.
      optimizer: Any optax transformation, schedules included; None for the optimizer in `config`.
      extra_args: Arguments for the `update` of the optimizer, in addition to the `value`, `grad`
        and `value_fn` of optax; None for none. `sgld.sampler_args` builds those of a sampler.

    Returns:
      The algorithm; its states are `FitState`.

    Example:
      The network is the identity, so this fits the pixels themselves:

      >>> import jax
      >>> import jax.numpy as jnp
      >>> from dip_jax.operators import Identity
      >>> shape = (2, 2, 1)
      >>> net = Net(lambda key: {}, lambda params, code: code, shape, shape)
      >>> config = FitConfig(optimize="code", perturbation=0.0)
      >>> fit = build_fit(config, net, optimizer=optax.sgd(1.0))
      >>> problem = Problem(Identity(), measurement=jnp.full(shape, 0.5), noise_std=0.0)
      >>> state, step = fit.init(jax.random.key(0), problem), jax.jit(fit.step)
      >>> for _ in range(20):
      ...     state, info = step(problem, state)
      >>> info.image.ravel().round(3).tolist()
      [0.5, 0.5, 0.5, 0.5]
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
        inputs = {"net": net.init(net_key), "code": code}
        params = {name: inputs.pop(name) for name in fitted}
        opt_state = optimizer.init(params)
        zero = jnp.int32(0)
        return FitState(
            step=zero,
            key=jax.random.key_data(step_key),
            frozen=inputs,
            params=params,
            opt_state=opt_state,
            average=jnp.zeros(net.image_shape, jnp.float32),
            num_averaged=zero,
            level=jnp.float32(jnp.inf),
            # A copy, because the state is donated and a buffer can be donated only once.
            snapshot=jax.tree.map(jnp.copy, Snapshot(params, opt_state, jnp.float32(jnp.inf))),
            num_accepted=zero,
            num_retries=zero,
            num_rollbacks=zero,
            diverged=jnp.bool_(False),
        )

    def step(problem: Problem, state: FitState) -> tuple[FitState, Info]:
        # 1. The loss at the perturbed code, and its gradient.
        perturbation: Array | None = None
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        if config.perturbation:
            perturbation = config.perturbation * fast_random.normal(key, net.code_shape)

        def loss_fn(params: Params) -> tuple[Array, Array]:
            inputs = {**state.frozen, **params}
            code = inputs["code"] if perturbation is None else inputs["code"] + perturbation
            image = net.apply(inputs["net"], code)
            if problem.region is not None:
                image = image * problem.region
            loss = likelihood(problem, problem.operator(image))
            if config.tv_weight:
                variation = total_variation(image, config.tv_form, region=problem.region)
                loss += config.tv_weight * variation
            return loss, image

        (loss, image), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        # Inside all intervals the loss is 0. Without the floor, any later loss would be a spike.
        limit = config.guard_ratio * jnp.maximum(state.level, floor)
        accepted = jnp.isfinite(loss) & (loss <= limit)

        # 2. A step of the optimizer, or a rollback.
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
            factor = jnp.exp2(-state.num_retries.astype(jnp.float32))
            updates = jax.tree.map(lambda update: factor * update, updates)
            return optax.apply_updates(state.params, updates), opt_state

        params, opt_state = lax.cond(
            accepted, advance, lambda: (state.snapshot.params, state.snapshot.opt_state)
        )
        level = jnp.where(
            jnp.isinf(state.level), loss, state.level + _LEVEL_RATE * (loss - state.level)
        )
        level = jnp.where(accepted, level, state.snapshot.level)

        # 3. A snapshot. It holds the params before this step: the loss after it is not known yet.
        num_accepted = jnp.where(accepted, state.num_accepted + 1, 0)
        is_due = num_accepted >= config.guard_every
        snapshot = lax.cond(
            is_due,
            lambda: Snapshot(state.params, state.opt_state, level),
            lambda: state.snapshot,
        )
        num_retries = jnp.where(is_due, 0, state.num_retries + ~accepted)

        # 4. The running average.
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
            num_accepted=jnp.where(is_due, 0, num_accepted),
            num_retries=num_retries,
            num_rollbacks=state.num_rollbacks + ~accepted,
            diverged=num_retries >= config.guard_limit,
        )
        return state, Info(loss, image, average, accepted)

    return Algorithm(init, step)


def average_lag(config: FitConfig) -> int:
    """Returns the mean age of the outputs in the running average in steps, d / (1 - d).

    Example:
      >>> average_lag(FitConfig(average_decay=0.99))
      99
    """
    if config.average == "none":
        return 0
    return round(config.average_decay / (1 - config.average_decay))


def _average_rate(config: FitConfig, count: Array) -> Array | float:
    """The weight r of the newest of `count` outputs in the running average."""
    if config.average == "none":
        return 1.0
    if config.average == "original":
        return jnp.where(count <= 1, 1.0, 1 - config.average_decay)
    total = 1 - jnp.float32(config.average_decay) ** jnp.maximum(count, 1)
    return (1 - config.average_decay) / total
