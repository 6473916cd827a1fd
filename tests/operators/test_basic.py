import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax.errors import InputError
from dip_jax.operators.basic import Identity, Mask
from dip_jax.operators.bayer import Bayer, Gray
from dip_jax.operators.blur import Blur, gaussian_kernel
from dip_jax.operators.checks import adjoint, check_operator
from dip_jax.operators.compose import Chain, Stack
from dip_jax.operators.downsample import Downsample
from dip_jax.operators.radon import Radon
from dip_jax.operators.sensing import RandomMatrix, SubsampledFourier


def some_mask(height=9, width=7):
    return Mask(jnp.asarray(np.random.default_rng(0).random((height, width, 1)) > 0.4, jnp.float32))


class Broken:
    """An operator made from any function."""

    def __init__(self, function, is_linear=True):
        self.function, self.is_linear = function, is_linear

    def __call__(self, image):
        return self.function(image)


def random_sums(shape):
    return RandomMatrix(
        jnp.asarray(np.random.default_rng(6).random((13, np.prod(shape))), jnp.float32)
    )


def frequencies(shape):
    return SubsampledFourier(some_mask(*shape[:2]).mask[..., 0])


def kernel(*shape):
    return jnp.asarray(np.random.default_rng(2).random(shape), jnp.float32)


# Each makes the operator for images of a shape.
LINEAR = {
    "identity": lambda shape: Identity(),
    "mask": lambda shape: some_mask(*shape[:2]),
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
    "stack": lambda shape: Stack((some_mask(*shape[:2]), Downsample(2, "box"))),
    "stack_complex": lambda shape: Stack((Blur(kernel(3, 2)), frequencies(shape))),
}
SHAPES = [(8, 8, 3), (9, 7, 1), (5, 16, 3)]
SHAPES_OF = {  # those that not every image suits
    "gray": [(8, 8, 3), (9, 7, 3), (5, 16, 3)],
    "bayer": [(8, 8, 3), (9, 7, 3), (5, 16, 3)],
    "radon": [(8, 8, 3), (9, 9, 1), (9, 9, 3)],
}


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        pytest.param(kind, shape, id=f"{kind}-{shape[0]}x{shape[1]}x{shape[2]}")
        for kind in LINEAR
        for shape in SHAPES_OF.get(kind, SHAPES)
    ],
)
def test_the_adjoint_passes_the_dot_product_test(kind, shape):
    operator = LINEAR[kind](shape)
    rng = np.random.default_rng(1)
    x = jnp.float32(rng.standard_normal(shape))
    kept = jax.eval_shape(lambda x: operator(x), x)
    y = rng.standard_normal(kept.shape)
    if jnp.issubdtype(kept.dtype, jnp.complexfloating):
        y = y + 1j * rng.standard_normal(kept.shape)
    y = jnp.asarray(y, kept.dtype)
    # As a fit uses it: a tree that goes into a compiled program.
    measured, back = jax.jit(lambda a, x, y: (a(x), adjoint(a, shape)(y)))(operator, x, y)
    left, right = np.vdot(y, measured).real, np.vdot(x, back)
    gap = abs(left - right) / (np.linalg.norm(measured) * np.linalg.norm(y))
    assert gap < 1e-5


@pytest.mark.parametrize("kind", LINEAR)
def test_every_operator_keeps_the_contract(kind):
    operator = LINEAR[kind]((9, 9, 3))
    # Compiled as a whole, because one operation at a time takes seconds.
    assert check_operator(Broken(jax.jit(lambda x: operator(x))), (9, 9, 3)) is None


def test_a_chain_measures_one_after_the_other():
    image = jnp.asarray(np.random.default_rng(4).random((8, 6, 3)), jnp.float32)
    blur, small = Blur(jnp.asarray(gaussian_kernel(0.5))), Downsample(2, "box")
    chained, expected = jax.jit(lambda x: (Chain((blur, small))(x), small(blur(x))))(image)
    np.testing.assert_array_equal(chained, expected)
    np.testing.assert_array_equal(Chain(())(image), image)


def test_a_stack_measures_side_by_side_in_one_vector():
    image = jnp.asarray(np.random.default_rng(5).random((4, 6, 3)), jnp.float32)
    parts = (Gray(), Downsample(2, "box"))
    y, *expected = jax.jit(lambda x: (Stack(parts)(x), *(part(x) for part in parts)))(image)
    np.testing.assert_array_equal(y, np.concatenate([part.ravel() for part in expected]))
    mixed = jax.eval_shape(Stack((Identity(), frequencies((4, 6)))), image)
    assert mixed.dtype == jnp.complex64


