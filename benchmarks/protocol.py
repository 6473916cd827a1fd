"""The measurement protocol: alternating rounds, a time budget, and a record on disk."""

import contextlib
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from benchmarks import environment
from dip_jax.cli.cost import probe_machine

Row = dict[str, Any]
Run = Callable[[int], float]
"""`run(count) -> seconds`: makes at least `count` steps; returns seconds per step."""


class Settings(NamedTuple):
    """Settings of a benchmark run."""

    sizes: Sequence[int] = (64, 128, 256, 512)
    """Heights and widths of the images."""
    batches: Sequence[int] = (1, 2, 4, 8, 16)
    """Numbers of networks that run at once."""
    precisions: Sequence[str] = ("auto",)
    """Values of `net.precision`."""
    slot_modes: Sequence[str] = ("auto",)
    """How several networks share the device; see `run.slot_mode`."""
    torch: Sequence[str] = ("eager",)
    """Modes of PyTorch; see `step.Torch`."""
    lowerings: Sequence[str] = ("winograd", "patches")
    """Lowerings of the convolutions; see `layers.convolution`."""
    rounds: int = 3
    """Number of alternating rounds."""
    round_seconds: float = 0.5
    """Target duration of a round: long compared to a clock tick, short compared to drifts of the
    machine."""
    steps: int | None = None
    """Steps per round; None for as many as fit into `round_seconds`."""
    overrides: Sequence[str] = ()
    """Config overrides, `field=value`."""


class Task(NamedTuple):
    """A measurement to make."""

    part: str
    """Part of the record for its rows."""
    name: str
    """Name in words."""
    rank: float
    """Tasks of lower rank come first."""
    programs: int
    """Number of programs to compile, which takes most of the time."""
    steps: Sequence[float]
    """Floating-point operations per step, for each candidate that is timed."""
    measure: Callable[["Record"], list[Row]]
    """`measure(record) -> rows`."""


class Record:
    """The results, and the tasks without one; the file is rewritten after each task."""

    def __init__(self, facts: Mapping[str, Any], parts: Sequence[str], path: Path | None = None):
        """Creates an empty record of some parts, with the facts about the run."""
        self.facts, self.path = dict(facts), path
        self.parts: dict[str, list[Row]] = {part: [] for part in parts}
        self.not_measured: list[Row] = []

    def save(self, pending: Sequence[Task] = ()) -> None:
        """Writes the file; pending tasks are listed as not measured."""
        if self.path is None:
            return
        missing = [_missing(task, "the run ended before it") for task in pending]
        content = {**self.facts, **self.parts, "not_measured": self.not_measured + missing}
        unfinished = self.path.with_suffix(".part")
        unfinished.write_text(json.dumps(content, indent=2) + "\n")
        unfinished.replace(self.path)

    def ceiling(self, precision: str) -> float | None:
        """GFLOP/s of the fastest matrix product in a precision; None if it was not measured."""
        precision = arithmetic(precision)
        precisions = [precision, "float32"] if precision == "tf32" else [precision]
        return self._best("gflops", precisions)

    def copy_ceiling(self) -> float | None:
        """GB/s of the fastest copy; None if it was not measured."""
        return self._best("gigabytes_per_second", ["float32"])

    def _best(self, name: str, precisions: list[str]) -> float | None:
        rows = self.parts.get("ceilings", [])
        for precision in precisions:
            found = [r[name] for r in rows if r["precision"] == precision and r.get(name)]
            if found:
                return max(found)
        return None


def arithmetic(precision: str) -> str:
    """The precision in use on this device: `auto` is TF32 on a GPU, and CPUs have no TF32."""
    if jax.default_backend() == "cpu" and precision in ("auto", "tf32"):
        return "float32"
    return "tf32" if precision == "auto" else precision


def _missing(task: Task, why: str) -> Row:
    return {"part": task.part, "what": task.name, "why": why}


def measure_all(tasks: Sequence[Task], record: Record, settings: Settings, *, end: float) -> None:
    """Measures the tasks by rank, as long as they fit into the time until `end` (as `time.time`).

    A task whose forecast does not fit is listed as not measured. A task that fails becomes a row
    with the reason. The forecast is the time to compile, plus the time of the steps at a third of
    the rate of the measured matrix product. The time to compile a program is the mean in this part
    so far.
    """
    # Initial guesses: seconds in addition to the steps, and number of programs.
    guesses = {"ceilings": (2.0, 1), "steps": (20.0, 1), "layers": (2.0, 1)}
    spent: dict[str, tuple[float, int]] = {}
    pending = sorted(tasks, key=lambda task: task.rank)
    while pending:
        task = pending.pop(0)
        running = _running_seconds(task, record, settings)
        overhead, programs = spent.get(task.part, guesses.get(task.part, (0.0, 1)))
        needed = running + task.programs * overhead / programs
        left = end - time.time()
        if needed > left:
            why = f"needs about {needed:.0f} s, {max(left, 0):.0f} s were left"
            record.not_measured.append(_missing(task, why))
        else:
            clock = time.perf_counter()
            try:
                rows = task.measure(record)
            except Exception as error:  # the other tasks can still be measured
                rows = [{"what": task.name, "error": reason(error)}]
            record.parts[task.part] += rows
            seconds = time.perf_counter() - clock
            overhead, programs = spent.get(task.part, (0.0, 0))
            overhead += max(0.0, seconds - running)
            spent[task.part] = overhead, programs + max(1, task.programs)
            print(f"{task.part}: {task.name}, {seconds:.0f} s", file=sys.stderr)
        release()
        record.save(pending)
    record.save()


