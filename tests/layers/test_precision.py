"""Products of lower precision, emulated on CPU: operands and results are rounded, weights are not."""

import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from dip_jax.config import NetConfig
from dip_jax.layers.conv import conv2d, conv2d_transposed
from dip_jax.layers.normalization import normalize
from dip_jax.nets import build_net

SMALL = NetConfig(input_depth=4, channels_down=(16,), channels_up=(16,), channels_skip=(4,))
MANTISSA_BITS = {"tf32": 10, "bfloat16": 7}


def draw(key: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(key).normal(size=shape).astype(np.float32)


def rounded(x: np.ndarray, bits: int) -> np.ndarray:
    """The nearest numbers with `bits` bits after the leading one."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.round(mantissa * 2 ** (bits + 1)) / 2 ** (bits + 1), exponent)


def test_rounding_to_seven_bits_is_that_of_bfloat16():
    x = draw(0, 100)
    np.testing.assert_array_equal(rounded(x, 7), x.astype(ml_dtypes.bfloat16).astype(np.float64))


@pytest.mark.parametrize("precision", MANTISSA_BITS)
@pytest.mark.parametrize("lowering", ["patches", "winograd"])
def test_a_convolution_is_that_of_rounded_operands(precision, lowering):
    x, kernel = draw(0, 16, 16, 16), draw(1, 3, 3, 16, 16)
    bits = MANTISSA_BITS[precision]
    exact = conv2d(
        jnp.float32(rounded(x, bits)), jnp.float32(rounded(kernel, bits)), lowering=lowering
    )
    y = conv2d(jnp.array(x), jnp.array(kernel), lowering=lowering, precision=precision)
    expected = np.asarray(exact) if precision == "tf32" else rounded(np.asarray(exact), bits)
    assert y.dtype == (jnp.float32 if precision == "tf32" else jnp.bfloat16)
    # A sum halfway between two numbers of few bits may be rounded to either.
    close = np.isclose(y.astype(np.float32), expected, rtol=1e-5, atol=1e-5)
    assert close.mean() > 0.995
    np.testing.assert_allclose(y.astype(np.float32), expected, rtol=2.0**-bits, atol=1e-3)


@pytest.mark.parametrize("precision", MANTISSA_BITS)
def test_a_transposed_convolution_is_that_of_rounded_operands_too(precision):
    x, kernel = draw(0, 8, 9, 6), draw(1, 4, 4, 6, 5)
    bits = MANTISSA_BITS[precision]
    exact = conv2d_transposed(jnp.float32(rounded(x, bits)), jnp.float32(rounded(kernel, bits)))
    y = conv2d_transposed(jnp.array(x), jnp.array(kernel), precision=precision)
    expected = np.asarray(exact) if precision == "tf32" else rounded(np.asarray(exact), bits)
    rtol = 1e-5 if precision == "tf32" else 2.0**-bits  # the result is rounded, too
    np.testing.assert_allclose(y.astype(np.float32), expected, rtol=rtol, atol=1e-5)
    assert y.dtype == (jnp.float32 if precision == "tf32" else jnp.bfloat16)
    by_xla = conv2d_transposed(jnp.array(x), jnp.array(kernel), precision=precision, lowering="xla")
    assert by_xla.dtype == y.dtype


def test_float32_is_the_default_on_cpu():
    x, kernel = jnp.array(draw(0, 16, 16, 16)), jnp.array(draw(1, 3, 3, 16, 16))
    np.testing.assert_array_equal(conv2d(x, kernel, precision="float32"), conv2d(x, kernel))


def test_statistics_of_bfloat16_are_float32():
    x = (100 + draw(0, 64, 64, 8)).astype(ml_dtypes.bfloat16)
    y = normalize(jnp.array(x), jnp.ones(8), jnp.zeros(8), "none")
    assert y.dtype == jnp.bfloat16
    exact = x.astype(np.float64)
    expected = (exact - exact.mean((0, 1))) / np.sqrt(exact.var((0, 1)) + 1e-5)
    np.testing.assert_allclose(y.astype(np.float32), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("precision", MANTISSA_BITS)
def test_weights_their_gradients_and_the_image_stay_float32(precision):
    net = build_net(dataclasses.replace(SMALL, precision=precision), (32, 32, 3))

    def loss(params, code):
        image = net.apply(params, code)
        return jnp.mean(image**2), image

    params = jax.eval_shape(net.init, jax.random.key(0))
    code = jax.ShapeDtypeStruct(net.code_shape, jnp.float32)
    grads, image = jax.eval_shape(jax.grad(loss, has_aux=True), params, code)
    assert image.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves((params, grads))} == {jnp.dtype("float32")}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_a_fit_of_lower_precision_reaches_the_loss_of_full_precision(precision):
    target = jnp.array(0.5 + 0.3 * np.sin(np.arange(32) / 4)[:, None, None] * np.ones((1, 32, 3)))

    def relative_loss(precision: str) -> float:
        net = build_net(dataclasses.replace(SMALL, precision=precision), (32, 32, 3))
        code = jnp.array(draw(0, *net.code_shape))
        optimizer = optax.adam(0.01)

        def step(carry, _):
            params, state = carry
            loss, grads = jax.value_and_grad(
                lambda p: jnp.mean((net.apply(p, code) - target) ** 2)
            )(params)
            updates, state = optimizer.update(grads, state)
            return (optax.apply_updates(params, updates), state), loss

        params = net.init(jax.random.key(0))
        state = jax.jit(optimizer.init)(params)
        _, losses = jax.lax.scan(step, (params, state), length=60)
        return float(losses[-10:].mean() / losses[0])

    assert relative_loss(precision) < 2 * relative_loss("float32") < 0.2


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="bfloat16"):
        conv2d(jnp.ones((8, 8, 2)), jnp.ones((3, 3, 2, 2)), precision="float8")
