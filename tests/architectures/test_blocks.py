"""Initial weights of the modules, against PyTorch's defaults and against `build_net`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dip_jax.architectures.blocks import Architecture, Norm, torch_uniform
from dip_jax.architectures.decoders import CONV_DECODER, DEEP_DECODER
from dip_jax.architectures.resnet import RESNET
from dip_jax.architectures.skip import SKIP, Skip
from dip_jax.architectures.texture import TEXTURE
from dip_jax.architectures.unet import UNET
from dip_jax.config import NetConfig
from dip_jax.nets import build_net

SHAPE = (33, 33, 3)
SKIP_CONFIG = NetConfig(
    input_depth=8, channels_down=(16, 24), channels_up=(16, 24), channels_skip=(4, 4)
)
NETWORKS = {
    "skip": (SKIP, SKIP_CONFIG),
    "unet": (
        UNET,
        NetConfig(kind="unet", input_depth=8, channels_down=(8, 16), upsample=("deconv",)),
    ),
    "resnet": (RESNET, NetConfig(kind="resnet", input_depth=8, width=16, depth=2)),
    "texture": (TEXTURE, NetConfig(kind="texture", input_depth=8, width=8, depth=2)),
    "conv_decoder": (
        CONV_DECODER,
        NetConfig(kind="conv_decoder", input_depth=8, width=16, depth=2, scale_init="one"),
    ),
    "deep_decoder": (
        DEEP_DECODER,
        NetConfig(kind="deep_decoder", input_depth=8, width=32, depth=3),
    ),
}


def init_module(module, config, key):
    """The initial weights of a module for the code of an image of `SHAPE`."""
    code = jnp.zeros(build_net(config, SHAPE).code_shape)
    # The outputs are not returned, so they are not compiled.
    return jax.jit(lambda key: module.init(key, code)["params"])(key)


def uniforms(params, config):
    """The weights of convolutions in units of PyTorch's bound, and the scales of normalizations."""
    weights, scales = [], []
    for name, leaves in params.items():
        if "kernel" not in leaves:
            np.testing.assert_array_equal(leaves["bias"], 0)
            scales.append(np.ravel(leaves["scale"]))
            continue
        rows, columns, inputs, outputs = leaves["kernel"].shape
        # PyTorch takes the outputs of a transposed kernel for its fan in.
        fan_in = rows * columns * (outputs if name.endswith("deconv") else inputs)
        assert set(leaves) == ({"kernel", "bias"} if has_bias(name, config) else {"kernel"})
        weights += [np.ravel(leaf) * np.sqrt(fan_in) for leaf in leaves.values()]
    return np.concatenate(weights), np.concatenate(scales)


def has_bias(name, config):
    """The 2018 networks have biases except in the residual blocks and in the deep decoder."""
    if config.kind == "deep_decoder":
        return False
    return not (config.kind == "resnet" and name.startswith("block"))


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if kind == "skip" else pytest.mark.slow) for kind in NETWORKS],
)
def test_modules_and_networks_have_the_initial_weights_of_pytorch(kind):
    architecture, config = NETWORKS[kind]
    assert isinstance(architecture, Architecture)
    module = architecture.module(config, SHAPE[2])
    by_module = init_module(module, config, jax.random.key(0))
    by_network = build_net(config, SHAPE).init(jax.random.key(0))
    shapes = [jax.tree.map(lambda leaf: leaf.shape, p) for p in (by_module, by_network)]
    assert shapes[0] == shapes[1]
    for params in (by_module, by_network):
        weights, scales = uniforms(params, config)
        # U(-1, 1), by Kolmogorov and Smirnov with a chance of 1e-6, and by its moments
        assert np.abs(weights).max() <= 1
        assert stats.kstest(weights, stats.uniform(-1, 2).cdf).pvalue > 1e-6
        assert abs(weights.mean()) < 5 / np.sqrt(3 * weights.size)
        assert abs(weights.std() * np.sqrt(3) - 1) < 5 / np.sqrt(weights.size)
        if config.scale_init == "one":
            np.testing.assert_array_equal(scales, 1)
        else:
            assert 0 <= scales.min() < scales.max() <= 1
            assert stats.kstest(scales, stats.uniform.cdf).pvalue > 1e-6


def test_the_arrays_of_a_module_are_independent_and_depend_on_the_key():
    params = [init_module(Skip(SKIP_CONFIG, 3), SKIP_CONFIG, jax.random.key(k)) for k in (0, 1)]
    first, second = (p["down_0_conv"]["kernel"] for p in params)
    third = params[0]["up_0_conv"]["kernel"][:, :, :16]
    for a, b in ((first, second), (first, third)):
        assert abs(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]) < 5 / np.sqrt(first.size)


def test_the_bound_of_the_default_of_pytorch_is_one_over_the_root_of_the_fan_in():
    values = torch_uniform(25)(jax.random.key(0), (10_000,))
    assert values.dtype == jnp.float32
    assert -0.2 <= values.min() < -0.199
    assert 0.199 < values.max() <= 0.2


@pytest.mark.parametrize("scale_init", ["uniform", "one"])
def test_a_normalization_has_a_scale_and_a_bias_for_each_channel_of_its_arguments(scale_init):
    norm = Norm(NetConfig(scale_init=scale_init), "none")
    xs = [jax.random.normal(jax.random.key(k), (6, 5, 2 + k)) for k in range(2)]
    y, variables = norm.init_with_output(jax.random.key(0), *xs)
    scale, bias = variables["params"]["scale"], variables["params"]["bias"]
    assert scale.shape == bias.shape == (5,)
    x = np.concatenate(xs, axis=-1)
    normalized = (x - x.mean((0, 1))) / np.sqrt(x.var((0, 1)) + 1e-5)
    np.testing.assert_allclose(y, normalized * np.asarray(scale), atol=1e-5)
    assert bool((scale == 1).all()) is (scale_init == "one")
