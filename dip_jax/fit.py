"""The point estimate: a network fitted to one measurement, with the running average of its outputs.

    min  loss(A f(z + s n; w), y) + R(f(z + s n; w), w),   n ~ N(0, 1) drawn in each step,

over the weights w, the code z, or both. s is the perturbation, and R a regularizer. The optimizer
is any optax transformation. The state holds everything that the next step needs, so a fit can be
saved and resumed.

References:
  Ulyanov, Vedaldi and Lempitsky, Deep Image Prior, 2018, sections 2 and 3.1.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax import lax

from dip_jax import codes, fast_random, losses
from dip_jax.base import (
    Algorithm,
    Array,
    CodeBuilder,
    Info,
    Loss,
    NetBuilder,
    Params,
    Problem,
    Regularizer,
    Shape,
)
from dip_jax.errors import InputError
from dip_jax.problem import measure

_LEVEL_RATE = 0.1  # of the running level of the loss, which thus lags ten steps behind


class Guard(NamedTuple):
    """Settings of the guard against spikes of the loss; see `build_fit`."""

    ratio: float = 10**0.5
    """A step is undone if its loss is above this multiple of its running level (2018: 5 dB of a squared misfit)."""
    every: int = 20
    """Accepted steps in a row after which the guard takes a snapshot."""
    limit: int = 10
    """Rollbacks to one snapshot after which the fit has diverged."""
    num_steps: int | None = None
    """Number of steps in which the loss is compared with its level; later ones are undone only if their loss is not
    finite. None for all steps. A sampler must not be undone because of a large loss: it would never leave the
    typical losses, and its samples would have another distribution."""


class Average(NamedTuple):
    """Settings of the running average of the outputs; see `build_fit`.

    Example:
      >>> Average(decay=0.99).lag, Average(decay=0.0).lag
      (99, 0)
    """

    decay: float = 0.99
    """Decay d per step; 0 for the latest output alone."""
    is_corrected: bool = True
    """Correct the bias of the first steps. In 2018, the average started at the first output instead."""

    @property
    def lag(self) -> int:
        """Mean age of the outputs in the average in steps, d / (1 - d)."""
        return round(self.decay / (1 - self.decay))

    def rate(self, count: Array) -> Array | float:
        """Returns the weight r of the newest of `count` outputs."""
        if not self.decay:
            return 1.0
        if not self.is_corrected:
            return jnp.where(count <= 1, 1.0, 1 - self.decay)
        total = 1 - jnp.float32(self.decay) ** jnp.maximum(count, 1)
        return (1 - self.decay) / total


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

    @property
    def variables(self) -> dict[str, Params]:
        """The inputs `net` (the weights w) and `code` (z), whether they are fitted or constant."""
        return {**self.frozen, **self.params}


class ExtraArgs(Protocol):
    """Returns the arguments that an optimizer's `update` takes in addition to those of optax."""

    def __call__(
        self, problem: Problem, *, loss: Array, step: Array, key: Array, shape: Shape
    ) -> dict[str, Any]:
        """Returns the arguments by name.

        Args:
          problem: The problem that the fit sees.
          loss: Loss of this step without the regularizer, a scalar.
          step: Number of this step.
          key: Random key of this step, which the fit uses too; fold a constant into it.
          shape: Shape of the image, `(H, W, C)`.
        """
        ...


