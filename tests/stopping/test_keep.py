import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax.base import Info
from dip_jax.errors import InputError
from dip_jax.stopping import keep


def feed_steps(rule, num_steps):
    state = rule.init(None, None, (2, 3, 1))
    for step in range(num_steps):
        image = jnp.full((2, 3, 1), step + 1.0)
        info = Info(jnp.float32(1), image, image, accepted=jnp.bool_(True))
        state, _ = rule.update(state, None, jnp.int32(step), info)
    return state


def test_the_estimates_after_every_third_step_are_kept_and_the_rule_never_fires():
    state = feed_steps(keep(3, 11), 11)
    assert np.asarray(state.kept)[:, 0, 0, 0].tolist() == [3, 6, 9]
    assert not state.done


def test_steps_that_are_not_reached_are_nan_and_later_ones_are_not_kept():
    found = np.asarray(feed_steps(keep(2, 8), 5).kept)[:, 0, 0, 0]
    np.testing.assert_array_equal(found, [2, 4, np.nan, np.nan])
    assert np.asarray(feed_steps(keep(2, 4), 9).kept)[:, 0, 0, 0].tolist() == [2, 4]


@pytest.mark.parametrize("every", [0, 9])
def test_a_distance_that_keeps_nothing_is_refused(every):
    with pytest.raises(InputError, match=f"every {every} steps, which must be from 1 to .* 8"):
        keep(every, 8)
