"""The limits of the device: the rate of a large matrix product, and of a pass over a large array.

The product is measured in XLA and in PyTorch. The faster of the two is the ceiling to which other
rates are compared.
"""

import functools
import time

import jax
import jax.numpy as jnp

from benchmarks.protocol import Row, Run, Settings, Task, alternate, loop

# Sizes that exceed the caches and keep all cores busy, but do not take minutes on a CPU.
_SIDE_CPU, _SIDE, _LENGTH_CPU, _LENGTH = 2048, 8192, 2**26, 2**29
_FORECAST_RATE, _FORECAST_BANDWIDTH = 1e11, 1e10


def product(side: int, precision: str) -> Run:
    """Two products of random matrices per step, x to y and y to x, so nothing is copied."""
    dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    keys = jax.random.split(jax.random.key(0))
    start, factor = (jax.random.normal(key, (side, side)).astype(dtype) for key in keys)

    def step(state):
        x, _, w = state
        matmul_precision = "highest" if precision == "float32" else None
        y = jnp.matmul(x, w, precision=matmul_precision)
        return jnp.matmul(y, w, precision=matmul_precision), y, w

    # With this scale of w, the products neither grow nor shrink.
    factor = factor / jnp.asarray(side**0.5, dtype)
    return loop(
        step,
        (start, jnp.zeros_like(start), factor),
        forecast_seconds=4 * side**3 / _FORECAST_RATE,
    )


def torch_product(side: int, precision: str) -> Run:
    """The same products in PyTorch."""
    import torch

    from benchmarks.torch_skip import set_precision

    set_precision(precision)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    x = torch.randn(side, side, device=device, dtype=dtype)
    w = torch.randn(side, side, device=device, dtype=dtype) / side**0.5
    y = torch.empty_like(x)

    def run(count: int) -> float:
        clock = time.perf_counter()
        for _ in range(count):
            torch.mm(x, w, out=y)
            torch.mm(y, w, out=x)
        if device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - clock) / count

    run(1)
    return run


def copy(length: int) -> Run:
    """One pass over an array per step: each number is read once and written once."""
    x = jax.random.uniform(jax.random.key(0), (length,))
    return loop(lambda x: 1 - x, x, forecast_seconds=8 * length / _FORECAST_BANDWIDTH)


def measure_products(side: int, precision: str, settings: Settings) -> list[Row]:
    """Measures the matrix product: a row for XLA and one for PyTorch."""
    builders = {
        "matrix product": lambda: product(side, precision),
        "matrix product, torch": lambda: torch_product(side, precision),
    }
    rows = []
    for name, row in alternate(builders, settings, max_steps=100).items():
        if "ms" in row:
            row["gflops"] = 4 * side**3 / row["ms"] / 1e6
        rows.append({"what": name, "precision": precision, "size": side, **row})
    return rows


def measure_copy(length: int, settings: Settings) -> list[Row]:
    """Measures the copy: a row for XLA."""
    (row,) = alternate({"copy": lambda: copy(length)}, settings, max_steps=100).values()
    if "ms" in row:
        row["gigabytes_per_second"] = 8 * length / row["ms"] / 1e6
    return [{"what": f"copy of {length} numbers", "precision": "float32", **row}]


def tasks(settings: Settings) -> list[Task]:
    """The tasks of the part `ceilings`: products in the precisions of the device, and a copy."""
    is_cpu = jax.default_backend() == "cpu"
    side, length = (_SIDE_CPU, _LENGTH_CPU) if is_cpu else (_SIDE, _LENGTH)
    precisions = ("float32",) if is_cpu else ("tf32", "bfloat16", "float32")
    measures = {
        f"product in {precision}": functools.partial(measure_products, side, precision)
        for precision in precisions
    }
    measures["copy"] = functools.partial(measure_copy, length)

    def task(name: str) -> Task:
        return Task("ceilings", name, -1, 1, (), lambda record: measures[name](settings))

    return [task(name) for name in measures]
