"""Slots: the places in which pictures are fitted side by side, on all devices of this process.

Every device has the same number of slots, and each slot fits its own network to its own picture. `shard_map` runs
the program of `chunk` on all devices; it holds no collective, for no slot sees another one. A picture that is done
rests until the host gives its slot to the next one; the program stays the same.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dip_jax.base import Array, Case
from dip_jax.config import Config, RunConfig
from dip_jax.engine.estimator import build_algorithm, choose_stopper
from dip_jax.engine.memory import available_bytes, program_bytes, too_large
from dip_jax.engine.program_cache import build_program
from dip_jax.engine.step_loop import (
    GO_ON,
    REST,
    START,
    Chunk,
    Input,
    Slot,
    Status,
    build_chunk,
    start_slot,
)
from dip_jax.keys import image_key
from dip_jax.nets import build_net
from dip_jax.posterior.moments import Moments
from dip_jax.sgld import SgldState
from dip_jax.stopping.held_out import HiddenState


def slots_per_device(config: Config, max_cases: int | None, num_devices: int) -> int:
    """How many images share a device if memory allows: `run.slots`, by default 1 on CPU, else 8.

    Side by side a slot costs as much when it rests, so there are none by default for which there is nothing to do.
    """
    if config.run.slots is not None:
        return config.run.slots
    if jax.default_backend() == "cpu":
        return 1
    return 8 if max_cases is None else min(8, max(1, math.ceil(max_cases / num_devices)))


class Slots:
    """The slots of this process's devices for images of one shape: a compiled program and its state."""

    def __init__(
        self,
        case: Case,
        config: Config,
        *,
        devices: Sequence[Any] | None = None,
        max_cases: int | None = None,
    ):
        """Compiles the program.

        Args:
          case: An example: the images in these slots have its shape, operator and kind of reference.
          config: The settings.
          devices: Where the slots are; by default all devices of this process.
          max_cases: How many images there are at max_cases, where that is known.

        Raises:
          InputError: If not even one slot per device would fit into memory, with the amount.
        """
        self.config = config
        self.devices = list(devices or jax.local_devices())
        mesh = Mesh(np.array(self.devices), ("batch",), axis_types=(AxisType.Auto,))
        self._sharding = NamedSharding(mesh, PartitionSpec("batch"))
        given = _given(case, config)
        self._empty = jax.tree.map(np.zeros_like, given)
        clock = time.perf_counter()
        self.per_device = slots_per_device(config, max_cases, len(self.devices))
        self._compile(case)
        self.compile_seconds = time.perf_counter() - clock
        self.reset()

    def _trace(self, case: Case) -> tuple[Callable[..., Chunk], Slot]:
        """The program's function, and the shapes of a slot."""
        config = self.config
        net = build_net(config.net, case.shape)
        algorithm = build_algorithm(config, net)
        stopper = choose_stopper(config, algorithm, case.problem.operator)
        # Compiled for itself it is traced once, though the shapes are needed too.
        start = jax.jit(functools.partial(start_slot, algorithm, stopper))
        one = PartitionSpec("batch")
        chunk = jax.shard_map(
            build_chunk(start, algorithm, stopper, config),
            mesh=self._sharding.mesh,
            in_specs=(one, one, one, PartitionSpec(), PartitionSpec()),
            out_specs=one,
            check_vma=False,
        )
        return chunk, jax.eval_shape(start, self._empty)

    def __len__(self) -> int:
        """Slots of all devices together."""
        return self.per_device * len(self.devices)

    def _compile(self, case: Case) -> None:
        """Compiles for the most slots that fit into memory, `per_device` at most."""
        while True:
            # Nothing else of how the work is laid out makes another program.
            run = RunConfig(chunk=self.config.run.chunk, slot_mode=self.config.run.slot_mode)
            form = (
                dataclasses.replace(self.config, run=run),
                case.shape,
                jax.tree.map(jax.typeof, self._empty),
                [device.id for device in self.devices],
                self.per_device,
            )
            self._program, self.slot_shapes = build_program(
                form, functools.partial(self._trace, case), self._arguments
            )
            self.bytes_per_device = program_bytes(self._program.compiled.memory_analysis())
            available = available_bytes(self.config)
            share_of_host = len(self.devices) if self.devices[0].platform == "cpu" else 1
            needed = share_of_host * self.bytes_per_device
            if needed <= available:
                return
            if self.per_device == 1 and _may_rematerialise(self.config):
                net = dataclasses.replace(self.config.net, remat="on")
                self.config = dataclasses.replace(self.config, net=net)
                continue
            if self.per_device == 1 or self.config.run.slots is not None:
                raise too_large(needed, available, self.slot_shapes.estimate.image.shape, len(self))
            self.per_device = max(1, int(self.per_device * available / needed))

    def _arguments(self, slot_shapes: Slot) -> tuple[Any, ...]:
        """The shapes of what the program takes."""
        one = (slot_shapes, self._empty, np.int32(0))
        number = jax.ShapeDtypeStruct((), np.int32)
        return (*jax.tree.map(self._stacked_shape, one), number, number)

    def _stacked_shape(self, x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((len(self), *x.shape), x.dtype, sharding=self._sharding)

    def reset(self) -> None:
        """Empties all slots."""
        self._given = [self._empty] * len(self)
        self._orders = np.full(len(self), REST, np.int32)
        self._changed: set[int] = set()
        self._inputs = self._spread(lambda d: self._zeros(self._empty))
        self._slots = self._spread(lambda d: self._zeros(self.slot_shapes))

    def text(self) -> str:
        """The compiled program."""
        return self._program.compiled.as_text() or ""

    def cost(self) -> dict[str, float]:
        """What the compiler counts in the program, a loop's body once: `flops`, `bytes accessed` and others."""
        return dict(self._program.compiled.cost_analysis() or {})

    def put(self, index: int, case: Case, *, saved: Slot | None = None) -> None:
        """Gives the slot `index` to an image: from its start, or from a `saved` slot of numpy arrays."""
        self._given[index] = _given(case, self.config)
        self._orders[index] = START
        self._changed.add(index // self.per_device)
        if saved is not None:
            self._orders[index] = GO_ON
            self._insert(index, saved)

    def clear(self, index: int) -> None:
        """Lets the slot rest."""
        self._orders[index] = REST

    def advance(self, count: int) -> tuple[Status, dict[str, np.ndarray]]:
        """Runs up to `count` steps in every slot and waits for them; returns status and logs."""
        self._upload()
        chunk = self._program(
            self._slots,
            self._inputs,
            jax.device_put(self._orders, self._sharding),
            np.int32(count),
            np.int32(self.per_device),
        )
        self._slots = chunk.slots
        told = jax.device_get((chunk.status, chunk.logs))
        # Only now: the program may read the orders where they lie.
        self._orders[self._orders == START] = GO_ON
        return told

    def estimate(self, index: int) -> np.ndarray:
        """The image that the slot would hand out now."""
        return self._host(index, self._slots.estimate.image)

    def moments(self, index: int) -> Moments | None:
        """What the slot has sampled; None of a fit."""
        state = self._slots.state
        return self._host(index, state.moments) if isinstance(state, SgldState) else None

    def held_out(self, index: int) -> np.ndarray | None:
        """Of the measurement's shape, whether a value was kept from the sampler; None of a fit."""
        stop = self._slots.stop
        return (
            self._host(index, stop.hidden.held_out) > 0 if isinstance(stop, HiddenState) else None
        )

    def save(self, index: int) -> Slot:
        """All of a slot as numpy."""
        return self._host(index, self._slots)

    def _upload(self) -> None:
        """Brings to the devices what was put into slots since the last chunk."""

        def part(d: int) -> Any:
            if d not in self._changed:
                return self._part(self._inputs, d)
            mine = self._given[d * self.per_device : (d + 1) * self.per_device]
            return jax.tree.map(lambda *leaves: np.stack(leaves), *mine)

        if self._changed:
            self._inputs = self._spread(part)
            self._changed.clear()

    def _insert(self, index: int, saved: Slot) -> None:
        mine, place = divmod(index, self.per_device)

        def part(d: int) -> Any:
            shards = self._part(self._slots, d)
            if d != mine:
                return shards
            copies = jax.tree.map(np.array, shards)
            for leaf, value in zip(jax.tree.leaves(copies), jax.tree.leaves(saved), strict=True):
                leaf[place] = value
            return copies

        self._slots = self._spread(part)

    def _zeros(self, shapes: Any) -> Any:
        return jax.tree.map(lambda x: np.zeros((self.per_device, *x.shape), x.dtype), shapes)

    def _part(self, tree: Any, d: int) -> Any:
        """Device d's part of a tree, where it is."""
        device = self.devices[d]
        return jax.tree.map(
            lambda x: next(s.data for s in x.addressable_shards if s.device == device), tree
        )

    def _host(self, index: int, tree: Any) -> Any:
        """A copy of one slot's part of a tree, as numpy."""
        d, place = divmod(index, self.per_device)
        return jax.tree.map(lambda x: np.array(np.asarray(x)[place]), self._part(tree, d))

    def _spread(self, part: Callable[[int], Any]) -> Any:
        """One array over all devices from each device's part."""
        parts = [
            jax.tree.map(lambda x, device=device: jax.device_put(x, device), part(d))
            for d, device in enumerate(self.devices)
        ]

        def join(*leaves: Array) -> Array:
            shape = (len(self), *leaves[0].shape[1:])
            return jax.make_array_from_single_device_arrays(shape, self._sharding, list(leaves))

        return jax.tree.map(join, *parts)


def _given(case: Case, config: Config) -> Input:
    key = np.asarray(
        jax.random.key_data(image_key(config.run.seed, case.name, network_index=case.network_index))
    )
    problem = jax.tree.map(lambda x: np.asarray(jnp.asarray(x)), case.problem)
    return Input(key, problem, None if case.reference is None else np.asarray(case.reference))


def _may_rematerialise(config: Config) -> bool:
    return config.net.remat == "auto" and config.net.kind == "skip"
