"""The compiled program of a device: a chunk of steps in all of its slots.

A slot holds the state of one network between chunks. `run.slot_mode` sets how the slots of a device
share it: one after the other (`map`, right on CPU, where one image uses the whole machine), in
parallel (`vmap`, right on GPU and TPU), or one after the other with a copy of the code per slot
(`unroll`). The slots are independent.
"""

import dataclasses
import enum
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from dip_jax.base import Algorithm, Array, Info, Problem, Shape, Stopper
from dip_jax.config import RunConfig
from dip_jax.engine.chunk_size import max_steps
from dip_jax.engine.devices import is_cpu
from dip_jax.engine.estimator import Estimator
from dip_jax.engine.packing import build_packing
from dip_jax.fit import FitState, with_steps_of
from dip_jax.metrics import psnr
from dip_jax.posterior.moments import trace_values
from dip_jax.sgld import SgldState

SlotMode = Literal["map", "vmap", "unroll"]

Logs = dict[str, Array]
"""Values of one step, or of the steps of a chunk (first axis), by name."""


class Command(enum.IntEnum):
    """What a slot does in the next chunk."""

    IDLE = 0
    CONTINUE = 1
    START = 2


class Estimate(NamedTuple):
    """The image that would be returned now."""

    image: Array
    """Estimate of the step that the stopping rule judged best so far `[H, W, C]`."""
    step: Array
    """That step."""


class Slot(NamedTuple):
    """State of one network between chunks."""

    state: FitState | SgldState
    """State of the estimator."""
    stop: Any
    """State of the stopping rule."""
    estimate: Estimate


class Input(NamedTuple):
    """Data of an image, constant while its network is fitted."""

    key: Array | np.ndarray
    """Data of the random key of the image, `[2]` uint32."""
    problem: Problem
    reference: Array | np.ndarray | None
    """Ground truth for the logged PSNR `[H, W, C]`. None means unknown."""
    start_key: Array | np.ndarray | None = None
    """Data of the key of the chain with which this one shares its first weights and its code. None if chains share
    none."""


class SlotStatus(NamedTuple):
    """Progress of the N slots; each field is an array `[N]`."""

    is_active: Array
    """Whether the network still has steps to make."""
    num_steps: Array
    """Steps made."""
    stop_step: Array
    """Step of the estimate."""
    num_rollbacks: Array
    """Rollbacks of the guard."""
    stopped: Array
    """Whether the stopping rule has fired."""
    diverged: Array
    """Whether the guard has given up."""
    stops: dict[str, tuple[Array, Array]]
    """The step of its estimate and whether it has fired, for each stopping rule."""


class Chunk(NamedTuple):
    """Result of a chunk of steps in N slots."""

    slots: Slot
    status: SlotStatus
    logs: Logs
    """Arrays `[N, chunk, ...]`; `step` is -1 where no step was made."""


@dataclasses.dataclass(frozen=True, eq=False)
class StepLoop:
    """The estimator, the stopping rule and the settings of a program.

    The functions of this module take it as their first argument. The three properties are such
    functions, jitted: `jax.jit` traces them once, although a program uses them several times. They
    belong to the loop, so JAX's caches release them together with it.
    """

    algorithm: Algorithm
    stopper: Stopper
    image_shape: Shape
    """Height, width and channels of the images, or of their canvases."""
    num_steps: int
    """Maximum number of steps."""
    chunk: int
    """Maximum number of steps of a chunk."""
    block: int
    """Steps between two checks whether any slot is active."""
    slot_mode: SlotMode
    packs: bool = False
    """Whether slots that run in parallel keep their small arrays in one; see `packing`."""

    @functools.cached_property
    def start_slot(self) -> Callable[[Input], Slot]:
        """`start_slot` of this loop."""
        return jax.jit(functools.partial(start_slot, self))

    @functools.cached_property
    def step_once(self) -> Callable[[Slot, Input], tuple[Slot, Logs]]:
        """`step_once` of this loop."""
        return jax.jit(functools.partial(step_once, self))

    @functools.cached_property
    def run_slot(self) -> Callable[[Slot, Input, Array, Array], Chunk]:
        """`run_slot` of this loop."""
        return jax.jit(functools.partial(run_slot, self))


