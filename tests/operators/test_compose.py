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
from dip_jax.operators.from_file import CustomOperator
from dip_jax.operators.sensing import SubsampledFourier


def test_a_chain_applies_its_operators_in_order():
    image = jnp.asarray(np.random.default_rng(4).random((8, 6, 3)), jnp.float32)
    blur, small = Blur(jnp.asarray(gaussian_kernel(0.5))), Downsample(2, "box")
    chained, expected = jax.jit(lambda x: (Chain((blur, small))(x), small(blur(x))))(image)
    np.testing.assert_array_equal(chained, expected)
    np.testing.assert_array_equal(Chain(())(image), image)


def test_a_stack_concatenates_its_measurements_to_one_vector():
    image = jnp.asarray(np.random.default_rng(5).random((4, 6, 3)), jnp.float32)
    parts = (Gray(), Downsample(2, "box"))
    y, *expected = jax.jit(lambda x: (Stack(parts)(x), *(part(x) for part in parts)))(image)
    np.testing.assert_array_equal(y, np.concatenate([part.ravel() for part in expected]))
    mixed = jax.eval_shape(Stack((Identity(), SubsampledFourier(jnp.ones((4, 6))))), image)
    assert mixed.dtype == jnp.complex64


def test_an_empty_stack_is_refused():
    with pytest.raises(InputError, match="at least one"):
        Stack(())(jnp.ones((4, 4, 1)))


@pytest.mark.parametrize("group", [Chain, Stack])
def test_a_group_is_linear_if_all_its_operators_are(group):
    curve = CustomOperator(lambda x: jnp.sqrt(x + 1), is_linear=False)
    assert group((Identity(), Gray())).is_linear
    assert not group((Identity(), curve)).is_linear
    check_operator(group((Identity(), curve)), (4, 4, 1))
    with pytest.raises(InputError, match="not linear"):
        adjoint(group((curve,)), (4, 4, 1))


def test_a_chain_is_pixelwise_if_all_its_operators_are():
    mask = Mask(jnp.asarray(np.random.default_rng(0).random((5, 7, 1)) > 0.5, jnp.float32))
    chain = Chain((Bayer(), mask))
    assert chain.is_pixelwise
    check_operator(chain, (5, 7, 3))
    assert not Chain((Gray(), Downsample(2))).is_pixelwise
