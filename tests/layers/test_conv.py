"""Every lowering of a convolution agrees with scipy, and the CPU runs none of XLA's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax.layers.conv import conv2d, conv2d_transposed
from tests.layers.reference import convolve, convolve_transposed, draw, relative

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


# Zero padding by default for one case of each kind of computation: Winograd with many and with few
# channels, patches with stride 2, and a kernel without padding.
ZERO_PADDED = (CASES[0], CASES[2], CASES[3], CASES[7])


# On CPU, `auto` is one of the others; the slow tests compare it too.
@pytest.mark.parametrize(
    "lowering",
    ["winograd", "patches", "xla", pytest.param("auto", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(
    ("case", "padding"),
    [
        *((case, "reflect") for case in CASES),
        *(
            pytest.param(case, "zero", marks=() if case in ZERO_PADDED else pytest.mark.slow)
            for case in CASES
        ),
    ],
)
def test_every_lowering_is_the_convolution_of_scipy_with_its_transposes(case, padding, lowering):
    # A convolution is linear in the image and in the kernel, so its gradients are its transposes:
    # <conv(x, k), dy> = <x, dx> = <k, dk>, with the left side from scipy.
    height, width, inputs, outputs, side, stride = case
    x, kernel = draw(0, height, width, inputs), draw(1, side, side, inputs, outputs)
    expected = convolve(x, kernel, stride, padding)
    dy = draw(4, *expected.shape)

    @jax.jit
    def compute(x, kernel, dy):
        f = functools.partial(conv2d, stride=stride, padding=padding, lowering=lowering)
        y, transpose = jax.vjp(f, x, kernel)
        return y, *transpose(dy)

    y, dx, dkernel = compute(*map(jnp.float32, (x, kernel, dy)))
    assert y.shape == expected.shape
    assert relative(y, expected) < 5e-6
    other_x, other_kernel = draw(2, *x.shape), draw(3, *kernel.shape)
    for gradient, other, y in (
        (dx, other_x, convolve(other_x, kernel, stride, padding)),
        (dkernel, other_kernel, convolve(x, other_kernel, stride, padding)),
    ):
        size = np.linalg.norm(dy) * np.linalg.norm(y)
        assert abs(np.sum(np.float64(gradient) * other) - np.sum(y * dy)) < 1e-5 * size


# All remainders of a division by the four pixels of a tile, and the smallest sizes.
@pytest.mark.parametrize("size", [(2, 3), (4, 21), (9, 12), (7, 18)])
def test_sizes_of_every_remainder_agree_with_scipy(size):
    x, kernel = draw(0, *size, 2), draw(1, 3, 3, 2, 3)
    settings = [
        (lowering, padding, stride)
        for padding in ("reflect", "zero")
        for lowering, stride in (("winograd", 1), ("patches", 2))
    ]

    @jax.jit
    def compute(x, kernel):
        return [
            conv2d(x, kernel, stride=stride, padding=padding, lowering=lowering)
            for lowering, padding, stride in settings
        ]

    results = compute(jnp.float32(x), jnp.float32(kernel))
    for y, (_, padding, stride) in zip(results, settings, strict=True):
        assert relative(y, convolve(x, kernel, stride, padding)) < 5e-6


@pytest.mark.parametrize("lowering", ["auto", "xla"])
def test_a_kernel_of_one_row_convolves_signals(lowering):
    x, kernel = draw(0, 1, 30, 4), draw(1, 1, 3, 4, 5)
    y = conv2d(jnp.float32(x), jnp.float32(kernel), padding="zero", lowering=lowering)
    assert relative(y, convolve(x, kernel, 1, "zero")) < 1e-6


def test_on_cpu_a_step_in_a_scan_contains_no_convolution():
    # Inside a loop, XLA:CPU computes a convolution by scalar loops, thirty times slower.
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


def test_a_batch_of_networks_takes_no_more_products_than_as_many_single_ones():
    x, kernels = jnp.ones((4, 32, 32, 16)), jnp.ones((4, 3, 3, 16, 16))

    def loss(x, kernel):
        return jnp.sum(conv2d(x, kernel) ** 2)

    def flops(f, *args):
        return jax.jit(f).lower(*args).compile().cost_analysis()["flops"]

    single = flops(jax.grad(loss, argnums=1), x[0], kernels[0])
    batch = flops(jax.vmap(jax.grad(loss, argnums=1)), x, kernels)
    assert batch < 4.2 * single


@pytest.mark.parametrize("lowering", ["auto", "winograd", "xla"])
@pytest.mark.parametrize(("height", "rows"), [(5, 4), (1, 1), (1, 4)])
def test_a_transposed_convolution_and_its_gradients_are_those_of_the_definition(
    height, rows, lowering
):
    x, kernel = draw(0, height, 7, 3), draw(1, rows, 4, 3, 2)
    dy = draw(4, height * (2 if rows == 4 else 1), 14, 2)

    @jax.jit
    def compute(x, kernel, dy):
        f = functools.partial(conv2d_transposed, lowering=lowering)
        y, transpose = jax.vjp(f, x, kernel)
        return y, *transpose(dy)

    y, dx, dkernel = compute(*map(jnp.float32, (x, kernel, dy)))
    assert y.shape == dy.shape
    assert relative(y, convolve_transposed(x, kernel)) < 1e-6
    # <f(x', k), dy> = <x', dx> and <f(x, k'), dy> = <k', dk>
    other_x, other_kernel = draw(2, *x.shape), draw(3, *kernel.shape)
    expected = (
        np.sum(convolve_transposed(other_x, kernel) * dy),
        np.sum(convolve_transposed(x, other_kernel) * dy),
    )
    np.testing.assert_allclose(np.sum(np.float64(dx) * other_x), expected[0], rtol=1e-4)
    np.testing.assert_allclose(np.sum(np.float64(dkernel) * other_kernel), expected[1], rtol=1e-4)


@pytest.mark.parametrize(
    ("kernel", "lowering", "words"),
    [
        ((3, 3, 3, 3), "auto", r"\[4, 4, C, O\]"),
        ((1, 4, 3, 3), "auto", r"a signal \[1, W, C\]"),
        ((4, 4, 3, 3), "fft", "lowering"),
    ],
)
def test_a_transposed_convolution_names_what_it_expects(kernel, lowering, words):
    with pytest.raises(ValueError, match=words):
        conv2d_transposed(jnp.ones((8, 8, 3)), jnp.ones(kernel), lowering=lowering)


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
def test_conv2d_names_what_it_expects(arguments, words):
    x = jnp.ones(arguments.pop("x", (8, 8, 3)))
    kernel = jnp.ones(arguments.pop("kernel", (3, 3, 3, 3)))
    with pytest.raises(ValueError, match=words):
        conv2d(x, kernel, **arguments)


def test_with_other_platforms_a_program_chooses_the_lowering_when_it_is_compiled(monkeypatch):
    x, kernel = jnp.float32(draw(0, 2, 16, 16, 16)), jnp.float32(draw(1, 2, 3, 3, 16, 16))

    def gradients(x, kernel):
        def energy(x, kernel):
            return (conv2d(x, kernel, batching="grouped") ** 2).sum()

        return jax.grad(energy, (0, 1))(x, kernel)

    on_cpu_only = jax.jit(jax.vmap(gradients))(x, kernel)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    on_any_platform = jax.jit(jax.vmap(lambda *both: gradients(*both)))
    for expected, found in zip(on_cpu_only, on_any_platform(x, kernel), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)

    def convolutions(platform: str) -> int:
        text = on_any_platform.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
        return text.count("stablehlo.convolution")

    assert convolutions("cpu") == 0
    assert convolutions("cuda") > 0
