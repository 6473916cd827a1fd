"""Time of one optimization step, ours and plain PyTorch's, in pairs in one run.

    python -m benchmarks.step --size=128 --size=256 --rounds=3 --json=step.json

is `python -m benchmarks --part=ceilings,steps` with rounds of ten steps.

Ours is a step inside the chunk that the command runs (guard, average, stopping rule and all), on random
data; PyTorch's is the same network (`torch_skip`, verified here against ours with shared weights) with
its Adam. PyTorch fits several pictures one after the other, so its time per picture is that of one.
Absolute times hold only for the machine that is named beside them; the figure is the ratio.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.layers import rates, step_flops
from benchmarks.protocol import Record, Row, Run, Settings, Task, alternate, arithmetic
from dip_jax.config import Config, NetConfig
from dip_jax.engine.canvas import pad_case
from dip_jax.engine.memory import peak_bytes
from dip_jax.engine.slots import Slots
from dip_jax.engine.step_loop import block_length, slot_mode
from dip_jax.nets import build_net, params_from_torch
from dip_jax.presets import build_config
from dip_jax.tasks.simulate import simulate_case

_MOST_STEPS = 200  # of a round
_FIT_STEPS = 1800  # of a picture, as in 2018


class Ours:
    """Chunks of our steps."""

    def __init__(self, config: Config, size: int, batch: int):
        """Compiles the program that the command runs, for `batch` pictures."""
        before = peak_bytes()
        rng = np.random.default_rng(0)
        cases = [
            simulate_case(
                jax.random.key(i), config.task, str(i), rng.random((size, size, 3), np.float32)
            )
            for i in range(batch)
        ]
        self.slots = Slots(pad_case(cases[0], config.net.sides_per_octave), config)
        for index, case in enumerate(cases):
            self.slots.put(index, pad_case(case, config.net.sides_per_octave))
        self.run(1)
        after = peak_bytes()
        in_turn = batch if slot_mode(config) == "map" else 1
        traffic = in_turn * _bytes_accessed(self.slots)
        self.traffic = traffic or None
        self.facts = {
            "compile_seconds": self.slots.compile_seconds,
            "forecast_gigabytes": self.slots.bytes_per_device / 1e9,
            "gigabytes_per_megapixel": self.slots.bytes_per_device / (1e3 * batch * size**2),
            # It counts from the start of the process: it tells of this program only if it rose.
            "peak_gigabytes": after / 1e9 if after > before else None,
        }

    def run(self, count: int) -> float:
        """Makes `count` steps in one chunk, or as many as a whole number of blocks; returns seconds per step."""
        block = block_length()
        count = min(-(-count // block) * block, self.slots.config.run.chunk)
        clock = time.perf_counter()
        _, logs = self.slots.advance(count)
        seconds = (time.perf_counter() - clock) / count
        if (logs["step"][:, :count] < 0).any():
            raise RuntimeError("A fit ended while it was measured.")
        return seconds

    def run_singly(self, count: int) -> float:
        """Makes `count` steps, each by a call of its own; returns seconds per step."""
        return sum(self.run(1) for _ in range(count)) / count


def _bytes_accessed(slots: Slots) -> float:
    """What the compiler counts for a step of one turn over the slots; a loop's body counts once."""
    return slots.cost().get("bytes accessed", 0.0)


