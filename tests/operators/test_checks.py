import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax.errors import InputError
from dip_jax.operators.basic import Identity, Mask
from dip_jax.operators.bayer import Bayer, Gray
from dip_jax.operators.blur import Blur
from dip_jax.operators.checks import adjoint, check_operator
from dip_jax.operators.compose import Chain, Stack
from dip_jax.operators.downsample import Downsample
from dip_jax.operators.from_function import as_operator
from dip_jax.operators.pixelwise import is_pixelwise
from dip_jax.operators.radon import Radon
from dip_jax.operators.sensing import RandomMatrix, SubsampledFourier
from dip_jax.problem import measure


class FromFunction:
    """An operator made of any function."""

    def __init__(self, function, is_linear=True):
        self.function, self.is_linear = function, is_linear

    def __call__(self, image):
        return self.function(image)


def mask(height, width):
    return Mask(jnp.asarray(np.random.default_rng(0).random((height, width, 1)) > 0.4, jnp.float32))


def random_sums(shape):
    return RandomMatrix(
        jnp.asarray(np.random.default_rng(6).random((13, np.prod(shape))), jnp.float32)
    )


def frequencies(shape):
    return SubsampledFourier(mask(*shape[:2]).mask[..., 0])


def kernel(*shape):
    return jnp.asarray(np.random.default_rng(2).random(shape), jnp.float32)


# Each makes the operator for images of a shape.
LINEAR = {
    "identity": lambda shape: Identity(),
    "mask": lambda shape: mask(*shape[:2]),
    "blur_reflect": lambda shape: Blur(kernel(5, 4)),
    "blur_circular": lambda shape: Blur(kernel(4, 5), "circular"),
    "downsample_lanczos2": lambda shape: Downsample(2, "lanczos2"),
    "downsample_lanczos3": lambda shape: Downsample(3, "lanczos3"),
    "downsample_box": lambda shape: Downsample(4, "box"),
    "downsample_bicubic": lambda shape: Downsample(3, "bicubic"),
    "gray": lambda shape: Gray(),
    "bayer": lambda shape: Bayer("GRBG"),
    "fourier": frequencies,
    "random_matrix": random_sums,
    "radon": lambda shape: Radon(7),
    "chain": lambda shape: Chain((Blur(kernel(3, 3)), Downsample(2), Identity())),
    "stack": lambda shape: Stack((mask(*shape[:2]), Downsample(2, "box"))),
    "stack_complex": lambda shape: Stack((Blur(kernel(3, 2)), frequencies(shape))),
}
SHAPES = [(8, 8, 3), (9, 7, 1), (5, 16, 3)]
SHAPES_OF = {  # operators that do not take every image
    "gray": [(8, 8, 3), (9, 7, 3), (5, 16, 3)],
    "bayer": [(8, 8, 3), (9, 7, 3), (5, 16, 3)],
    "radon": [(8, 8, 3), (9, 9, 1), (9, 9, 3)],
}


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        # By default the shape with an odd side; the others differ from it in size only.
        pytest.param(
            kind,
            shape,
            id=f"{kind}-{shape[0]}x{shape[1]}x{shape[2]}",
            marks=() if i == 1 else pytest.mark.slow,
        )
        for kind in LINEAR
        for i, shape in enumerate(SHAPES_OF.get(kind, SHAPES))
    ],
)
def test_the_adjoint_passes_the_dot_product_test(kind, shape):
    operator = LINEAR[kind](shape)
    rng = np.random.default_rng(1)
    x = jnp.float32(rng.standard_normal(shape))
    predicted = jax.eval_shape(lambda x: operator(x), x)
    y = rng.standard_normal(predicted.shape)
    if jnp.issubdtype(predicted.dtype, jnp.complexfloating):
        y = y + 1j * rng.standard_normal(predicted.shape)
    y = jnp.asarray(y, predicted.dtype)
    # As in a fit, the operator is an argument of a compiled program.
    measured, spread = jax.jit(lambda a, x, y: (a(x), adjoint(a, shape)(y)))(operator, x, y)
    left, right = np.vdot(y, measured).real, np.vdot(x, spread)
    gap = abs(left - right) / (np.linalg.norm(measured) * np.linalg.norm(y))
    assert gap < 1e-5


