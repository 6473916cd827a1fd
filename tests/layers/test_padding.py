import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dip_jax.layers.padding import fold, pad, pad_fused

MODES = {"reflect": "reflect", "zero": "constant"}
margins = st.tuples(st.integers(0, 3), st.integers(0, 3))


def draw(key: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(key).normal(size=shape), jnp.float32)


@settings(deadline=None, max_examples=15)
@given(st.integers(4, 9), st.integers(4, 9), margins, margins, st.sampled_from(list(MODES)))
def test_padding_is_that_of_numpy_with_zeros_at_the_end(height, width, size, more, mode):
    x = draw(0, height, width, 2)
    expected = np.pad(x, [(p, p) for p in size] + [(0, 0)], mode=MODES[mode])
    expected = np.pad(expected, [(0, extra) for extra in more] + [(0, 0)])
    np.testing.assert_array_equal(pad(x, size, mode, more), expected)


@settings(deadline=None, max_examples=15)
@given(st.integers(4, 9), st.integers(4, 9), margins, margins, st.sampled_from(list(MODES)))
def test_folding_is_the_transpose_of_padding(height, width, size, more, mode):
    x = draw(0, height, width, 2)
    padded = pad(x, size, mode, more)
    dy = draw(1, *padded.shape)
    there, back = jnp.vdot(padded, dy), jnp.vdot(x, fold(dy, size, mode, more))
    np.testing.assert_allclose(there, back, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=15)
@given(st.integers(4, 9), st.integers(4, 9), margins, st.sampled_from(list(MODES)))
def test_what_compilers_are_to_fuse_is_the_same_padding_with_the_same_transpose(
    height, width, size, mode
):
    x = draw(0, height, width, 2)
    padded, transpose = jax.vjp(lambda x: pad_fused(x, size, mode), x)
    np.testing.assert_array_equal(padded, pad(x, size, mode))
    dy = draw(1, *padded.shape)
    np.testing.assert_allclose(transpose(dy)[0], fold(dy, size, mode), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("function", [pad, pad_fused])
def test_reflection_of_a_picture_that_is_too_small_is_refused(function):
    with pytest.raises(ValueError, match="larger"):
        function(jnp.ones((3, 8, 1)), (3, 3), "reflect")


@pytest.mark.parametrize("function", [pad, pad_fused])
def test_an_unknown_padding_is_refused(function):
    with pytest.raises(ValueError, match="reflect"):
        function(jnp.ones((3, 8, 1)), (1, 1), "wrap")
