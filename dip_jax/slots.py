"""Slots: the places in which pictures are fitted side by side, and the one program that moves them on.

Every device of this process has the same number of slots, and each slot fits its own network to its own
picture. One compiled program makes a chunk of steps for all of them: `shard_map` over the devices, and
on a device `run.share`: `map` (one after the other: right on CPU, where one image fills the machine),
`vmap` (side by side: right on GPU and TPU) or `unroll` (one after the other, each with code of its own).
No slot sees another one, so the program holds no collective. A picture that is done rests until the
host gives its slot to the next one; the program stays the same.

Under `map` the loop over the slots has a bound that the compiler does not know. With a known one it
would rewrite the loop of a single slot, and a picture's last bits would depend on how many slots there are.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dip_jax.base import (
    Algorithm,
    Array,
    Case,
    Info,
    InputError,
    Net,
    Operator,
    Problem,
    Stopper,
    picture_key,
)
from dip_jax.colour import Bayer
from dip_jax.config import Config
from dip_jax.fit import FitState, average_lag, build_fit
from dip_jax.losses import build_likelihood
from dip_jax.metrics import psnr
from dip_jax.nets import build_net
from dip_jax.operators import Identity, Mask
from dip_jax.sgld import Moments, SgldState, build_sampler, build_sgld, observe
from dip_jax.stopping import UnseenState, build_stopper, fixed, unseen

REST, GO_ON, START = 0, 1, 2  # what a slot is told to do in the next chunk


class Answer(NamedTuple):
    """The image that the stopping rule would hand out now."""

    image: Array
    """The running average `[H, W, C]` at the best step."""
    step: Array


class Slot(NamedTuple):
    """All that is kept of one image between chunks."""

    state: FitState | SgldState
    stop: Any
    answer: Answer


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
    nothing = Answer(jnp.zeros_like(state.average), jnp.int32(0))
    # The same key: a rule may start a second fit alike.
    key = jax.random.wrap_key_data(jnp.asarray(given.key))
    return Slot(state, stopper.init(key, given.problem, state.average.shape), nothing)


def build_chunk(
    algorithm: Algorithm, stopper: Stopper, config: Config
) -> Callable[[Slot, Input, Array, Array, Array], Chunk]:
    """Builds `chunk(slots, inputs, orders, count, num_slots)`, for the slots of one device.

    Args:
      algorithm: The estimator.
      stopper: The stopping rule.
      config: For `fit.num_steps`, `run.chunk` and `run.share`.

    Returns:
      A function of trees with a leading axis of slots. `orders[N]` says what each does (`REST`, `GO_ON`,
      `START`), `count` how many steps to run, at most `run.chunk`.
    """

    def log(step: Array, info: Info, stop: Any, given: Input) -> dict[str, Array]:
        values = {"step": step, "loss": info.loss}
        for name, verdict in stopper.verdicts(stop).items():
            values[f"signal_{name}"] = verdict.signal
        images = {"psnr": info.image, "psnr_average": info.average}
        if info.sampled is not None:
            images["psnr_mean"] = info.answer
            values["sampled"] = info.sampled.astype(jnp.float32)
            values["trace"] = observe(info, region=given.problem.region)
        for name, image in images.items():
            values[name] = jnp.float32(jnp.nan)
            if given.reference is not None:
                values[name] = psnr(
                    image, jnp.asarray(given.reference), region=given.problem.region
                )
        return values

    # Compiled for themselves these two are traced once, though they are used several times.
    @jax.jit
    def make_step(slot: Slot, given: Input) -> tuple[Slot, dict[str, Array]]:
        step = slot.state.step
        visible = stopper.view(slot.stop, given.problem)
        state, info = algorithm.step(visible, slot.state)
        stop, improved = stopper.update(slot.stop, given.problem, step, info)
        answer = lax.cond(improved, lambda: Answer(info.answer, step), lambda: slot.answer)
        return Slot(state, stop, answer), log(step, info, stop, given)

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

    @jax.jit
    def one(slot: Slot, given: Input, order: Array, count: Array) -> Chunk:
        def more(carry):
            i, slot, _ = carry
            return (i < count) & goes_on(slot, order)

        def body(carry):
            i, slot, logs = carry
            slot, values = make_step(slot, given)
            logs = {
                name: lax.dynamic_update_index_in_dim(logs[name], values[name], i, 0)
                for name in logs
            }
            return i + 1, slot, logs

        slot = lax.cond(order == START, lambda: start_slot(algorithm, stopper, given), lambda: slot)
        empty = no_logs(slot, given, config.run.chunk)
        _, slot, logs = lax.while_loop(more, body, (jnp.int32(0), slot, empty))
        state = slot.state
        status = Status(
            goes_on=goes_on(slot, order),
            num_steps=state.step,
            stop_step=slot.answer.step,
            num_rollbacks=state.num_rollbacks,
            stopped=slot.stop.done,
            diverged=state.diverged,
            stops={
                name: (verdict.answer_step, verdict.done)
                for name, verdict in stopper.verdicts(slot.stop).items()
            },
        )
        return Chunk(slot, status, logs)

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
        if share(config) == "unroll":
            for i in range(number):
                chunk = turn(i, chunk)
            return chunk
        return lax.fori_loop(0, num_slots, turn, chunk)

    def side_by_side(slots, inputs, orders, count, num_slots) -> Chunk:
        del num_slots
        return jax.vmap(one, in_axes=(0, 0, 0, None))(slots, inputs, orders, count)

    return side_by_side if share(config) == "vmap" else one_after_the_other


def build_algorithm(config: Config, net: Net) -> Algorithm:
    """The estimator of a config: a fit, or one whose optimiser is a sampler."""
    fit, sgld, num_steps = config.fit, config.sgld, config.fit.num_steps
    if fit.method == "fit":
        return build_fit(fit, net)
    if sgld.sampler != "paper":
        fit = dataclasses.replace(fit, perturbation=sgld.perturbation)
    sampler = build_sampler(sgld, learning_rate=fit.learning_rate, num_steps=num_steps)
    return build_sgld(sgld, build_fit(fit, net, optimizer=sampler), num_steps=num_steps)


def _stopper(config: Config, algorithm: Algorithm, operator: Operator) -> Stopper:
    """The stopping rule; samples need none, but some measurements may be kept from them to check them by."""
    if config.fit.method == "sgld":
        hides = config.sgld.held_share and isinstance(operator, Identity | Mask | Bayer)
        return unseen(config.sgld.held_share) if hides else fixed()
    return build_stopper(
        config.stop,
        lag=average_lag(config.fit),
        algorithm=algorithm,
        loss=build_likelihood(config.fit.likelihood, interval_pull=config.fit.interval_pull),
    )


def share(config: Config) -> str:
    """How images share a device: `run.share`, by default `map` on CPU and `vmap` elsewhere."""
    if config.run.share != "auto":
        return config.run.share
    return "map" if jax.default_backend() == "cpu" else "vmap"


def slots_per_device(config: Config) -> int:
    """How many images share a device if memory allows: `run.slots`, by default 1 on CPU, else 8."""
    if config.run.slots is not None:
        return config.run.slots
    return 1 if jax.default_backend() == "cpu" else 8


class Slots:
    """The slots of this process's devices for images of one shape: a compiled program and its state."""

    def __init__(self, case: Case, config: Config, *, devices: Sequence[Any] | None = None):
        """Compiles the program.

        Args:
          case: An example: the images in these slots have its shape, operator and kind of reference.
          config: The settings.
          devices: Where the slots are; by default all devices of this process.

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
        self.per_device = slots_per_device(config)
        self._build(case)
        self._compile(case)
        self.compile_seconds = time.perf_counter() - clock
        self.reset()

    def _build(self, case: Case) -> None:
        """Makes the program's function, not compiled yet, and the shapes of its state."""
        config = self.config
        net = build_net(config.net, case.shape)
        algorithm = build_algorithm(config, net)
        stopper = _stopper(config, algorithm, case.problem.operator)
        one = PartitionSpec("batch")
        self._chunk = jax.jit(
            jax.shard_map(
                build_chunk(algorithm, stopper, config),
                mesh=self._sharding.mesh,
                in_specs=(one, one, one, PartitionSpec(), PartitionSpec()),
                out_specs=one,
                check_vma=False,
            ),
            donate_argnums=0,
        )
        start = functools.partial(start_slot, algorithm, stopper)
        self.slot_shapes = jax.eval_shape(start, self._empty)

    def __len__(self) -> int:
        """Slots of all devices together."""
        return self.per_device * len(self.devices)

    def _compile(self, case: Case) -> None:
        """Compiles for the most slots that fit into memory, `per_device` at most."""
        while True:
            one = (self.slot_shapes, self._empty, np.int32(0))
            all_slots = jax.tree.map(self._stacked_shape, one)
            self._compiled = self._chunk.lower(*all_slots, np.int32(0), np.int32(0)).compile()
            self.bytes_per_device = _forecast(self._compiled.memory_analysis())
            available = _available(self.config)
            share_of_host = len(self.devices) if self.devices[0].platform == "cpu" else 1
            needed = share_of_host * self.bytes_per_device
            if needed <= available:
                return
            if self.per_device == 1 and _may_rematerialise(self.config):
                net = dataclasses.replace(self.config.net, remat="on")
                self.config = dataclasses.replace(self.config, net=net)
                self._build(case)
                continue
            if self.per_device == 1 or self.config.run.slots is not None:
                raise _too_large(needed, available, self.slot_shapes.answer.image.shape, len(self))
            self.per_device = max(1, int(self.per_device * available / needed))

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
        return self._compiled.as_text() or ""

    def cost(self) -> dict[str, float]:
        """What the compiler counts in the program, a loop's body once: `flops`, `bytes accessed` and others."""
        return dict(self._compiled.cost_analysis() or {})

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
        chunk = self._compiled(
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

    def answer(self, index: int) -> np.ndarray:
        """The image that the slot would hand out now."""
        return self._host(index, self._slots.answer.image)

    def moments(self, index: int) -> Moments | None:
        """What the slot has sampled; None of a fit."""
        state = self._slots.state
        return self._host(index, state.moments) if isinstance(state, SgldState) else None

    def held(self, index: int) -> np.ndarray | None:
        """Of the measurement's shape, whether a value was kept from the sampler; None of a fit."""
        stop = self._slots.stop
        return self._host(index, stop.hidden.held) > 0 if isinstance(stop, UnseenState) else None

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
        jax.random.key_data(picture_key(config.run.seed, case.name, member=case.member))
    )
    problem = jax.tree.map(lambda x: np.asarray(jnp.asarray(x)), case.problem)
    return Input(key, problem, None if case.reference is None else np.asarray(case.reference))


