"""Networks from configs: numbers of weights, initial weights, and weights of PyTorch networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax.config import NetConfig
from dip_jax.errors import InputError
from dip_jax.nets import build_net, num_params, params_from_torch
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
@pytest.mark.parametrize("name", ["inpaint_hole", "dejpeg", "inpaint"])
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
