import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dip_jax.config import NetConfig
from dip_jax.errors import InputError
from dip_jax.nets import build_net, code_size, num_params, params_from_torch
from dip_jax.presets import PRESETS, build_config

GOLDEN = Path(__file__).parent / "data"
INDEX = {
    k: v for k, v in json.loads((GOLDEN / "index.json").read_text()).items() if k[:4] == "skip"
}


def config_from_2018(given: dict, lowering: str) -> NetConfig:
    """Our config for the 2018 constructor's arguments (and its defaults)."""

    def listed(name, default):
        value = given.get(name, default)
        return tuple(value) if isinstance(value, list) else (value,)

    activations = {"LeakyReLU": "leaky_relu", "Swish": "swish", "ELU": "elu"}
    return NetConfig(
        input_depth=given["num_input_channels"],
        channels_down=listed("num_channels_down", 0),
        channels_up=listed("num_channels_up", 0),
        channels_skip=listed("num_channels_skip", 0),
        kernel_down=listed("filter_size_down", 3),
        kernel_up=listed("filter_size_up", 3),
        upsample=listed("upsample_mode", "nearest"),
        downsample=listed("downsample_mode", "stride"),
        padding="reflect" if given.get("pad") == "reflection" else "zero",
        activation=activations[given.get("act_fun", "LeakyReLU")],
        conv1x1_up=given.get("need1x1_up", True),
        lowering=lowering,
    )


class Golden:
    """A network of 2018 with its weights, input, target and what came of them."""

    def __init__(self, name: str, lowering: str, dtype):
        entry = INDEX[name]
        self.arrays = np.load(GOLDEN / f"{name}.npz")
        self.config = config_from_2018(entry["config"], lowering)
        state = {k: self.arrays[k] for k in self.arrays.files if k.startswith("param/")}
        params = params_from_torch(self.config, state)
        self.params = jax.tree.map(lambda v: v.astype(dtype), params)
        self.net = build_net(self.config, tuple(entry["output_shape"]))
        self.code = jnp.asarray(self.arrays["z"], dtype)
        self.target = jnp.asarray(self.arrays["target"], dtype)
        assert num_params(self.params) == entry["num_params"]
        assert self.net.code_shape == self.code.shape

    def loss(self, params):
        output = self.net.apply(params, self.code)
        return jnp.mean((output - self.target) ** 2), output


# Every network as it runs by default; the vendor's convolution where all kernels and strides occur.
COMPARED = [(name, "auto") for name in INDEX] + [
    (name, "vendor")
    for name in (
        "skip_bilinear_reflection_65x70",
        "skip_kernel5_no1x1_swish_64x64",
        "skip_maxpool_64x64",
    )
]


@pytest.mark.parametrize(("name", "lowering"), COMPARED)
def test_weights_of_2018_give_the_output_and_gradients_of_2018(name, lowering):
    golden = Golden(name, lowering, jnp.float32)
    (loss, output), grads = jax.jit(jax.value_and_grad(golden.loss, has_aux=True))(golden.params)
    np.testing.assert_allclose(output, golden.arrays["output"], atol=1e-5)
    np.testing.assert_allclose(loss, golden.arrays["loss"], rtol=1e-5)
    # Ours by modules: the first and the last kernel of the 2018 order.
    first = "skip_0_conv" if golden.config.channels_skip[0] else "halve_0_conv"
    for module, expected in ((first, "grad_first_kernel"), ("head_conv", "grad_last_kernel")):
        kernel = np.asarray(grads[module]["kernel"]).transpose(3, 2, 0, 1)
        difference = np.linalg.norm(kernel - golden.arrays[expected])
        assert difference < 1e-4 * np.linalg.norm(golden.arrays[expected])
    norms = np.sort([float(jnp.linalg.norm(g)) for g in jax.tree.leaves(grads)])
    np.testing.assert_allclose(norms, np.sort(golden.arrays["grad_norms"]), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", INDEX)
def test_winograd_gives_the_output_of_2018_in_float32_too(name):
    # Its gradients are compared in float64 below: a pre-activation that is zero to rounding may fall on
    # the other side of the kink, which moves a gradient of these small networks by a per cent.
    golden = Golden(name, "winograd", jnp.float32)
    output = jax.jit(golden.net.apply)(golden.params, golden.code)
    np.testing.assert_allclose(output, golden.arrays["output"], atol=1e-5)


@pytest.mark.parametrize("name", INDEX)
def test_five_steps_of_adam_give_the_losses_of_2018(name, double):
    # In float64, as the golden numbers: Adam's first steps are the sign of the gradient, so in float32
    # a gradient of zero (a bias that the next normalisation removes) moves by rounding alone.
    golden = Golden(name, "winograd", jnp.float64)
    optimizer = optax.adam(0.01)
    params, state, losses = golden.params, optimizer.init(golden.params), []

    @jax.jit
    def step(params, state):
        (loss, _), grads = jax.value_and_grad(golden.loss, has_aux=True)(params)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    for _ in range(5):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    np.testing.assert_allclose(losses, golden.arrays["adam_losses"], rtol=1e-9)


def count(channels: int, **fields) -> int:
    net = build_net(NetConfig(**fields), (64, 64, channels))
    return num_params(jax.eval_shape(net.init, jax.random.key(0)))


WIDE, TAPER = (128,) * 5, (16, 32, 64, 128, 128, 128)


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
        (49_685_673, 1, {"channels_down": (1024,) * 2, "channels_up": (1024,) * 2, "channels_skip": (4,) * 2, "sigmoid": False}),
        *(
            (total, 3, {"input_depth": 1, "channels_down": TAPER[:d], "channels_up": TAPER[:d], "channels_skip": (0,) * d, "kernel_down": (5,), "conv1x1_up": False})
            for d, total in ((2, 59_635), (4, 1_060_339), (6, 2_996_467))
        ),
    ],
)  # fmt: skip
def test_parameter_counts_are_those_of_2018_to_the_unit(expected, channels, fields):
    assert count(channels, **fields) == expected


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("denoise", 2_217_831),
        ("denoise_2018", 2_217_831),
        ("dejpeg", 572_827),
        ("inpaint", 3_002_627),
        ("inpaint_random", 2_217_831),
        ("inpaint_hole", 2_996_467),
    ],
)
def test_presets_have_the_published_size(preset, expected):
    assert PRESETS[preset].source.startswith("Ulyanov")
    net = build_net(build_config(preset).net, (64, 64, 3))
    assert num_params(jax.eval_shape(net.init, jax.random.key(0))) == expected


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
    assert code_size(NetConfig(channels_skip=(0,) * 5), 100) == 97 + 3  # rounded up by the network
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
