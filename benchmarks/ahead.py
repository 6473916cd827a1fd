r"""Compiles the program for a GPU or TPU that is not available, and counts its kernels.

    pip install "jax[cuda12]"      # or jax[tpu], of the version of jax
    python -m benchmarks.ahead --device=h200 --batch=1 --batch=8 --precision=tf32 \
        --precision=bfloat16

XLA can compile for a device from its description alone. This shows whether the program compiles,
how much memory it needs, how many kernels a step starts, and how many bytes they read and write,
which determine the time of a step once the products are fast. It measures no time. cuDNN chooses
its algorithms only on a device.
"""

import dataclasses
import json
import os
import re
import time
from collections import Counter
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
from absl import app, flags
from jax.experimental import topologies

from benchmarks.protocol import facts
from dip_jax.engine.canvas import pad_case
from dip_jax.engine.from_config import estimator_from_config
from dip_jax.engine.slots import Slots
from dip_jax.errors import InputError
from dip_jax.presets import build_config
from dip_jax.tasks.simulate import simulate_case

FLAGS = flags.FLAGS

# Descriptions of GPUs for XLA (GpuTargetConfigProto in its source), from the vendor's data sheets
# and the driver. An H100 and an H200 differ only in their memory.
_HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024  threads_per_warp: 32  threads_per_core_limit: 2048
  shared_memory_per_block: 49152  shared_memory_per_core: 233472  shared_memory_per_block_optin: 232448
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98  l2_cache_size: 52428800
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}  device_memory_size: {memory}
  cuda_compute_capability {{ major: 9 }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
runtime_version {{ major: 12 minor: 9 }}
device_description_str: "{name}"
"""
DEVICES = {
    "h100": _HOPPER.format(
        bandwidth=3350 * 10**9, memory=84929347584, name="NVIDIA H100 80GB HBM3"
    ),
    "h200": _HOPPER.format(bandwidth=4800 * 10**9, memory=150 * 10**9, name="NVIDIA H200"),
    "v5e": "v5e:2x2",
    "v6e": "v6e:2x2",
}
_GPUS = ("h100", "h200")

# Instructions that start no kernel.
_FREE = {
    "parameter",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "constant",
    "fusion-done",
    "copy-done",
}
_BYTES = {
    "pred": 1,
    "u8": 1,
    "s8": 1,
    "bf16": 2,
    "f16": 2,
    "f32": 4,
    "s32": 4,
    "u32": 4,
    "s64": 8,
    "u64": 8,
    "c64": 8,
}
_RESULT = re.compile(r"\s*(?:ROOT )?%([\w.-]+) = (\([^=]*?\)|\S+) ([a-z][a-z0-9-]*)\((.*)")


class Kernels(NamedTuple):
    """Kernels that a step starts: an iteration of the largest loop of a program."""

    number: Counter[str]
    """Number of each kind: an instruction, `fusion`, or the target of a custom call."""
    bytes: Counter[str]
    """Bytes of the operands and results of each kind; too many if an operand is read only in
    part."""
    unknown_loops: int
    """Loops inside the step whose number of iterations XLA does not state; each is counted once."""


def count_kernels(text: str) -> Kernels:
    """Counts the kernels in the body of the largest loop of a compiled program.

    A loop inside the body counts as often as it runs.

    Args:
      text: The program as text.

    Raises:
      InputError: If the program has no loop.
    """
    # XLA numbers the parts of a long tuple: `(f32[8], ..., /*index=5*/f32[8])`.
    computations = _computations(re.sub(r"/\*.*?\*/", "", text))
    bodies = set(re.findall(r"body=%([\w.-]+)", text))
    # The loop over the steps of a block runs ten of them, so sizes are compared without inner loops.
    steps = {name: lines for name, lines in computations.items() if name in bodies}
    if not steps:
        raise InputError("Expected a program with a loop, got one without.")
    largest = max(steps, key=lambda name: _count(steps[name], {}).number.total())
    return _count(computations[largest], computations)


def _computations(text: str) -> dict[str, list[str]]:
    """The instructions of each computation, by its name."""
    computations: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if start := re.match(r"(?:ENTRY )?%([\w.-]+) \(.*\{$", line):
            lines = computations[start[1]] = []
        elif " = " in line:
            lines.append(line)
    return computations


def _count(lines: list[str], computations: dict[str, list[str]]) -> Kernels:
    """Counts the kernels of some instructions, with those of the loops whose bodies are given."""
    kernels, sizes, unknown_loops = Kernels(Counter(), Counter(), 0), {}, 0
    for name, shape, kind, rest in filter(None, (_parts(line) for line in lines)):
        sizes[name] = _num_bytes(shape)
        if kind in _FREE:
            continue
        if kind == "while":
            body = re.search(r"body=%([\w.-]+)", rest)
            inner = _count(computations.get(body[1], []) if body else [], computations)
            trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', rest)
            unknown_loops += inner.unknown_loops + (trips is None)
            for total, counter in ((kernels.number, inner.number), (kernels.bytes, inner.bytes)):
                total.update({k: n * (int(trips[1]) if trips else 1) for k, n in counter.items()})
            continue
        target = re.search(r'custom_call_target="([^"]*)"', rest)
        label = target[1] if target else kind.removesuffix("-start")
        operands = re.findall(r"%([\w.-]+)", rest.partition("), ")[0])
        kernels.number[label] += 1
        kernels.bytes[label] += sizes[name] + sum(sizes.get(operand, 0) for operand in operands)
    return kernels._replace(unknown_loops=unknown_loops)


def _parts(line: str) -> tuple[str, ...] | None:
    """Name, shape, kind and the rest of an instruction."""
    match = _RESULT.match(line)
    return match and match.groups()


def _num_bytes(shape: str) -> int:
    arrays = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shape)
    return sum(
        _BYTES.get(kind, 0) * int(np.prod([int(n) for n in sides.split(",") if n], dtype=np.int64))
        for kind, sides in arrays
    )


class _Compiled(Slots):
    """Slots without a state, which would need the device."""

    def reset(self) -> None:
        pass


def compile_ahead(device: str, size: int, batch: int, overrides: list[str]) -> dict[str, Any]:
    """Compiles the program of the command for a device, and counts its kernels.

    Args:
      device: Name of a device of `DEVICES`.
      size: Height and width of the images.
      batch: Number of images that share the device.
      overrides: Config overrides, `field=value`.

    Raises:
      InputError: If the compiler for the device is not installed.
    """
    is_gpu = device in _GPUS
    try:
        if is_gpu:
            topology = topologies.get_topology_desc(
                "", "cuda", target_config=DEVICES[device], topology="1x1x1"
            )
        else:
            topology = topologies.get_topology_desc(DEVICES[device], "tpu")
    except Exception as error:  # each missing plugin raises a different type
        extra = "jax[cuda12]" if is_gpu else "jax[tpu]"
        raise InputError(
            f"There is no compiler for {device}; run pip install '{extra}=={jax.__version__}' "
            f"({str(error).splitlines()[0]})."
        ) from None
    config = build_config("denoise_single", overrides=overrides)
    run = dataclasses.replace(config.run, slots=batch, max_memory=1e6)
    config = dataclasses.replace(config, run=run)
    image = np.full((size, size, 3), 0.5, np.float32)
    case = simulate_case(jax.random.key(0), config.task, "any", image)
    case = pad_case(case, config.net.sides_per_octave)
    platform = "gpu" if is_gpu else "tpu"
    with mock.patch("jax.default_backend", return_value=platform):
        slots = _Compiled(
            case, estimator_from_config(config), config.run, devices=topology.devices[:1]
        )
    row = {
        "target": topology.devices[0].device_kind,
        "size": size,
        "batch": batch,
        "precision": config.net.precision,
        "compile_seconds": round(slots.compile_seconds, 1),
        "gigabytes": slots.bytes_per_device / 1e9,
    }
    if is_gpu:  # the program of a TPU has no kernels
        kernels = count_kernels(slots.text())
        row |= {
            "kernels": kernels.number.total(),
            "gigabytes_moved": kernels.bytes.total() / 1e9,
            "kernels_by_kind": dict(kernels.number.most_common()),
            "gigabytes_by_kind": {k: n / 1e9 for k, n in kernels.bytes.most_common()},
            "loops_counted_once": kernels.unknown_loops,
        }
    return row


def main(argv: list[str]) -> None:
    """Prints a line for each program, and appends it to the file."""
    del argv
    run_facts = facts()
    for size in FLAGS.size:
        for batch in FLAGS.batch:
            for precision in FLAGS.precision:
                overrides = [f"net.precision={precision}", *FLAGS.set]
                try:
                    row = compile_ahead(FLAGS.device, int(size), int(batch), overrides)
                except InputError as error:
                    raise SystemExit(str(error)) from None
                print(
                    f"{row['target']} {size}x{size} x{batch} {precision}: compiled in "
                    f"{row['compile_seconds']} s, {row['gigabytes']:.2f} GB"
                )
                if "kernels" in row:
                    print(
                        f"  a step: {row['kernels']} kernels, at most {row['gigabytes_moved']:.2f} "
                        f"GB read and written; {row['kernels_by_kind']}",
                        flush=True,
                    )
                    if row["loops_counted_once"]:
                        print(
                            f"  {row['loops_counted_once']} loops inside the step run an unknown "
                            "number of times, and are counted once."
                        )
                if FLAGS.json:
                    with open(FLAGS.json, "a") as file:
                        file.write(
                            json.dumps({**run_facts, "time": time.strftime("%F"), **row}) + "\n"
                        )


if __name__ == "__main__":
    flags.DEFINE_enum("device", "h200", list(DEVICES), "Target device.")
    flags.DEFINE_multi_string("size", ["256"], "Heights and widths of the images.")
    flags.DEFINE_multi_string("batch", ["1"], "Numbers of images that share the device.")
    flags.DEFINE_multi_string("precision", ["tf32"], "float32, tf32 or bfloat16.")
    flags.DEFINE_multi_string("set", [], "Config overrides, FIELD=VALUE.")
    flags.DEFINE_string("json", None, "File to which a row is appended for each program.")
    # Prevents JAX from searching for a device.
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"
    jax.config.update("jax_platforms", "cpu")
    app.run(main)
