"""The slots of all devices of this process: a compiled program and the state of the networks in it.

Every device has the same number of slots, and each slot fits one network to one image. `shard_map` runs the
program of `step_loop` on all devices; it contains no collective, because slots are independent. A slot whose image
is finished is idle until the host gives it the next image; the program stays the same.
"""

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dip_jax.base import Array, Case, Shape
from dip_jax.config import RunConfig
from dip_jax.engine.chunk_size import max_steps
from dip_jax.engine.devices import is_cpu, on_host
from dip_jax.engine.estimator import Estimator
from dip_jax.engine.memory import available_bytes, program_bytes, too_large
from dip_jax.engine.program_cache import Program
from dip_jax.engine.recent_programs import recall_program
from dip_jax.engine.step_loop import (
    Chunk,
    Command,
    Input,
    Slot,
    SlotStatus,
    build_step_loop,
    run_chunk,
)
from dip_jax.errors import is_out_of_memory
from dip_jax.keys import image_key
from dip_jax.posterior.moments import Moments
from dip_jax.sgld import SgldState
from dip_jax.stopping.held_out import SamplerHoldOutState
from dip_jax.stopping.keep import KeepState


def slots_per_device(run: RunConfig, max_cases: int | None, num_devices: int) -> int:
    """Returns the number of slots per device if memory allows: `run.slots`, or by default 1 on CPU and 8 elsewhere.

    Under `vmap` an idle slot costs as much as a busy one, so there are no more slots than networks where their
    number is known.

    Args:
      run: The settings.
      max_cases: Maximum number of networks; None for unknown.
      num_devices: Number of devices.
    """
    if run.slots is not None:
        return run.slots
    if is_cpu():
        return 1
    return 8 if max_cases is None else min(8, max(1, math.ceil(max_cases / num_devices)))


class _Layout(NamedTuple):
    """A way to lay out the slots, and its program."""

    estimator: Estimator
    per_device: int
    program: Program
    slot_shapes: Slot
    bytes_per_device: int
    bytes_needed: int
    """Bytes that share one memory: those of all devices on CPU, of one device elsewhere."""


def _require_out_of_memory(error: Exception) -> Exception:
    """Returns an error that means too little memory, without its frames; raises any other."""
    if not is_out_of_memory(error):
        raise error
    return error.with_traceback(None)


