import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from dip_jax.layers import flax_conv
from dip_jax.layers.flax_conv import conv_general_dilated
from dip_jax.nets import from_flax


def arrays(side, channels=3, features=5, shape=(2, 12, 9)):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(*shape, channels)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(side, side, channels, features)), jnp.float32)
    return x, kernel, lax.conv_dimension_numbers(x.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))


@pytest.mark.parametrize("padding", ["SAME", "explicit", "VALID"])
@pytest.mark.parametrize(("side", "strides"), [(1, 1), (3, 1), (5, 1), (3, 2), (2, 1)])
def test_it_is_the_convolution_of_lax(side, strides, padding):
    x, kernel, numbers = arrays(side)
    padding = [(side // 2, side // 2)] * 2 if padding == "explicit" else padding
    call = {"window_strides": (strides, strides), "padding": padding, "dimension_numbers": numbers}
    found = conv_general_dilated(x, kernel, **call)
    expected = lax.conv_general_dilated(x, kernel, **call, precision="highest")
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_only_plain_convolutions_are_computed_by_conv2d(monkeypatch):
    calls = []
    real = flax_conv.conv2d
    monkeypatch.setattr(
        flax_conv, "conv2d", lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs)
    )
    x, kernel, numbers = arrays(3)
    plain = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": numbers}
    conv_general_dilated(x, kernel, **plain)
    assert calls == [1]
    for other in (
        {"window_strides": (2, 2)},
        {"padding": "VALID"},
        {"rhs_dilation": (2, 2)},
        {"precision": lax.Precision.HIGHEST},
    ):
        conv_general_dilated(x, kernel, **plain | other)
    groups = jnp.ones((3, 3, 1, 3))
    conv_general_dilated(x, groups, **plain, feature_group_count=3)
    assert calls == [1]


def test_a_flax_network_has_the_output_and_the_gradient_that_it_has_alone():
    class Module(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.Conv(8, (3, 3))(x))
            x = nn.ConvTranspose(8, (3, 3))(nn.Conv(8, (3, 3), padding="CIRCULAR")(x))
            return nn.Conv(3, (1, 1), use_bias=False)(x)

    module = Module()
    net = from_flax(module, input_depth=4)((16, 20, 3))
    params = net.init(jax.random.key(0))
    code = jax.random.normal(jax.random.key(1), net.code_shape)

    def loss(apply):
        return lambda params: jnp.sum(apply(params) ** 2)

    found = jax.value_and_grad(loss(lambda p: net.apply(p, code)))(params)
    expected = jax.value_and_grad(loss(lambda p: module.apply({"params": p}, code)))(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), found, expected
    )


def test_a_module_that_names_its_own_convolution_keeps_it():
    calls = []

    def own(*args, **kwargs):
        calls.append(1)
        return lax.conv_general_dilated(*args, **kwargs)

    module = nn.Conv(3, (3, 3), conv_general_dilated_cls=lambda: own)
    net = from_flax(module, input_depth=4)((8, 8, 3))
    params = net.init(jax.random.key(0))
    calls.clear()
    net.apply(params, jnp.ones(net.code_shape))
    assert calls == [1]
