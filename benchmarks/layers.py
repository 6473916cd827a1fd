"""The time of each layer: convolutions in each lowering, normalization, padding, upsampling.

Each operation runs in a compiled loop, as in a fit, on random data that change in every iteration.
A convolution includes its padding, as in the network. A single gradient includes the part of the
forward pass that it needs (Winograd's transformed image, the statistics of a normalization). The
pass `all` has the forward pass and all gradients in one program, like a step. Use it to compare
lowerings.
"""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from benchmarks.protocol import Record, Row, Run, Settings, Task, alternate, loop
from dip_jax.architectures.blocks import Conv
from dip_jax.config import NetConfig
from dip_jax.layers.conv import conv2d
from dip_jax.layers.normalization import normalize
from dip_jax.layers.padding import pad, pad_fused
from dip_jax.layers.resize import upsample
from dip_jax.nets import build_net
from dip_jax.presets import build_config

Shape = tuple[int, ...]
# Assumed operations and bytes per second. They are low for a large device, so that a loop takes much
# longer than a call.
_FORECAST_CPU, _FORECAST = (1e11, 1e10), (1e14, 3e12)


class Layer(NamedTuple):
    """A convolution of a network."""

    name: str
    """Name of the flax module."""
    shape: Shape
    """Shape of its input `[H, W, C]`."""
    kernel: Shape
    """Shape of its kernel `[k, k, C, O]`."""
    stride: int
    """1 or 2."""
    reads_code: bool
    """Whether its input is the code, so the gradient of the input is not needed."""

    @property
    def multiplications(self) -> int:
        """Multiplications of the plain convolution, forward."""
        height, width = (-(-n // self.stride) for n in self.shape[:2])
        return height * width * math.prod(self.kernel)

    @property
    def passes(self) -> int:
        """Products per step: the forward pass and one for each gradient."""
        return 2 if self.reads_code else 3


@functools.cache
def convolutions(config: NetConfig, size: int) -> tuple[Layer, ...]:
    """All convolutions of a network for color images of one size, in order of execution."""
    net = build_net(config, (size, size, 3))
    params = jax.eval_shape(net.init, jax.random.key(0))
    layers: list[Layer] = []

    def trace(params, code):
        def record(call, args, kwargs, context):
            module = context.module
            if isinstance(module, Conv):
                kernel = params[module.name]["kernel"].shape
                shape = (*args[0].shape[:2], kernel[2])
                stride = 2 if module.downsample == "stride" else 1
                layers.append(Layer(module.name, shape, kernel, stride, args[0] is code))
            return call(*args, **kwargs)

        with nn.intercept_methods(record):
            return net.apply(params, code)

    jax.eval_shape(trace, params, jax.ShapeDtypeStruct(net.code_shape, jnp.float32))
    return tuple(layers)


@functools.cache
def step_flops(config: NetConfig, size: int) -> float:
    """Floating-point operations of a step, counted as plain convolutions.

    A multiplication counts as two operations. The gradients of the weights and of the input each
    have as many operations as the forward pass; the code needs no gradient. Only convolutions
    count.
    """
    return 2.0 * _work(convolutions(config, size))


class Operation(NamedTuple):
    """An operation to time: a function of arrays and its gradients."""

    apply: Callable[..., Any]
    """`apply(*arguments) -> array`."""
    shapes: tuple[Shape, ...]
    """Shapes of the arguments."""
    gradients: tuple[int, ...]
    """Indices of the arguments with a gradient."""
    weights: tuple[int, ...] = ()
    """Indices of the arguments that are float32 in any precision."""
    flops: float = 0.0
    """Floating-point operations of one pass."""


def convolution(
    layer: Layer, config: NetConfig, lowering: str, precision: str = "auto"
) -> Operation:
    """A layer in one lowering; `xla/grouped` is the lowering `xla` with the batching `grouped`."""
    kind, _, batching = lowering.partition("/")
    choices: dict[str, Any] = {
        "padding": config.padding,
        "lowering": kind,
        "precision": precision,
        "batching": batching or config.batching,
    }
    return Operation(
        functools.partial(conv2d, stride=layer.stride, **choices),
        (layer.shape, layer.kernel),
        (1,) if layer.reads_code else (0, 1),
        weights=(1,),
        flops=2.0 * layer.multiplications,
    )


def plain_operations(config: NetConfig, size: int) -> dict[str, Operation]:
    """The operations other than convolutions, at the finest scale."""
    channels = config.channels_up[0]
    whole, half = (size, size, channels), (size // 2, size // 2, channels)
    norm = functools.partial(normalize, activation=config.activation)
    padding: Any = config.padding
    pad_fn = pad if jax.default_backend() == "cpu" else pad_fused
    return {
        "normalize": Operation(
            lambda x, scale, bias: norm(x, scale, bias),
            (whole, (channels,), (channels,)),
            (0, 1, 2),
            weights=(1, 2),
        ),
        "pad": Operation(lambda x: pad_fn(x, (1, 1), padding), (whole,), (0,)),
        "upsample": Operation(lambda x: upsample(x, config.upsample[0]), (half,), (0,)),
    }


def build_pass(operation: Operation, kind: str) -> Callable[..., Any]:
    """Builds the function `function(dy, *arguments)` of a pass.

    Args:
      operation: The operation.
      kind: `forward`, `all`, `backward` (all gradients), `input` or `weight` (the gradient of
        argument 0 or 1).
    """
    wanted = {"input": (0,), "weight": (1,)}.get(kind, operation.gradients)

    def function(dy, *arguments):
        if kind == "forward":
            return operation.apply(*arguments)
        y, pull = jax.vjp(operation.apply, *arguments)
        gradients = pull(dy)
        selected = [gradients[i] for i in wanted]
        return [y, *selected] if kind == "all" else selected

    return function


def build_run(operation: Operation, kind: str, *, batch: int, precision: str) -> Run:
    """Builds the compiled loop of a pass for `batch` images, each with its own weights."""
    dtype = _dtype(precision)
    lead = (batch,) if batch > 1 else ()
    keys = jax.random.split(jax.random.key(0), 1 + len(operation.shapes))
    # Types of the result and of the arguments, as in the network.
    types = [
        dtype,
        *(jnp.float32 if i in operation.weights else dtype for i in range(len(keys) - 1)),
    ]
    arrays = [
        jax.random.uniform(key, (*lead, *shape), minval=-1.0).astype(type_)
        for key, shape, type_ in zip(keys, _shapes(operation), types, strict=True)
    ]
    result = jax.eval_shape(
        operation.apply, *(jax.ShapeDtypeStruct(x.shape[len(lead) :], x.dtype) for x in arrays[1:])
    )
    arrays[0] = arrays[0].astype(result.dtype)
    one = build_pass(operation, kind)
    function = jax.vmap(one) if batch > 1 else one

    def step(state):
        arrays, _ = state
        outputs = jax.lax.optimization_barrier(function(*arrays))
        # Each iteration keeps all outputs, and changes one number of each input of the next one.
        trace = sum(leaf[(0,) * leaf.ndim].astype(jnp.float32) for leaf in jax.tree.leaves(outputs))
        change = 1e-6 * trace
        return [x.at[(0,) * x.ndim].add(change.astype(x.dtype)) for x in arrays], outputs

    with jax.default_matmul_precision("highest" if precision == "float32" else None):
        shapes = jax.eval_shape(function, *arrays)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        rate, bandwidth = _FORECAST_CPU if jax.default_backend() == "cpu" else _FORECAST
        compute = operation.flops * _num_products(operation, kind) / rate
        traffic = _bytes(operation, kind, precision) / bandwidth
        return loop(step, (arrays, zeros), forecast_seconds=batch * (compute + traffic))


def _dtype(precision: str) -> Any:
    return jnp.bfloat16 if precision == "bfloat16" else jnp.float32


def _shapes(operation: Operation) -> list[Shape]:
    """Shapes of the result and the arguments."""
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in operation.shapes]
    return [jax.eval_shape(operation.apply, *arguments).shape, *operation.shapes]


def _bytes(operation: Operation, kind: str, precision: str) -> float:
    """Bytes of the arguments and results of a pass, each counted once."""
    result, *arguments = (math.prod(shape) for shape in _shapes(operation))
    wanted = {"input": (0,), "weight": (1,)}.get(kind, operation.gradients)
    forward = kind in ("forward", "all")
    numbers = sum(arguments) + (result if forward else 0)
    if kind != "forward":
        numbers += result + sum(arguments[i] for i in wanted)
    return float(numbers * _dtype(precision).dtype.itemsize)


def measure(
    record: Record,
    *,
    name: str,
    operations: dict[str, Operation],
    kinds: Sequence[str],
    batch: int,
    precision: str,
    settings: Settings,
) -> list[Row]:
    """Measures the lowerings of an operation in alternating rounds, for each pass."""
    rows = []
    for kind in kinds:
        builders = {
            lowering: functools.partial(
                build_run, operation, kind, batch=batch, precision=precision
            )
            for lowering, operation in operations.items()
        }
        for lowering, row in alternate(builders, settings, max_steps=1000).items():
            operation = operations[lowering]
            head = {"what": name, "pass": kind, "lowering": lowering}
            rows.append({**head, "batch": batch, "precision": precision, **row})
            if "error" not in row:
                flops = batch * operation.flops * _num_products(operation, kind)
                moved = batch * _bytes(operation, kind, precision)
                rows[-1] |= rates(flops, moved, row["ms"], precision, record)
                rows[-1]["ms_per_image"] = row["ms"] / batch
    return rows


def _num_products(operation: Operation, kind: str) -> int:
    """Number of products in a pass: one for the forward pass and one for each gradient."""
    whole = {"all": 1 + len(operation.gradients), "backward": len(operation.gradients)}
    return whole.get(kind, 1)


def rates(
    flops: float, moved: float | None, ms: float, precision: str, record: Record
) -> dict[str, float | None]:
    """GFLOP/s and GB/s, and their fractions of the ceilings of the device."""
    product, copied = record.ceiling(precision), record.copy_ceiling()
    gflops = flops / ms / 1e6 if flops else None
    gigabytes = moved / ms / 1e6 if moved else None
    return {
        "gflops": gflops,
        "share_of_product": gflops / product if gflops and product else None,
        "gigabytes_per_second": gigabytes,
        "share_of_copy": gigabytes / copied if gigabytes and copied else None,
    }


def tasks(settings: Settings) -> list[Task]:
    """The tasks of the part `layers`.

    Layers with the most work come first, and whole passes before single gradients. The size is 256
    x 256 if that is among the sizes, and the largest size otherwise.
    """
    net = build_config("denoise_single", overrides=settings.overrides).net
    size = 256 if 256 in settings.sizes else max(settings.sizes)
    layers = convolutions(net, size)
    equal: dict[tuple, list[Layer]] = {}  # layers that differ only by their name
    for layer in layers:
        equal.setdefault(layer[1:], []).append(layer)
    # Name, builder of the lowerings from a precision and a number of images, passes, rank.
    rows: list[tuple[str, Callable[[str, int], dict[str, Operation]], tuple[str, ...], float]] = []
    for position, group in enumerate(sorted(equal.values(), key=_work, reverse=True)):
        layer = group[0]
        build = functools.partial(_lowerings, layer, net, settings.lowerings)
        number = f", {len(group)} equal" if len(group) > 1 else ""
        name = f"{layer.name} {_describe(layer)}{number}"
        # The heaviest layers come after the first tasks of `steps`, the lightest after nearly all.
        rank = 0.3 + 0.05 * position
        single = ("forward", "weight") if layer.reads_code else ("forward", "input", "weight")
        rows += [(name, build, ("all",), rank), (name, build, single, rank + 1)]
    for name, operation in plain_operations(net, size).items():
        name = f"{name} {'x'.join(map(str, operation.shapes[0]))}"
        build = functools.partial(lambda operation, *_: {"": operation}, operation)
        rows.append((name, build, ("forward", "backward", "all"), 0.4))
    return [
        Task(
            part="layers",
            name=f"{name}: {', '.join(kinds)}, {batch} in {precision}",
            rank=rank + 0.5 * i + 0.05 * (batch > 1),
            programs=len(operations) * len(kinds),
            steps=[
                batch * operation.flops * _num_products(operation, kind)
                for operation in operations.values()
                for kind in kinds
            ],
            measure=functools.partial(
                measure,
                name=name,
                operations=operations,
                kinds=kinds,
                batch=batch,
                precision=precision,
                settings=settings,
            ),
        )
        for name, build, kinds, rank in rows
        for i, precision in enumerate(settings.precisions)
        for batch in ([1] if jax.default_backend() == "cpu" else [1, 8])
        if (operations := build(precision, batch))
    ]


def _lowerings(
    layer: Layer, net: NetConfig, lowerings: Sequence[str], precision: str, batch: int
) -> dict[str, Operation]:
    """A layer in each lowering that differs for it; with one image, `grouped` has no groups."""
    return {
        lowering: convolution(layer, net, lowering, precision)
        for lowering in lowerings
        if (lowering != "winograd" or _has_winograd(layer))
        and (lowering != "xla/grouped" or batch > 1)
    }


def _work(layers: Iterable[Layer]) -> int:
    """Multiplications of the layers in a step."""
    return sum(layer.passes * layer.multiplications for layer in layers)


def _has_winograd(layer: Layer) -> bool:
    """Whether the lowering `winograd` differs from `patches`."""
    return layer.kernel[:2] == (3, 3) and layer.stride == 1


def _describe(layer: Layer) -> str:
    height, width, _ = layer.shape
    side, _, inputs, outputs = layer.kernel
    halved = " / 2" if layer.stride == 2 else ""
    return f"{side}x{side} {inputs}->{outputs} at {height}x{width}{halved}"