def build_fit(
    net: NetBuilder,
    *,
    loss: Loss = losses.gaussian,
    optimizer: optax.GradientTransformation | None = None,
    eval_params: Callable[[Any, Params], Params] | None = None,
    extra_args: ExtraArgs | None = None,
    regularizer: Regularizer | None = None,
    code: CodeBuilder | None = None,
    fits_net: bool = True,
    fits_code: bool = False,
    perturbation: float = 1 / 30,
    average: Average = Average(),
    guard: Guard = Guard(),
) -> Algorithm:
    """Returns the fit of an image as an algorithm.

    Each step evaluates the loss at a perturbed code, updates the fitted variables by the optimizer,
    and adds the output of the network to a running average.

    **Guard.** With Adam at this learning rate, the loss sometimes spikes. The guard rejects a step
    if its loss L is not finite, or if

        L > guard.ratio max(level, floor),

    where the level follows the accepted losses, level <- level + 0.1 (L - level), and the floor is
    `losses.loss_floor`. A rejected step is a rollback: params and optimizer state return
    to the last snapshot, the average stays, and the step counts as made.

    A snapshot is taken after `guard.every` accepted steps in a row. Until the next snapshot, each
    rollback halves the updates, so that a fit without perturbation does not repeat the spike. After
    `guard.limit` rollbacks to one snapshot the fit has diverged. An optimizer with `extra_args` gets the factor as the
    argument `step_factor` instead: half a step of a sampler has half the drift, but noise of half the variance.

    **Running average.** Over the accepted outputs x_1, x_2, ..., with d = `average.decay`,

        m_t = m_{t-1} + r_t (x_t - m_{t-1}).

    * Corrected: r_t = (1 - d) / (1 - d^t). Output s has a weight proportional to d^(t - s).
    * Otherwise, as in 2018: r_1 = 1 and r_t = 1 - d. The first output has too large a weight at first.

    Args:
      net: The network: a `NetBuilder` such as `nets.skip()`, or a `Net` for images of one shape.
      loss: Any function `loss(prediction, problem)`; see `base.Loss`.
      optimizer: Any optax transformation, schedules included; by default `optax.adam(0.01)`, as in 2018.
      eval_params: `eval_params(opt_state, params)`, the variables at which the output is averaged,
        for optimizers such as `optax.contrib.schedule_free`; it costs a second output per step.
        None for the fitted variables themselves.
      extra_args: Arguments for the `update` of the optimizer, in addition to the `value`, `grad`
        and `value_fn` of optax; None for none. `sgld.sampler_args` builds those of a sampler.
      regularizer: Any function `regularizer(image, params, problem)`; None for none.
      code: The code of the network; by default `codes.uniform()`.
      fits_net: Whether the weights of the network are fitted.
      fits_code: Whether the code is fitted.
      perturbation: Standard deviation s of the fresh normal noise on the code in each step.
      average: The running average.
      guard: The guard.

    Raises:
      InputError: If neither the network nor the code is fitted.

    Returns:
      The algorithm; its states are `FitState`.

    Example:
      The network is the identity, so this fits the pixels themselves:

      >>> import jax
      >>> import jax.numpy as jnp
      >>> from dip_jax.nets import identity
      >>> from dip_jax.operators import Identity
      >>> fit = build_fit(
      ...     identity(), optimizer=optax.sgd(1.0), fits_net=False, fits_code=True, perturbation=0
      ... )
      >>> shape = (2, 2, 1)
      >>> problem = Problem(Identity(), measurement=jnp.full(shape, 0.5), noise_std=0.0)
      >>> state, step = fit.init(jax.random.key(0), problem, shape), jax.jit(fit.step)
      >>> for _ in range(20):
      ...     state, info = step(problem, state)
      >>> info.image.ravel().round(3).tolist()
      [0.5, 0.5, 0.5, 0.5]
    """
    if not (fits_net or fits_code):
        raise InputError(
            "Expected fits_net or fits_code to be True, got neither; nothing would be fitted."
        )
    if optimizer is None:
        optimizer = optax.adam(0.01)
    start_optimizer = optimizer.init
    update = optax.with_extra_args_support(optimizer).update
    build_code = codes.uniform() if code is None else code
    floor = losses.loss_floor(loss)
    fitted = ("net",) * fits_net + ("code",) * fits_code
    build_net = functools.cache(net)

    def init(key: Array, problem: Problem, shape: Shape) -> FitState:
        net = build_net(shape)
        code_key, net_key, step_key = jax.random.split(key, 3)
        inputs = {
            "net": net.init(net_key),
            "code": build_code(code_key, net.code_shape, problem),
        }
        params = {name: inputs.pop(name) for name in fitted}
        opt_state = start_optimizer(params)
        zero = jnp.int32(0)
        return FitState(
            step=zero,
            key=jax.random.key_data(step_key),
            frozen=inputs,
            params=params,
            opt_state=opt_state,
            average=jnp.zeros(shape, jnp.float32),
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
        net = build_net(_image_shape(state))
        noise: Array | None = None
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        if perturbation:
            noise = perturbation * fast_random.normal(key, net.code_shape)

        def output(params: Params) -> Array:
            inputs = {**state.frozen, **params}
            code = inputs["code"] if noise is None else inputs["code"] + noise
            image = net.apply(inputs["net"], code)
            return image if problem.region is None else image * problem.region

        def loss_fn(params: Params) -> tuple[Array, tuple[Array, Array]]:
            image = output(params)
            misfit = losses.mean_loss(loss, measure(problem.operator, image), problem)
            if regularizer is None:
                return misfit, (misfit, image)
            weights = {**state.frozen, **params}["net"]
            return misfit + regularizer(image, weights, problem), (misfit, image)

        (value, (misfit, image)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        if eval_params is not None:
            image = output(eval_params(state.opt_state, state.params))
        # Inside all intervals the loss is 0. Without the floor, any later loss would be a spike.
        limit = guard.ratio * jnp.maximum(state.level, floor)
        accepted = jnp.isfinite(value)
        if guard.num_steps is None:
            accepted &= value <= limit
        else:
            accepted &= (value <= limit) | (state.step >= guard.num_steps)

        # 2. A step of the optimizer, or a rollback.
        factor = jnp.exp2(-state.num_retries.astype(jnp.float32))
        extra: dict[str, Any] = {}
        if extra_args is not None:
            found = extra_args(
                problem, loss=misfit, step=state.step, key=key, shape=net.image_shape
            )
            extra = {**found, "step_factor": factor}

        def advance() -> tuple[Params, Any]:
            updates, opt_state = update(
                grads,
                state.opt_state,
                state.params,
                value=value,
                grad=grads,
                value_fn=lambda params: loss_fn(params)[0],
                **extra,
            )
            if extra_args is None:
                updates = jax.tree.map(lambda update: factor * update, updates)
            return optax.apply_updates(state.params, updates), opt_state

        params, opt_state = lax.cond(
            accepted, advance, lambda: (state.snapshot.params, state.snapshot.opt_state)
        )
        level = jnp.where(
            jnp.isinf(state.level), value, state.level + _LEVEL_RATE * (value - state.level)
        )
        level = jnp.where(accepted, level, state.snapshot.level)

        # 3. A snapshot. It holds the params before this step: the loss after it is not known yet.
        num_accepted = jnp.where(accepted, state.num_accepted + 1, 0)
        is_due = num_accepted >= guard.every
        snapshot = lax.cond(
            is_due,
            lambda: Snapshot(state.params, state.opt_state, level),
            lambda: state.snapshot,
        )
        num_retries = jnp.where(is_due, 0, state.num_retries + ~accepted)

        # 4. The running average.
        num_averaged = state.num_averaged + accepted
        rate = average.rate(num_averaged)
        mean = jnp.where(accepted, state.average + rate * (image - state.average), state.average)
        state = state._replace(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            average=mean,
            num_averaged=num_averaged,
            level=level,
            snapshot=snapshot,
            num_accepted=jnp.where(is_due, 0, num_accepted),
            num_retries=num_retries,
            num_rollbacks=state.num_rollbacks + ~accepted,
            diverged=num_retries >= guard.limit,
        )
        return state, Info(value, image, mean, accepted)

    return Algorithm(init, step, lag=average.lag, loss=loss, net=net)


def with_steps_of(state: FitState, key: Array) -> FitState:
    """Returns a first state whose steps have the random numbers of another key; weights and code stay.

    Args:
      state: The state that `init` has made.
      key: The key whose `init` would make the same steps from other weights.
    """
    *_, step_key = jax.random.split(key, 3)  # as in `init`
    return state._replace(key=jax.random.key_data(step_key))


def _image_shape(state: FitState) -> Shape:
    height, width, channels = state.average.shape
    return height, width, channels
