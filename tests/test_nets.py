"""Networks from configs: numbers of weights, initial weights, and weights of PyTorch networks."""

import typing

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dip_jax import nets
from dip_jax.config import NetConfig
from dip_jax.errors import InputError
from dip_jax.nets import build_net, cropped, from_flax, num_params, params_from_torch
from dip_jax.presets import build_config
from tests.architectures.golden import ENTRIES, config_from_2018, load_state

SMALL = {"channels_down": (8,), "channels_up": (8,), "channels_skip": (4,), "input_depth": 4}


def count(channels: int, **fields) -> int:
    net = build_net(NetConfig(**fields), (64, 64, channels))
    return num_params(jax.eval_shape(net.init, jax.random.key(0)))


def slow(*values):
    """A row whose fields other rows have too."""
    return pytest.param(*values, marks=pytest.mark.slow)


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
        slow(2_184_307, 3, {"input_depth": 3}),
        (2_606_763, 3, {"channels_down": TAPER, "channels_up": TAPER, "channels_skip": (4,) * 6, "kernel_down": (7, 7, 5, 5, 3, 3), "kernel_up": (7, 7, 5, 5, 3, 3)}),
        slow(2_583_123, 3, {"input_depth": 2, "channels_down": TAPER, "channels_up": TAPER, "channels_skip": (4,) * 6, "kernel_down": (7, 7, 5, 5, 3, 3), "kernel_up": (7, 7, 5, 5, 3, 3)}),
        slow(2_948_567, 3, {"channels_down": TAPER, "channels_up": TAPER, "channels_skip": (0, 4, 4, 4, 4, 4), "kernel_down": (5, 3, 5, 5, 3, 5), "kernel_up": (5, 3, 5, 3, 5, 3)}),
        slow(1_037_375, 3, {"input_depth": 2, "channels_down": TAPER[:5], "channels_up": TAPER[:5]}),
        (2_463_379, 3, {"kind": "unet", "input_depth": 3, "channels_down": FILTERS, "upsample": ("deconv",), "normalization": "instance"}),
        (2_164_899, 3, {"kind": "unet", "channels_down": FILTERS}),
        slow(2_469_539, 3, {"kind": "unet", "channels_down": FILTERS, "upsample": ("deconv",)}),
        (2_432_333, 3, {"kind": "unet", "input_depth": 3, "channels_down": FILTERS, "upsample": ("deconv",), "concat_input": True}),
        slow(1_616_315, 3, {"kind": "unet", "input_depth": 1, "channels_down": (8, 16, 32, 64, 128), "extra_scales": 1, "upsample": ("deconv",), "normalization": "instance"}),
        (158_979, 3, {"kind": "resnet", "input_depth": 1, "width": 32, "depth": 8}),
        (54_131, 3, {"kind": "resnet", "width": 16, "depth": 10}),
        (129_443, 3, {"kind": "texture", "width": 8, "depth": 6}),
        slow(116_915, 3, {"kind": "texture", "input_depth": 3, "width": 8, "depth": 6}),
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


def test_the_code_of_identity_is_the_image():
    net = build_net(NetConfig(kind="identity"), (33, 40, 3))
    code = jnp.full((33, 40, 3), 7.0)
    assert net.code_shape == net.image_shape == code.shape
    assert net.init(jax.random.key(0)) == {}
    np.testing.assert_array_equal(net.apply({}, code), code)
    assert params_from_torch(NetConfig(kind="identity"), {}) == {}


