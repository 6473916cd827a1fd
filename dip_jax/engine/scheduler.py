"""The scheduler: gives slots to cases, advances all slots, and returns results as networks finish.

Cases that one compiled program can serve are fitted together. Between chunks of steps the host checks which
networks have finished, yields their results and gives their slots to the next cases, so memory holds only the
networks in progress and the few cases that are read ahead.
"""

import enum
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dip_jax.base import Case, Result, network_label
from dip_jax.config import RunConfig
from dip_jax.engine.active_network import ActiveNetwork, SavedNetwork, failed_result
from dip_jax.engine.background_store import BackgroundStore, Store, saving_in_background
from dip_jax.engine.case_queue import CaseQueue, read_ahead
from dip_jax.engine.chunk_size import ChunkSizer, max_steps
from dip_jax.engine.estimator import Estimator
from dip_jax.engine.observation import Observation
from dip_jax.engine.slots import Slots
from dip_jax.engine.step_loop import SlotStatus, block_length
from dip_jax.errors import is_out_of_memory
from dip_jax.nets import cropped


class Progress(NamedTuple):
    """The state of a run between two chunks, or at the start of a phase in which no network makes steps."""

    names: tuple[str, ...]
    """Labels of the networks in progress."""
    steps: tuple[int, ...]
    """Steps made, for each network in progress."""
    num_steps: int
    """Maximum number of steps of a network."""
    steps_per_second: float
    """Steps per second of each network; NaN until two chunks have been measured."""
    loss: float
    """Loss in the last step, mean over the networks; NaN before the first step."""
    psnr: float | None
    """PSNR of the estimates in dB, mean over the networks with a reference; None without one."""
    phase: str = ""
    """The work that begins before the next step, such as `compiling`; empty between two chunks."""


class RunHooks(NamedTuple):
    """The world around a run: its devices, its storage, and its observers."""

    devices: Sequence[Any] | None = None
    """Devices to compute on; None for all devices of this process."""
    store: Store | None = None
    """Storage for networks in progress; None to store nothing."""
    on_progress: Callable[[Progress], None] | None = None
    """Called between chunks."""
    should_stop: Callable[[], bool] = lambda: False
    """Called between chunks; True saves the networks in progress and ends the run."""
    start: Mapping[str, SavedNetwork] = {}
    """Networks to continue, by their labels; a network in the storage takes precedence."""
    keep_networks: bool = False
    """Return the whole state of each network in its result."""
    on_step: Callable[[Observation], None] | None = None
    """Called every `every` steps of a network with what it has reached, and once more at its end if the last step is
    no multiple. A network that is interrupted has not reached its end."""
    every: int = 100
    """Number of steps between two calls of `on_step`."""


def report_phase(hooks: RunHooks, label: str, phase: str, num_steps: int) -> None:
    """Tells the observer of the progress that a phase without steps begins.

    Args:
      hooks: The world around the run.
      label: Label of the network, or name of the image.
      phase: The work.
      num_steps: Maximum number of steps of a network.
    """
    if hooks.on_progress is not None:
        nan = float("nan")
        hooks.on_progress(Progress((label,), (0,), num_steps, nan, nan, None, phase))


class Ending(enum.Enum):
    """Why a scheduler returned."""

    SERVED = enum.auto()
    """No case that the program can serve is left near the front of the queue."""
    STOPPED = enum.auto()
    """`should_stop` returned True."""
    FAILED = enum.auto()
    """The program raised an error, and the state of the slots is lost."""


