"""Layer by layer: what a network's convolutions take, forward and backward, in each lowering.

And normalization, padding and upsampling alone. Each operation runs in a compiled loop, as in a fit, on random
data that every turn changes. A convolution includes its padding, as in the network. A gradient alone includes
what it needs of the forward pass (Winograd's transformed image, the statistics of a normalization);
`all` is the forward pass and all gradients in one program, which is what a step consists of and what decides.
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
from dip_jax.cli.cost import network_work
from dip_jax.config import NetConfig
from dip_jax.layers.conv import conv2d
from dip_jax.layers.normalization import normalize
from dip_jax.layers.padding import pad, pad_fused
from dip_jax.layers.resize import upsample
from dip_jax.nets import build_net
from dip_jax.presets import build_config

Shape = tuple[int, ...]
# Low for a large device: so that a loop is long against what a call takes.
_FORECAST_CPU, _FORECAST = (1e11, 1e10), (1e14, 3e12)  # operations and bytes per second


class Layer(NamedTuple):
    """A convolution of a network."""

    name: str
    shape: Shape
    """Of what it reads, `[H, W, C]`."""
    kernel: Shape
    """`[k, k, C, O]`."""
    stride: int
    reads_code: bool
    """Whether nothing needs its input's gradient."""

    @property
    def multiplications(self) -> int:
        """Of the plain sum, forward."""
        height, width = (-(-n // self.stride) for n in self.shape[:2])
        return height * width * math.prod(self.kernel)

    @property
    def passes(self) -> int:
        """How often a step multiplies: forward and for each gradient."""
        return 2 if self.reads_code else 3


@functools.cache
def convolutions(config: NetConfig, size: int) -> tuple[Layer, ...]:
    """All convolutions of a network for color pictures of one size, in the order of their running."""
    net = build_net(config, (size, size, 3))
    params = jax.eval_shape(net.init, jax.random.key(0))
    layers: list[Layer] = []

    def trace(params, code):
        def watch(call, args, kwargs, context):
            module = context.module
            if isinstance(module, Conv):
                kernel = params[module.name]["kernel"].shape
                shape = (*args[0].shape[:2], kernel[2])
                stride = 2 if module.downsample == "stride" else 1
                layers.append(Layer(module.name, shape, kernel, stride, args[0] is code))
            return call(*args, **kwargs)

        with nn.intercept_methods(watch):
            return net.apply(params, code)

    jax.eval_shape(trace, params, jax.ShapeDtypeStruct(net.code_shape, jnp.float32))
    return tuple(layers)


@functools.cache
def step_flops(config: NetConfig, size: int) -> float:
    """Floating-point operations of a step, counted as plain convolutions.

    Two for each multiplication; a forward pass and as many again for the gradient of the weights and for that of
    the inputs, except the code's, which nothing needs. Nothing but convolutions is counted.
    """
    forward = network_work(config, (size, size, 3)).multiplications
    unneeded = sum(
        layer.multiplications for layer in convolutions(config, size) if layer.reads_code
    )
    return 2.0 * (3 * forward - unneeded)


class Operation(NamedTuple):
    """Something to time: a function of arrays, and which gradients there are."""

    apply: Callable[..., Any]
    shapes: tuple[Shape, ...]
    """Of its arguments."""
    gradients: tuple[int, ...]
    """The arguments that have one."""
    weights: tuple[int, ...] = ()
    """Those that are float32 in any precision."""
    flops: float = 0.0
    """Of one pass."""


def convolution(
    layer: Layer, config: NetConfig, lowering: str, precision: str = "auto"
) -> Operation:
    """A layer in one lowering, of `xla` also with one batching: `xla/grouped`."""
    how, _, batching = lowering.partition("/")
    choices: dict[str, Any] = {
        "padding": config.padding,
        "lowering": how,
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
    """What is no convolution, at the finest scale."""
    channels = config.channels_up[0]
    whole, half = (size, size, channels), (size // 2, size // 2, channels)
    norm = functools.partial(normalize, activation=config.activation)
    padding: Any = config.padding
    border = pad if jax.default_backend() == "cpu" else pad_fused
    return {
        "normalize": Operation(
            lambda x, scale, bias: norm(x, scale, bias),
            (whole, (channels,), (channels,)),
            (0, 1, 2),
            weights=(1, 2),
        ),
        "pad": Operation(lambda x: border(x, (1, 1), padding), (whole,), (0,)),
        "upsample": Operation(lambda x: upsample(x, config.upsample[0]), (half,), (0,)),
    }


def build_pass(operation: Operation, kind: str) -> Callable[..., Any]:
    """`function(dy, *arguments)` of a pass.

    Args:
      operation: What to differentiate.
      kind: `forward`, `all`, `backward` (all gradients), `input` or `weight` (that of argument 0 or 1).
    """
    wanted = {"input": (0,), "weight": (1,)}.get(kind, operation.gradients)

    def function(dy, *arguments):
        if kind == "forward":
            return operation.apply(*arguments)
        y, pull = jax.vjp(operation.apply, *arguments)
        gradients = pull(dy)
        found = [gradients[i] for i in wanted]
        return [y, *found] if kind == "all" else found

    return function


def timed(operation: Operation, kind: str, *, batch: int, precision: str) -> Run:
    """A compiled loop of one pass for `batch` images, each with weights of its own."""
    dtype = _dtype(precision)
    lead = (batch,) if batch > 1 else ()
    keys = jax.random.split(jax.random.key(0), 1 + len(operation.shapes))
    # Its result's, and the arguments' as they are in the network.
    types = [
        dtype,
        *(jnp.float32 if i in operation.weights else dtype for i in range(len(keys) - 1)),
    ]
    arrays = [
        jax.random.uniform(key, (*lead, *shape), minval=-1.0).astype(kind)
        for key, shape, kind in zip(keys, _shapes(operation), types, strict=True)
    ]
    made = jax.eval_shape(
        operation.apply, *(jax.ShapeDtypeStruct(x.shape[len(lead) :], x.dtype) for x in arrays[1:])
    )
    arrays[0] = arrays[0].astype(made.dtype)
    one = build_pass(operation, kind)
    function = jax.vmap(one) if batch > 1 else one

    def step(state):
        arrays, _ = state
        made = jax.lax.optimization_barrier(function(*arrays))
        # Each turn leaves the whole result, and changes a number of all that the next one reads.
        trace = sum(leaf[(0,) * leaf.ndim].astype(jnp.float32) for leaf in jax.tree.leaves(made))
        change = 1e-6 * trace
        return [x.at[(0,) * x.ndim].add(change.astype(x.dtype)) for x in arrays], made

    with jax.default_matmul_precision("highest" if precision == "float32" else None):
        shapes = jax.eval_shape(function, *arrays)
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        rate, bandwidth = _FORECAST_CPU if jax.default_backend() == "cpu" else _FORECAST
        compute = operation.flops * _num_products(operation, kind) / rate
        traffic = _bytes(operation, kind, precision) / bandwidth
        return loop(step, (arrays, nothing), forecast_seconds=batch * (compute + traffic))


def _dtype(precision: str) -> Any:
    return jnp.bfloat16 if precision == "bfloat16" else jnp.float32


def _shapes(operation: Operation) -> list[Shape]:
    """Of the result and the arguments."""
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in operation.shapes]
    return [jax.eval_shape(operation.apply, *arguments).shape, *operation.shapes]


def _bytes(operation: Operation, kind: str, precision: str) -> float:
    """Of the arguments and results of a pass, each counted once."""
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
    """Rows of an operation's lowerings, in alternating rounds for each pass."""
    rows = []
    for kind in kinds:
        builders = {
            lowering: functools.partial(timed, operation, kind, batch=batch, precision=precision)
            for lowering, operation in operations.items()
        }
        for lowering, row in alternate(builders, settings, most=1000).items():
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
    """Passes in one: a forward one and one for each gradient."""
    whole = {"all": 1 + len(operation.gradients), "backward": len(operation.gradients)}
    return whole.get(kind, 1)


def rates(
    flops: float, moved: float | None, ms: float, precision: str, record: Record
) -> dict[str, float | None]:
    """GFLOP/s and GB/s, and their shares of what the device can."""
    product, copied = record.ceiling(precision), record.copy_ceiling()
    gflops = flops / ms / 1e6 if flops else None
    moving = moved / ms / 1e6 if moved else None
    return {
        "gflops": gflops,
        "share_of_product": gflops / product if gflops and product else None,
        "gigabytes_per_second": moving,
        "share_of_copy": moving / copied if moving and copied else None,
    }


def tasks(settings: Settings) -> list[Task]:
    """The layers, those with the most work first, and what decides before single gradients.

    At 256 x 256, or at the largest size that is asked for.
    """
    net = build_config(overrides=settings.overrides).net
    size = 256 if 256 in settings.sizes else max(settings.sizes)
    layers = convolutions(net, size)
    alike: dict[tuple, list[Layer]] = {}
    for layer in layers:
        alike.setdefault(layer[1:], []).append(layer)
    # Name, what makes its lowerings of a precision and a number of images, passes, rank.
    found: list[tuple[str, Callable[[str, int], dict[str, Operation]], tuple[str, ...], float]] = []
    for place, some in enumerate(sorted(alike.values(), key=_work, reverse=True)):
        layer = some[0]
        operations = functools.partial(_lowered, layer, net, settings.lowerings)
        number = f", {len(some)} alike" if len(some) > 1 else ""
        name = f"{layer.name} {_said(layer)}{number}"
        # The heaviest come after the first steps, the least after nearly all of them.
        rank = 0.3 + 0.05 * place
        single = ("forward", "weight") if layer.reads_code else ("forward", "input", "weight")
        found += [(name, operations, ("all",), rank), (name, operations, single, rank + 1)]
    for name, operation in plain_operations(net, size).items():
        name = f"{name} {'x'.join(map(str, operation.shapes[0]))}"
        alone = functools.partial(lambda one, *_: {"": one}, operation)
        found.append((name, alone, ("forward", "backward", "all"), 0.4))
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
        for name, build, kinds, rank in found
        for i, precision in enumerate(settings.precisions)
        for batch in ([1] if jax.default_backend() == "cpu" else [1, 8])
        if (operations := build(precision, batch))
    ]


def _lowered(
    layer: Layer, net: NetConfig, lowerings: Sequence[str], precision: str, batch: int
) -> dict[str, Operation]:
    """A layer in each lowering that is another one there; of one image groups are none."""
    return {
        lowering: convolution(layer, net, lowering, precision)
        for lowering in lowerings
        if (lowering != "winograd" or _winograd_serves(layer))
        and (lowering != "xla/grouped" or batch > 1)
    }


def _work(layers: Iterable[Layer]) -> int:
    return sum(layer.passes * layer.multiplications for layer in layers)


def _winograd_serves(layer: Layer) -> bool:
    """Whether Winograd is another lowering than patches here."""
    return layer.kernel[:2] == (3, 3) and layer.stride == 1


def _said(layer: Layer) -> str:
    height, width, _ = layer.shape
    side, _, inputs, outputs = layer.kernel
    halved = " / 2" if layer.stride == 2 else ""
    return f"{side}x{side} {inputs}->{outputs} at {height}x{width}{halved}"
