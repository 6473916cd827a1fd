"""The run: a queue of pictures of any shapes, slots that are refilled as they come free.

`restore_each` takes pictures one by one from an iterable, which is read ahead in the background, and
yields results as they finish. Pictures that one program can serve are fitted together; the program is
compiled once. Between chunks of steps the host looks who is done, hands out and refills, so only as
many pictures are held as are in work and a few beside.
"""

import functools
import queue
import time
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from dip_jax.base import Case, Posterior, Result, Status, network_label
from dip_jax.config import Config
from dip_jax.engine.canvas import pad_case
from dip_jax.engine.chunk_size import ChunkSizer
from dip_jax.engine.prefetch import MAX_PREFETCH, prefetch
from dip_jax.engine.slots import Slots
from dip_jax.engine.step_loop import Slot, SlotStatus, block_length
from dip_jax.nets import num_params
from dip_jax.posterior.moments import num_kept, trace_names
from dip_jax.tasks.cases import restore_known_values


class Progress(NamedTuple):
    """What is known while a run goes on; each list has an entry per picture in work."""

    names: tuple[str, ...]
    steps: tuple[int, ...]
    """Steps made."""
    num_steps: int
    steps_per_second: float
    """Of one picture."""
    loss: float
    """Mean over the pictures, of their last steps."""
    psnr: float | None
    """Of the answers, mean over the pictures with a reference."""


class Saved(NamedTuple):
    """A picture in work, as a checkpoint keeps it: numpy only."""

    name: str
    fingerprint: int
    """Checksum of its case: a state belongs to no other one."""
    slot: Slot
    curve: dict[str, np.ndarray]
    seconds: float


class Store(Protocol):
    """Where pictures in work are kept; see `checkpoint.CheckpointStore`."""

    def load(self, name: str, fingerprint: int, shapes: Slot) -> Saved | None:
        """The saved state of a picture, in the form of `shapes`, or None."""
        ...

    def is_due(self) -> bool:
        """Whether it is time to save."""
        ...

    def save(self, pictures: Sequence[Saved]) -> None:
        """Saves pictures in work, each whole or not at all."""
        ...


class _Work:
    """A picture in a slot, and what the host keeps of it."""

    def __init__(self, case: Case, padded: Case):
        self.case, self.padded = case, padded
        self.logs: list[dict[str, np.ndarray]] = []
        self.num_steps = 0
        self.seconds = 0.0
        self._clock = time.perf_counter()

    def resume(self, saved: Saved) -> None:
        self.logs = [saved.curve]
        self.num_steps = int(saved.slot.state.step)
        self.seconds = saved.seconds

    def lap(self) -> None:
        """Counts the time since the last call."""
        now = time.perf_counter()
        self.seconds += now - self._clock
        self._clock = now

    @property
    def label(self) -> str:
        """What to call it, and its checkpoint."""
        return network_label(self.case.name, self.case.network_index)

    @property
    def curve(self) -> dict[str, np.ndarray]:
        # What an early checkpoint holds of a run may lack traces: there were none.
        return {
            name: np.concatenate([log[name] for log in self.logs if name in log])
            for name in self.logs[-1]
        }