class Scheduler:
    """Serves the cases of one signature, with one compiled program."""

    def __init__(
        self,
        queue: CaseQueue,
        example: Case,
        signature: Any,
        estimator: Estimator,
        run: RunConfig,
        hooks: RunHooks,
        *,
        store: BackgroundStore | None,
        max_cases: int | None,
        save_finished: bool,
    ):
        """Compiles the program.

        Args:
          queue: The cases.
          example: A case of the signature, on its canvas.
          signature: The signature of the cases that are served.
          estimator: The estimator.
          run: How the run uses the machine.
          hooks: The world around the run.
          store: The storage of the hooks; None to store nothing.
          max_cases: Maximum number of cases; None for unknown.
          save_finished: Also save finished networks.

        Raises:
          InputError: If one slot does not fit into memory.
        """
        self.signature = signature
        self._queue, self._estimator, self._run, self._hooks = queue, estimator, run, hooks
        self._store, self._save_finished = store, save_finished
        self._slots = Slots(example, estimator, run, devices=hooks.devices, max_cases=max_cases)
        self._active: dict[int, ActiveNetwork] = {}
        self._has_advanced = False

    def run(self) -> Generator[Result, None, Ending]:
        """Serves cases until none is left, the run is stopped or the program fails.

        If the iterable of cases raises an error, the networks in progress are saved and the error is raised.

        Yields:
          The results, as networks finish.

        Returns:
          The reason for the end.
        """
        sizer = ChunkSizer(max_steps(self._run), block_length())
        while True:
            try:
                self._fill()
            except BaseException:  # an error of the iterable of cases
                self._save(is_last=True)
                raise
            if not self._active:
                return Ending.STOPPED if self._hooks.should_stop() else Ending.SERVED
            try:
                status = self._advance(sizer)
            except Exception as error:  # most likely out of memory
                error = without_frames(error)
                if self._start_smaller(error):
                    continue
                for network in self._active.values():
                    yield failed_result(network.case, error)
                return Ending.FAILED
            if self._hooks.on_progress is not None:
                self._hooks.on_progress(self._progress(sizer.steps_per_second))
            self._observe(status)
            for index in [i for i in self._active if not status.is_active[i]]:
                yield self._finish(index, status)
            should_stop = self._hooks.should_stop()
            self._save(is_last=should_stop)
            if should_stop:
                for network in self._active.values():
                    yield self._result(network, status)
                return Ending.STOPPED

    def _fill(self) -> None:
        """Gives free slots to waiting cases; waits for a case only if no network is in progress."""
        if self._active and not self._run.refill:
            return
        for index in range(len(self._slots)):
            if index in self._active:
                continue
            queued = self._queue.take(self.signature, wait=not self._active)
            if queued is None:
                return
            network = ActiveNetwork(queued, index)
            saved = self._load(network)
            if saved is not None:
                network.resume(saved)
            self._slots.put(index, network.padded, saved=None if saved is None else saved.slot)
            self._active[index] = network

    def _advance(self, sizer: ChunkSizer) -> SlotStatus:
        """Runs a chunk of steps in all slots and appends it to the logs."""
        sizer.start()
        status, logs = self._slots.advance(min(sizer.count, self._steps_to_next_call()))
        self._has_advanced = True
        sizer.update(int(np.max((logs["step"] >= 0).sum(axis=1))))
        for network in self._active.values():
            network.append(status, logs)
        return status

    def _start_smaller(self, error: Exception) -> bool:
        """Begins anew with a smaller layout if the first chunk ran out of memory; returns whether it could."""
        if self._has_advanced or not is_out_of_memory(error):
            return False
        report_phase(
            self._hooks,
            next(iter(self._active.values())).label,
            "compiling",
            self._estimator.num_steps,
        )
        if not self._slots.shrink():
            return False
        self._queue.put_back([network.queued for network in self._active.values()])
        self._active.clear()
        return True

    def _steps_to_next_call(self) -> int:
        """The number of steps after which the first network is due for `on_step`; a chunk is no longer."""
        if self._hooks.on_step is None:
            return max_steps(self._run)
        every = self._hooks.every
        return min(every - network.num_steps % every for network in self._active.values())

    def _observe(self, status: SlotStatus) -> None:
        """Calls `on_step` for each network that made steps and is due or finished."""
        if self._hooks.on_step is None:
            return
        for index, network in self._active.items():
            if network.num_steps % self._hooks.every and status.is_active[index]:
                continue
            observation = network.observe(self._slots, self._estimator.num_steps)
            if observation is not None:
                self._hooks.on_step(observation)
                observation.close()

    def _finish(self, index: int, status: SlotStatus) -> Result:
        """Frees the slot of a finished network and returns its result."""
        self._slots.clear(index)
        network = self._active.pop(index)
        if self._store is not None:
            if self._save_finished:
                self._store.save([network.save(self._slots)])
            self._store.wait()  # the receiver of the result may remove the checkpoints
        return self._result(network, status)

    def _result(self, network: ActiveNetwork, status: SlotStatus) -> Result:
        """Returns the result that a network has reached."""
        result = network.result(self._slots, status)
        if not self._hooks.keep_networks:
            return result
        build = self._estimator.algorithm.net
        net = None if build is None else cropped(build(network.padded.shape), network.case.shape)
        return result._replace(net=net, networks=(network.save(self._slots),))

    def _load(self, network: ActiveNetwork) -> SavedNetwork | None:
        """Returns the state from which a network continues; None to start anew."""
        saved = self._stored(network)
        if saved is None and network.label in self._hooks.start:
            saved = network.continued(self._hooks.start[network.label], self._slots)
        return saved

    def _stored(self, network: ActiveNetwork) -> SavedNetwork | None:
        if self._store is None:
            return None
        shapes = self._slots.slot_shapes
        return self._store.load(network.label, network.fingerprint(), shapes)

    def _save(self, *, is_last: bool) -> None:
        """Saves the networks in progress if it is time, or for the last time; then it waits for the end."""
        store = self._store
        networks = [network for network in self._active.values() if network.num_steps > 0]
        if store is not None and networks and (is_last or store.is_due()):
            store.save([network.save(self._slots) for network in networks])
            if is_last:
                store.wait()

    def _progress(self, steps_per_second: float) -> Progress:
        networks = list(self._active.values())
        last = [values for n in networks if (values := n.last_values()) is not None]
        losses = [values["loss"] for values in last]
        psnrs = [values.get("psnr_mean", values["psnr_average"]) for values in last]
        psnr = float(np.mean(psnrs)) if last else float("nan")
        return Progress(
            names=tuple(network.label for network in networks),
            steps=tuple(network.num_steps for network in networks),
            num_steps=self._estimator.num_steps,
            steps_per_second=steps_per_second,
            loss=float(np.mean(losses)) if last else float("nan"),
            psnr=None if np.isnan(psnr) else psnr,
        )