def build_step_loop(estimator: Estimator, run: RunConfig, shape: Shape) -> StepLoop:
    """Returns the step loop of an estimator on the default device.

    Args:
      estimator: The estimator.
      run: The settings `chunk` and `slot_mode`.
      shape: Height, width and channels of the images.
    """
    return StepLoop(
        algorithm=estimator.algorithm,
        stopper=estimator.stopper,
        image_shape=shape,
        num_steps=estimator.num_steps,
        chunk=max_steps(run),
        block=block_length(),
        slot_mode=slot_mode(run),
        packs=not is_cpu(),  # on CPU an array costs nothing, and results keep their bits
    )


def block_length() -> int:
    """Returns the number of steps between two checks whether any slot is active.

    The last block may be longer than needed; the result of superfluous steps is discarded. On a GPU
    each check is a round trip to the host, which can enqueue nothing until it is over, so a block
    has 10 steps. On CPU a check is free.
    """
    return 1 if is_cpu() else 10


def slot_mode(run: RunConfig) -> SlotMode:
    """Returns how slots share a device: `run.slot_mode`, or the default of the device."""
    if run.slot_mode != "auto":
        return run.slot_mode
    return "map" if is_cpu() else "vmap"


def start_slot(loop: StepLoop, inputs: Input) -> Slot:
    """Returns a slot before its first step.

    Args:
      loop: The step loop.
      inputs: The image.
    """
    key = jax.random.wrap_key_data(jnp.asarray(inputs.key))
    if inputs.start_key is None:
        state = loop.algorithm.init(key, inputs.problem, loop.image_shape)
    else:
        start_key = jax.random.wrap_key_data(jnp.asarray(inputs.start_key))
        state = loop.algorithm.init(start_key, inputs.problem, loop.image_shape)
        state = state._replace(fit=with_steps_of(state.fit, key))
    estimate = Estimate(jnp.zeros_like(state.average), jnp.int32(0))
    # The same key, so that a rule can start a second fit from the same weights.
    stop = loop.stopper.init(key, inputs.problem, loop.image_shape)
    return Slot(state, stop, estimate)


def step_once(loop: StepLoop, slot: Slot, inputs: Input) -> tuple[Slot, Logs]:
    """Makes one step in one slot; returns the slot and the logs of the step.

    Args:
      loop: The step loop.
      slot: The slot.
      inputs: Its image.
    """
    step = slot.state.step
    visible = loop.stopper.view(slot.stop, inputs.problem)
    state, info = loop.algorithm.step(visible, slot.state)
    stop, improved = loop.stopper.update(slot.stop, inputs.problem, step, info)
    estimate = lax.cond(improved, lambda: Estimate(info.estimate, step), lambda: slot.estimate)
    return Slot(state, stop, estimate), _log(loop, step, info, stop, inputs)


def _log(loop: StepLoop, step: Array, info: Info, stop: Any, inputs: Input) -> Logs:
    values = {"step": step, "loss": info.loss}
    for name, report in loop.stopper.reports(stop).items():
        values[f"signal_{name}"] = report.signal
    images = {"psnr": info.image, "psnr_average": info.average}
    if info.sampled is not None:
        images["psnr_mean"] = info.estimate
        values["sampled"] = info.sampled.astype(jnp.float32)
        values["trace"] = trace_values(info, region=inputs.problem.region)
    values |= info.monitors or {}
    for name, image in images.items():
        values[name] = jnp.float32(jnp.nan)
        if inputs.reference is not None:
            values[name] = psnr(image, jnp.asarray(inputs.reference), region=inputs.problem.region)
    return values


def _empty_logs(loop: StepLoop, slot: Slot, inputs: Input) -> Logs:
    """Returns logs of `loop.chunk` steps that were not made."""
    _, shapes = jax.eval_shape(loop.step_once, slot, inputs)
    logs = {
        name: jnp.full((loop.chunk, *x.shape), jnp.nan, jnp.float32)
        for name, x in shapes.items()
        if name != "step"
    }
    return {**logs, "step": jnp.full((loop.chunk,), -1, jnp.int32)}


def is_active(loop: StepLoop, slot: Slot, command: Array) -> Array:
    """Returns whether a slot has a step to make, a boolean scalar.

    Args:
      loop: The step loop.
      slot: The slot.
      command: Its `Command`, an int32 scalar.
    """
    unfinished = (slot.state.step < loop.num_steps) & ~slot.stop.done
    return (command != Command.IDLE) & unfinished & ~slot.state.diverged