def restore_each(
    cases: Iterable[Case],
    config: Config,
    *,
    devices: Sequence[Any] | None = None,
    max_cases: int | None = None,
    store: Store | None = None,
    keep_finished: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Result]:
    """Restores pictures, each with its own network, and yields results as they finish.

    Args:
      cases: Any number of any shapes, with names of their own; read ahead in a thread, so a generator
        that loads them need not hold them. Alike pictures should come one after the other.
      config: The settings.
      devices: Where to compute; by default all devices of this process.
      max_cases: How many cases there are at most, where that is known: no more slots are made.
      store: Where pictures in work are saved now and then, and looked for before they are started.
      keep_finished: Save also those that are finished, for whoever waits for others.
      on_progress: Called between chunks.
      should_stop: Asked between chunks; True saves what is in work and hands it out as it is.

    Yields:
      A result per picture. Its status is `stopped` (by the rule), `done` (all steps), `diverged`,
      `interrupted`, or `failed` with the `error`; but for the last, `image` is the best answer so far.
      A picture's result depends on its name, its problem and the config, not on the others.
    """
    slots: Slots | None = None
    program: Any = None  # the signature of what `slots` serve
    faults: dict[Any, Exception] = {}
    with prefetch(cases, should_stop) as take:
        pending: list[tuple[Case, Case, Any]] = []
        ended = False

        def look(signature: Any, *, wait: bool) -> tuple[Case, Case] | None:
            """The next picture that fits the program in hand, if there is one near."""
            nonlocal ended
            while True:
                for i, (case, padded, own) in enumerate(pending):
                    if signature is None or own == signature:
                        del pending[i]
                        return case, padded
                if ended or len(pending) >= MAX_PREFETCH:
                    return None
                try:
                    taken = take(wait=wait)
                except queue.Empty:
                    return None
                if taken is None:
                    ended = True
                else:
                    padded = pad_case(taken, config.net.sides_per_octave)
                    pending.append((taken, padded, _signature(padded)))

        while (first := look(None, wait=True)) is not None:
            signature = _signature(first[1])
            if signature != program and signature not in faults:
                slots = None  # before there are others: they are what takes the memory
                try:
                    slots, program = (
                        Slots(first[1], config, devices=devices, max_cases=max_cases),
                        signature,
                    )
                except Exception as error:  # of whatever kind: it is these pictures'
                    program, faults[signature] = None, _bare(error)
            if signature in faults or slots is None:
                yield _failed(first[0], faults[signature])
                continue
            pending.insert(0, (*first, signature))
            more = functools.partial(look, signature)
            end = yield from _run(
                slots, more, config, store, keep_finished, on_progress, should_stop
            )
            if end == "stopped":
                return
            if end == "broken":
                slots = program = None


def _run(
    slots: Slots,
    more: Callable[..., tuple[Case, Case] | None],
    config: Config,
    store: Store | None,
    keep_finished: bool,
    on_progress: Callable[[Progress], None] | None,
    should_stop: Callable[[], bool],
) -> Generator[Result, None, str]:
    """Serves the pictures that `more(wait)` finds; returns `served`, `stopped` or `broken`."""
    work: dict[int, _Work] = {}
    pace = ChunkSizer(config.run.chunk, block_length())

    def fill() -> None:
        if work and not config.run.refill:
            return
        for index in range(len(slots)):
            if index in work:
                continue
            found = more(wait=not work)
            if found is None:
                return
            new = _Work(*found)
            saved = None
            if store is not None:
                saved = store.load(new.label, _fingerprint(new.case), slots.slot_shapes)
            if saved is not None:
                new.resume(saved)
            slots.put(index, new.padded, saved=None if saved is None else saved.slot)
            work[index] = new

    while True:
        fill()
        if not work:
            return "stopped" if should_stop() else "served"
        try:
            pace.start()
            status, logs = slots.advance(pace.count)
        except Exception as error:  # out of memory, most likely: what was in the slots is lost
            for item in work.values():
                yield _failed(item.case, _bare(error))
            return "broken"
        made = logs["step"] >= 0
        pace.update(int(np.max(made.sum(axis=1))))
        for index, item in work.items():
            item.lap()
            item.num_steps = int(status.num_steps[index])
            log = {name: log[index][made[index]] for name, log in logs.items()}
            if "trace" in log:  # of samples only: the other steps' are as good as the same
                log["trace"] = log["trace"][log["sampled"] > 0]
            item.logs.append(log)
        if on_progress is not None:
            on_progress(_progress(work, config, pace))
        for index in [i for i in work if not status.is_active[i]]:
            slots.clear(index)
            item = work.pop(index)
            if store is not None and keep_finished:
                store.save([_save(item, slots, index)])
            yield _result(item, slots, index, status, config)
        stopping = should_stop()
        if store is not None and work and (stopping or store.is_due()):
            store.save([_save(item, slots, index) for index, item in work.items()])
        if stopping:
            for index, item in work.items():
                yield _result(item, slots, index, status, config)
            return "stopped"


def _signature(case: Case) -> Any:
    """Equal for pictures that one compiled program can serve."""
    leaves, tree = jax.tree.flatten(case.problem)
    shapes = tuple((np.shape(leaf), np.asarray(leaf).dtype.name) for leaf in leaves)
    return case.shape, case.reference is None, tree, shapes


