"""How the benchmarks measure: alternating rounds, a budget of time, and a record that a kill does not lose."""

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

from benchmarks import about
from dip_jax.cli.cost import probe_machine

Row = dict[str, Any]
Run = Callable[[int], float]
"""Makes at least so many steps and waits for them; returns seconds per step."""


class Settings(NamedTuple):
    """What is asked for."""

    sizes: Sequence[int] = (64, 128, 256, 512)
    batches: Sequence[int] = (1, 2, 4, 8, 16)
    precisions: Sequence[str] = ("auto",)
    shares: Sequence[str] = ("auto",)
    """How several networks share the device; see `run.slot_mode`."""
    torch: Sequence[str] = ("eager",)
    """Ways of running PyTorch; see `step.Torch`."""
    lowerings: Sequence[str] = ("winograd", "patches")
    rounds: int = 3
    round_seconds: float = 0.5
    """What a round should take: long against a clock tick, short against a machine's moods."""
    steps: int | None = None
    """Steps per round, if not as many as fit into `round_seconds`."""
    overrides: Sequence[str] = ()


class Task(NamedTuple):
    """Something to measure."""

    part: str
    name: str
    rank: float
    """The least is measured first."""
    programs: int
    """How many are compiled: most of the time of a task."""
    steps: Sequence[float]
    """Floating-point operations of one step of each thing that is measured."""
    measure: Callable[["Record"], list[Row]]


class Record:
    """What was found, and what was not; written anew whenever something is added."""

    def __init__(self, facts: Mapping[str, Any], parts: Sequence[str], path: Path | None = None):
        """An empty record of some parts, with the facts that stand beside every figure."""
        self.facts, self.path = dict(facts), path
        self.parts: dict[str, list[Row]] = {part: [] for part in parts}
        self.not_measured: list[Row] = []

    def save(self, pending: Sequence[Task] = ()) -> None:
        """Writes the file; tasks that are pending count as not measured."""
        if self.path is None:
            return
        missing = [_missing(task, "the run ended before it") for task in pending]
        found = {**self.facts, **self.parts, "not_measured": self.not_measured + missing}
        scratch = self.path.with_suffix(".part")
        scratch.write_text(json.dumps(found, indent=2) + "\n")
        scratch.replace(self.path)

    def ceiling(self, precision: str) -> float | None:
        """GFLOP/s of the best large matrix product in a precision, where it was measured."""
        name = arithmetic(precision)
        return self._best("gflops", [name, "float32"] if name == "tf32" else [name])

    def copy_ceiling(self) -> float | None:
        """GB/s of the best copy."""
        return self._best("gigabytes_per_second", ["float32"])

    def _best(self, figure: str, precisions: list[str]) -> float | None:
        rows = self.parts.get("ceilings", [])
        for precision in precisions:
            found = [r[figure] for r in rows if r["precision"] == precision and r.get(figure)]
            if found:
                return max(found)
        return None


def arithmetic(precision: str) -> str:
    """What a precision means here: `auto` is TF32 on a GPU, and a processor knows no TF32."""
    if jax.default_backend() == "cpu" and precision in ("auto", "tf32"):
        return "float32"
    return "tf32" if precision == "auto" else precision


def _missing(task: Task, why: str) -> Row:
    return {"part": task.part, "what": task.name, "why": why}


def work_off(tasks: Sequence[Task], record: Record, settings: Settings, *, ends: float) -> None:
    """Measures the tasks by rank as long as they fit into the time until `ends` (as `time.time`).

    A task whose forecast does not fit is listed as not measured, one that fails becomes a row with the reason.
    The forecast: compiling, as long per program as in this part so far, and steps at a third of the measured
    product's rate.
    """
    # Seconds besides steps, and programs; before anything is known a guess.
    costs = {"ceilings": (2.0, 1), "steps": (20.0, 1), "layers": (2.0, 1)}
    spent: dict[str, tuple[float, int]] = {}
    pending = sorted(tasks, key=lambda task: task.rank)
    while pending:
        task = pending.pop(0)
        running = _running_seconds(task, record, settings)
        overhead, programs = spent.get(task.part, costs.get(task.part, (0.0, 1)))
        needed = running + task.programs * overhead / programs
        left = ends - time.time()
        if needed > left:
            why = f"takes about {needed:.0f} s, {max(left, 0):.0f} s were left"
            record.not_measured.append(_missing(task, why))
        else:
            clock = time.perf_counter()
            try:
                rows = task.measure(record)
            except Exception as error:  # a benchmark goes on with what it can measure
                rows = [{"what": task.name, "error": reason(error)}]
            record.parts[task.part] += rows
            seconds = time.perf_counter() - clock
            overhead, programs = spent.get(task.part, (0.0, 0))
            more = max(0.0, seconds - running)
            spent[task.part] = overhead + more, programs + max(1, task.programs)
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
    """One line that says what went wrong."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200]


def release() -> None:
    """Gives memory back that nothing refers to any more, PyTorch's too."""
    gc.collect()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.empty_cache()


