"""With the weights of the 2018 networks, outputs, gradients and training agree with theirs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.architectures.golden import ENTRIES, SKIP_NAMES, Golden

# By default each network is compared once, by the lowering below; the slow tests compare each by each
# lowering. XLA's convolution compiles in half the time, and tests/layers compares the lowerings. The
# networks that are in neither list have the features of those that are.
LOWERING_BY_DEFAULT = {
    "skip_mixed_skips_elu_gray_40x56": "xla",
    "unet_deconv_instance_64x64": "xla",
}
TRAINED_BY_DEFAULT = "skip_bilinear_reflection_65x70"


def slow_unless(is_default: bool, *values):
    return pytest.param(*values, marks=() if is_default else pytest.mark.slow)


def assert_is_golden(
    golden: Golden, output, loss, grads, *, atol: float, rtol: float, grad_rtol: float
):
    """Compares the output, the loss and the gradients of the first step with the golden ones."""
    np.testing.assert_allclose(output, golden.arrays["output"], atol=atol)
    np.testing.assert_allclose(loss, golden.arrays["loss"], rtol=rtol)
    ends = ((golden.first_module, "grad_first_kernel"), ("head_conv", "grad_last_kernel"))
    for module, expected in ends:
        kernel = np.asarray(grads[module]["kernel"]).transpose(3, 2, 0, 1)
        difference = np.linalg.norm(kernel - golden.arrays[expected])
        assert difference < grad_rtol * np.linalg.norm(golden.arrays[expected])
    norms = np.sort([float(jnp.linalg.norm(g)) for g in jax.tree.leaves(grads)])
    np.testing.assert_allclose(
        norms, np.sort(golden.arrays["grad_norms"]), rtol=grad_rtol, atol=1e-7
    )


@pytest.mark.parametrize(
    ("name", "lowering"),
    [
        slow_unless(LOWERING_BY_DEFAULT.get(name) == lowering, name, lowering)
        for name in ENTRIES
        for lowering in ("auto", "xla")
    ],
)
def test_weights_of_2018_give_the_output_and_gradients_of_2018(name, lowering):
    golden = Golden(name, lowering, jnp.float32)
    (loss, output), grads = jax.jit(jax.value_and_grad(golden.loss, has_aux=True))(golden.params)
    assert_is_golden(golden, output, loss, grads, atol=1e-5, rtol=1e-5, grad_rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", SKIP_NAMES)
def test_winograd_gives_the_output_of_2018_in_float32_too(name):
    # Its gradients are compared in float64: a pre-activation of zero up to rounding may fall on the
    # other side of the kink, which changes a gradient of these small networks by one percent.
    golden = Golden(name, "winograd", jnp.float32)
    output = jax.jit(golden.net.apply)(golden.params, golden.code)
    np.testing.assert_allclose(output, golden.arrays["output"], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "lowering"),
    [
        *(slow_unless(name == TRAINED_BY_DEFAULT, name, "xla") for name in ENTRIES),
        *(slow_unless(False, name, "winograd") for name in SKIP_NAMES),
    ],
)
def test_five_steps_of_adam_give_the_losses_of_2018(name, lowering, double):
    # In float64, like the golden numbers: the first steps of Adam are the sign of the gradient, so in
    # float32 a gradient of zero (of a bias before a normalization) moves a weight by rounding alone.
    golden = Golden(name, lowering, jnp.float64)
    evaluate = jax.jit(jax.value_and_grad(golden.loss, has_aux=True))
    leaves, structure = jax.tree.flatten(golden.params)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
    # Adam treats all numbers equally, so one long vector compiles once instead of once per array.
    flat = jnp.concatenate([leaf.ravel() for leaf in leaves])
    optimizer = optax.adam(0.01)
    state, update, losses = optimizer.init(flat), jax.jit(optimizer.update), []
    for step in range(5):
        parts = np.split(np.asarray(flat), ends)
        shaped = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
        (loss, output), grads = evaluate(jax.tree.unflatten(structure, shaped))
        if step == 0:
            assert_is_golden(golden, output, loss, grads, atol=1e-6, rtol=1e-6, grad_rtol=1e-5)
        gradient = np.concatenate([np.ravel(grad) for grad in jax.tree.leaves(grads)])
        updates, state = update(gradient, state)
        flat = optax.apply_updates(flat, updates)
        losses.append(float(loss))
    np.testing.assert_allclose(losses, golden.arrays["adam_losses"], rtol=1e-9)
