"""The time of an optimization step, ours and that of plain PyTorch, in alternating rounds.

    python -m benchmarks.step --size=128 --size=256 --rounds=3 --json=step.json

This is `python -m benchmarks --part=ceilings,steps` with rounds of ten steps.

Our step runs inside the chunk of the command, with guard, average and stopping rule, on random
data. PyTorch's step is that of the same network (`torch_skip`, which is compared with ours here,
with shared weights) with PyTorch's Adam. PyTorch fits several images one after the other, so its
time per image is that of one. Absolute times hold only for the reported machine; compare the
ratios.
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
from dip_jax.config import DEFAULT_LEARNING_RATE, Config, NetConfig
from dip_jax.engine import step_loop
from dip_jax.engine.canvas import pad_case
from dip_jax.engine.chunk_size import max_steps
from dip_jax.engine.from_config import estimator_from_config
from dip_jax.engine.memory import peak_bytes
from dip_jax.engine.slots import Slots
from dip_jax.nets import build_net, params_from_torch
from dip_jax.presets import build_config
from dip_jax.tasks.simulate import simulate_case

_MAX_ROUND_STEPS = 200
_FIT_STEPS = 1800  # per image, as in 2018


class Ours:
    """Our steps, in compiled chunks."""

    def __init__(self, config: Config, size: int, batch: int):
        """Compiles the program of the command for `batch` images."""
        self._chunk = max_steps(config.run)
        before = peak_bytes()
        rng = np.random.default_rng(0)
        cases = [
            simulate_case(
                jax.random.key(i), config.task, str(i), rng.random((size, size, 3), np.float32)
            )
            for i in range(batch)
        ]
        example = pad_case(cases[0], config.net.sides_per_octave)
        self.slots = Slots(example, estimator_from_config(config), config.run)
        for index, case in enumerate(cases):
            self.slots.put(index, pad_case(case, config.net.sides_per_octave))
        self.run(1)
        after = peak_bytes()
        num_passes = batch if step_loop.slot_mode(config.run) == "map" else 1
        traffic = num_passes * _bytes_accessed(self.slots)
        self.traffic = traffic or None
        self.facts = {
            "compile_seconds": self.slots.compile_seconds,
            "forecast_gigabytes": self.slots.bytes_per_device / 1e9,
            "gigabytes_per_megapixel": self.slots.bytes_per_device / (1e3 * batch * size**2),
            # The peak is that of the process, so it belongs to this program only if it rose.
            "peak_gigabytes": after / 1e9 if after > before else None,
        }

    def run(self, count: int) -> float:
        """Makes `count` steps in one chunk, in whole blocks; returns seconds per step."""
        block = step_loop.block_length()
        count = min(-(-count // block) * block, self._chunk)
        clock = time.perf_counter()
        _, logs = self.slots.advance(count)
        seconds = (time.perf_counter() - clock) / count
        if (logs["step"][:, :count] < 0).any():
            raise RuntimeError("A fit ended during its measurement.")
        return seconds

    def run_singly(self, count: int) -> float:
        """Makes `count` steps with a call for each; returns seconds per step."""
        return sum(self.run(1) for _ in range(count)) / count


def _bytes_accessed(slots: Slots) -> float:
    """The compiler's count of bytes for a step; the body of a loop over slots counts once."""
    return slots.cost().get("bytes accessed", 0.0)