def status_of(loop: StepLoop, slot: Slot, command: Array) -> SlotStatus:
    """Returns the status of one slot; each field is a scalar.

    Args:
      loop: The step loop.
      slot: The slot.
      command: Its `Command`, an int32 scalar.
    """
    state = slot.state
    return SlotStatus(
        is_active=is_active(loop, slot, command),
        num_steps=state.step,
        stop_step=slot.estimate.step,
        num_rollbacks=state.num_rollbacks,
        stopped=slot.stop.done,
        diverged=state.diverged,
        stops={
            name: (report.estimate_step, report.done)
            for name, report in loop.stopper.reports(slot.stop).items()
        },
    )


def _begin_chunk(loop: StepLoop, slot: Slot, inputs: Input, command: Array) -> tuple[Slot, Logs]:
    """Starts one slot if its command says so; returns it with empty logs."""
    slot = lax.cond(command == Command.START, lambda: loop.start_slot(inputs), lambda: slot)
    return slot, _empty_logs(loop, slot, inputs)


def run_steps(
    loop: StepLoop, slot: Slot, inputs: Input, command: Array, count: Array
) -> tuple[Slot, Logs]:
    """Makes up to `count` steps in one slot; returns the slot and the logs `[loop.chunk, ...]`.

    Args:
      loop: The step loop.
      slot: The slot.
      inputs: Its image.
      command: Its `Command`, an int32 scalar.
      count: Number of steps, at most `loop.chunk`; an int32 scalar.
    """
    slot, logs = _begin_chunk(loop, slot, inputs, command)
    return _while_active(
        loop,
        slot,
        logs,
        count,
        step=lambda slot: loop.step_once(slot, inputs),
        is_active=lambda slot: is_active(loop, slot, command),
        # A block of one step is not entered unless the slot is active.
        select=None if loop.block == 1 else select_tree,
        log_axis=0,
    )


def run_slot(loop: StepLoop, slot: Slot, inputs: Input, command: Array, count: Array) -> Chunk:
    """Makes up to `count` steps in one slot; see `run_steps`. The chunk has no axis of slots."""
    slot, logs = run_steps(loop, slot, inputs, command, count)
    return Chunk(slot, status_of(loop, slot, command), logs)


def run_chunk(
    loop: StepLoop, slots: Slot, inputs: Input, commands: Array, count: Array, num_slots: Array
) -> Chunk:
    """Makes up to `count` steps in each of N slots. This is the program of a device.

    Args:
      loop: The step loop.
      slots: The slots, stacked.
      inputs: Their images, stacked.
      commands: Their commands `[N]`, see `Command`.
      count: Number of steps, at most `loop.chunk`; an int32 scalar.
      num_slots: N as an int32 scalar, unknown to the compiler.
    """
    run = {"map": run_sequential, "unroll": run_unrolled, "vmap": run_vmapped}[loop.slot_mode]
    return run(loop, slots, inputs, commands, count, num_slots)


def run_sequential(
    loop: StepLoop, slots: Slot, inputs: Input, commands: Array, count: Array, num_slots: Array
) -> Chunk:
    """Runs one slot after the other; see `run_chunk`.

    The compiler must not know the bound of the loop. It would rewrite a loop over a single slot,
    and the last bits of a result would depend on the number of slots.
    """

    def body(i: Array, chunk: Chunk) -> Chunk:
        return _run_slot_at(i, loop, chunk, inputs, commands, count)

    return lax.fori_loop(0, num_slots, body, _empty_chunk(loop, slots, inputs, commands, count))


def run_unrolled(
    loop: StepLoop, slots: Slot, inputs: Input, commands: Array, count: Array, num_slots: Array
) -> Chunk:
    """Runs one slot after the other, with a copy of the code per slot; see `run_chunk`."""
    del num_slots
    chunk = _empty_chunk(loop, slots, inputs, commands, count)
    for i in range(commands.size):
        chunk = _run_slot_at(i, loop, chunk, inputs, commands, count)
    return chunk


