"""A chunk of steps of all slots of a device: the one program that a run consists of.

A slot holds what one picture has between chunks. The slots of a device are moved on by `run.slot_mode`: `map` (one after the
other: right on CPU, where one image fills the machine), `vmap` (side by side: right on GPU and TPU) or
`unroll` (one after the other, each with code of its own). No slot sees another one.

Under `map` the loop over the slots has a bound that the compiler does not know. With a known one it
would rewrite the loop of a single slot, and a picture's last bits would depend on how many slots there are.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dip_jax.base import Algorithm, Array, Info, Problem, Stopper
from dip_jax.config import Config
from dip_jax.fit import FitState
from dip_jax.metrics import psnr
from dip_jax.posterior.moments import trace_values
from dip_jax.sgld import SgldState

REST, GO_ON, START = 0, 1, 2  # what a slot is told to do in the next chunk


class Estimate(NamedTuple):
    """The image that the stopping rule would hand out now."""

    image: Array
    """The running average `[H, W, C]` at the best step."""
    step: Array


class Slot(NamedTuple):
    """All that is kept of one image between chunks."""

    state: FitState | SgldState
    stop: Any
    estimate: Estimate


class Input(NamedTuple):
    """What a slot is given with its image; it stays as it is while the image is fitted."""

    key: Array | np.ndarray
    """Data of the image's random key, `[2]` uint32."""
    problem: Problem
    reference: Array | np.ndarray | None


class Status(NamedTuple):
    """Where the images stand, each field `[N]`."""

    goes_on: Array
    """Whether the image is not done yet."""
    num_steps: Array
    stop_step: Array
    num_rollbacks: Array
    stopped: Array
    """Whether its rule has fired."""
    diverged: Array
    stops: dict[str, tuple[Array, Array]]
    """For each stopping rule, the step of its answer and whether it has fired."""


class Chunk(NamedTuple):
    """What a chunk of steps makes of N slots."""

    slots: Slot
    status: Status
    logs: dict[str, Array]
    """Arrays `[N, run.chunk]`, among them `step`, -1 where none was made."""


def start_slot(algorithm: Algorithm, stopper: Stopper, given: Input) -> Slot:
    """A slot at the start of its image."""
    state = algorithm.init(jax.random.wrap_key_data(jnp.asarray(given.key)), given.problem)
    nothing = Estimate(jnp.zeros_like(state.average), jnp.int32(0))
    # The same key: a rule may start a second fit alike.
    key = jax.random.wrap_key_data(jnp.asarray(given.key))
    return Slot(state, stopper.init(key, given.problem, state.average.shape), nothing)


