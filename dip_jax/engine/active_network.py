"""A network in a slot: its case, its log on the host, and the result that it becomes."""

import re
import time
import zlib
from typing import Any, NamedTuple

import jax
import numpy as np

from dip_jax.base import Case, Operator, Posterior, Result, Status, network_label
from dip_jax.engine.case_queue import QueuedCase
from dip_jax.engine.devices import on_host
from dip_jax.engine.observation import Observation
from dip_jax.engine.slots import Slots
from dip_jax.engine.step_loop import Slot, SlotStatus
from dip_jax.errors import InputError
from dip_jax.nets import num_params
from dip_jax.posterior.moments import Moments, num_kept, trace_names
from dip_jax.stopping.minimum import MinimumState
from dip_jax.tasks.cases import finish_image


class SavedNetwork(NamedTuple):
    """A network in progress as a checkpoint stores it: NumPy arrays only."""

    name: str
    """The label of the network, see `network_label`."""
    fingerprint: int
    """Checksum of the case; a state is never continued for another case."""
    slot: Slot
    """The state of the slot."""
    curve: dict[str, np.ndarray]
    """The logged values of all steps so far."""
    seconds: float
    """Time in a slot so far, s."""


class ActiveNetwork:
    """A network in a slot, and its log on the host."""

    def __init__(self, queued: QueuedCase, index: int):
        """Starts with an empty log and a running clock.

        Args:
          queued: The case of the network.
          index: The slot.
        """
        self.queued, self.case, self.padded, self.index = queued, queued.case, queued.padded, index
        self.label = network_label(self.case.name, self.case.network_index)
        self.num_steps = 0
        self._logs: list[dict[str, np.ndarray]] = []
        self._seconds = 0.0
        self._clock = time.perf_counter()

    def fingerprint(self) -> int:
        """Returns a checksum of all numbers of the case."""
        problem = self.case.problem
        checksum = zlib.crc32(_description(problem.operator).encode())
        for leaf in jax.tree.leaves((problem, self.case.reference)):
            checksum = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), checksum)
        return checksum

    def resume(self, saved: SavedNetwork) -> None:
        """Continues the log of a saved network."""
        self._logs = [saved.curve]
        self.num_steps = int(saved.slot.state.step)
        self._seconds = saved.seconds

    def continued(self, saved: SavedNetwork, slots: Slots) -> SavedNetwork:
        """Returns the state from which this network continues an earlier result.

        The stopping rule continues too. If it has fired, it looks for another minimum; another rule starts anew, which
        a rule that must watch the fit from its first step cannot.

        Args:
          saved: The network of the earlier result.
          slots: The slots.

        Raises:
          InputError: If the result belongs to another case or to another algorithm, or the rule cannot start.
        """
        if saved.fingerprint != self.fingerprint():
            raise InputError(
                f"{self.label}: the result to continue belongs to another case; pass the case that was restored, with "
                "the same measurement, operator, noise level and reference."
            )
        shapes = slots.slot_shapes
        if not _have_shapes(saved.slot.state, shapes.state):
            raise InputError(
                f"{self.label}: the result to continue belongs to another network, optimizer or sampler; pass the "
                "algorithm that made it."
            )
        stop, rule = saved.slot.stop, slots.estimator.stopper
        is_same = _have_shapes(stop, shapes.stop)
        if not is_same and rule.needs_start:
            raise InputError(
                f"{self.label}: another stopping rule ran before, and this one must watch the fit from its first step; "
                "continue with the rule before, or with one such as stopping.fixed()."
            )
        if not is_same or bool(stop.done):
            start = slots.start_rule(self.padded)
            if is_same and isinstance(stop, MinimumState):
                start = stop._replace(minimum=start.minimum)
            saved = saved._replace(slot=saved.slot._replace(stop=start))
        return saved

    def append(self, status: SlotStatus, logs: dict[str, np.ndarray]) -> None:
        """Appends the steps of a chunk to the log.

        Args:
          status: The status of all slots after the chunk.
          logs: The logs of all slots, `[slots, steps, ...]`; steps that a slot did not make have the number -1.
        """
        now = time.perf_counter()
        self._seconds += now - self._clock
        self._clock = now
        self.num_steps = int(status.num_steps[self.index])
        is_made = logs["step"][self.index] >= 0
        log = {name: values[self.index][is_made] for name, values in logs.items()}
        if log["step"].size and np.isnan(log.get("noise_std", 0.0)).all():
            log.pop("noise_std", None)  # the noise level is not sampled
        if "trace" in log:  # the other steps repeat the trace of the last sample
            log["trace"] = log["trace"][log["sampled"] > 0]
        self._logs.append(log)

    def last_values(self) -> dict[str, float] | None:
        """Returns the logged values of the last step; None if the last chunk made no step."""
        log = self._logs[-1]
        if not log["step"].size:
            return None
        return {name: values[-1] for name, values in log.items() if name != "trace"}

    def observe(self, slots: Slots, num_steps: int) -> Observation | None:
        """Returns what the network has reached; None if the last chunk made no step.

        Args:
          slots: The slots.
          num_steps: Maximum number of steps.
        """
        values = self.last_values()
        if values is None:
            return None
        return Observation(
            name=self.label,
            case=self.case,
            step=self.num_steps,
            num_steps=num_steps,
            values={name: float(value) for name, value in values.items() if name != "step"},
            _slots=slots,
            _index=self.index,
        )

    def save(self, slots: Slots) -> SavedNetwork:
        """Returns the network as a checkpoint stores it."""
        state = slots.save(self.index)
        return SavedNetwork(self.label, self.fingerprint(), state, self._curve(), self._seconds)

    def result(self, slots: Slots, status: SlotStatus) -> Result:
        """Returns the result that the network has reached.

        Args:
          slots: The slots; that of the network must still hold its state.
          status: The status of all slots after the last chunk.
        """
        case, index = self.case, self.index
        height, width, _ = case.shape
        estimate = slots.estimate(index)[:height, :width]
        curve, moments, kept = self._curve(), slots.moments(index), slots.kept(index)
        traces = curve.pop("trace", np.zeros((0, len(trace_names(case.shape))), np.float32))
        with on_host():
            image, notes = finish_image(case, estimate)
        return Result(
            name=case.name,
            status=_status(status, index),
            image=image,
            raw=estimate,
            num_steps=int(status.num_steps[index]),
            stop_step=int(status.stop_step[index]),
            num_rollbacks=int(status.num_rollbacks[index]),
            num_params=num_params(slots.slot_shapes.state.params),
            curve=curve,
            seconds=self._seconds,
            compile_seconds=slots.compile_seconds,
            notes=notes,
            stops={
                rule: (int(step[index]), bool(has_fired[index]))
                for rule, (step, has_fired) in status.stops.items()
            },
            kept=None if kept is None else kept[:, :height, :width],
            held_out=_crop_held_out(slots.held_out(index), case),
            posterior=None if moments is None else _posterior(moments, traces, case.shape, slots),
            network_index=case.network_index,
        )

    def _curve(self) -> dict[str, np.ndarray]:
        return {
            name: np.concatenate([c for log in self._logs if (c := _column(log, name)) is not None])
            for name in self._logs[-1]
        }


