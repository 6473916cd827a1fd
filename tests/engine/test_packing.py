import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.engine.packing import build_packing


def test_float32_vectors_are_packed_and_come_back_with_all_other_arrays():
    tree = {
        "kernel": jnp.arange(24.0).reshape(2, 3, 4),
        "scale": jnp.asarray([[1.0, 2.0], [3.0, 4.0]]),
        "step": jnp.asarray([5, 6]),
        "key": jnp.asarray([[7, 8], [9, 10]], jnp.uint32),
        "bias": jnp.asarray([[11.0], [12.0]]),
        "weights": jnp.ones((2, 5000)),
    }
    pack, unpack = build_packing(tree)
    packed = jax.jit(pack)(tree)
    # The leaves of a dict are in the order of their names.
    np.testing.assert_array_equal(packed.small, [[11, 1, 2], [12, 3, 4]])
    assert len(packed.others) == 4
    found = jax.jit(unpack)(packed)
    assert found.keys() == tree.keys()
    for name, value in tree.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


def test_a_state_without_small_arrays_is_packed_too():
    tree = {"step": jnp.asarray([5, 6])}
    pack, unpack = build_packing(tree)
    assert pack(tree).small.shape == (2, 0)
    np.testing.assert_array_equal(unpack(pack(tree))["step"], [5, 6])
