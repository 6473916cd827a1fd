"""A coarse forecast of the time per step, from the network's arithmetic and a short probe of the machine.

It is precise enough to choose between presets. `plan` compiles the program and measures it, and is precise to within
10 to 20 %.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dip_jax.config import NetConfig
from dip_jax.nets import build_net, num_params


class Work(NamedTuple):
    """The work of one forward pass of a network."""

    num_params: int
    """Number of weights."""
    multiplications: float
    """Number of multiplications in all convolutions and matrix products."""
    values_written: float
    """Number of float32 values that all operations write."""


class Machine(NamedTuple):
    """The speed of the default device."""

    multiplications: float
    """Multiplications per second in a large matrix product."""
    values_written: float
    """float32 values written per second in an addition of large arrays."""


# A step is a forward and two backward passes, much of it fused. These factors on the two rates were fitted to the
# measured steps of skip networks on CPU (docs/development/performance-log.md).
_PRODUCTS, _TRAFFIC = 0.95, 0.58


@functools.cache
def network_work(config: NetConfig, shape: tuple[int, int, int]) -> Work:
    """Counts the work of a network without compiling it.

    Args:
      config: The network.
      shape: Height, width and channels of the image.
    """
    net = build_net(dataclasses.replace(config, lowering="xla"), shape)
    params = jax.eval_shape(net.init, jax.random.key(0))
    code = jax.ShapeDtypeStruct(net.code_shape, jnp.float32)
    forward = jax.make_jaxpr(lambda params, code: net.apply(params, code))(params, code)
    return Work(num_params(params), *_count(forward.jaxpr))


def _count(jaxpr: Any) -> tuple[float, float]:
    """Multiplications and values written, those of called programs included."""
    multiplications = values_written = 0.0
    for equation in jaxpr.eqns:
        called = [
            getattr(value, "jaxpr", value)
            for value in equation.params.values()
            if hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")
        ]
        if called:  # the first of several branches or derivatives is the one that runs
            called_multiplications, called_values = _count(called[0])
            multiplications += called_multiplications
            values_written += called_values
            continue
        size = sum(math.prod(output.aval.shape) for output in equation.outvars)
        if equation.primitive.name not in ("reshape", "broadcast_in_dim", "squeeze"):
            values_written += size
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            multiplications += size * math.prod(kernel[:-1])
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            multiplications += size * math.prod(left[axis] for axis in contracted)
    return multiplications, values_written


@functools.cache
def probe_machine() -> Machine:
    """Measures the default device for about a second."""
    side, length = 1024, 16_000_000
    matrix, vector = jnp.ones((side, side)), jnp.ones(length)
    products = _calls_per_second(jax.jit(lambda a: a @ a), matrix)
    additions = _calls_per_second(jax.jit(lambda a: a + 1), vector)
    return Machine(products * side**3, additions * length)


def _calls_per_second(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> float:
    """The best rate of ten calls."""
    jax.block_until_ready(function(x))
    best = math.inf
    for _ in range(10):
        clock = time.perf_counter()
        jax.block_until_ready(function(x))
        best = min(best, time.perf_counter() - clock)
    return 1 / best


def forecast_seconds(work: Work, machine: Machine) -> float:
    """Forecasts the seconds per step of fitting one network.

    Example:
      >>> work = Work(num_params=0, multiplications=2e9, values_written=1e8)
      >>> machine = Machine(multiplications=1e10, values_written=1e9)
      >>> round(forecast_seconds(work, machine), 3)
      0.248
    """
    products = _PRODUCTS * work.multiplications / machine.multiplications
    traffic = _TRAFFIC * work.values_written / machine.values_written
    return products + traffic