def test_a_stack_of_nothing_is_refused():
    with pytest.raises(InputError, match="at least one"):
        Stack(())(jnp.ones((4, 4, 1)))


@pytest.mark.parametrize("group", [Chain, Stack])
def test_a_group_is_linear_if_all_of_it_is(group):
    curve = Broken(lambda x: jnp.sqrt(x + 1), is_linear=False)
    assert group((Identity(), Gray())).is_linear
    assert not group((Identity(), curve)).is_linear
    check_operator(group((Identity(), curve)), (4, 4, 1))
    with pytest.raises(InputError, match="not linear"):
        adjoint(group((curve,)), (4, 4, 1))


def test_a_mask_keeps_the_known_and_zeroes_the_missing():
    mask = np.array([[1, 0], [0, 1]], np.float32)[..., None]
    image = np.arange(1, 13, dtype=np.float32).reshape(2, 2, 3)
    expected = image.copy()
    expected[0, 1] = expected[1, 0] = 0
    np.testing.assert_array_equal(Mask(jnp.asarray(mask))(jnp.asarray(image)), expected)


def test_operators_are_trees_and_can_be_stacked():
    masks = [some_mask(), some_mask()]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *masks)
    image = jnp.ones((2, 9, 7, 1))
    y = jax.vmap(lambda operator, x: operator(x))(stacked, image)
    np.testing.assert_array_equal(y[1], masks[1](image[1]))


class Counter:
    """Measures a little more with each call."""

    is_linear = True
    calls = 0

    def __call__(self, image):
        self.calls += 1
        return image * self.calls


@jax.custom_vjp
def _lies(x):
    return 2 * x


_lies.defvjp(lambda x: (2 * x, None), lambda _, dy: (1.5 * dy,))


@pytest.mark.parametrize(
    ("operator", "words"),
    [
        (Broken(lambda x: x + 1), r"differs .* by \d"),
        (Broken(lambda x: jnp.maximum(x, 0)), r"differs .* by \d"),
        (Broken(lambda x: x**2), r"differs .* by \d"),
        (Broken(lambda x: x / 0), "63 values of 63"),
        (Broken(lambda x: (x * 3).astype(jnp.int32)), "int32"),
        (Broken(lambda x: x.reshape(3)), "failed on an image"),
        (Broken(lambda x: (x, x)), "one array"),
        (Broken(lambda x: x[:0]), "measured nothing"),
        (Broken(lambda x: x * jnp.where(x > 0.5, jnp.nan, 1)), r"\d+ values of 63"),
        (Broken(lambda x: x > 0), "came bool"),
        (Broken(lambda x: 3.0), "came float"),
        (Broken(lambda x: np.asarray(x) * 2), "cannot be traced by JAX .* jax.numpy"),
        (Broken(lambda x: x if x.sum() > 0 else 2 * x), "cannot be traced by JAX"),
        (Broken(lambda x: x * np.float32(np.random.rand())), r"two measurements .* by \d"),
        (Counter(), r"two measurements .* by 1 relative"),
        (Broken(lambda x: undefined(x)), "NameError"),  # noqa: F821
        (Broken(lambda x: jnp.sqrt(x - x), is_linear=False), "gradient"),
    ],
)
def test_a_broken_operator_is_refused_with_the_number(operator, words):
    shape = (9, 7, 1)
    with pytest.raises(InputError, match=words):
        check_operator(operator, shape)


def test_a_custom_gradient_that_lies_is_refused():
    with pytest.raises(InputError, match=r"differ by 0\.\d+ .* gradient is wrong"):
        check_operator(Broken(_lies), (4, 4, 1))


def test_an_operator_that_is_not_linear_and_says_so_passes():
    assert check_operator(Broken(lambda x: jnp.sqrt(x + 1), is_linear=False), (9, 7, 1)) is None


def test_an_operator_that_is_not_linear_has_no_adjoint():
    with pytest.raises(InputError, match="not linear"):
        adjoint(Broken(jnp.sqrt, is_linear=False), (4, 4, 1))


def test_complex_measurements_pass_the_contract_and_have_a_true_adjoint():
    def fourier(x):
        return jnp.fft.fft2(x, axes=(0, 1))

    check_operator(Broken(fourier), (8, 6, 1))
    # The adjoint of the unnormalized transform is its inverse, times the number of pixels.
    x = jnp.asarray(np.random.default_rng(0).random((8, 6, 1)), jnp.float32)
    np.testing.assert_allclose(adjoint(Broken(fourier), x.shape)(fourier(x)), 48 * x, rtol=1e-4)


def test_operators_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        some_mask().mask = None
