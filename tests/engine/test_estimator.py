import jax
import jax.numpy as jnp
import pytest

from dip_jax.base import Problem
from dip_jax.config import Config, FitConfig, SgldConfig
from dip_jax.engine.estimator import choose_stopper
from dip_jax.operators.basic import Identity
from dip_jax.operators.blur import Blur
from dip_jax.operators.from_file import CustomOperator


@pytest.mark.parametrize(
    ("operator", "fraction", "is_hidden"),
    [
        (Identity(), 0.1, True),
        (Identity(), 0.0, False),
        (CustomOperator(lambda image: 0.5 * image, is_linear=True, is_pixelwise=True), 0.1, True),
        (CustomOperator(lambda image: 0.5 * image, is_linear=True), 0.1, False),
        (Blur(jnp.full((1, 3), 1 / 3)), 0.1, False),
    ],
)
def test_sampling_holds_out_measurements_of_pixelwise_operators(operator, fraction, is_hidden):
    config = Config(fit=FitConfig(method="sgld"), sgld=SgldConfig(held_out_fraction=fraction))
    stopper = choose_stopper(config, None, operator)
    problem = Problem(operator, jnp.ones((40, 40, 1)), 0.1)
    state = stopper.init(jax.random.key(0), problem, (40, 40, 1))
    weights = stopper.view(state, problem).weights
    assert (weights is not None and bool((weights == 0).any())) == is_hidden
