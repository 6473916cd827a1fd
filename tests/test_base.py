import jax.numpy as jnp
import pytest

from dip_jax.base import Net
from dip_jax.errors import InputError

NET = Net(lambda key: {}, lambda params, code: code, (4, 6, 2), (4, 6, 2))


def test_a_network_serves_as_a_builder_for_images_of_its_shape():
    assert NET((4, 6, 2)) is NET
    assert NET(tuple(jnp.ones((4, 6, 2)).shape)) is NET


@pytest.mark.parametrize("shape", [(6, 4, 2), (4, 6, 1), (4, 6)])
def test_a_network_refuses_images_of_another_shape(shape):
    with pytest.raises(InputError, match=r"Expected images of shape \(4, 6, 2\).*nets\.skip"):
        NET(shape)
