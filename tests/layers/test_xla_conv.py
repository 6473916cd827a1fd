"""XLA's convolution: every batching computes it, by the operations that the batching promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from dip_jax.layers.xla_conv import choose_batching, xla_conv, xla_conv_transposed
from tests.layers.reference import convolve_valid, draw

BATCHINGS = ("grouped", "separate", "product")
CASES = [
    # height, width, sides of the kernel, stride
    (6, 7, (3, 3), 1),
    (6, 7, (3, 3), 2),
    (5, 4, (1, 1), 1),
    (5, 4, (1, 1), 2),
    (1, 9, (1, 3), 1),
    (1, 8, (1, 3), 2),
]


def arrays(case, images=2, inputs=3, outputs=4):
    """Batches of images, kernels and cotangents."""
    height, width, sides, stride = case
    size = ((n - side) // stride + 1 for n, side in zip((height, width), sides, strict=True))
    x, kernel = draw(0, images, height, width, inputs), draw(1, images, *sides, inputs, outputs)
    return tuple(jnp.float32(v) for v in (x, kernel, draw(2, images, *size, outputs)))


def three_passes(stride, x, kernel, dy, **settings):
    y, transpose = jax.vjp(functools.partial(xla_conv, stride=stride, **settings), x, kernel)
    return y, *transpose(dy.astype(y.dtype))


def equations(jaxpr, name):
    """All equations of a primitive, including those of inner programs."""
    found = []
    for equation in jaxpr.eqns:
        found += [equation] if equation.primitive.name == name else []
        for inner in equation.params.values():
            inner = getattr(inner, "jaxpr", inner)
            found += equations(inner, name) if hasattr(inner, "eqns") else []
    return found


def traced(batched, case, **settings):
    """The program of the three passes; `batched` has a flag each for image, kernel and cotangent."""
    x, kernel, dy = arrays(case, images=3, **settings.pop("channels", {}))
    operands = [v if b else v[0] for v, b in zip((x, kernel, dy), batched, strict=True)]
    f = functools.partial(three_passes, case[3], **settings)
    return jax.make_jaxpr(jax.vmap(f, [0 if b else None for b in batched]))(*operands).jaxpr


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("case", CASES)
def test_every_batching_is_the_convolution_of_scipy_with_its_transposes(case, batching):
    x, kernel, dy = arrays(case)
    f = functools.partial(three_passes, case[3], batching=batching, precision="float32")
    y, dx, dkernel = jax.jit(jax.vmap(f))(x, kernel, dy)
    other_x, other_kernel = draw(3, *x.shape), draw(4, *kernel.shape)
    for i in range(2):
        np.testing.assert_allclose(
            y[i], convolve_valid(x[i], kernel[i], case[3]), rtol=1e-5, atol=1e-5
        )
        # It is linear in both: <conv(x', k), dy> = <x', dx> and <conv(x, k'), dy> = <k', dk>.
        along_x = np.sum(convolve_valid(other_x[i], kernel[i], case[3]) * dy[i])
        along_kernel = np.sum(convolve_valid(x[i], other_kernel[i], case[3]) * dy[i])
        np.testing.assert_allclose(np.sum(other_x[i] * dx[i]), along_x, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(
            np.sum(other_kernel[i] * dkernel[i]), along_kernel, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize(
    "batched",
    [(1, 1, 1), (1, 1, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1)],
    ids=lambda b: "".join("xkd"[i] for i in range(3) if b[i]),
)
@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_batching_changes_only_rounding_whichever_operands_are_batched(stride, batched):
    case = (6, 7, (3, 3), stride)
    operands = [v if b else v[0] for v, b in zip(arrays(case), batched, strict=True)]
    axes = [0 if b else None for b in batched]

    def by_each_batching(*operands):
        names = (*BATCHINGS, "auto")
        return {name: three_passes(stride, *operands, batching=name) for name in names}

    results = jax.jit(jax.vmap(by_each_batching, axes))(*operands)
    for batching in BATCHINGS:
        for a, b in zip(results[batching], results["auto"], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_single_image_may_use_any_batching():
    x, kernel, dy = (v[0] for v in arrays(CASES[0]))
    expected = three_passes(1, x, kernel, dy)
    for batching in BATCHINGS:
        for a, b in zip(three_passes(1, x, kernel, dy, batching=batching), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_grouped_is_one_convolution_with_a_group_for_each_image():
    program = traced((1, 1, 1), CASES[0], batching="grouped")
    found = equations(program, "conv_general_dilated")
    groups = [(e.params["feature_group_count"], e.params["batch_group_count"]) for e in found]
    # Forward, then the gradients for image and kernel, the last in the form of cuDNN.
    assert sorted(groups) == [(1, 3), (3, 1), (3, 1)]
    assert not equations(program, "dot_general")


def test_separate_is_a_convolution_for_each_image():
    program = traced((1, 1, 1), CASES[1], batching="separate")
    found = equations(program, "conv_general_dilated")
    assert len(found) == 3 * 3
    assert all(e.params["feature_group_count"] == 1 for e in found)
    assert not equations(program, "dot_general")


def test_product_is_one_matrix_product_and_no_convolution():
    program = traced((1, 1, 1), CASES[1], batching="product")
    found = equations(program, "dot_general")
    assert len(found) == 3
    assert all(e.params["dimension_numbers"][1] == ((0,), (0,)) for e in found)
    assert not equations(program, "conv_general_dilated")


def test_the_default_batching_is_chosen_for_each_pass():
    # Patches of one channel are small; those of the gradient for the image have nine channels.
    program = traced((1, 1, 1), (36, 36, (3, 3), 1), channels={"inputs": 1, "outputs": 9})
    assert len(equations(program, "dot_general")) == 2
    assert len(equations(program, "conv_general_dilated")) == 1


def test_images_that_share_a_kernel_are_an_ordinary_batch():
    # Only the gradient for the kernel is computed for each image.
    program = traced((1, 0, 0), CASES[0], batching="separate")
    assert len(equations(program, "conv_general_dilated")) == 3


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize(
    ("platform", "precision", "level"),
    [
        ("gpu", "float32", "HIGHEST"),
        # With jax 0.10, HIGH is float32 for Triton.
        ("gpu", "tf32", "DEFAULT"),
        ("gpu", "bfloat16", "DEFAULT"),
        ("tpu", "float32", "HIGHEST"),
        # DEFAULT is a single bfloat16 product.
        ("tpu", "tf32", "HIGH"),
        ("tpu", "bfloat16", "DEFAULT"),
    ],
)
def test_every_product_has_the_requested_precision(
    platform, precision, level, batching, monkeypatch
):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    program = traced((1, 1, 1), CASES[0], batching=batching, precision=precision)
    found = equations(program, "conv_general_dilated") + equations(program, "dot_general")
    operand = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
    assert found
    for equation in found:
        assert equation.params["precision"] == (jax.lax.Precision[level],) * 2
        assert all(v.aval.dtype == operand for v in equation.invars)


def in_both_precisions(operands, batching):
    return [
        jax.jit(
            jax.vmap(functools.partial(three_passes, 1, batching=batching, precision=precision))
        )(*operands)
        for precision in ("bfloat16", "float32")
    ]


def zeros_between_pixels(x, kernel):
    """The transposed convolution of stride 2 as a convolution of an image with zeros."""
    y = jax.lax.conv_general_dilated(
        x[None],
        kernel[::-1, ::-1],
        (1, 1),
        [(side // 2, side // 2) for side in kernel.shape[:2]],
        lhs_dilation=tuple(2 if side == 4 else 1 for side in kernel.shape[:2]),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )
    return y[0]


@pytest.mark.parametrize("batching", ["auto", *BATCHINGS])
@pytest.mark.parametrize(("height", "rows"), [(5, 4), (1, 4), (1, 1)])
def test_a_transposed_convolution_is_that_of_an_image_with_zeros_between_its_pixels(
    height, rows, batching
):
    x, kernel = draw(0, 2, height, 7, 3), draw(1, 2, rows, 4, 3, 5)
    dy = draw(2, 2, height * (2 if rows == 4 else 1), 14, 5)

    def passes(f):
        def compute(x, kernel, dy):
            y, transpose = jax.vjp(f, x, kernel)
            return y, *transpose(dy)

        return jax.jit(jax.vmap(compute))(*map(jnp.float32, (x, kernel, dy)))

    ours = functools.partial(xla_conv_transposed, precision="float32", batching=batching)
    found, expected = passes(ours), passes(zeros_between_pixels)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6 * np.abs(b).max())
    if height > 1 and batching in ("auto", "separate"):
        # A single image has the very same sums.
        one = jnp.float32(x[0]), jnp.float32(kernel[0])
        np.testing.assert_array_equal(jax.jit(ours)(*one), jax.jit(zeros_between_pixels)(*one))


@pytest.mark.parametrize("num_images", [1, 2])
def test_no_gradient_of_a_transposed_convolution_reads_zeros_between_pixels(num_images):
    # XLA:GPU would take the gradient for the kernel for a convolution with a window of the image's size.
    def compute(x, kernel, dy):
        y, transpose = jax.vjp(xla_conv_transposed, x, kernel)
        return y, *transpose(dy)

    shapes = ((num_images, 48, 48, 16), (num_images, 4, 4, 16, 16), (num_images, 96, 96, 16))
    program = jax.make_jaxpr(jax.vmap(compute))(*map(jnp.ones, shapes)).jaxpr
    found = equations(program, "conv_general_dilated")
    dilated = [e for e in found if e.params["lhs_dilation"] != (1, 1)]
    assert len(found) > len(dilated) == num_images  # the forward passes


@pytest.mark.parametrize("batching", BATCHINGS)
def test_bfloat16_rounds_and_the_gradient_for_the_kernel_is_float32(batching):
    operands = arrays(CASES[0], inputs=5, outputs=6)
    narrow, wide = in_both_precisions(operands, batching)
    assert [v.dtype for v in narrow] == [jnp.bfloat16, jnp.float32, jnp.float32]
    assert [v.shape for v in narrow] == [v.shape for v in wide]
    for a, b in zip(narrow, wide, strict=True):
        error = np.linalg.norm(np.float32(a) - b) / np.linalg.norm(b)
        assert 0 < error < 2**-7  # 2^-9 each for the operands and the result


def test_bfloat16_of_small_whole_numbers_is_exact():
    # bfloat16 holds these products and sums exactly; the zeros that fill up channels add nothing.
    operands = [jnp.sign(v) for v in arrays(CASES[0], inputs=5, outputs=6)]
    for batching in BATCHINGS:
        for a, b in zip(*in_both_precisions(operands, batching), strict=True):
            np.testing.assert_array_equal(np.float32(a), b)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_bfloat16_operands_have_a_multiple_of_eight_channels(batching):
    program = traced(
        (1, 1, 1),
        CASES[2],
        batching=batching,
        precision="bfloat16",
        channels={"inputs": 12, "outputs": 3},
    )
    found = equations(program, "conv_general_dilated") + equations(program, "dot_general")
    sizes = {v.aval.shape[-1] for equation in found for v in equation.invars}
    assert sizes
    assert all(size % 8 == 0 for size in sizes)


def test_an_image_is_converted_to_the_type_of_the_kernel():
    x, kernel, dy = (v[0] for v in arrays(CASES[0]))
    y, dx, dkernel = three_passes(1, x.astype(jnp.bfloat16), kernel, dy)
    assert [v.dtype for v in (y, dx, dkernel)] == [jnp.float32, jnp.bfloat16, jnp.float32]


@pytest.mark.parametrize("batching", BATCHINGS)
def test_a_batch_of_batches_is_that_of_single_images(batching):
    operands = arrays(CASES[1], images=4)
    run = functools.partial(three_passes, 2, batching=batching)
    flat = jax.jit(jax.vmap(run))(*operands)
    folded = [v.reshape(2, 2, *v.shape[1:]) for v in operands]
    nested = jax.jit(jax.vmap(jax.vmap(run), in_axes=1, out_axes=1))(*folded)
    for a, b in zip(nested, flat, strict=True):
        np.testing.assert_allclose(a.reshape(b.shape), b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("batching", [*BATCHINGS, "auto"])
def test_it_works_in_a_program_of_loops_shards_and_recomputation(batching):
    x, kernel, _ = arrays(CASES[0])

    def loss(kernel, x):
        f = jax.checkpoint(functools.partial(xla_conv, stride=1, batching=batching))
        return jnp.sum(f(x, kernel) ** 2)

    def fit(x, kernel):
        def step(kernel, _):
            return kernel - 1e-3 * jax.grad(loss)(kernel, x), None

        return jax.lax.scan(step, kernel, None, length=2)[0]

    mesh = Mesh(np.array(jax.devices()[:1]), ("batch",))
    spec = PartitionSpec("batch")
    run = jax.shard_map(jax.vmap(fit), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    expected = [fit(x[i], kernel[i]) for i in range(2)]
    np.testing.assert_allclose(jax.jit(run)(x, kernel), jnp.stack(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_gradients_can_be_differentiated_again(batching):
    x, kernel, _ = arrays(CASES[1])

    def steepness(kernel, x, f):
        def loss(x, kernel):
            return jnp.sum(f(x, kernel) ** 3)

        dx, dkernel = jax.grad(loss, (0, 1))(x, kernel)
        return jnp.sum(dx**2) + jnp.sum(dkernel**2)

    def plain(x, kernel):
        dims = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x[None], kernel, (2, 2), "VALID", dimension_numbers=dims
        )[0]

    ours = functools.partial(xla_conv, stride=2, batching=batching)
    a, b = (
        jax.jit(jax.vmap(functools.partial(jax.grad(steepness), f=f)))(kernel, x)
        for f in (ours, plain)
    )
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.abs(b).max())


@pytest.mark.parametrize(
    ("which", "side", "sides", "channels", "stride", "images", "expected"),
    [
        ("forward", 512, (3, 3), (132, 128), 1, 8, "separate"),
        ("weight", 128, (3, 3), (128, 128), 1, 8, "separate"),
        ("forward", 64, (3, 3), (128, 128), 1, 8, "grouped"),
        ("forward", 64, (3, 3), (128, 128), 1, 1, "separate"),
        ("forward", 16, (3, 3), (128, 128), 1, 8, "product"),
        ("forward", 16, (3, 3), (128, 128), 1, 1, "separate"),
        ("forward", 512, (1, 1), (128, 4), 1, 8, "product"),
        ("forward", 512, (3, 3), (3, 128), 1, 8, "product"),
        ("input", 512, (3, 3), (3, 128), 1, 8, "separate"),
        ("forward", 16, (3, 3), (128, 128), 2, 8, "product"),
        ("forward", 64, (3, 3), (128, 128), 2, 8, "grouped"),
        ("input", 64, (3, 3), (128, 128), 2, 8, "separate"),
    ],
)
def test_the_choice_follows_its_rules(which, side, sides, channels, stride, images, expected):
    batching = choose_batching(
        which,
        num_pixels=side * side,
        sides=sides,
        channels=channels,
        stride=stride,
        num_images=images,
    )
    assert batching == expected


@pytest.mark.parametrize("wrong", [{"precision": "float16"}, {"batching": "loop"}])
def test_it_names_what_it_expects(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        xla_conv(jnp.ones((4, 4, 1)), jnp.ones((3, 3, 1, 1)), 1, **wrong)
