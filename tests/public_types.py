"""Read by mypy alone: the public names have types that a type checker sees."""

from collections.abc import Callable, Iterator, Sequence
from typing import assert_type

import jax.numpy as jnp
import numpy as np

import dip_jax


def check(case: dip_jax.Case, image: dip_jax.StoredImage) -> None:
    """Asserts the types of a few calls; one that became `Any` would fail here."""
    config = dip_jax.build_config("denoise")
    assert_type(config, dip_jax.Config)
    assert_type(dip_jax.read_image("photo.png"), dip_jax.StoredImage)
    assert_type(image.pixels, np.ndarray)
    assert_type(dip_jax.restore([case], config), list[dip_jax.Result])
    assert_type(dip_jax.restore_many([case], config), Iterator[dip_jax.Result])
    assert_type(dip_jax.build_net(config.net, (64, 64, 3)), dip_jax.Net)
    assert_type(dip_jax.operators.Mask(jnp.ones((4, 4, 1))).is_linear, bool)
    assert_type(dip_jax.stopping.fixed(), dip_jax.Stopper)
    assert_type(dip_jax.num_params({}), int)
    assert_type(dip_jax.load_run("restored"), dict[str, dip_jax.SavedImage])
    assert_type(dip_jax.load_run("restored")["photo"].std, np.ndarray | None)
    operators: Sequence[dip_jax.Operator] = [dip_jax.operators.Identity()]
    loss: Callable[..., object] = dip_jax.losses.gaussian
    assert_type(dip_jax.operators.Chain(tuple(operators)).is_linear, bool)
    assert_type(loss, Callable[..., object])
    assert_type(dip_jax.Task("mine").noise_std, float | None)
    register: Callable[[dip_jax.Task], None] = dip_jax.register_task
    register(dip_jax.Task("mine"))
