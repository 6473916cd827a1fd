"""Folds are disjoint, evenly spread, and hidden in all channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dip_jax.base import Problem
from dip_jax.ensemble.folds import block_centers, draw_folds, hide_fold
from dip_jax.errors import InputError
from dip_jax.operators import Identity


# A size is a compiled program, so few are drawn.
@settings(deadline=None, max_examples=10)
@given(
    number=st.integers(2, 12),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    seed=st.integers(0, 9),
)
def test_folds_have_equal_sizes_up_to_the_tiles_at_the_border(number, height, width, seed):
    folds = draw_folds(jax.random.key(seed), (height, width), number)
    assert folds.shape == (height, width)
    counts = np.bincount(folds.ravel(), minlength=number)
    assert len(counts) == number
    rows = max(n for n in range(1, number + 1) if number % n == 0 and n * n <= number)
    whole = folds[: height // rows * rows, : width // (number // rows) * (number // rows)]
    assert len(set(np.bincount(whole.ravel(), minlength=number))) == 1


def test_a_tile_has_each_fold_once_in_an_order_of_its_own():
    folds = draw_folds(jax.random.key(3), (16, 32), 8)
    tiles = folds.reshape(8, 2, 8, 4).swapaxes(1, 2).reshape(-1, 8)
    assert (np.sort(tiles, axis=1) == np.arange(8)).all()
    assert len({tuple(tile) for tile in tiles}) > 50


@pytest.mark.parametrize("shape", [(24, 36), (25, 34)])
def test_the_pixels_of_a_block_are_in_a_fold_together_and_one_of_them_is_its_center(shape):
    folds = draw_folds(jax.random.key(0), shape, 4, block=3)
    assert folds.shape == shape
    centers = block_centers(shape, 3)
    for row, column in np.argwhere(centers):
        around = folds[row - 1 : row + 2, column - 1 : column + 2]
        assert (around == folds[row, column]).all()
    assert abs(centers.sum() - shape[0] * shape[1] / 9) < 8
    assert len(set(np.bincount(folds[:24, :24][centers[:24, :24]]))) == 1
    assert block_centers(shape, 1).all()


def test_other_keys_draw_other_folds():
    first, second = (draw_folds(jax.random.key(seed), (16, 16), 4) for seed in (0, 1))
    assert (first != second).mean() > 0.5


def test_one_fold_is_refused():
    with pytest.raises(InputError, match="at least two folds, got 1"):
        draw_folds(jax.random.key(0), (4, 4), 1)


def test_hidden_pixels_have_weight_zero_in_all_channels_and_other_weights_stay():
    weights = jnp.ones((2, 3, 3)).at[0, 1, 2].set(0)
    problem = Problem(Identity(), jnp.zeros((2, 3, 3)), noise_std=0.1, weights=weights)
    is_hidden = np.array([[True, False, False], [False, False, True]])
    found = np.asarray(hide_fold(problem, is_hidden).weights)
    expected = np.ones((2, 3, 3))
    expected[0, 0] = expected[1, 2] = expected[0, 1, 2] = 0
    np.testing.assert_array_equal(found, expected)