def alternate(
    builders: Mapping[str, Callable[[], Run]], settings: Settings, *, most: int
) -> dict[str, Row]:
    """Builds several runs and times them in alternating rounds, A B A B.

    Args:
      builders: Name to a function that builds the run.
      settings: For the number of rounds and their length.
      most: Steps per round at most.

    Returns:
      Name to `build_seconds`, `ms` per step (the median of the rounds) and `spread` (the slowest round less the
      fastest), or to `error`.
    """
    rows: dict[str, Row] = {name: {} for name in builders}
    runs: dict[str, Run] = {}
    counts: dict[str, int] = {}
    seconds: dict[str, list[float]] = {name: [] for name in builders}

    def turn(number: int, name: str) -> None:
        if number > 0:
            seconds[name].append(runs[name](counts[name]))
            return
        clock = time.perf_counter()
        runs[name] = builders[name]()
        rows[name]["build_seconds"] = time.perf_counter() - clock
        counts[name] = _steps_per_round(runs[name], settings, most)

    for number in range(settings.rounds + 1):
        for name, row in rows.items():
            if "error" in row:
                continue
            try:
                turn(number, name)
            except Exception as error:  # out of memory, most likely: the others go on
                row["error"] = reason(error)
                runs.pop(name, None)
            if "error" in row:  # only now does nothing refer any more to what failed
                release()
    for name, row in rows.items():
        if "error" not in row:
            row["ms"] = 1e3 * statistics.median(seconds[name])
            row["spread"] = 1e3 * (max(seconds[name]) - min(seconds[name]))
    return rows


def _steps_per_round(run: Run, settings: Settings, most: int) -> int:
    """Warms up until the number of steps that make a round is known."""
    if settings.steps is not None:
        run(settings.steps)
        return settings.steps
    count = 1
    while True:
        wanted = max(1, min(most, int(settings.round_seconds / run(count))))
        if wanted <= 2 * count:
            return wanted
        count = wanted


def loop(step: Callable[[Any], Any], state: Any, *, forecast_seconds: float) -> Run:
    """A run of `step` again and again in one compiled loop, each time on what the last left.

    So nothing can be moved out of the loop or left out. The count is a constant: on a GPU the host would
    otherwise be asked before each turn. It is at least 2, as a loop of one turn is none, and the compiler treats
    convolutions in loops differently.

    Args:
      step: From a state to the next, of the same shapes.
      state: The first; it is given away.
      forecast_seconds: What a step may take.
    """
    length = int(np.clip(0.1 / forecast_seconds, 2, 100))

    def body(_: Any, state: Any) -> Any:
        return step(state)

    turns = jax.jit(lambda state: lax.fori_loop(0, length, body, state), donate_argnums=0)
    compiled = turns.lower(state).compile()

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
    """Device, versions, commit and date; what is not there is None.

    Args:
      commit: What to say where the files are no repository.
    """
    found: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "platform": jax.default_backend(),
    }
    with contextlib.suppress(FileNotFoundError):  # there is no git
        found |= about()
    found["commit"] = commit or found.get("commit") or None
    found |= {name: _version(name) for name in ("jaxlib", "torch", *_CUDA_PACKAGES)}
    found["jax_platform"] = jax.devices()[0].client.platform_version.replace("\n", " ")
    found["driver"] = _driver()
    found["torch_cuda"] = None
    if found["torch"]:
        with contextlib.suppress(ImportError, OSError):  # it is there, but not for this machine
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
