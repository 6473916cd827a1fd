import functools
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import signal
from skimage.measure import block_reduce

from dip_jax.config import NetConfig
from dip_jax.errors import InputError
from dip_jax.nets import build_net, code_size, num_params, params_from_torch
from dip_jax.presets import build_config

GOLDEN = Path(__file__).parent / "data"
EVERY = json.loads((GOLDEN / "index.json").read_text())
INDEX = {name: entry for name, entry in EVERY.items() if name.startswith("skip")}


def config_from_2018(given: dict, lowering: str) -> NetConfig:
    """Our config for the 2018 constructor's arguments (and its defaults)."""

    def listed(name, default):
        value = given.get(name, default)
        return tuple(value) if isinstance(value, list) else (value,)

    activations = {"LeakyReLU": "leaky_relu", "Swish": "swish", "ELU": "elu"}
    common = {
        "input_depth": given["num_input_channels"],
        "padding": "reflect" if given.get("pad") == "reflection" else "zero",
        "lowering": lowering,
    }
    if "feature_scale" in given:
        return NetConfig(
            kind="unet",
            channels_down=tuple(f // given["feature_scale"] for f in (64, 128, 256, 512, 1024)),
            extra_scales=given["more_layers"],
            concat_input=given["concat_x"],
            normalization={"BatchNorm2d": "batch", "InstanceNorm2d": "instance"}[
                given["norm_layer"]
            ],
            upsample=(given["upsample_mode"],),
            activation="relu",
            **common,
        )
    if "num_blocks" in given:
        return NetConfig(
            kind="resnet",
            width=given["num_channels"],
            depth=given["num_blocks"],
            residual=given["need_residual"],
            **common,
        )
    return NetConfig(
        channels_down=listed("num_channels_down", 0),
        channels_up=listed("num_channels_up", 0),
        channels_skip=listed("num_channels_skip", 0),
        kernel_down=listed("filter_size_down", 3),
        kernel_up=listed("filter_size_up", 3),
        upsample=listed("upsample_mode", "nearest"),
        downsample=listed("downsample_mode", "stride"),
        activation=activations[given.get("act_fun", "LeakyReLU")],
        conv1x1_up=given.get("need1x1_up", True),
        **common,
    )


@functools.cache
def load(name: str):
    """The arrays of a golden file, and its weights as our params (in the order of the modules)."""
    arrays = dict(np.load(GOLDEN / f"{name}.npz"))
    state = {k: v for k, v in arrays.items() if k.startswith("param/")}
    return arrays, params_from_torch(config_from_2018(EVERY[name]["config"], "xla"), state)


class Golden:
    """A network of 2018 with its weights, input, target and what came of them."""

    def __init__(self, name: str, lowering: str, dtype):
        entry = EVERY[name]
        self.arrays, params = load(name)
        self.first_module = next(iter(params))
        self.params = jax.tree.map(lambda v: np.asarray(v, dtype), params)
        config = config_from_2018(entry["config"], lowering)
        self.net = build_net(config, tuple(entry["output_shape"]))
        self.code = jnp.asarray(self.arrays["z"], dtype)
        self.target = jnp.asarray(self.arrays["target"], dtype)
        assert num_params(self.params) == entry["num_params"]
        assert self.net.code_shape == self.code.shape

    def loss(self, params):
        output = self.net.apply(params, self.code)
        return jnp.mean((output - self.target) ** 2), output


# What these have others have too.
ALIKE = (
    "skip_bilinear_reflection_64x64",
    "skip_avgpool_64x64",
    "skip_nearest_zero_48x64",
    "unet_concatx_nearest_64x64",
)
# Every network as it runs by default; the vendor's convolution where all kernels and strides occur.
COMPARED = [(name, "auto") for name in EVERY if name not in ALIKE] + [
    *(pytest.param(name, "auto", marks=pytest.mark.slow) for name in ALIKE),
    ("skip_kernel5_no1x1_swish_64x64", "xla"),
    *(
        pytest.param(name, "xla", marks=pytest.mark.slow)
        for name in ("skip_bilinear_reflection_65x70", "skip_maxpool_64x64")
    ),
]


@pytest.mark.parametrize(("name", "lowering"), COMPARED)
def test_weights_of_2018_give_the_output_and_gradients_of_2018(name, lowering):
    golden = Golden(name, lowering, jnp.float32)
    (loss, output), grads = jax.jit(jax.value_and_grad(golden.loss, has_aux=True))(golden.params)
    np.testing.assert_allclose(output, golden.arrays["output"], atol=1e-5)
    np.testing.assert_allclose(loss, golden.arrays["loss"], rtol=1e-5)
    ends = ((golden.first_module, "grad_first_kernel"), ("head_conv", "grad_last_kernel"))
    for module, expected in ends:
        kernel = np.asarray(grads[module]["kernel"]).transpose(3, 2, 0, 1)
        difference = np.linalg.norm(kernel - golden.arrays[expected])
        assert difference < 1e-4 * np.linalg.norm(golden.arrays[expected])
    norms = np.sort([float(jnp.linalg.norm(g)) for g in jax.tree.leaves(grads)])
    np.testing.assert_allclose(norms, np.sort(golden.arrays["grad_norms"]), rtol=1e-4, atol=1e-7)


# Two by default: float64 below compares all of them by Winograd, this one adds only single precision.
BRIEFLY = ("skip_bilinear_reflection_65x70", "skip_mixed_skips_elu_gray_40x56")


@pytest.mark.parametrize(
    "name",
    [name if name in BRIEFLY else pytest.param(name, marks=pytest.mark.slow) for name in INDEX],
)
def test_winograd_gives_the_output_of_2018_in_float32_too(name):
    # Its gradients are compared in float64 below: a pre-activation that is zero to rounding may fall on
    # the other side of the kink, which moves a gradient of these small networks by a per cent.
    golden = Golden(name, "winograd", jnp.float32)
    output = jax.jit(golden.net.apply)(golden.params, golden.code)
    np.testing.assert_allclose(output, golden.arrays["output"], atol=1e-5)


# Gradients are compared of every kind of network; what Adam makes of them, by default of one.
TRAINED = BRIEFLY[:1]


@pytest.mark.parametrize(
    "name",
    [name if name in TRAINED else pytest.param(name, marks=pytest.mark.slow) for name in EVERY],
)
def test_five_steps_of_adam_give_the_losses_of_2018(name, double):
    # In float64, as the golden numbers: Adam's first steps are the sign of the gradient, so in float32
    # a gradient of zero (a bias that the next normalization removes) moves by rounding alone.
    golden = Golden(name, "winograd" if name in INDEX else "xla", jnp.float64)
    evaluate = jax.jit(jax.value_and_grad(lambda params: golden.loss(params)[0]))
    leaves, structure = jax.tree.flatten(golden.params)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
    # One long vector: Adam treats all numbers alike, and compiles once instead of for each array.
    flat = jnp.concatenate([leaf.ravel() for leaf in leaves])
    optimizer = optax.adam(0.01)
    state, update, losses = optimizer.init(flat), jax.jit(optimizer.update), []
    for _ in range(5):
        parts = np.split(np.asarray(flat), ends)
        shaped = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
        loss, grads = evaluate(jax.tree.unflatten(structure, shaped))
        gradient = np.concatenate([np.ravel(grad) for grad in jax.tree.leaves(grads)])
        updates, state = update(gradient, state)
        flat = optax.apply_updates(flat, updates)
        losses.append(float(loss))
    np.testing.assert_allclose(losses, golden.arrays["adam_losses"], rtol=1e-9)


class Torch:
    """PyTorch's layers for maps `[*sides, C]` of one or two dimensions, by numpy and scipy.

    Each layer draws its weights when it is made, so `state` has them in the order of definition.
    """

    def __init__(self, config: NetConfig, num_axes: int):
        self.config, self.axes, self.state = config, tuple(range(num_axes)), {}
        self.draw = np.random.default_rng(0).standard_normal

    def weight(self, *shape):
        value = np.float32(self.draw(shape)) * 0.4
        self.state[f"param/{len(self.state)}"] = value
        return np.float64(value)

    def conv(self, inputs, outputs, side=3, stride=1, *, bias=True, padding=None):
        kernel = self.weight(outputs, inputs, *(side for _ in self.axes))
        offset = self.weight(outputs) if bias else 0
        mode = {"reflect": "reflect", "zero": "constant"}[padding or self.config.padding]

        def apply(x):
            x = np.pad(x, [(side // 2,) * 2 for _ in self.axes] + [(0, 0)], mode=mode)
            terms = [
                [signal.correlate(x[..., c], k[c], "valid") for c in range(inputs)] for k in kernel
            ]
            y = np.stack([sum(term) for term in terms], axis=-1) + offset
            return y[tuple(slice(None, None, stride) for _ in self.axes)]

        return apply

    def deconv(self, inputs, outputs):
        kernel = self.weight(inputs, outputs, *(4 for _ in self.axes))
        offset = self.weight(outputs)
        every_second = tuple(slice(None, None, 2) for _ in self.axes)

        def apply(x):
            apart = np.zeros([2 * x.shape[a] - 1 for a in self.axes] + [inputs])
            apart[every_second] = x
            terms = [
                [signal.convolve(apart[..., c], kernel[c, o]) for c in range(inputs)]
                for o in range(outputs)
            ]
            y = np.stack([sum(term) for term in terms], axis=-1) + offset
            return y[tuple(slice(1, -1) for _ in self.axes)]

        return apply

    def norm(self, channels):
        scale, bias = self.weight(channels), self.weight(channels)

        def apply(x):
            mean, var = x.mean(self.axes), x.var(self.axes)
            return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

        return apply

    def act(self, x):
        return np.where(x > 0, x, {"relu": 0, "leaky_relu": 0.2}[self.config.activation] * x)

    def up(self, x):
        for axis in self.axes:
            if self.config.upsample[0] == "nearest":
                x = x.repeat(2, axis)
            else:
                old = np.arange(x.shape[axis])
                new = (np.arange(2 * len(old)) + 0.5) / 2 - 0.5
                x = np.apply_along_axis(lambda v, new=new, old=old: np.interp(new, old, v), axis, x)
        return x

    def pool(self, x, function):
        even = tuple(slice(x.shape[a] // 2 * 2) for a in self.axes)
        return block_reduce(x[even], (*(2 for _ in self.axes), 1), function)

    def crop(self, x, sides):
        first = [(x.shape[a] - sides[a]) // 2 for a in self.axes]
        return x[tuple(slice(f, f + n) for f, n in zip(first, sides, strict=True))]

    def chain(self, *layers):
        return lambda x: functools.reduce(lambda y, layer: layer(y), layers, x)

    def blocks(self, inputs, outputs, *sides):
        layers = []
        for side in sides:
            layers += [self.conv(inputs, outputs, side), self.norm(outputs), self.act]
            inputs = outputs
        return self.chain(*layers)


def published_skip(t: Torch, inputs: int, scale: int = 0):
    c = t.config
    down, up, skip = c.channels_down[scale], c.channels_up[scale], c.channels_skip[scale]
    beside = t.blocks(inputs, skip, c.kernel_skip) if skip else None
    strided = c.downsample[0] == "stride"
    halve = [t.conv(inputs, down, 3, 2 if strided else 1)]
    halve += [] if strided else [lambda x: t.pool(x, np.mean)]
    deeper = [*halve, t.norm(down), t.act, t.blocks(down, down, 3)]
    last = scale + 1 == c.num_scales
    deeper += [] if last else [published_skip(t, down, scale + 1)]
    deeper = t.chain(*deeper, t.up)
    merged = skip + (down if last else c.channels_up[scale + 1])
    rest = t.chain(t.norm(merged), t.blocks(merged, up, 3, 1))
    head = t.conv(up, 3, 1) if scale == 0 else lambda x: x

    def apply(x):
        y = deeper(x)
        if beside:
            sides = [min(x.shape[a], y.shape[a]) for a in t.axes]
            y = np.concatenate([t.crop(beside(x), sides), t.crop(y, sides)], axis=-1)
        return head(rest(y))

    return apply


def published_unet(t: Torch, inputs: int):
    c = t.config
    added = inputs if c.concat_input else 0
    first, last, more = c.channels_down[0], c.channels_down[-1], c.extra_scales

    def pair(i, o, normalized):
        norm = (lambda: t.norm(o)) if normalized else (lambda: lambda x: x)
        return t.chain(t.conv(i, o), norm(), t.act, t.conv(o, o), norm(), t.act)

    def make_up(i, o):
        wider = t.deconv(i, o) if c.upsample[0] == "deconv" else t.chain(t.up, t.conv(i, o))
        merge = pair(2 * o, o, False)
        return lambda x, other: merge(np.concatenate([wider(x), other], axis=-1))

    widths = c.channels_down + (last,) * more
    normalized = c.normalization == "batch"
    encode = [pair(inputs, first - added, normalized)]
    encode += [pair(i, o - added, normalized) for i, o in itertools.pairwise(widths)]
    more_ups = [make_up(last, last) for _ in range(more)]
    ups = [make_up(i, o) for o, i in reversed(list(itertools.pairwise(c.channels_down)))]
    head = t.conv(first, 3, 1)

    def apply(x):
        code, scales = x, []
        for i, layer in enumerate(encode):
            if i:
                x, code = t.pool(x, np.max), t.pool(code, np.mean)
            x = layer(x)
            x = np.concatenate([x, code], axis=-1) if added else x
            scales.append(x)
        scales.pop()
        for layer in [*reversed(more_ups), *ups]:
            x = layer(x, scales.pop())
        return head(x)

    return apply


def published_resnet(t: Torch, inputs: int):
    n = t.config.width

    def block():
        conv = functools.partial(t.conv, n, n, bias=False, padding="zero")
        inside = t.chain(conv(), t.norm(n), t.act, conv(), t.norm(n))
        return lambda x: inside(x) + (x if t.config.residual else 0)

    first = [t.conv(inputs, n), t.act, *(block() for _ in range(t.config.depth))]
    return t.chain(*first, t.conv(n, n, padding="zero"), t.norm(n), t.conv(n, 3))


def published_texture(t: Torch, inputs: int):
    n, depth = t.config.width, t.config.depth

    def branch(j):
        layers = t.blocks(inputs, n, 3, 3, 1)
        halvings = [lambda x: t.pool(x, np.mean)] * (depth - 1 - j)
        return t.chain(*halvings, layers)

    def join(trunk, j):
        trunk = t.chain(trunk, t.up, t.norm(j * n))
        beside = t.chain(branch(j), t.norm(n))
        rest = t.blocks((j + 1) * n, (j + 1) * n, 3, 3, 1)
        return lambda x: rest(np.concatenate([trunk(x), beside(x)], axis=-1))

    trunk = functools.reduce(join, range(1, depth), branch(0))
    return t.chain(trunk, t.conv(depth * n, 3, 1))


def published_conv_decoder(t: Torch, inputs: int):
    n, layers = t.config.width, []
    for i in range(t.config.depth + 1):
        up = [t.up] if i < t.config.depth else []
        layers += [*up, t.conv(inputs if i == 0 else n, n), t.act, t.norm(n)]
    return t.chain(*layers, t.conv(n, 3, 1))


def published_deep_decoder(t: Torch, inputs: int):
    n, layers = t.config.width, []
    for i in range(t.config.depth + 1):
        up = [t.up] if i < t.config.depth else []
        layers += [t.conv(inputs if i == 0 else n, n, 1, bias=False), *up, t.act, t.norm(n)]
    return t.chain(*layers, t.conv(n, 3, 1, bias=False))


SKIPS = {"channels_down": (4, 6), "channels_up": (4, 6), "kernel_down": (3,)}
NEAREST, DECONV = {"upsample": ("nearest",)}, {"upsample": ("deconv",)}


@pytest.mark.parametrize(
    ("kind", "size", "fields"),
    [
        ("skip", (1, 37), {**SKIPS, "channels_skip": (2, 0)}),
        ("skip", (1, 37), {**SKIPS, **NEAREST, "channels_skip": (0, 2), "downsample": ("avg",)}),
        ("unet", (1, 33), {"channels_down": (4, 6), "extra_scales": 2, **DECONV}),
        ("unet", (1, 33), {"channels_down": (4, 6), "normalization": "none", "concat_input": True}),
        ("resnet", (1, 33), {"residual": False}),
        ("texture", (9, 14), {"depth": 3, **NEAREST}),
        ("texture", (1, 33), {"depth": 2}),
        ("conv_decoder", (9, 14), NEAREST),
        ("conv_decoder", (1, 33), NEAREST),
        ("deep_decoder", (9, 14), {}),
        ("deep_decoder", (1, 33), {}),
    ],
)  # fmt: skip
def test_networks_are_their_published_formulas_on_pictures_and_on_signals(
    kind, size, fields, double
):
    common = {"input_depth": 3, "width": 4, "depth": 2, "sigmoid": False, "activation": "relu"}
    config = NetConfig(kind=kind, **{**common, **fields})
    net = build_net(config, (*size, 3))
    code = np.random.default_rng(1).standard_normal(net.code_shape)
    is_signal = size[0] == 1
    torch = Torch(config, 1 if is_signal else 2)
    published = globals()[f"published_{kind}"](torch, 3)
    expected = torch.crop(published(code[0] if is_signal else code), size[is_signal:])
    params = jax.tree.map(jnp.float64, params_from_torch(config, torch.state))
    output = jax.jit(net.apply)(params, jnp.float64(code))
    output = output[0] if is_signal else output
    np.testing.assert_allclose(output, expected, atol=1e-9 * np.abs(expected).max())


def count(channels: int, **fields) -> int:
    net = build_net(NetConfig(**fields), (64, 64, channels))
    return num_params(jax.eval_shape(net.init, jax.random.key(0)))


WIDE, TAPER = (128,) * 5, (16, 32, 64, 128, 128, 128)
FILTERS = (16, 32, 64, 128, 256)


@pytest.mark.parametrize(
    ("expected", "channels", "fields"),
    [
        (2_217_831, 3, {}),
        (2_217_573, 1, {}),
        (572_827, 3, {"input_depth": 3, "channels_down": (8, 16, 32, 64, 128), "channels_up": (8, 16, 32, 64, 128), "channels_skip": (0, 0, 0, 4, 4)}),
        (2_157_955, 3, {"input_depth": 2, "channels_skip": (0,) * 5}),
        (3_002_627, 3, {"channels_skip": WIDE}),
        (1_027_379, 3, {"channels_down": TAPER[:5], "channels_up": TAPER[:5], "channels_skip": (0,) * 5}),
        (2_184_307, 3, {"input_depth": 3}),
        (2_606_763, 3, {"channels_down": TAPER, "channels_up": TAPER, "channels_skip": (4,) * 6, "kernel_down": (7, 7, 5, 5, 3, 3), "kernel_up": (7, 7, 5, 5, 3, 3)}),
        (2_583_123, 3, {"input_depth": 2, "channels_down": TAPER, "channels_up": TAPER, "channels_skip": (4,) * 6, "kernel_down": (7, 7, 5, 5, 3, 3), "kernel_up": (7, 7, 5, 5, 3, 3)}),
        (2_948_567, 3, {"channels_down": TAPER, "channels_up": TAPER, "channels_skip": (0, 4, 4, 4, 4, 4), "kernel_down": (5, 3, 5, 5, 3, 5), "kernel_up": (5, 3, 5, 3, 5, 3)}),
        (1_037_375, 3, {"input_depth": 2, "channels_down": TAPER[:5], "channels_up": TAPER[:5]}),
        (2_463_379, 3, {"kind": "unet", "input_depth": 3, "channels_down": FILTERS, "upsample": ("deconv",), "normalization": "instance"}),
        (2_164_899, 3, {"kind": "unet", "channels_down": FILTERS}),
        (2_469_539, 3, {"kind": "unet", "channels_down": FILTERS, "upsample": ("deconv",)}),
        (2_432_333, 3, {"kind": "unet", "input_depth": 3, "channels_down": FILTERS, "upsample": ("deconv",), "concat_input": True}),
        (1_616_315, 3, {"kind": "unet", "input_depth": 1, "channels_down": (8, 16, 32, 64, 128), "extra_scales": 1, "upsample": ("deconv",), "normalization": "instance"}),
        (158_979, 3, {"kind": "resnet", "input_depth": 1, "width": 32, "depth": 8}),
        (54_131, 3, {"kind": "resnet", "width": 16, "depth": 10}),
        (129_443, 3, {"kind": "texture", "width": 8, "depth": 6}),
        (116_915, 3, {"kind": "texture", "input_depth": 3, "width": 8, "depth": 6}),
        # Heckel and Hand 2019, for 512 x 512 from 16 x 16
        (100_224, 3, {"kind": "deep_decoder", "input_depth": 128, "width": 128, "depth": 5}),
        (25_536, 3, {"kind": "deep_decoder", "input_depth": 64, "width": 64, "depth": 5}),
        (0, 3, {"kind": "identity"}),
        (49_685_673, 1, {"channels_down": (1024,) * 2, "channels_up": (1024,) * 2, "channels_skip": (4,) * 2, "sigmoid": False}),
        *(
            (total, 3, {"input_depth": 1, "channels_down": TAPER[:d], "channels_up": TAPER[:d], "channels_skip": (0,) * d, "kernel_down": (5,), "conv1x1_up": False})
            for d, total in ((2, 59_635), (4, 1_060_339), (6, 2_996_467))
        ),
    ],
)  # fmt: skip
def test_parameter_counts_are_the_published_ones_to_the_unit(expected, channels, fields):
    assert count(channels, **fields) == expected


@pytest.mark.parametrize("downsample", ["stride", "avg", "max", "lanczos2", "lanczos3"])
@pytest.mark.parametrize("skips", [(4,) * 5, (0,) * 5, (0, 0, 0, 4, 4)])
@pytest.mark.parametrize("size", [(33, 33), (47, 64), (100, 65)])
def test_every_picture_comes_out_at_its_own_size(downsample, skips, size):
    fields = {"channels_down": (4,) * 5, "channels_up": (4,) * 5, "input_depth": 2}
    net = build_net(NetConfig(channels_skip=skips, downsample=(downsample,), **fields), (*size, 3))
    assert all(a >= b for a, b in zip(net.code_shape, size, strict=False))
    params = jax.eval_shape(net.init, jax.random.key(0))
    code = jax.ShapeDtypeStruct(net.code_shape, jnp.float32)
    assert jax.eval_shape(net.apply, params, code).shape == (*size, 3)


OTHERS = {
    "unet": {"channels_down": (4,) * 5, "extra_scales": 1},
    "unet_zero": {
        "kind": "unet",
        "channels_down": (4,) * 5,
        "upsample": ("deconv",),
        "padding": "zero",
    },
    "resnet": {"depth": 1},
    "texture": {"depth": 6},
    "conv_decoder": {"depth": 4},
    "deep_decoder": {"depth": 7},
    "identity": {},
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("size", [(33, 33), (100, 65), (1, 47)])
def test_every_kind_makes_every_picture_and_signal_at_its_own_size(kind, size):
    config = NetConfig(**{"kind": kind, "input_depth": 3, "width": 4, **OTHERS[kind]})
    net = build_net(config, (*size, 3))
    params = jax.eval_shape(net.init, jax.random.key(0))
    code = jax.ShapeDtypeStruct(net.code_shape, jnp.float32)
    assert jax.eval_shape(net.apply, params, code).shape == (*size, 3)
    assert size[0] > 1 or net.code_shape[0] == 1


@pytest.mark.parametrize("kind", ["conv_decoder", "deep_decoder"])
def test_a_decoder_has_a_small_code_of_two_pixels_at_least(kind):
    for depth, sides in ((3, (13, 9)), (5, (4, 3)), (9, (2, 2))):
        net = build_net(NetConfig(kind=kind, depth=depth, input_depth=7), (100, 65, 3))
        assert net.code_shape == (*sides, 7)


def test_the_code_of_identity_is_the_image():
    net = build_net(NetConfig(kind="identity"), (33, 40, 3))
    code = jnp.full((33, 40, 3), 7.0)
    assert net.code_shape == net.image_shape == code.shape
    assert net.init(jax.random.key(0)) == {}
    np.testing.assert_array_equal(net.apply({}, code), code)
    assert params_from_torch(NetConfig(kind="identity"), {}) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inpaint_hole", "dejpeg", "inpaint"])
def test_the_smallest_picture_runs_through_every_preset(name):
    net = build_net(build_config(name).net, (33, 33, 3))
    code = jax.random.uniform(jax.random.key(1), net.code_shape)
    image = jax.jit(net.apply)(net.init(jax.random.key(0)), code)
    assert image.shape == (33, 33, 3)
    assert jnp.isfinite(image).all()


def test_the_code_has_the_pictures_own_size_where_the_network_can():
    assert code_size(NetConfig(), 33) == 33
    assert code_size(NetConfig(), 515) == 515
    assert code_size(NetConfig(channels_skip=(0,) * 5), 100) == 128  # what the network makes of 100
    assert code_size(NetConfig(downsample=("avg",)), 100) == 128


def test_weights_start_as_in_pytorch():
    params = build_net(NetConfig(), (64, 64, 3)).init(jax.random.key(0))
    for leaf in ("kernel", "bias"):
        values = np.concatenate([np.ravel(params[f"down_{i}_conv"][leaf]) for i in range(5)])
        bound = (9 * 128) ** -0.5
        assert np.abs(values).max() <= bound
        # uniform: standard deviation bound / sqrt(3), to five standard errors
        assert abs(values.std() / (bound / np.sqrt(3)) - 1) < 5 / np.sqrt(values.size)
    scales = np.concatenate([params[f"up_{i}_norm"]["scale"] for i in range(5)])
    assert 0 <= scales.min() < 0.02 < 0.98 < scales.max() <= 1
    assert abs(scales.mean() - 0.5) < 5 / np.sqrt(12 * scales.size)
    ones = build_net(NetConfig(scale_init="one"), (64, 64, 3)).init(jax.random.key(0))
    assert (ones["up_0_norm"]["scale"] == 1).all()
    assert (ones["up_0_norm"]["bias"] == 0).all()


def test_transposed_kernels_start_as_in_pytorch_too():
    # There the outputs count as fan in: bound 1 / sqrt(8 * 4 * 4).
    config = NetConfig(kind="unet", channels_down=(8, 32), upsample=("deconv",), input_depth=2)
    params = build_net(config, (33, 33, 3)).init(jax.random.key(0))
    for leaf, close in (("kernel", 0.99), ("bias", 0.3)):
        most = np.abs(params["up_0_deconv"][leaf]).max() * np.sqrt(8 * 4 * 4)
        assert close < most <= 1


def test_a_code_too_deep_to_be_joined_to_the_encoder_is_refused():
    config = NetConfig(kind="unet", channels_down=(8, 32), concat_input=True, input_depth=8)
    with pytest.raises(InputError, match=r"net\.input_depth=8"):
        build_net(config, (33, 33, 3))


def test_a_network_without_sigmoid_and_bias_has_neither():
    net = build_net(NetConfig(sigmoid=False, bias=False), (33, 33, 3))
    params = net.init(jax.random.key(0))
    assert "bias" not in params["head_conv"]
    params["head_conv"]["kernel"] *= 100
    image = jax.jit(net.apply)(params, jax.random.uniform(jax.random.key(1), net.code_shape))
    assert image.min() < 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: dict(list(s.items())[:-1]), "ends before"),
        (lambda s: {**s, "extra": np.zeros(3)}, "should be|too many"),
        (lambda s: {k: v[..., :1] if v.ndim == 4 else v for k, v in s.items()}, "should be"),
        (lambda s: {}, "ends before"),
    ],
)
def test_a_state_that_is_not_this_networks_is_refused(change, words):
    name = "skip_nearest_zero_48x64"
    arrays = np.load(GOLDEN / f"{name}.npz")
    state = {k: arrays[k] for k in arrays.files if k.startswith("param/")}
    with pytest.raises(InputError, match=words):
        params_from_torch(config_from_2018(INDEX[name]["config"], "auto"), change(state))


def test_running_statistics_of_a_state_are_passed_over():
    name = "skip_nearest_zero_48x64"
    arrays = np.load(GOLDEN / f"{name}.npz")
    state = {k: arrays[k] for k in arrays.files if k.startswith("param/")}
    noisy = {}
    for key, value in state.items():
        noisy[key] = value
        noisy[f"{key}.running_mean"] = np.zeros(7)
        noisy[f"{key}.num_batches_tracked"] = np.zeros(())
    config = config_from_2018(INDEX[name]["config"], "auto")
    ours, theirs = params_from_torch(config, noisy), params_from_torch(config, state)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.mark.parametrize(
    "fields",
    [
        {"channels_up": (8,) * 4},
        {"kernel_down": (3, 3)},
        {"kernel_up": (4,)},
        {"upsample": ("nearest",) * 3},
    ],
)
def test_lists_that_do_not_fit_the_scales_are_refused(fields):
    with pytest.raises(InputError):
        NetConfig(**fields)
