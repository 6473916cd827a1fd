"""Read by mypy alone: the public names have types that a type checker sees."""

from collections.abc import Callable, Iterator, Sequence
from typing import assert_type

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dip_jax
from dip_jax.base import CodeBuilder, Loss, Regularizer, Shape


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


def my_net(shape: Shape) -> dip_jax.Net:
    """A builder of a network."""
    return dip_jax.Net(lambda key: {}, lambda params, code: code, shape, shape)


def my_loss(prediction: jax.Array, problem: dip_jax.Problem) -> jax.Array:
    """A loss."""
    return jnp.abs(prediction - problem.measurement)


def my_regularizer(image: jax.Array, params: object, problem: dip_jax.Problem) -> jax.Array:
    """A regularizer."""
    return jnp.sum(image)


def my_code(key: jax.Array, shape: Shape, problem: dip_jax.Problem) -> jax.Array:
    """A code."""
    return jax.random.normal(key, shape)


def check_objects(case: dip_jax.Case) -> None:
    """Asserts that the objects fit together, and that functions of the user fit in their places."""
    builders: Sequence[dip_jax.NetBuilder] = [dip_jax.nets.skip(), my_net, my_net((4, 4, 1))]
    losses: Sequence[Loss] = [dip_jax.losses.laplace, dip_jax.losses.interval(), my_loss]
    regularizers: Sequence[Regularizer] = [dip_jax.regularizers.tv(0.1), my_regularizer]
    codes: Sequence[CodeBuilder] = [dip_jax.codes.normal(), my_code]
    fit = dip_jax.build_fit(
        builders[0],
        loss=losses[0],
        optimizer=optax.adamw(0.01),
        regularizer=regularizers[0],
        code=codes[0],
        average=dip_jax.Average(0.9),
        guard=dip_jax.Guard(every=10),
    )
    assert_type(fit, dip_jax.Algorithm)
    assert_type(dip_jax.Average().lag, int)
    rule = dip_jax.stopping.stop_when(lambda problem, step, info: info.loss < 0.1)
    assert_type(rule, dip_jax.Stopper)
    estimator = dip_jax.Estimator(fit, rule, num_steps=100)
    assert_type(estimator.is_sampler, bool)
    assert_type(dip_jax.restore([case], estimator), list[dip_jax.Result])
    assert_type(dip_jax.estimator_from_config(dip_jax.build_config()), dip_jax.Estimator)
    sampler = dip_jax.sgld.psgld(
        dip_jax.schedules.constant(1e-3), dip_jax.preconditioners.frozen_rms(100)
    )
    assert_type(sampler, optax.GradientTransformation)
    samples = dip_jax.every_nth(10, burn_in=100, num_steps=1000)
    assert_type(dip_jax.build_sgld(fit, samples=samples), dip_jax.Algorithm)