def _forecast(analysis: Any) -> int:
    """Bytes that the program needs on a device, as the compiler counts them."""
    return (
        analysis.temp_size_in_bytes
        + analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
    )


def _available(config: Config) -> float:
    if config.run.max_memory is not None:
        return config.run.max_memory * 1e9
    if jax.default_backend() == "cpu":
        return psutil.virtual_memory().available
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", np.inf)


def _may_rematerialise(config: Config) -> bool:
    return config.net.remat == "auto" and config.net.kind == "skip"


def _too_large(needed: float, available: float, shape: tuple[int, ...], number: int) -> InputError:
    return InputError(
        f"{number} picture{'s' * (number > 1)} of {shape[1]} x {shape[0]} would need about "
        f"{needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are available; use a smaller "
        "picture, fewer channels (--preset=denoise_small or --set net.channels_down=...), fewer slots "
        "(--slots), or say that there is more (--set run.max_memory=GB)."
    )


def peak_bytes() -> int:
    """The most memory in use so far: of the process on CPU, of the fullest device elsewhere."""
    if jax.default_backend() == "cpu":
        try:
            import resource
        except ModuleNotFoundError:  # Windows
            return getattr(psutil.Process().memory_info(), "peak_wset", 0)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if psutil.MACOS else 1024 * peak
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    return max(stat.get("peak_bytes_in_use", 0) for stat in stats)