@pytest.mark.parametrize("size", [(33, 33), (100, 65), (1, 47)])
def test_the_code_of_identity_has_every_size(size):
    net = build_net(NetConfig(kind="identity", input_depth=3), (*size, 3))
    assert net.code_shape == net.image_shape == (*size, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inpaint_hole", "dejpeg_unguided", "inpaint"])
def test_the_smallest_image_runs_through_every_kind_of_preset(name):
    net = build_net(build_config(name).net, (33, 33, 3))
    code = jax.random.uniform(jax.random.key(1), net.code_shape)
    image = jax.jit(net.apply)(net.init(jax.random.key(0)), code)
    assert image.shape == (33, 33, 3)
    assert jnp.isfinite(image).all()


def test_initial_weights_are_those_of_pytorch():
    scales = {"channels_down": (128,) * 2, "channels_up": (128,) * 2, "channels_skip": (4,) * 2}
    params = build_net(NetConfig(**scales), (64, 64, 3)).init(jax.random.key(0))
    for leaf in ("kernel", "bias"):
        values = np.concatenate([np.ravel(params[f"down_{i}_conv"][leaf]) for i in range(2)])
        bound = (9 * 128) ** -0.5
        assert np.abs(values).max() <= bound
        # uniform: standard deviation bound / sqrt(3), up to five standard errors
        assert abs(values.std() / (bound / np.sqrt(3)) - 1) < 5 / np.sqrt(values.size)
    scales = np.concatenate([v["scale"] for k, v in params.items() if k.endswith("_norm")])
    assert 0 <= scales.min() < 0.02 < 0.98 < scales.max() <= 1
    assert abs(scales.mean() - 0.5) < 5 / np.sqrt(12 * scales.size)
    ones = build_net(NetConfig(scale_init="one", **SMALL), (64, 64, 3)).init(jax.random.key(0))
    assert (ones["up_0_norm"]["scale"] == 1).all()
    assert (ones["up_0_norm"]["bias"] == 0).all()


def test_initial_transposed_kernels_are_those_of_pytorch_too():
    # PyTorch takes the outputs for the fan in: bound 1 / sqrt(8 * 4 * 4).
    config = NetConfig(kind="unet", channels_down=(8, 32), upsample=("deconv",), input_depth=2)
    params = build_net(config, (33, 33, 3)).init(jax.random.key(0))
    for leaf, close in (("kernel", 0.99), ("bias", 0.3)):
        largest = np.abs(params["up_0_deconv"][leaf]).max() * np.sqrt(8 * 4 * 4)
        assert close < largest <= 1


def test_a_network_without_sigmoid_and_bias_has_neither():
    net = build_net(NetConfig(sigmoid=False, bias=False, **SMALL), (33, 33, 3))
    params = net.init(jax.random.key(0))
    assert all("bias" not in params[name] for name in params if name.endswith("_conv"))
    params["head_conv"]["kernel"] *= 100
    image = jax.jit(net.apply)(params, jax.random.uniform(jax.random.key(1), net.code_shape))
    assert image.min() < 0


STATE = "skip_nearest_zero_48x64"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: dict(list(s.items())[:-1]), "ends before"),
        (lambda s: {**s, "extra": np.zeros(3)}, "should be|too many"),
        (lambda s: {k: v[..., :1] if v.ndim == 4 else v for k, v in s.items()}, "should be"),
        (lambda s: {}, "ends before"),
    ],
)
def test_a_state_of_another_network_is_refused(change, words):
    config = config_from_2018(ENTRIES[STATE]["config"], "auto")
    with pytest.raises(InputError, match=words):
        params_from_torch(config, change(load_state(STATE)))


def test_running_statistics_of_a_state_are_skipped():
    with_statistics = {}
    for key, value in load_state(STATE).items():
        with_statistics[key] = value
        with_statistics[f"{key}.running_mean"] = np.zeros(7)
        with_statistics[f"{key}.num_batches_tracked"] = np.zeros(())
    config = config_from_2018(ENTRIES[STATE]["config"], "auto")
    expected = params_from_torch(config, load_state(STATE))
    found = params_from_torch(config, with_statistics)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


DEFAULTS = {
    "skip": {},
    "unet": {"channels_down": (64, 128, 256, 512, 1024)},
    "resnet": {"width": 32, "depth": 8},
    "texture": {"width": 32, "depth": 8},
    "conv_decoder": {"width": 32, "depth": 8},
    "deep_decoder": {"width": 32, "depth": 8},
    "identity": {},
}


@pytest.mark.parametrize("kind", DEFAULTS)
def test_the_defaults_of_a_network_are_those_of_the_config(kind):
    config = getattr(nets, kind)().config
    # Whether to rematerialize is known only to the engine.
    expected = NetConfig(kind=kind, remat=config.remat, **DEFAULTS[kind])
    assert config == expected
    assert config.remat == ("off" if kind == "skip" else "auto")