def build_chunk(
    start: Callable[[Input], Slot], algorithm: Algorithm, stopper: Stopper, config: Config
) -> Callable[[Slot, Input, Array, Array, Array], Chunk]:
    """Builds `chunk(slots, inputs, orders, count, num_slots)`, for the slots of one device.

    Args:
      start: `start_slot` of both.
      algorithm: The estimator.
      stopper: The stopping rule.
      config: For `fit.num_steps`, `run.chunk` and `run.slot_mode`.

    Returns:
      A function of trees with a leading axis of slots. `orders[N]` says what each does (`REST`, `GO_ON`,
      `START`), `count` how many steps to run, at most `run.chunk`.
    """

    def log(step: Array, info: Info, stop: Any, given: Input) -> dict[str, Array]:
        values = {"step": step, "loss": info.loss}
        for name, verdict in stopper.reports(stop).items():
            values[f"signal_{name}"] = verdict.signal
        images = {"psnr": info.image, "psnr_average": info.average}
        if info.sampled is not None:
            images["psnr_mean"] = info.estimate
            values["sampled"] = info.sampled.astype(jnp.float32)
            values["trace"] = trace_values(info, region=given.problem.region)
        for name, image in images.items():
            values[name] = jnp.float32(jnp.nan)
            if given.reference is not None:
                values[name] = psnr(
                    image, jnp.asarray(given.reference), region=given.problem.region
                )
        return values

    # Compiled for themselves `make_step` and `one` are traced once, though they are used several times.
    @jax.jit
    def make_step(slot: Slot, given: Input) -> tuple[Slot, dict[str, Array]]:
        step = slot.state.step
        visible = stopper.view(slot.stop, given.problem)
        state, info = algorithm.step(visible, slot.state)
        stop, improved = stopper.update(slot.stop, given.problem, step, info)
        estimate = lax.cond(improved, lambda: Estimate(info.estimate, step), lambda: slot.estimate)
        return Slot(state, stop, estimate), log(step, info, stop, given)

    def no_logs(slot: Slot, given: Input, length: int) -> dict[str, Array]:
        """Logs of no steps, in the form of those that `make_step` makes."""
        _, shapes = jax.eval_shape(make_step, slot, given)
        logs = {
            name: jnp.full((length, *x.shape), jnp.nan, jnp.float32)
            for name, x in shapes.items()
            if name != "step"
        }
        return {**logs, "step": jnp.full((length,), -1, jnp.int32)}

    def goes_on(slot: Slot, order: Array) -> Array:
        unfinished = (slot.state.step < config.fit.num_steps) & ~slot.stop.done
        return (order != REST) & unfinished & ~slot.state.diverged

    def move_on(
        slots, inputs, orders, count, *, side_by_side: bool
    ) -> tuple[Slot, dict[str, Array]]:
        """Makes the steps of one slot, or of several at once, and their logs."""
        each, axis = (jax.vmap, 1) if side_by_side else (lambda function: function, 0)
        length = block_length()

        def begin(slot: Slot, given: Input, order: Array) -> tuple[Slot, dict[str, Array]]:
            slot = lax.cond(order == START, lambda: start(given), lambda: slot)
            return slot, no_logs(slot, given, config.run.chunk)

        def active(i: Array, slots: Slot) -> Array:
            return (i < count) & each(goes_on)(slots, orders)

        def more(carry):
            i, slots, _ = carry
            return jnp.any(active(i, slots))

        def turn(carry):
            i, slots, logs = carry
            moved, values = each(make_step)(slots, inputs)
            if side_by_side or length > 1:  # a slot may have nothing left to do
                take = functools.partial(lax.dynamic_index_in_dim, index=i, axis=axis)
                written = jax.tree.map(functools.partial(take, keepdims=False), logs)
                moved, values = each(choose)(active(i, slots), (moved, values), (slots, written))
            put = functools.partial(lax.dynamic_update_index_in_dim, index=i, axis=axis)
            return i + 1, moved, jax.tree.map(put, logs, values)

        def block(carry):
            return lax.fori_loop(0, length, lambda _, carry: turn(carry), carry)

        first = (jnp.int32(0), *each(begin)(slots, inputs, orders))
        _, slots, logs = lax.while_loop(more, turn if length == 1 else block, first)
        return slots, logs

    def tell(slot: Slot, order: Array) -> Status:
        state = slot.state
        return Status(
            goes_on=goes_on(slot, order),
            num_steps=state.step,
            stop_step=slot.estimate.step,
            num_rollbacks=state.num_rollbacks,
            stopped=slot.stop.done,
            diverged=state.diverged,
            stops={
                name: (verdict.estimate_step, verdict.done)
                for name, verdict in stopper.reports(slot.stop).items()
            },
        )

    @jax.jit
    def one(slot: Slot, given: Input, order: Array, count: Array) -> Chunk:
        slot, logs = move_on(slot, given, order, count, side_by_side=False)
        return Chunk(slot, tell(slot, order), logs)

    def one_after_the_other(slots, inputs, orders, count, num_slots) -> Chunk:
        def turn(i, chunk: Chunk) -> Chunk:
            # An index that cannot be negative spares half of the program's text: its correction.
            place = jnp.asarray(i, jnp.uint32)
            take = functools.partial(lax.dynamic_index_in_dim, index=place, keepdims=False)
            put = functools.partial(lax.dynamic_update_index_in_dim, index=place, axis=0)
            slot, given = jax.tree.map(take, (chunk.slots, inputs))
            return jax.tree.map(put, chunk, one(slot, given, take(orders), count))

        number = orders.size
        first = jax.tree.map(lambda x: x[0], (slots, inputs))
        shapes = jax.eval_shape(one, *first, orders[0], count)
        # What one picture makes, for all of them; it is written over, or belongs to a slot that rests.
        nothing = jax.tree.map(lambda x: jnp.zeros((number, *x.shape), x.dtype), shapes)
        chunk = nothing._replace(slots=slots)
        if slot_mode(config) == "unroll":
            for i in range(number):
                chunk = turn(i, chunk)
            return chunk
        return lax.fori_loop(0, num_slots, turn, chunk)

    def side_by_side(slots, inputs, orders, count, num_slots) -> Chunk:
        del num_slots
        slots, logs = move_on(slots, inputs, orders, count, side_by_side=True)
        return Chunk(slots, jax.vmap(tell)(slots, orders), logs)

    return side_by_side if slot_mode(config) == "vmap" else one_after_the_other


def choose(condition: Array, new: Any, old: Any) -> Any:
    """Every array of the one tree or of the other, without a branch."""
    return jax.tree.map(functools.partial(jnp.where, condition), new, old)


def block_length() -> int:
    """Steps between two looks at whether to go on: as a multiple of it none of a chunk's steps is wasted.

    On a GPU the host is asked at each, and can send nothing ahead until it has the answer, whereas a loop of known
    length is its own business; steps that are too many are made and thrown away. On CPU asking costs nothing.
    """
    return 1 if jax.default_backend() == "cpu" else 10


def slot_mode(config: Config) -> str:
    """How images share a device: `run.slot_mode`, by default `map` on CPU and `vmap` elsewhere."""
    if config.run.slot_mode != "auto":
        return config.run.slot_mode
    return "map" if jax.default_backend() == "cpu" else "vmap"
