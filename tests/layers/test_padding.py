"""Padding agrees with numpy, folding is its transpose, and the fused form is the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax.layers.padding import fold, pad, pad_fused
from tests.layers.reference import NUMPY_MODES, draw


def examples(count: int) -> list[tuple]:
    """Random shapes, margins, extra rows and columns, and modes."""
    rng = np.random.default_rng(0)
    return [
        (
            tuple(rng.integers(4, 10, 2).tolist()),
            tuple(rng.integers(0, 4, 2).tolist()),
            tuple(rng.integers(0, 4, 2).tolist()),
            str(rng.choice(list(NUMPY_MODES))),
        )
        for _ in range(count)
    ]


EXAMPLES = [
    ((4, 4), (3, 3), (0, 0), "reflect"),
    ((4, 9), (0, 0), (0, 0), "reflect"),
    ((1, 5), (0, 1), (0, 3), "reflect"),
    *examples(12),
]


@pytest.mark.parametrize(("shape", "size", "extra", "mode"), EXAMPLES)
def test_padding_is_that_of_numpy_and_folding_its_transpose(shape, size, extra, mode):
    x = np.float32(draw(0, *shape, 2))
    expected = np.pad(x, [(p, p) for p in size] + [(0, 0)], mode=NUMPY_MODES[mode])
    expected = np.pad(expected, [(0, e) for e in extra] + [(0, 0)])
    dy = np.float32(draw(1, *expected.shape))

    @jax.jit
    def compute(x, dy):
        return pad(x, size, mode, extra), fold(dy, size, mode, extra)

    padded, folded = compute(x, dy)
    np.testing.assert_array_equal(padded, expected)
    np.testing.assert_allclose(np.vdot(padded, dy), np.vdot(x, folded), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("shape", "size", "_", "mode"), EXAMPLES)
def test_the_fused_form_is_the_same_padding_with_the_same_transpose(shape, size, _, mode):
    x = np.float32(draw(0, *shape, 2))
    dy = np.float32(draw(1, shape[0] + 2 * size[0], shape[1] + 2 * size[1], 2))

    @jax.jit
    def compute(x, dy):
        fused, transpose = jax.vjp(lambda x: pad_fused(x, size, mode), x)
        return (fused, pad(x, size, mode)), (transpose(dy)[0], fold(dy, size, mode))

    (fused, padded), (transposed, folded) = compute(x, dy)
    np.testing.assert_array_equal(fused, padded)
    np.testing.assert_allclose(transposed, folded, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("function", [pad, pad_fused])
def test_reflection_of_an_image_that_is_too_small_is_refused(function):
    with pytest.raises(ValueError, match="larger"):
        function(jnp.ones((3, 8, 1)), (3, 3), "reflect")


@pytest.mark.parametrize("function", [pad, pad_fused])
def test_an_unknown_padding_is_refused(function):
    with pytest.raises(ValueError, match="reflect"):
        function(jnp.ones((3, 8, 1)), (1, 1), "wrap")