OPTIONS = {
    "input_depth": 6,
    "padding": "zero",
    "activation": "relu",
    "bias": False,
    "sigmoid": False,
    "scale_init": "one",
    "lowering": "xla",
    "precision": "float32",
    "batching": "grouped",
}
# The arguments of each function, and the fields of the same network.
ARGUMENTS = {
    "skip": (
        {
            "channels_down": (6, 8),
            "channels_up": (4, 10),
            "channels_skip": (0, 2),
            "kernel_down": (5, 3),
            "kernel_up": (5,),
            "kernel_skip": 3,
            "conv1x1_up": False,
            "downsample": ("avg",),
            "upsample": ("nearest", "bilinear"),
            "normalization": "group",
            "num_groups": 2,
            "remat": True,
        },
        {"remat": "on"},
    ),
    "unet": (
        {
            "channels": (8, 16),
            "extra_scales": 1,
            "concat_input": True,
            "upsample": "deconv",
            "normalization": "instance",
        },
        {"channels_down": (8, 16), "upsample": ("deconv",)},
    ),
    "resnet": ({"width": 6, "depth": 2, "residual": False}, {}),
    **{
        kind: ({"width": 6, "depth": 2, "upsample": "nearest"}, {"upsample": ("nearest",)})
        for kind in ("texture", "conv_decoder", "deep_decoder")
    },
}


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_a_network_of_arguments_is_that_of_the_same_fields(kind):
    arguments, renamed = ARGUMENTS[kind]
    assert set(OPTIONS) == set(nets.Options.__annotations__)
    fields = {k: v for k, v in arguments.items() if k != "channels"} | renamed | OPTIONS
    config = NetConfig(kind=kind, **fields)
    defaults = getattr(nets, kind)().config
    for name in fields:  # each argument has an effect
        assert getattr(config, name) != getattr(defaults, name), name
    found = getattr(nets, kind)(**arguments, **OPTIONS)((36, 40, 2))
    expected = build_net(config, (36, 40, 2))
    assert found.code_shape == expected.code_shape
    assert found.image_shape == (36, 40, 2)
    params = found.init(jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, params, expected.init(jax.random.key(3)))
    code = jnp.ones(found.code_shape)
    texts = {str(jax.make_jaxpr(net.apply)(params, code)) for net in (found, expected)}
    assert len(texts) == 1


def test_every_kind_has_a_function():
    kinds = typing.get_args(typing.get_type_hints(NetConfig)["kind"])
    assert set(kinds) == set(DEFAULTS) == {*ARGUMENTS, "identity"}


def test_channels_of_the_decoder_and_of_the_skips_follow_from_those_of_the_encoder():
    config = nets.skip(channels_down=(8, 16, 24)).config
    assert config.channels_up == (8, 16, 24)
    assert config.channels_skip == (4, 4, 4)


def test_arguments_that_do_not_fit_together_are_refused():
    with pytest.raises(InputError, match="channels_up"):
        nets.skip(channels_down=(8, 16), channels_up=(8,))
    with pytest.raises(InputError, match="at least two"):
        nets.unet(channels=(8,))


def test_a_cropped_network_makes_the_top_left_corner_by_the_same_weights():
    net = build_net(NetConfig(kind="deep_decoder", depth=1, width=4, input_depth=4), (40, 48, 3))
    corner = cropped(net, (35, 41, 3))
    params, code = net.init(jax.random.key(0)), jnp.ones(net.code_shape)
    code = code * jnp.arange(net.code_shape[1], dtype=jnp.float32)[None, :, None]
    assert corner.image_shape == (35, 41, 3)
    assert corner.code_shape == net.code_shape
    np.testing.assert_array_equal(corner.apply(params, code), net.apply(params, code)[:35, :41])
    assert cropped(net, (40, 48, 3)) is net


SIZE = (10, 13)


def halve(x):
    return nn.avg_pool(x[None], (2, 2), (2, 2))[0]


def double(x):
    return x.repeat(2, axis=0).repeat(2, axis=1)


class Hourglass(nn.Module):
    """A network that halves its input twice, with a normalization by running statistics."""

    channels: int
    is_batched: bool = False

    @nn.compact
    def __call__(self, x):
        assert x.ndim == (4 if self.is_batched else 3)
        assert x.shape[-3] % 4 == x.shape[-2] % 4 == 0
        x = nn.Conv(6, (3, 3), name="first")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=False, name="norm")(x))
        x = x[0] if self.is_batched else x
        x = double(double(halve(halve(x))))
        x = nn.sigmoid(nn.Conv(self.channels, (1, 1), name="head")(x))
        return x[None] if self.is_batched else x