class Torch:
    """Steps of the plain PyTorch network."""

    def __init__(self, config: Config, size: int, mode: str, precision: str):
        """Builds the network and makes a step.

        Args:
          config: Settings of the network and the learning rate.
          size: Height and width of the image.
          mode: `eager`, or any of `channels_last`, `compile`, `reduce-overhead` (which is `compile`
            with CUDA graphs) and `graph` (a CUDA graph of the whole step), joined by `+`.
          precision: As `net.precision`; bfloat16 by autocast.

        Raises:
          ValueError: If PyTorch cannot run in this mode on this machine.
        """
        import torch

        from benchmarks.torch_skip import build, set_precision

        check_torch(config.net)
        options, has_cuda = set(mode.split("+")), torch.cuda.is_available()
        unknown = options - {"eager", "channels_last", "compile", "reduce-overhead", "graph"}
        if unknown or (not has_cuda and options & {"graph", "reduce-overhead"}):
            raise ValueError(f"PyTorch cannot run {mode} here.")
        torch.manual_seed(0)
        torch.backends.cudnn.benchmark = True
        set_precision(arithmetic(precision))
        self.torch, self.has_cuda = torch, has_cuda
        allocated = torch.cuda.memory_allocated() if has_cuda else 0
        layout = torch.channels_last if "channels_last" in options else torch.contiguous_format
        target: dict[str, Any] = {"device": "cuda" if has_cuda else "cpu", "memory_format": layout}
        net: Any = build(config.net, 3).to(**target)
        self.optimizer = torch.optim.Adam(
            net.parameters(),
            config.fit.learning_rate or DEFAULT_LEARNING_RATE,
            capturable="graph" in options,
        )
        self.code = 0.1 * torch.rand(1, config.net.input_depth, size, size).to(**target)
        self.measurement = torch.rand(1, 3, size, size).to(**target)
        self.average = torch.zeros_like(self.measurement)
        self.cast = functools.partial(
            torch.autocast, target["device"], torch.bfloat16, enabled=precision == "bfloat16"
        )
        self.net = net
        if options & {"compile", "reduce-overhead"}:
            compile_mode = "reduce-overhead" if "reduce-overhead" in options else None
            # After several sizes, PyTorch would compile for any size, and later not at all.
            torch._dynamo.reset()
            self.net = torch.compile(net, mode=compile_mode, dynamic=False)
        self.step: Callable[[], Any] = self._step
        clock = time.perf_counter()
        if "graph" in options:
            self.step = self._capture()
        self.run(1)
        seconds = time.perf_counter() - clock
        compiled = options & {"compile", "reduce-overhead", "graph"}
        peak = None
        if has_cuda:  # the peak without cuDNN's trials and without earlier allocations
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self.run(1)
            peak = (torch.cuda.max_memory_allocated() - allocated) / 1e9
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
        """Captures the whole step as a CUDA graph, after a few steps on a side stream."""
        cuda = self.torch.cuda
        stream = cuda.Stream()
        stream.wait_stream(cuda.current_stream())
        with cuda.stream(stream):
            for _ in range(3):
                self._step()
        cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad()
        graph = cuda.CUDAGraph()
        # Calls of JAX's threads must not invalidate the capture.
        with cuda.graph(graph, capture_error_mode="thread_local"):
            self._step()
        return graph.replay

    def run(self, count: int) -> float:
        """Makes `count` steps; returns seconds per step."""
        clock = time.perf_counter()
        for _ in range(count):
            self.step()
        if self.has_cuda:
            self.torch.cuda.synchronize()
        return (time.perf_counter() - clock) / count


@functools.cache
def check_torch(net: NetConfig) -> None:
    """Raises an error if PyTorch's network differs from ours for the same weights and code."""
    import torch

    from benchmarks.torch_skip import build

    net = dataclasses.replace(net, precision="float32")
    torch_net = build(net, 3)
    state = {name: value.detach().numpy() for name, value in torch_net.state_dict().items()}
    ours = build_net(net, (96, 80, 3))
    code = np.random.default_rng(0).random((96, 80, net.input_depth), np.float32)
    with torch.no_grad():
        expected = torch_net(torch.from_numpy(code.transpose(2, 0, 1)[None]))[0].numpy()
    with jax.default_matmul_precision("highest"):
        image = jax.jit(ours.apply)(params_from_torch(net, state), code)
    # Other devices sum in another order.
    atol = 5e-5 if jax.default_backend() == "cpu" else 1e-3
    np.testing.assert_allclose(image, expected.transpose(1, 2, 0), atol=atol)


def build_step_config(settings: Settings, batch: int, precision: str, slot_mode: str) -> Config:
    """The config of the standard network, with a stopping rule that runs but never fires."""
    overrides = ["fit.num_steps=1000000", "stop.patience=1000000", f"run.slots={batch}"]
    overrides += [f"run.slot_mode={slot_mode}", f"run.chunk={settings.steps or _MAX_ROUND_STEPS}"]
    overrides += [f"net.precision={precision}"]
    return build_config("denoise_single", overrides=[*overrides, *settings.overrides])