def failed_result(case: Case, error: Exception) -> Result:
    """Returns the result of a case that could not be fitted.

    Args:
      case: The case.
      error: The reason.
    """
    no_image = np.zeros((0, 0, case.shape[-1]), np.float32)
    return Result(
        name=case.name,
        status=Status.FAILED,
        image=no_image,
        raw=no_image,
        num_steps=0,
        stop_step=0,
        num_rollbacks=0,
        num_params=0,
        curve={},
        seconds=0.0,
        compile_seconds=0.0,
        error=error,
        network_index=case.network_index,
    )


def _description(operator: Operator) -> str:
    """The static fields of an operator; for a function, its code, but not the values in its closure."""
    function = getattr(operator, "function", None)
    code = getattr(function, "__code__", None)
    described = (
        getattr(operator, "digest", ""),
        str(jax.tree.structure(operator)),
        "" if code is None else f"{code.co_code.hex()}{code.co_consts}",
    )
    # Addresses in memory differ between processes.
    return re.sub(r" at 0x[0-9a-fA-F]+", "", str(described))


def _have_shapes(tree: Any, shapes: Any) -> bool:
    """Whether two trees have the same structure, and leaves of the same shapes and types."""
    structure: Any = jax.tree.structure(shapes)
    if structure != jax.tree.structure(tree):
        return False
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(shapes), strict=True)
    return all((np.shape(x), np.asarray(x).dtype) == (s.shape, s.dtype) for x, s in pairs)


def _column(log: dict[str, np.ndarray], name: str) -> np.ndarray | None:
    """The values of a log by name; NaN for the signal of a rule that did not run yet."""
    if name in log or name == "trace":  # a checkpoint from before the first sample has no traces
        return log.get(name)
    return np.full(len(log["step"]), np.nan, np.float32)


def _status(status: SlotStatus, index: int) -> Status:
    if status.diverged[index]:
        return Status.DIVERGED
    if status.stopped[index]:
        return Status.STOPPED
    return Status.INTERRUPTED if status.is_active[index] else Status.DONE


def _posterior(
    moments: Moments, traces: np.ndarray, shape: tuple[int, int, int], slots: Slots
) -> Posterior:
    """Returns the samples of one chain, without the margin of its canvas."""
    height, width, _ = shape
    mean, deviation, samples = (
        np.asarray(array)[..., :height, :width, :]
        for array in (moments.mean, moments.deviation, moments.kept)
    )
    num_samples = int(moments.num_samples)
    schedule = slots.estimator.algorithm.samples
    total = num_samples if schedule is None else schedule.num_samples
    kept = num_kept(num_samples, total, len(moments.kept))
    return Posterior(
        mean=mean,
        std=np.sqrt(deviation / max(num_samples - 1, 1)),
        chain_means=mean[None],
        num_samples=num_samples,
        traces=traces[None],
        trace_names=trace_names(shape),
        samples=samples[:kept],
    )


def _crop_held_out(held_out: np.ndarray | None, case: Case) -> np.ndarray | None:
    """Returns which measurements were held out, without the margin of the canvas."""
    shape = np.shape(case.problem.measurement)
    if held_out is None or held_out.ndim != len(shape):
        return None
    return held_out[tuple(slice(0, size) for size in shape)]