def _running_seconds(task: Task, record: Record, settings: Settings) -> float:
    if not task.steps:
        return 0.0
    product = record.ceiling("auto")
    rate = 1e9 * product if product else 2 * probe_machine().multiplications
    steps = (settings.rounds + 1) * (settings.steps or 1) + 1
    least = settings.rounds * settings.round_seconds
    return sum(max(least, steps * 3 * flops / rate) for flops in task.steps)


def reason(error: BaseException) -> str:
    """The type and first line of an error, in at most 200 characters."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200]


def release() -> None:
    """Frees unreferenced memory, including that of PyTorch."""
    gc.collect()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.empty_cache()


def alternate(
    builders: Mapping[str, Callable[[], Run]], settings: Settings, *, max_steps: int
) -> dict[str, Row]:
    """Builds several runs and times them in alternating rounds, A B A B.

    Args:
      builders: For each name, a function that builds the run.
      settings: Number and duration of the rounds.
      max_steps: Largest number of steps per round.

    Returns:
      For each name, `build_seconds`, `ms` per step (median of the rounds) and `spread` (slowest
      minus fastest round), or `error`.
    """
    rows: dict[str, Row] = {name: {} for name in builders}
    runs: dict[str, Run] = {}
    counts: dict[str, int] = {}
    seconds: dict[str, list[float]] = {name: [] for name in builders}

    def time_round(number: int, name: str) -> None:
        if number > 0:
            seconds[name].append(runs[name](counts[name]))
            return
        clock = time.perf_counter()
        runs[name] = builders[name]()
        rows[name]["build_seconds"] = time.perf_counter() - clock
        counts[name] = _steps_per_round(runs[name], settings, max_steps)

    for number in range(settings.rounds + 1):
        for name, row in rows.items():
            if "error" in row:
                continue
            try:
                time_round(number, name)
            except Exception as error:  # most likely out of memory; the others can continue
                row["error"] = reason(error)
                runs.pop(name, None)
            if "error" in row:  # outside `except`, whose traceback refers to the memory
                release()
    for name, row in rows.items():
        if "error" not in row:
            row["ms"] = 1e3 * statistics.median(seconds[name])
            row["spread"] = 1e3 * (max(seconds[name]) - min(seconds[name]))
    return rows


def _steps_per_round(run: Run, settings: Settings, max_steps: int) -> int:
    """Warms up, and returns the number of steps that fit into a round."""
    if settings.steps is not None:
        run(settings.steps)
        return settings.steps
    count = 1
    while True:
        wanted = max(1, min(max_steps, int(settings.round_seconds / run(count))))
        if wanted <= 2 * count:
            return wanted
        count = wanted


def loop(step: Callable[[Any], Any], state: Any, *, forecast_seconds: float) -> Run:
    """Builds a run that repeats `step` in a compiled loop.

    Each step takes the state of the one before, so the compiler can neither move a step out of the
    loop nor drop it. The length of the loop is a constant, because a GPU would otherwise ask the
    host before each iteration. It is at least 2: the compiler removes loops of one iteration, and
    treats convolutions in loops differently.

    Args:
      step: Function from a state to the next one, of the same shapes.
      state: The first state; it is donated.
      forecast_seconds: Expected seconds per step.
    """
    length = int(np.clip(0.1 / forecast_seconds, 2, 100))

    def body(_: Any, state: Any) -> Any:
        return step(state)

    repeat = jax.jit(lambda state: lax.fori_loop(0, length, body, state), donate_argnums=0)
    compiled = repeat.lower(state).compile()

    def run(count: int) -> float:
        nonlocal state
        clock = time.perf_counter()
        calls = -(-count // length)
        for _ in range(calls):
            state = compiled(state)
        jax.block_until_ready(state)
        return (time.perf_counter() - clock) / (calls * length)

    return run


def facts(commit: str | None = None) -> dict[str, Any]:
    """Device, versions, commit and date; None for values that are unavailable.

    Args:
      commit: Commit to report if the files are not in a git repository.
    """
    found: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "platform": jax.default_backend(),
    }
    with contextlib.suppress(FileNotFoundError):  # git is not installed
        found |= environment()
    found["commit"] = commit or found.get("commit") or None
    found |= {name: _version(name) for name in ("jaxlib", "torch", *_CUDA_PACKAGES)}
    found["jax_platform"] = jax.devices()[0].client.platform_version.replace("\n", " ")
    found["driver"] = _driver()
    found["torch_cuda"] = None
    if found["torch"]:
        with contextlib.suppress(ImportError, OSError):  # installed, but not for this machine
            import torch

            found["torch_cuda"] = torch.version.cuda
    found["xla_flags"] = os.environ.get("XLA_FLAGS")
    found["command"] = " ".join(sys.argv[1:])
    return found


_CUDA_PACKAGES = tuple(
    f"{name}{number}{end}"
    for number in (12, 13)
    for name, end in (("jax-cuda", "-plugin"), ("nvidia-cudnn-cu", ""))
)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