def _fingerprint(case: Case) -> int:
    """A checksum of all numbers of a case."""
    checksum = zlib.crc32(getattr(case.problem.operator, "digest", "").encode())
    for leaf in jax.tree.leaves((case.problem, case.reference)):
        checksum = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), checksum)
    return checksum


def _save(item: _Work, slots: Slots, index: int) -> Saved:
    fingerprint = _fingerprint(item.case)
    return Saved(item.label, fingerprint, slots.save(index), item.curve, item.seconds)


def _result(item: _Work, slots: Slots, index: int, status: SlotStatus, config: Config) -> Result:
    case = item.case
    height, width, _ = case.shape
    raw = slots.estimate(index)[:height, :width]
    curve, moments = item.curve, slots.moments(index)
    traces = curve.pop("trace", np.zeros((0, len(trace_names(case.shape))), np.float32))
    image, notes = restore_known_values(config.task, case, raw)
    if status.diverged[index]:
        ended = Status.DIVERGED
    elif status.stopped[index]:
        ended = Status.STOPPED
    else:
        ended = Status.INTERRUPTED if status.is_active[index] else Status.DONE
    return Result(
        name=case.name,
        status=ended,
        image=image,
        raw=raw,
        num_steps=int(status.num_steps[index]),
        stop_step=int(status.stop_step[index]),
        num_rollbacks=int(status.num_rollbacks[index]),
        num_params=num_params(slots.slot_shapes.state.params),
        curve=curve,
        seconds=item.seconds,
        compile_seconds=slots.compile_seconds,
        notes=notes,
        stops={
            rule: (int(step[index]), bool(done[index]))
            for rule, (step, done) in status.stops.items()
        },
        held_out=_held_out(slots.held_out(index), case),
        posterior=None if moments is None else _posterior(moments, traces, case.shape, config),
        network_index=case.network_index,
    )


def _posterior(
    moments: Any, traces: np.ndarray, shape: tuple[int, int, int], config: Config
) -> Posterior:
    """What one chain has sampled, without the margin of its canvas."""
    height, width, _ = shape
    mean, deviation = moments.mean[:height, :width], moments.deviation[:height, :width]
    count = int(moments.num_samples)
    return Posterior(
        mean=mean,
        std=np.sqrt(deviation / max(count - 1, 1)),
        chain_means=mean[None],
        num_samples=count,
        traces=traces[None],
        trace_names=trace_names(shape),
        samples=moments.kept[: num_kept(config.sgld, count, config.fit.num_steps), :height, :width],
    )


def _held_out(held: np.ndarray | None, case: Case) -> np.ndarray | None:
    """Which measurements were kept back, without the margin of the canvas."""
    shape = np.shape(case.problem.measurement)
    if held is None or held.ndim != len(shape):
        return None
    return held[tuple(slice(0, size) for size in shape)]


def _bare(error: Exception) -> Exception:
    """An error without its frames, which would keep the slots' memory alive."""
    error.__context__ = None
    return error.with_traceback(None)


def _failed(case: Case, error: Exception) -> Result:
    nothing = np.zeros((0, 0, case.shape[-1]), np.float32)
    return Result(
        case.name,
        Status.FAILED,
        nothing,
        nothing,
        *(0, 0, 0, 0),
        {},
        0.0,
        0.0,
        error,
        network_index=case.network_index,
    )


def _progress(work: dict[int, _Work], config: Config, pace: ChunkSizer) -> Progress:
    items = list(work.values())
    last = [
        {name: item.logs[-1][name][-1] for name in item.logs[-1] if name != "trace"}
        for item in items
        if item.logs[-1]["step"].size
    ]
    estimates = [log.get("psnr_mean", log["psnr_average"]) for log in last]
    psnr = float(np.mean(estimates)) if last else float("nan")
    return Progress(
        names=tuple(item.label for item in items),
        steps=tuple(item.num_steps for item in items),
        num_steps=config.fit.num_steps,
        steps_per_second=pace.steps_per_second,
        loss=float(np.mean([log["loss"] for log in last])) if last else float("nan"),
        psnr=None if np.isnan(psnr) else psnr,
    )