def run_vmapped(
    loop: StepLoop, slots: Slot, inputs: Input, commands: Array, count: Array, num_slots: Array
) -> Chunk:
    """Runs all slots in parallel; see `run_chunk`."""
    del num_slots
    slots, logs = jax.vmap(functools.partial(_begin_chunk, loop))(slots, inputs, commands)
    pack, unpack = build_packing(slots) if loop.packs else (_unchanged, _unchanged)

    def step(packed: Any) -> tuple[Any, Logs]:
        slots, logs = jax.vmap(loop.step_once)(unpack(packed), inputs)
        return pack(slots), logs

    packed, logs = _while_active(
        loop,
        pack(slots),
        logs,
        count,
        step=step,
        is_active=lambda packed: jax.vmap(functools.partial(is_active, loop))(
            unpack(packed), commands
        ),
        select=jax.vmap(select_tree),
        log_axis=1,
    )
    slots = unpack(packed)
    status = jax.vmap(functools.partial(status_of, loop))(slots, commands)
    return Chunk(slots, status, logs)


def _unchanged(slots: Slot) -> Slot:
    return slots


def _while_active(
    loop: StepLoop,
    slots: Any,
    logs: Logs,
    count: Array,
    *,
    step: Callable[[Any], tuple[Any, Logs]],
    is_active: Callable[[Any], Array],
    select: Callable[[Array, Any, Any], Any] | None,
    log_axis: int,
) -> tuple[Any, Logs]:
    """Makes up to `count` steps while a slot is active, of one slot or of several at once.

    Args:
      loop: The step loop.
      slots: One slot, or several that are stacked, as the three functions take them.
      logs: Their empty logs.
      count: Number of steps.
      step: Makes one step.
      is_active: Returns which slots have a step to make.
      select: `select(active, new, old)` keeps inactive slots as they are; None if there are none.
      log_axis: The axis of the steps in `logs`.
    """

    def any_active(carry: tuple[Array, Any, Logs]) -> Array:
        i, slots, _ = carry
        return jnp.any((i < count) & is_active(slots))

    def body(carry: tuple[Array, Any, Logs]) -> tuple[Array, Any, Logs]:
        i, slots, logs = carry
        new_slots, values = step(slots)
        if select is not None:
            read = functools.partial(
                lax.dynamic_index_in_dim, index=i, axis=log_axis, keepdims=False
            )
            active = (i < count) & is_active(slots)
            old = slots, jax.tree.map(read, logs)
            new_slots, values = select(active, (new_slots, values), old)
        write = functools.partial(lax.dynamic_update_index_in_dim, index=i, axis=log_axis)
        return i + 1, new_slots, jax.tree.map(write, logs, values)

    def block(carry: tuple[Array, Any, Logs]) -> tuple[Array, Any, Logs]:
        return lax.fori_loop(0, loop.block, lambda _, carry: body(carry), carry)

    start = jnp.int32(0), slots, logs
    _, slots, logs = lax.while_loop(any_active, body if loop.block == 1 else block, start)
    return slots, logs


def _run_slot_at(
    i: Array | int, loop: StepLoop, chunk: Chunk, inputs: Input, commands: Array, count: Array
) -> Chunk:
    """Runs slot `i` of a chunk of stacked slots."""
    # An unsigned index cannot be negative, which spares the code that corrects negative ones.
    index = jnp.asarray(i, jnp.uint32)
    read = functools.partial(lax.dynamic_index_in_dim, index=index, keepdims=False)
    write = functools.partial(lax.dynamic_update_index_in_dim, index=index, axis=0)
    slot, slot_inputs = jax.tree.map(read, (chunk.slots, inputs))
    return jax.tree.map(write, chunk, loop.run_slot(slot, slot_inputs, read(commands), count))


def _empty_chunk(
    loop: StepLoop, slots: Slot, inputs: Input, commands: Array, count: Array
) -> Chunk:
    """Returns a chunk with the given slots, and zeros for the status and the logs to come."""
    slot, slot_inputs = jax.tree.map(lambda x: x[0], (slots, inputs))
    shapes = jax.eval_shape(loop.run_slot, slot, slot_inputs, commands[0], count)
    zeros = jax.tree.map(lambda x: jnp.zeros((commands.size, *x.shape), x.dtype), shapes)
    return zeros._replace(slots=slots)


def select_tree(condition: Array, new: Any, old: Any) -> Any:
    """Returns `new` where a condition holds and `old` elsewhere, without a branch.

    Args:
      condition: A boolean scalar.
      new: A tree of arrays.
      old: A tree of the same structure and shapes.

    Example:
      >>> tree = select_tree(jnp.bool_(False), {"a": jnp.int32(1)}, {"a": jnp.int32(2)})
      >>> int(tree["a"])
      2
    """
    return jax.tree.map(functools.partial(jnp.where, condition), new, old)
