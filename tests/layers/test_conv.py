import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from dip_jax.layers.conv import conv2d, conv2d_transposed
from dip_jax.layers.winograd import winograd, winograd_matrices

MODES = {"reflect": "reflect", "zero": "constant"}


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def direct(x, kernel, stride, padding):
    """The definition, by scipy, in float64: one correlation for each pair of channels."""
    p, q = kernel.shape[0] // 2, kernel.shape[1] // 2
    padded = np.pad(x, ((p, p), (q, q), (0, 0)), mode=MODES[padding])
    y = [
        sum(
            signal.correlate2d(padded[..., c], kernel[..., c, o], mode="valid")
            for c in range(kernel.shape[2])
        )
        for o in range(kernel.shape[3])
    ]
    return np.stack(y, axis=-1)[::stride, ::stride]


def relative(a, b):
    return np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b)


CASES = [
    # height, width, channels in and out, kernel, stride
    (33, 35, 20, 17, 3, 1),
    (16, 20, 16, 16, 3, 1),
    (12, 9, 3, 5, 3, 1),
    (17, 18, 4, 6, 3, 2),
    (15, 14, 3, 2, 5, 1),
    (18, 17, 2, 3, 5, 2),
    (12, 13, 2, 2, 7, 1),
    (9, 8, 3, 4, 1, 1),
    (9, 8, 3, 4, 1, 2),
]


@pytest.mark.parametrize("lowering", ["auto", "winograd", "patches", "xla"])
@pytest.mark.parametrize("padding", ["reflect", "zero"])
@pytest.mark.parametrize("case", CASES)
def test_every_lowering_is_the_convolution_of_scipy(case, padding, lowering):
    height, width, inputs, outputs, side, stride = case
    x, kernel = draw(0, height, width, inputs), draw(1, side, side, inputs, outputs)
    y = conv2d(
        jnp.float32(x), jnp.float32(kernel), stride=stride, padding=padding, lowering=lowering
    )
    expected = direct(x, kernel, stride, padding)
    assert y.shape == expected.shape
    assert relative(y, expected) < 5e-6


@pytest.mark.parametrize("lowering", ["winograd", "patches", "xla"])
@pytest.mark.parametrize("padding", ["reflect", "zero"])
@pytest.mark.parametrize("case", CASES)
def test_both_gradients_are_the_transposes_of_the_convolution(case, padding, lowering):
    # A convolution is linear in the image and in the kernel, so its gradients are its transposes:
    # <conv(x, k), dy> = <x, dx> = <k, dk>, with the left side from scipy.
    height, width, inputs, outputs, side, stride = case
    x, kernel = draw(0, height, width, inputs), draw(1, side, side, inputs, outputs)
    other_x, other_kernel = draw(2, *x.shape), draw(3, *kernel.shape)
    f = functools.partial(conv2d, stride=stride, padding=padding, lowering=lowering)
    y, transpose = jax.vjp(f, jnp.float32(x), jnp.float32(kernel))
    dy = draw(4, *y.shape)
    dx, dkernel = transpose(jnp.float32(dy))
    along_x = np.sum(direct(other_x, kernel, stride, padding) * dy)
    along_kernel = np.sum(direct(x, other_kernel, stride, padding) * dy)
    size = np.linalg.norm(dy) * np.linalg.norm(direct(other_x, kernel, stride, padding))
    assert abs(np.sum(np.float64(dx) * other_x) - along_x) < 1e-5 * size
    size = np.linalg.norm(dy) * np.linalg.norm(direct(x, other_kernel, stride, padding))
    assert abs(np.sum(np.float64(dkernel) * other_kernel) - along_kernel) < 1e-5 * size


@settings(max_examples=10, deadline=None)
@given(
    st.integers(2, 21),
    st.integers(2, 21),
    st.sampled_from([1, 2]),
    st.sampled_from(["reflect", "zero"]),
)
def test_any_size_agrees_with_scipy(height, width, stride, padding):
    x, kernel = draw(height, height, width, 2), draw(width, 3, 3, 2, 3)
    for lowering in ("winograd", "patches"):
        y = conv2d(
            jnp.float32(x), jnp.float32(kernel), stride=stride, padding=padding, lowering=lowering
        )
        assert relative(y, direct(x, kernel, stride, padding)) < 5e-6


def test_a_kernel_of_one_row_serves_signals():
    x, kernel = draw(0, 1, 30, 4), draw(1, 1, 3, 4, 5)
    y = conv2d(jnp.float32(x), jnp.float32(kernel), padding="zero")
    assert relative(y, direct(x, kernel, 1, "zero")) < 1e-6


def test_on_cpu_a_step_in_a_scan_holds_no_convolution():
    # XLA:CPU computes a convolution inside a loop by scalar loops, thirty times slower.
    kernels = (jnp.ones((3, 3, 16, 16)), jnp.ones((4, 4, 16, 2)))

    def loss(kernels):
        y = conv2d(jnp.ones((16, 16, 16)), kernels[0])
        return jnp.sum(conv2d_transposed(y, kernels[1]) ** 2)

    def step(kernels, _):
        grads = jax.grad(loss)(kernels)
        return jax.tree.map(lambda k, g: k - 1e-6 * g, kernels, grads), None

    run = jax.jit(lambda k: jax.lax.scan(step, k, None, length=3)[0])
    text = run.lower(kernels).compile().as_text()
    assert " convolution(" not in text