@pytest.mark.parametrize("kind", LINEAR)
def test_every_operator_keeps_the_contract(kind):
    operator = LINEAR[kind]((9, 9, 3))
    # Compiled as a whole, because one operation at a time takes seconds.
    assert check_operator(FromFunction(jax.jit(lambda x: operator(x))), (9, 9, 3)) is None


class Counter:
    """Measures a little more with each call."""

    is_linear = True
    calls = 0

    def __call__(self, image):
        self.calls += 1
        return image * self.calls


def host_copy(image):
    return jax.pure_callback(np.array, jax.ShapeDtypeStruct(image.shape, image.dtype), image)


@jax.custom_vjp
def exp_with_a_flipped_gradient(x):
    return jnp.exp(x)


exp_with_a_flipped_gradient.defvjp(lambda x: (jnp.exp(x), x), lambda x, dy: (-dy * jnp.exp(x),))


@jax.custom_vjp
def rounded_with_a_derivative(x):
    return jnp.round(x * 16) / 16


rounded_with_a_derivative.defvjp(
    lambda x: (rounded_with_a_derivative(x), None), lambda _, dy: (dy,)
)


@pytest.mark.parametrize(
    "function",
    [
        rounded_with_a_derivative,
        lambda x: jnp.clip(3 * x - 1, 0, 1),
        lambda x: jnp.abs(jnp.fft.fft2(x, axes=(0, 1))),  # phase retrieval
        lambda x: jnp.exp(20j * x),
        lambda x: jnp.sin(10 * x) ** 3,
    ],
)
def test_a_curved_operator_with_a_derivative_passes(function):
    assert check_operator(FromFunction(function, is_linear=False), (9, 7, 1)) is None


@pytest.mark.parametrize(
    ("operator", "words"),
    [
        (FromFunction(lambda x: x + 1), r"differs .* by \d"),
        (FromFunction(lambda x: jnp.maximum(x, 0)), r"differs .* by \d"),
        (FromFunction(lambda x: x**2), r"differs .* by \d"),
        (FromFunction(lambda x: x / 0), "63 values of 63"),
        (FromFunction(lambda x: (x * 3).astype(jnp.int32)), "int32"),
        (FromFunction(lambda x: x.reshape(3)), "failed on an image"),
        (FromFunction(lambda x: (x, x)), "one array"),
        (FromFunction(lambda x: x[:0]), "measured nothing"),
        (FromFunction(lambda x: x * jnp.where(x > 0.5, jnp.nan, 1)), r"\d+ values of 63"),
        (FromFunction(lambda x: x > 0), "got bool"),
        (FromFunction(lambda x: 3.0), "got float"),
        (FromFunction(lambda x: np.asarray(x) * 2), "cannot be traced by JAX .* jax.numpy"),
        (FromFunction(lambda x: x if x.sum() > 0 else 2 * x), "cannot be traced by JAX"),
        (FromFunction(lambda x: x * np.float32(np.random.rand())), r"two measurements .* by \d"),
        (Counter(), r"two measurements .* by 1 relative"),
        (FromFunction(lambda x: undefined(x)), "NameError"),  # noqa: F821
        (
            FromFunction(lambda x: jnp.sqrt(x - x), is_linear=False),
            "gradient with 63 values of 63",
        ),
        (
            FromFunction(lambda x: x.astype(jnp.float16)),
            r"must return float32, got float16.*astype",
        ),
        (FromFunction(lambda x: x.astype(jnp.bfloat16), is_linear=False), "float32, got bfloat16"),
        (FromFunction(host_copy), "cannot be differentiated by JAX .* jax.custom_vjp"),
        (
            FromFunction(lambda x: jnp.round(x * 255) / 255, is_linear=False),
            "a derivative that is 0",
        ),
        (FromFunction(lambda x: jnp.float32(x > 0.5), is_linear=False), "a derivative that is 0"),
        (FromFunction(lambda x: jax.lax.stop_gradient(jnp.exp(x)), is_linear=False), "that is 0"),
        (FromFunction(exp_with_a_flipped_gradient, is_linear=False), "a derivative that is -1"),
        (FromFunction(lambda x: 0 * x + 1, is_linear=False), "does not depend on the image"),
    ],
)
def test_a_broken_operator_is_refused_with_the_measured_number(operator, words):
    shape = (9, 7, 1)
    with pytest.raises(InputError, match=words):
        check_operator(operator, shape)


@jax.custom_vjp
def double_with_a_wrong_gradient(x):
    return 2 * x