def restore_each(
    cases: Iterable[Case],
    estimator: Estimator,
    run: RunConfig,
    hooks: RunHooks | None = None,
    *,
    max_cases: int | None = None,
    save_finished: bool = False,
) -> Iterator[Result]:
    """Fits a network to each case and yields results as networks finish.

    Args:
      cases: Any number of cases of any shapes, with unique names or network indices. They are read ahead in a
        thread, so a generator that loads them need not hold them. Put cases of equal shape next to each other:
        they share a compiled program.
      estimator: The estimator.
      run: How the run uses the machine.
      hooks: Devices, storage and observers; by default all devices, and no storage.
      max_cases: Maximum number of cases, if known: there are no more slots.
      save_finished: Also save finished networks, for a caller that waits for several networks of an image.

    Yields:
      A result for each case; see `restore_many`.
    """
    hooks = hooks or RunHooks()
    scheduler: Scheduler | None = None
    errors: dict[Any, Exception] = {}
    with (
        read_ahead(cases, hooks.should_stop, estimator.sides_per_octave) as queue,
        saving_in_background(hooks.store) as store,
    ):
        while (first := queue.peek()) is not None:
            signature = first.signature
            if signature not in errors and (scheduler is None or scheduler.signature != signature):
                scheduler = None  # frees its memory before the next one needs it
                label = network_label(first.case.name, first.case.network_index)
                report_phase(hooks, label, "compiling", estimator.num_steps)
                try:
                    scheduler = Scheduler(
                        queue,
                        first.padded,
                        signature,
                        estimator,
                        run,
                        hooks,
                        store=store,
                        max_cases=max_cases,
                        save_finished=save_finished,
                    )
                except Exception as error:  # any error concerns the cases of this signature only
                    errors[signature] = without_frames(error)
            if signature in errors:
                queue.take(signature, wait=False)
                yield failed_result(first.case, errors[signature])
                continue
            assert scheduler is not None
            ending = yield from scheduler.run()
            if ending is Ending.STOPPED:
                return
            if ending is Ending.FAILED:
                scheduler = None


def without_frames(error: Exception) -> Exception:
    """Removes the frames of an error, which would keep the memory of the slots alive."""
    error.__context__ = None
    return error.with_traceback(None)