class Torch:
    """Steps of the plain PyTorch network."""

    def __init__(self, config: Config, size: int, how: str, precision: str):
        """Builds the network and makes a step.

        Args:
          config: For the network and the learning rate.
          size: Height and width.
          how: `eager`, or any of `channels_last`, `compile`, `reduce-overhead` (which is `compile` with graphs)
            and `graph` (a CUDA graph of the whole step), joined by `+`.
          precision: As `net.precision`; bfloat16 by autocast.
        """
        import torch

        from benchmarks.torch_skip import allow, build

        check_torch(config.net)
        words, cuda = set(how.split("+")), torch.cuda.is_available()
        unknown = words - {"eager", "channels_last", "compile", "reduce-overhead", "graph"}
        if unknown or (not cuda and words & {"graph", "reduce-overhead"}):
            raise ValueError(f"PyTorch cannot run {how} here.")
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True
        allow(arithmetic(precision))
        self.torch, self.cuda = torch, cuda
        others = torch.cuda.memory_allocated() if cuda else 0
        layout = torch.channels_last if "channels_last" in words else torch.contiguous_format
        place: dict[str, Any] = {"device": "cuda" if cuda else "cpu", "memory_format": layout}
        net: Any = build(config.net, 3).to(**place)
        self.optimizer = torch.optim.Adam(
            net.parameters(), config.fit.learning_rate, capturable="graph" in words
        )
        self.code = 0.1 * torch.rand(1, config.net.input_depth, size, size).to(**place)
        self.measurement = torch.rand(1, 3, size, size).to(**place)
        self.average = torch.zeros_like(self.measurement)
        self.cast = functools.partial(
            torch.autocast, place["device"], torch.bfloat16, enabled=precision == "bfloat16"
        )
        self.net = net
        if words & {"compile", "reduce-overhead"}:
            mode = "reduce-overhead" if "reduce-overhead" in words else None
            # Of several sizes it would make a program for any, and after some of them none at all.
            torch._dynamo.reset()
            self.net = torch.compile(net, mode=mode, dynamic=False)
        self.step: Callable[[], Any] = self._step
        clock = time.perf_counter()
        if "graph" in words:
            self.step = self._capture()
        self.run(1)
        seconds = time.perf_counter() - clock
        compiled = words & {"compile", "reduce-overhead", "graph"}
        peak = None
        if cuda:  # without what cuDNN's trials took, and what others have
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self.run(1)
            peak = (torch.cuda.max_memory_allocated() - others) / 1e9
        self.traffic = None
        self.facts = {
            "compile_seconds": seconds if compiled else None,
            "peak_gigabytes": peak,
            "gigabytes_per_megapixel": 1e6 * peak / size**2 if peak else None,
        }

    def _step(self) -> None:
        self.optimizer.zero_grad()
        with self.cast():
            image = self.net(self.code + self.torch.randn_like(self.code) / 30)
        self.average.lerp_(image.detach().float(), 0.01)
        ((image.float() - self.measurement) ** 2).mean().backward()
        self.optimizer.step()

    def _capture(self) -> Callable[[], None]:
        """The whole step as a CUDA graph, captured after a few steps beside the main stream."""
        cuda = self.torch.cuda
        stream = cuda.Stream()
        stream.wait_stream(cuda.current_stream())
        with cuda.stream(stream):
            for _ in range(3):
                self._step()
        cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad()
        graph = cuda.CUDAGraph()
        # JAX's threads are none of this one's business.
        with cuda.graph(graph, capture_error_mode="thread_local"):
            self._step()
        return graph.replay

    def run(self, count: int) -> float:
        """Makes `count` steps; returns seconds per step."""
        clock = time.perf_counter()
        for _ in range(count):
            self.step()
        if self.cuda:
            self.torch.cuda.synchronize()
        return (time.perf_counter() - clock) / count


@functools.cache
def check_torch(net: NetConfig) -> None:
    """Raises unless PyTorch's network makes of the same weights and code what ours makes."""
    import torch

    from benchmarks.torch_skip import build

    if any(field.name == "precision" for field in dataclasses.fields(net)):
        exact: dict[str, Any] = {"precision": "float32"}
        net = dataclasses.replace(net, **exact)
    theirs = build(net, 3)
    state = {name: value.detach().numpy() for name, value in theirs.state_dict().items()}
    ours = build_net(net, (96, 80, 3))
    code = np.random.default_rng(0).random((96, 80, net.input_depth), np.float32)
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(code.transpose(2, 0, 1)[None]))[0].numpy()
    with jax.default_matmul_precision("highest"):
        image = jax.jit(ours.apply)(params_from_torch(net, state), code)
    # Elsewhere sums are in yet another order.
    atol = 5e-5 if jax.default_backend() == "cpu" else 1e-3
    np.testing.assert_allclose(image, wanted.transpose(1, 2, 0), atol=atol)


def build_step_config(settings: Settings, batch: int, precision: str, how: str) -> Config:
    """The standard network, with a rule that runs but never fires."""
    overrides = ["fit.num_steps=1000000", "stop.patience=1000000", f"run.slots={batch}"]
    overrides += [f"run.slot_mode={how}", f"run.chunk={settings.steps or _MOST_STEPS}"]
    # As long as it is `auto` it need not be a field.
    overrides += [] if precision == "auto" else [f"net.precision={precision}"]
    return build_config(overrides=[*overrides, *settings.overrides])