class Slots:
    """The slots of this process for images of one shape: a compiled program and its state."""

    def __init__(
        self,
        case: Case,
        estimator: Estimator,
        run: RunConfig,
        *,
        devices: Sequence[Any] | None = None,
        max_cases: int | None = None,
    ):
        """Compiles the program.

        Args:
          case: An example. The images in these slots have its shape, its operator, and a reference if it has one.
          estimator: The estimator.
          run: How the run uses the machine.
          devices: The devices; None for all devices of this process.
          max_cases: Maximum number of networks; None for unknown.

        Raises:
          InputError: If not even one slot per device fits into memory, with the amount.
          Exception: If the compiler or the device says that it does not fit.
        """
        self.devices = list(devices or jax.local_devices())
        mesh = Mesh(np.array(self.devices), ("batch",), axis_types=(AxisType.Auto,))
        self._sharding = NamedSharding(mesh, PartitionSpec("batch"))
        self._chains_per_start = estimator.chains_per_start
        self._run = run
        self._empty = jax.tree.map(np.zeros_like, self._build_input(case))
        self.compile_seconds = 0.0
        self._error: Exception | None = None
        self._layouts = self._fitting_layouts(case, estimator, max_cases)
        if not self.shrink() and self._error is not None:
            raise self._error

    def shrink(self) -> bool:
        """Takes the next layout, which needs less memory, and empties its slots.

        Call it when the program ran out of memory; the state of the slots is lost.

        Returns:
          Whether there is one.
        """
        self._inputs: Any = None  # frees its memory
        self._slots: Any = None
        clock = time.perf_counter()
        for layout in self._layouts:
            self.compile_seconds += time.perf_counter() - clock
            self.estimator, self.per_device = layout.estimator, layout.per_device
            self.slot_shapes, self.bytes_per_device = layout.slot_shapes, layout.bytes_per_device
            self._program = layout.program
            try:
                self.reset()
            except Exception as error:
                self._error = _require_out_of_memory(error)
                clock = time.perf_counter()
                continue
            return True
        return False

    def _fitting_layouts(
        self, case: Case, estimator: Estimator, max_cases: int | None
    ) -> Iterator[_Layout]:
        """Yields compiled layouts that fit into memory: all slots, fewer slots, one slot with less memory.

        A number of slots that the user has set is not lowered. `_error` becomes the reason why the last layout does
        not fit.
        """
        available = available_bytes(self._run)
        per_device = slots_per_device(self._run, max_cases, len(self.devices))
        candidate: Estimator | None = estimator
        while candidate is not None:
            fraction = 0.5
            try:
                layout = self._compile(case, candidate, per_device)
            except Exception as error:  # XLA plans the memory of a TPU while it compiles
                self._error = _require_out_of_memory(error)
            else:
                if layout.bytes_needed <= available:
                    yield layout
                else:
                    fraction = available / layout.bytes_needed
                    number = per_device * len(self.devices)
                    self._error = too_large(layout.bytes_needed, available, case.shape, number)
            if per_device == 1:
                candidate = None if candidate is not estimator else estimator.low_memory
            elif self._run.slots is not None:
                break
            else:
                per_device = max(1, int(per_device * fraction))

    def _compile(self, case: Case, estimator: Estimator, per_device: int) -> _Layout:
        # Only these two settings of the run change the compiled program. An estimator without a key
        # contains functions, so its program is not cached.
        form = (
            max_steps(self._run),
            self._run.slot_mode,
            case.shape,
            jax.tree.map(jax.typeof, self._empty),
            [device.id for device in self.devices],
            per_device,
        )
        program, slot_shapes = recall_program(
            estimator.program_key or estimator,
            form,
            functools.partial(self._trace, case.shape, estimator),
            functools.partial(self._argument_shapes, per_device),
        )
        num_bytes = program_bytes(program.compiled.memory_analysis())
        num_sharing = len(self.devices) if self.devices[0].platform == "cpu" else 1
        return _Layout(
            estimator, per_device, program, slot_shapes, num_bytes, num_sharing * num_bytes
        )

    def _trace(self, shape: Shape, estimator: Estimator) -> tuple[Callable[..., Chunk], Slot]:
        """Returns the function of the program and the shapes of a slot."""
        loop = build_step_loop(estimator, self._run, shape)
        batch, scalar = PartitionSpec("batch"), PartitionSpec()
        chunk = jax.shard_map(
            functools.partial(run_chunk, loop),
            mesh=self._sharding.mesh,
            in_specs=(batch, batch, batch, scalar, scalar),
            out_specs=batch,
            check_vma=False,
        )
        return chunk, jax.eval_shape(loop.start_slot, self._empty)

    def _argument_shapes(self, per_device: int, slot_shapes: Slot) -> tuple[Any, ...]:
        """Returns the shapes of the arguments of the program."""
        number = per_device * len(self.devices)

        def stack(x: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((number, *x.shape), x.dtype, sharding=self._sharding)

        scalar = jax.ShapeDtypeStruct((), np.int32)
        return (*jax.tree.map(stack, (slot_shapes, self._empty, np.int32(0))), scalar, scalar)

    def __len__(self) -> int:
        """Number of slots of all devices together."""
        return self.per_device * len(self.devices)

    def reset(self) -> None:
        """Empties all slots."""
        self._host_inputs = [self._empty] * len(self)
        self._commands = np.full(len(self), Command.IDLE, np.int32)
        self._changed: set[int] = set()
        self._inputs = self._distribute(lambda d: self._zeros(self._empty))
        self._slots = self._distribute(lambda d: self._zeros(self.slot_shapes))

    def text(self) -> str:
        """Returns the compiled program as text."""
        return self._program.compiled.as_text() or ""

    def cost(self) -> dict[str, float]:
        """Returns the compiler's counts, each loop body once: `flops`, `bytes accessed` and others."""
        return dict(self._program.compiled.cost_analysis() or {})

    def put(self, index: int, case: Case, *, saved: Slot | None = None) -> None:
        """Gives a slot to an image.

        Args:
          index: The slot.
          case: The image.
          saved: A state of NumPy arrays to continue from; None to start anew.
        """
        self._host_inputs[index] = self._build_input(case)
        self._changed.add(index // self.per_device)
        self._commands[index] = Command.START if saved is None else Command.CONTINUE
        if saved is not None:
            self._insert(index, saved)

    def clear(self, index: int) -> None:
        """Makes a slot idle."""
        self._commands[index] = Command.IDLE

    def advance(self, count: int) -> tuple[SlotStatus, dict[str, np.ndarray]]:
        """Runs up to `count` steps in every slot and waits for them; returns status and logs."""
        self._upload()
        chunk = self._program(
            self._slots,
            self._inputs,
            jax.device_put(self._commands, self._sharding),
            np.int32(count),
            np.int32(self.per_device),
        )
        self._slots = chunk.slots
        status, logs = jax.device_get((chunk.status, chunk.logs))
        # After `device_get`: on CPU `device_put` may alias this buffer.
        self._commands[self._commands == Command.START] = Command.CONTINUE
        return status, logs

    def estimate(self, index: int) -> np.ndarray:
        """Returns the image that the slot would return now, `[H, W, C]` on its canvas."""
        return self._to_host(index, self._slots.estimate.image)

    def moments(self, index: int) -> Moments | None:
        """Returns the moments of the samples of a slot; None for a fit."""
        state = self._slots.state
        return self._to_host(index, state.moments) if isinstance(state, SgldState) else None

    def held_out(self, index: int) -> np.ndarray | None:
        """Returns which measurements the sampler has not seen, of their shape; None for a fit."""
        stop = self._slots.stop
        if not isinstance(stop, SamplerHoldOutState) or stop.held_out is None:
            return None
        return self._to_host(index, stop.held_out) > 0

    def kept(self, index: int) -> np.ndarray | None:
        """Returns the kept estimates of a slot, `[T, H, W, C]` on its canvas; None if its rule keeps none."""
        stop = self._slots.stop
        return self._to_host(index, stop.kept) if isinstance(stop, KeepState) else None

    def save(self, index: int) -> Slot:
        """Returns the whole state of a slot as NumPy arrays."""
        return self._to_host(index, self._slots)

    def start_rule(self, case: Case) -> Any:
        """Returns the first state of the stopping rule for an image, as NumPy arrays.

        Args:
          case: The image, on its canvas.
        """
        inputs = self._build_input(case)
        init = jax.jit(self.estimator.stopper.init, static_argnums=2)
        state = init(jax.random.wrap_key_data(jnp.asarray(inputs.key)), inputs.problem, case.shape)
        return jax.tree.map(np.asarray, state)

    def _build_input(self, case: Case) -> Input:
        def key_of(network_index: int) -> np.ndarray:
            key = image_key(self._run.seed, case.name, network_index=network_index)
            return np.asarray(jax.random.key_data(key))

        with on_host():
            problem = jax.tree.map(lambda x: np.asarray(jnp.asarray(x)), case.problem)
            reference = None if case.reference is None else np.asarray(case.reference)
            index, number = case.network_index, self._chains_per_start
            start_key = None if number == 1 else key_of(index - index % number)
            return Input(key_of(index), problem, reference, start_key)

    def _upload(self) -> None:
        """Copies inputs that changed since the last chunk to their devices."""

        def part(d: int) -> Any:
            if d not in self._changed:
                return self._part(self._inputs, d)
            inputs = self._host_inputs[d * self.per_device : (d + 1) * self.per_device]
            return jax.tree.map(lambda *leaves: np.stack(leaves), *inputs)

        if self._changed:
            self._inputs = self._distribute(part)
            self._changed.clear()

    def _insert(self, index: int, saved: Slot) -> None:
        """Copies a saved state into a slot."""
        target, position = divmod(index, self.per_device)

        def part(d: int) -> Any:
            shards = self._part(self._slots, d)
            if d != target:
                return shards
            copies = jax.tree.map(np.array, shards)
            for leaf, value in zip(jax.tree.leaves(copies), jax.tree.leaves(saved), strict=True):
                leaf[position] = value
            return copies

        self._slots = self._distribute(part)

    def _zeros(self, shapes: Any) -> Any:
        return jax.tree.map(lambda x: np.zeros((self.per_device, *x.shape), x.dtype), shapes)

    def _part(self, tree: Any, d: int) -> Any:
        """Returns the part of a tree that lies on device `d`, without a copy."""
        device = self.devices[d]
        return jax.tree.map(
            lambda x: next(s.data for s in x.addressable_shards if s.device == device), tree
        )

    def _to_host(self, index: int, tree: Any) -> Any:
        """Returns a copy of the part of one slot as NumPy arrays."""
        d, position = divmod(index, self.per_device)
        return jax.tree.map(lambda x: np.array(np.asarray(x)[position]), self._part(tree, d))

    def _distribute(self, part: Callable[[int], Any]) -> Any:
        """Returns arrays over all devices, made of the part of each device."""
        parts = [
            jax.tree.map(lambda x, device=device: jax.device_put(x, device), part(d))
            for d, device in enumerate(self.devices)
        ]

        def join(*leaves: Array) -> Array:
            shape = (len(self), *leaves[0].shape[1:])
            return jax.make_array_from_single_device_arrays(shape, self._sharding, list(leaves))

        return jax.tree.map(join, *parts)
