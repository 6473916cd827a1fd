"""What a step costs, forecast from the network's arithmetic and a second's probe of the machine.

Coarse, for choosing between presets; `plan` compiles the very program and is right within a tenth or two.
"""

import dataclasses
import functools
import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dip_jax.base import Net
from dip_jax.config import NetConfig
from dip_jax.nets import build_net, num_params


class Work(NamedTuple):
    """What one pass through a network takes."""

    num_params: int
    multiplications: float
    """Of all convolutions and matrix products."""
    numbers: float
    """Written by all operations."""


class Machine(NamedTuple):
    """How fast the default device is."""

    multiplications: float
    """Per second, in a large matrix product."""
    numbers: float
    """float32 written per second, in an addition of large arrays."""


# A step is a forward and two backward passes, much of it fused. These factors, on the two probes, were fitted to
# the measured steps of skip networks on CPU (docs/performance-log.md).
_PRODUCTS, _TRAFFIC = 0.95, 0.58


@functools.cache
def network_work(config: NetConfig, shape: tuple[int, int, int]) -> Work:
    """Counts the work of a network for pictures of one shape, without compiling anything."""
    net = build_net(dataclasses.replace(config, lowering="xla"), shape)
    params = jax.eval_shape(net.init, jax.random.key(0))
    code = jax.ShapeDtypeStruct(net.code_shape, jnp.float32)
    multiplications, numbers = _count(jax.make_jaxpr(_apply(net))(params, code).jaxpr)
    return Work(num_params(params), multiplications, numbers)


def _apply(net: Net) -> Any:
    return lambda params, code: net.apply(params, code)


def _count(jaxpr: Any) -> tuple[float, float]:
    multiplications = numbers = 0.0
    for equation in jaxpr.eqns:
        inner = [
            getattr(value, "jaxpr", value)
            for value in equation.params.values()
            if hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")
        ]
        if inner:  # a call; of several branches or derivatives the first is what runs
            more = _count(inner[0])
            multiplications, numbers = multiplications + more[0], numbers + more[1]
            continue
        size = sum(math.prod(out.aval.shape) for out in equation.outvars)
        if equation.primitive.name not in ("reshape", "broadcast_in_dim", "squeeze"):
            numbers += size
        if equation.primitive.name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            multiplications += size * math.prod(kernel[:-1])
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            multiplications += size * math.prod(left[axis] for axis in contracted)
    return multiplications, numbers


@functools.cache
def probe_machine() -> Machine:
    """Measures the default device for about a second."""
    side, length = 1024, 16_000_000
    matrix, vector = jnp.ones((side, side)), jnp.ones(length)

    def rate(function: Any, x: jax.Array) -> float:
        """Calls per second, the best of several."""
        jax.block_until_ready(function(x))
        best = math.inf
        for _ in range(10):
            clock = time.perf_counter()
            jax.block_until_ready(function(x))
            best = min(best, time.perf_counter() - clock)
        return 1 / best

    products = rate(jax.jit(lambda a: a @ a), matrix)
    additions = rate(jax.jit(lambda a: a + 1), vector)
    return Machine(products * side**3, additions * length)


def forecast_seconds(work: Work, machine: Machine) -> float:
    """Seconds per step of fitting one picture."""
    products = _PRODUCTS * work.multiplications / machine.multiplications
    return products + _TRAFFIC * work.numbers / machine.numbers