def measure(
    record: Record,
    *,
    size: int,
    batch: int,
    precision: str,
    how: str,
    ways: tuple[str, ...],
    ours: bool,
    settings: Settings,
) -> list[Row]:
    """Rows of our step and PyTorch's in alternating rounds.

    Args:
      record: For the ceilings.
      size: Height and width.
      batch: Networks at once; PyTorch has one.
      precision: Of both.
      how: How our networks share the device.
      ways: How PyTorch runs.
      ours: Whether our step is measured at all.
      settings: All the rest.
    """
    built: dict[str, Ours | Torch] = {}
    name = f"ours, {how}" if batch > 1 else "ours"

    def build_ours() -> Run:
        config = build_step_config(settings, batch, precision, how)
        built[name] = Ours(config, size, batch)
        return built[name].run

    def build_singly() -> Run:
        runner = built.get(name)
        if not isinstance(runner, Ours):
            raise RuntimeError("Our step could not be built.")
        return runner.run_singly

    def build_torch(way: str) -> Run:
        config = build_config(overrides=settings.overrides)
        built[f"torch {way}"] = Torch(config, size, way, precision)
        return built[f"torch {way}"].run

    builders: dict[str, Callable[[], Run]] = {}
    if ours:
        builders[name] = build_ours
        if batch == 1 and block_length() == 1:
            builders["ours, a call per step"] = build_singly
    builders |= {f"torch {way}": functools.partial(build_torch, way) for way in ways}
    flops = step_flops(build_config(overrides=settings.overrides).net, size)
    rows = []
    times = alternate(builders, settings, most=settings.steps or _MOST_STEPS)
    eager = times.get("torch eager", {}).get("ms")
    for what, row in times.items():
        number = batch if what == name else 1
        rows.append({"what": what, "size": size, "batch": number, "precision": precision, **row})
        if "error" in row:
            continue
        runner = built.get(what, built.get(name))
        assert runner is not None
        each = row["ms"] / number
        rows[-1] |= rates(number * flops, runner.traffic, row["ms"], precision, record)
        rows[-1] |= {
            "ms_per_image": each,
            "images_per_hour": 3.6e6 / (_FIT_STEPS * each),
            "against_eager": eager / each if eager else None,
            **(runner.facts if what in built else {}),
        }
    return rows


def tasks(settings: Settings) -> list[Task]:
    """Cells of sizes, batches, precisions and ways to share, and of PyTorch's compiled ways, the telling ones first."""
    net = build_config(overrides=settings.overrides).net
    full = 4 if jax.default_backend() == "cpu" else 8
    plain = tuple(way for way in settings.torch if not _compiles(way))
    compiled = tuple(way for way in settings.torch if _compiles(way))
    eager = tuple(way for way in plain if way == "eager")

    def task(size, batch, precision, how, ways, ours, rank) -> Task:
        several = f" x {batch}" if batch > 1 else ""
        what = " and ".join([*(["ours"] if ours else []), *(["torch"] if ways else [])])
        return Task(
            part="steps",
            name=f"{what}, {size} x {size}{several}, {precision}, {how if ours else 'compiled'}",
            rank=rank,
            programs=int(ours) + sum(map(_compiles, ways)),
            steps=[batch * step_flops(net, size)] * ours + [step_flops(net, size)] * len(ways),
            measure=functools.partial(
                measure,
                size=size,
                batch=batch,
                precision=precision,
                how=how,
                ways=ways,
                ours=ours,
                settings=settings,
            ),
        )

    found = []
    for size in settings.sizes:
        for i, precision in enumerate(settings.precisions):
            rank = {256: 0.0, 512: 0.02, 128: 0.8}.get(size, 1.2) + 0.5 * i
            for batch in settings.batches:
                # Alone there is nothing to share.
                hows = settings.shares if batch > 1 else ("auto",)
                for j, how in enumerate(hows):
                    last = {1: 0.0, full: 0.1, 16: 0.9}.get(batch, 1.3) + 0.6 * j
                    ways = plain if batch == 1 else eager
                    found.append(task(size, batch, precision, how, ways, True, rank + last))
            if compiled:
                ways = (*eager, *compiled)
                found.append(task(size, 1, precision, "auto", ways, False, rank + 0.61))
    return found


def _compiles(way: str) -> bool:
    """Whether it takes PyTorch a minute to start."""
    return "compile" in way or "reduce-overhead" in way


if __name__ == "__main__":
    from absl import app

    from benchmarks.__main__ import FLAGS, main

    for flag, value in {
        "part": "ceilings,steps",
        "size": [128, 256],
        "batch": [1, 4],
        "steps": 10,
        "json": None,
    }.items():
        FLAGS.set_default(flag, value)
    app.run(main)