@pytest.mark.parametrize("is_batched", [False, True])
def test_a_flax_module_makes_images_of_any_size_by_a_crop(is_batched):
    build = from_flax(
        lambda channels: Hourglass(channels, is_batched),
        input_depth=5,
        multiple_of=4,
        is_batched=is_batched,
    )
    net = build((*SIZE, 2))
    assert net.code_shape == (12, 16, 5)
    assert net.image_shape == (*SIZE, 2)
    params = net.init(jax.random.key(0))
    assert set(params) == {"first", "norm", "head"}
    code = jax.random.normal(jax.random.key(1), net.code_shape)
    image = net.apply(params, code)
    assert image.shape == (*SIZE, 2)
    assert image.dtype == jnp.float32
    module = Hourglass(2)
    whole, _ = module.apply({"params": params}, code, mutable=["batch_stats"])
    # The center of 12 x 16; the odd excess column is dropped at the end.
    np.testing.assert_allclose(image, whole[1:11, 1:14], atol=1e-6)
    # The normalization uses the statistics of this code, and no other.
    first = np.asarray(nn.Conv(6, (3, 3)).apply({"params": params["first"]}, code))
    mean, var = first.mean((0, 1)), first.var((0, 1))
    x = double(double(halve(halve(np.maximum((first - mean) / np.sqrt(var + 1e-5), 0)))))
    head = jax.tree.map(np.asarray, params["head"])
    x = np.asarray(x) @ head["kernel"][0, 0] + head["bias"]
    np.testing.assert_allclose(image, (1 / (1 + np.exp(-x)))[1:11, 1:14], atol=1e-4)
    np.testing.assert_array_equal(net.apply(params, code), image)


def test_a_flax_module_keeps_its_initializers_and_gets_its_number_of_channels():
    def build(channels):
        return nn.Conv(channels, (3, 3), kernel_init=nn.initializers.constant(0.25), use_bias=False)

    for channels in (1, 3):
        net = from_flax(build, input_depth=4)((*SIZE, channels))
        params = net.init(jax.random.key(0))
        np.testing.assert_array_equal(params["kernel"], np.full((3, 3, 4, channels), 0.25, "f"))
        assert net.code_shape == (*SIZE, 4)
    assert from_flax(build)((*SIZE, 1)).code_shape == (*SIZE, 32)


def test_a_flax_module_is_used_as_it_is():
    net = from_flax(nn.Dense(3), input_depth=4)((*SIZE, 3))
    params = net.init(jax.random.key(0))
    code = jax.random.normal(jax.random.key(1), net.code_shape)
    weights = jax.tree.map(np.asarray, params)
    expected = np.asarray(code) @ weights["kernel"] + weights["bias"]
    np.testing.assert_allclose(net.apply(params, code), expected, atol=1e-6)


def test_flax_weights_are_drawn_by_the_key():
    net = from_flax(nn.Dense(3), input_depth=4)((*SIZE, 3))
    first, again, other = (net.init(jax.random.key(seed))["kernel"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def from_function(function):
    return nn.Sequential([nn.Dense(3), function])


@pytest.mark.parametrize(
    "module",
    [
        nn.Dense(2),  # other channels
        from_function(lambda x: x[None]),  # another number of axes
        from_function(lambda x: x[:-1]),  # too low
        from_function(lambda x: x[:, :-1]),  # too narrow
        # large in one direction and too small in the other
        from_function(lambda x: x.swapaxes(0, 1)),
        from_function(lambda x: jnp.concatenate([x, x])[:, :-1]),
    ],
)
def test_a_flax_module_whose_output_has_another_shape_is_refused(module):
    net = from_flax(module, input_depth=4)((*SIZE, 3))
    params = net.init(jax.random.key(0))
    with pytest.raises(InputError, match=r"at least \(10, 13, 3\)"):
        net.apply(params, jnp.ones(net.code_shape))


class Block(nnx.Module):
    """An nnx module with running statistics."""

    def __init__(self, inputs, channels, *, rngs):
        self.first = nnx.Conv(inputs, 6, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.head = nnx.Conv(6, channels, (1, 1), rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.first(x))))


@pytest.mark.slow
def test_an_nnx_module_is_used_by_the_bridge_of_flax():
    net = from_flax(lambda channels: nnx.bridge.to_linen(Block, 4, channels), input_depth=4)(
        (*SIZE, 3)
    )
    params = net.init(jax.random.key(0))
    assert set(params) == {"first", "norm", "head"}
    code = jax.random.normal(jax.random.key(1), net.code_shape)
    module = Block(4, 3, rngs=nnx.Rngs(0))
    nnx.update(module, jax.tree.map(jnp.asarray, params))
    np.testing.assert_allclose(net.apply(params, code), module(code), atol=1e-5)
    grads = jax.grad(lambda params: jnp.sum(net.apply(params, code) ** 2))(params)
    assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grads["head"]))


@pytest.mark.parametrize("is_function", [True, False])
def test_an_nnx_module_without_the_bridge_is_refused(is_function):
    module = Block(4, 3, rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match=r"flax\.linen module.*to_linen"):
        from_flax((lambda channels: module) if is_function else module)((*SIZE, 3))