def measure(
    record: Record,
    *,
    size: int,
    batch: int,
    precision: str,
    slot_mode: str,
    torch_modes: tuple[str, ...],
    ours: bool,
    settings: Settings,
) -> list[Row]:
    """Measures our step and PyTorch's in alternating rounds.

    Args:
      record: Record with the ceilings of the device.
      size: Height and width of the images.
      batch: Number of our networks that run at once; PyTorch has one.
      precision: Precision of both.
      slot_mode: How our networks share the device; see `run.slot_mode`.
      torch_modes: Modes of PyTorch; see `Torch`.
      ours: Whether to measure our step.
      settings: Further settings.
    """
    built: dict[str, Ours | Torch] = {}
    name = f"ours, {slot_mode}" if batch > 1 else "ours"

    def build_ours() -> Run:
        config = build_step_config(settings, batch, precision, slot_mode)
        built[name] = Ours(config, size, batch)
        return built[name].run

    def build_singly() -> Run:
        runner = built.get(name)
        if not isinstance(runner, Ours):
            raise RuntimeError("Our step could not be built.")
        return runner.run_singly

    def build_torch(mode: str) -> Run:
        config = build_config("denoise_single", overrides=settings.overrides)
        built[f"torch {mode}"] = Torch(config, size, mode, precision)
        return built[f"torch {mode}"].run

    builders: dict[str, Callable[[], Run]] = {}
    if ours:
        builders[name] = build_ours
        if batch == 1 and step_loop.block_length() == 1:
            builders["ours, a call per step"] = build_singly
    builders |= {f"torch {mode}": functools.partial(build_torch, mode) for mode in torch_modes}
    flops = step_flops(build_config("denoise_single", overrides=settings.overrides).net, size)
    rows = []
    times = alternate(builders, settings, max_steps=settings.steps or _MAX_ROUND_STEPS)
    eager = times.get("torch eager", {}).get("ms")
    for what, row in times.items():
        number = batch if what == name else 1
        rows.append({"what": what, "size": size, "batch": number, "precision": precision, **row})
        if "error" in row:
            continue
        runner = built.get(what, built.get(name))
        assert runner is not None
        ms_per_image = row["ms"] / number
        rows[-1] |= rates(number * flops, runner.traffic, row["ms"], precision, record)
        rows[-1] |= {
            "ms_per_image": ms_per_image,
            "images_per_hour": 3.6e6 / (_FIT_STEPS * ms_per_image),
            "against_eager": eager / ms_per_image if eager else None,
            **(runner.facts if what in built else {}),
        }
    return rows


def tasks(settings: Settings) -> list[Task]:
    """The tasks of the part `steps`, the most informative first.

    There is one for each size, batch, precision and slot mode, and one for the compiled modes of
    PyTorch.
    """
    net = build_config("denoise_single", overrides=settings.overrides).net
    full = 4 if jax.default_backend() == "cpu" else 8
    plain = tuple(mode for mode in settings.torch if not _compiles(mode))
    compiled = tuple(mode for mode in settings.torch if _compiles(mode))
    eager = tuple(mode for mode in plain if mode == "eager")

    def task(size, batch, precision, slot_mode, torch_modes, ours, rank) -> Task:
        several = f" x {batch}" if batch > 1 else ""
        what = " and ".join([*(["ours"] if ours else []), *(["torch"] if torch_modes else [])])
        mode = slot_mode if ours else "compiled"
        return Task(
            part="steps",
            name=f"{what}, {size} x {size}{several}, {precision}, {mode}",
            rank=rank,
            programs=int(ours) + sum(map(_compiles, torch_modes)),
            steps=[batch * step_flops(net, size)] * ours
            + [step_flops(net, size)] * len(torch_modes),
            measure=functools.partial(
                measure,
                size=size,
                batch=batch,
                precision=precision,
                slot_mode=slot_mode,
                torch_modes=torch_modes,
                ours=ours,
                settings=settings,
            ),
        )

    found = []
    for size in settings.sizes:
        for i, precision in enumerate(settings.precisions):
            rank = {256: 0.0, 512: 0.02, 128: 0.8}.get(size, 1.2) + 0.5 * i
            for batch in settings.batches:
                # A single network does not share the device.
                slot_modes = settings.slot_modes if batch > 1 else ("auto",)
                for j, mode in enumerate(slot_modes):
                    delay = {1: 0.0, full: 0.1, 16: 0.9}.get(batch, 1.3) + 0.6 * j
                    torch_modes = plain if batch == 1 else eager
                    found.append(
                        task(size, batch, precision, mode, torch_modes, True, rank + delay)
                    )
            if compiled:
                torch_modes = (*eager, *compiled)
                found.append(task(size, 1, precision, "auto", torch_modes, False, rank + 0.61))
    return found


def _compiles(mode: str) -> bool:
    """Whether PyTorch compiles in this mode, which takes a minute."""
    return "compile" in mode or "reduce-overhead" in mode


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