def test_a_batch_of_networks_multiplies_no_more_than_that_many_single_ones():
    x, kernels = jnp.ones((4, 32, 32, 16)), jnp.ones((4, 3, 3, 16, 16))

    def loss(x, kernel):
        return jnp.sum(conv2d(x, kernel) ** 2)

    def flops(f, *args):
        return jax.jit(f).lower(*args).compile().cost_analysis()["flops"]

    single = flops(jax.grad(loss, argnums=1), x[0], kernels[0])
    batch = flops(jax.vmap(jax.grad(loss, argnums=1)), x, kernels)
    assert batch < 4.2 * single


def spread(x, kernel):
    """A transposed convolution by its definition: zeros between the pixels, then scipy."""
    steps = [1 if side == 1 else 2 for side in kernel.shape[:2]]
    height, width = (step * (n - 1) + 1 for step, n in zip(steps, x.shape, strict=False))
    apart = np.zeros((height, width, x.shape[2]))
    apart[:: steps[0], :: steps[1]] = x
    y = [
        sum(signal.convolve2d(apart[..., c], kernel[..., c, o]) for c in range(x.shape[2]))
        for o in range(kernel.shape[3])
    ]
    top, left = (side // 4 for side in kernel.shape[:2])  # the padding
    return np.stack(y, axis=-1)[top : top + steps[0] * x.shape[0], left : left + 2 * x.shape[1]]


@pytest.mark.parametrize("lowering", ["auto", "winograd", "xla"])
@pytest.mark.parametrize(("height", "rows"), [(5, 4), (1, 1), (1, 4)])
def test_a_transposed_convolution_and_its_gradients_are_those_of_the_definition(
    height, rows, lowering
):
    x, kernel = draw(0, height, 7, 3), draw(1, rows, 4, 3, 2)
    f = functools.partial(conv2d_transposed, lowering=lowering)
    y, transpose = jax.vjp(f, jnp.float32(x), jnp.float32(kernel))
    assert y.shape == (height * (2 if rows == 4 else 1), 14, 2)
    assert relative(y, spread(x, kernel)) < 1e-6
    # <f(x', k), dy> = <x', dx> and <f(x, k'), dy> = <k', dk>
    other_x, other_kernel, dy = draw(2, *x.shape), draw(3, *kernel.shape), draw(4, *y.shape)
    dx, dkernel = transpose(jnp.float32(dy))
    expected = np.sum(spread(other_x, kernel) * dy), np.sum(spread(x, other_kernel) * dy)
    np.testing.assert_allclose(np.sum(np.float64(dx) * other_x), expected[0], rtol=1e-4)
    np.testing.assert_allclose(np.sum(np.float64(dkernel) * other_kernel), expected[1], rtol=1e-4)


@pytest.mark.parametrize(
    ("kernel", "lowering", "words"),
    [((3, 3, 3, 3), "auto", r"\[4, 4, C, O\]"), ((4, 4, 3, 3), "fft", "lowering")],
)
def test_a_transposed_convolution_says_what_it_expected(kernel, lowering, words):
    with pytest.raises(ValueError, match=words):
        conv2d_transposed(jnp.ones((8, 8, 3)), jnp.ones(kernel), lowering=lowering)


@pytest.mark.parametrize("points", [(0, 1, -1, 2, -2), (0, 1, -1, 0.5, -2)])
def test_winograds_matrices_make_a_correlation(points):
    at, g, bt = winograd_matrices(points)
    signal_, taps = draw(0, 6), draw(1, 3)
    np.testing.assert_allclose(
        at @ ((g @ taps) * (bt @ signal_)), np.correlate(signal_, taps, "valid"), atol=1e-12
    )


def test_winograd_is_exact_in_float64(double):
    x, kernel = draw(0, 15, 19, 3), draw(1, 3, 3, 3, 4)
    for padding in ("zero", "reflect"):
        expected = direct(x, kernel, 1, padding)
        y = winograd(jnp.array(x), jnp.array(kernel), padding)
        np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"x": (4, 4)}, r"\[H, W, C\]"),
        ({"kernel": (2, 2, 3, 3)}, "odd"),
        ({"stride": 3}, "stride"),
        ({"padding": "replicate"}, "padding"),
        ({"lowering": "fft"}, "lowering"),
    ],
)
def test_conv2d_says_what_it_expected(arguments, words):
    x = jnp.ones(arguments.pop("x", (8, 8, 3)))
    kernel = jnp.ones(arguments.pop("kernel", (3, 3, 3, 3)))
    with pytest.raises(ValueError, match=words):
        conv2d(x, kernel, **arguments)


def test_where_there_are_other_platforms_the_program_chooses_when_it_is_compiled(monkeypatch):
    x, kernel = jnp.float32(draw(0, 2, 16, 16, 16)), jnp.float32(draw(1, 2, 3, 3, 16, 16))

    def gradients(x, kernel):
        def energy(x, kernel):
            return (conv2d(x, kernel, batching="grouped") ** 2).sum()

        return jax.grad(energy, (0, 1))(x, kernel)

    alone = jax.jit(jax.vmap(gradients))(x, kernel)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    among_others = jax.jit(jax.vmap(lambda *both: gradients(*both)))
    for here, there in zip(alone, among_others(x, kernel), strict=True):
        np.testing.assert_allclose(here, there, rtol=1e-5, atol=1e-4)

    def convolutions(platform: str) -> int:
        text = among_others.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
        return text.count("stablehlo.convolution")

    assert convolutions("cpu") == 0
    assert convolutions("cuda") > 0