double_with_a_wrong_gradient.defvjp(lambda x: (2 * x, None), lambda _, dy: (1.5 * dy,))


def test_a_wrong_custom_gradient_is_refused():
    with pytest.raises(InputError, match=r"differ by 0\.\d+ .* gradient is wrong"):
        check_operator(FromFunction(double_with_a_wrong_gradient), (4, 4, 1))


def test_an_operator_that_declares_itself_nonlinear_passes():
    nonlinear = FromFunction(lambda x: jnp.sqrt(x + 1), is_linear=False)
    assert check_operator(nonlinear, (9, 7, 1)) is None


def test_a_nonlinear_operator_has_no_adjoint():
    with pytest.raises(InputError, match="not linear"):
        adjoint(FromFunction(jnp.sqrt, is_linear=False), (4, 4, 1))


def test_complex_measurements_pass_the_contract_and_have_a_true_adjoint():
    def fourier(x):
        return jnp.fft.fft2(x, axes=(0, 1))

    check_operator(FromFunction(fourier), (8, 6, 1))
    # The adjoint of the unnormalized transform is its inverse, times the number of pixels.
    x = jnp.asarray(np.random.default_rng(0).random((8, 6, 1)), jnp.float32)
    np.testing.assert_allclose(
        adjoint(FromFunction(fourier), x.shape)(fourier(x)), 48 * x, rtol=1e-4
    )


class Pixelwise(FromFunction):
    """An operator that declares itself pixelwise; `padded` replaces it on a canvas."""

    is_pixelwise = True

    def __init__(self, function, padded=None):
        super().__init__(function)
        self.padded = padded or function

    def pad(self, height, width):
        return Pixelwise(lambda image: self.padded(image))


GAIN = jnp.asarray(np.random.default_rng(3).random((9, 7, 1)), jnp.float32)


def padded_gain(image):
    return image * jnp.pad(GAIN, ((0, 3), (0, 2), (0, 0)))


@pytest.mark.parametrize("operator", [Pixelwise(lambda x: x * GAIN, padded_gain), Gray(), Bayer()])
def test_a_pixelwise_operator_passes(operator):
    assert is_pixelwise(operator)
    assert check_operator(operator, (9, 7, 3)) is None


@pytest.mark.parametrize(
    ("operator", "words"),
    [
        (Pixelwise(lambda x: jnp.roll(x, 1, 0)), r"other pixels change .* by 0\.\d+ relative"),
        (Pixelwise(lambda x: x[::2]), r"makes \(5, 7, 3\) of an image \(9, 7, 3\)"),
        (Pixelwise(lambda x: x * GAIN), r"pad\(height, width\) failed \(TypeError"),
        (
            Pixelwise(lambda x: x * GAIN, lambda x: jnp.roll(padded_gain(x), 1, 1)),
            r"on a canvas with a difference of \d",
        ),
    ],
)
def test_a_wrong_claim_to_be_pixelwise_is_refused(operator, words):
    with pytest.raises(InputError, match=words):
        check_operator(operator, (9, 7, 3))


def test_a_pixelwise_operator_without_pad_is_refused():
    class NoPad(FromFunction):
        is_pixelwise = True

    with pytest.raises(InputError, match="pad"):
        check_operator(NoPad(lambda x: 2 * x), (9, 7, 3))


def test_a_matrix_of_the_user_is_linear_on_a_device_that_rounds_products_by_default():
    matrix = np.float32(np.random.default_rng(0).standard_normal((40, 8 * 6)))

    def rounded(values):
        """The operands of TF32, the default of a GPU."""
        if jax.config.jax_default_matmul_precision == "highest":
            return values
        return jax.lax.reduce_precision(values, 8, 10)

    def product(image):
        return rounded(jnp.asarray(matrix)) @ rounded(image.ravel())

    shape, x = (8, 6, 1), np.random.default_rng(1).random((8, 6, 1), np.float32)
    exact = matrix @ x.ravel()
    assert np.abs(product(x) - exact).max() > 1e-4 * np.abs(exact).max()
    operator = as_operator(product, shape)
    assert operator.is_linear
    check_operator(operator, shape)
    np.testing.assert_allclose(measure(operator, x), exact, atol=1e-5)
    transposed = (matrix.T @ exact).reshape(shape)
    np.testing.assert_allclose(adjoint(operator, shape)(jnp.asarray(exact)), transposed, atol=1e-4)
