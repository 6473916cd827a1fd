"""A step as a kernel of blackjax, against a normal density that is known."""

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax.blackjax_kernel import as_kernel
from dip_jax.langevin import langevin_step
from dip_jax.underdamped import underdamped_step

COVARIANCE = np.array([[1.0, 0.6], [0.6, 2.0]])
MEAN = np.array([1.0, -2.0])


def logdensity(w):
    distance = jnp.concatenate([w["a"], w["b"]]) - MEAN
    return -distance @ jnp.asarray(np.linalg.inv(COVARIANCE), jnp.float32) @ distance / 2


STEPS = {
    "underdamped": underdamped_step(0.5, num_adapt=500, prior_precision=1.0),
    "sgld": langevin_step(lambda step, scale: (0.02, 1.0)),
}


@pytest.mark.parametrize("name", STEPS)
def test_chains_of_blackjax_have_the_known_mean_and_covariance(name):
    kernel = as_kernel(STEPS[name], logdensity)
    starts = {"a": jnp.zeros((64, 1)), "b": jnp.zeros((64, 1))}

    def chain(key, start):
        _, (states, _) = blackjax.util.run_inference_algorithm(
            key, kernel, num_steps=3000, initial_position=start
        )
        w = states.position
        return jnp.concatenate([w["a"], w["b"]], axis=1)[1000:]

    samples = np.asarray(jax.jit(jax.vmap(chain))(jax.random.split(jax.random.key(0), 64), starts))
    means = samples.mean(axis=1)
    error = means.std(axis=0, ddof=1) / np.sqrt(64)
    assert (np.abs(means.mean(axis=0) - MEAN) < 4 * error).all()
    products = np.einsum("csi,csj->cij", samples - MEAN, samples - MEAN) / samples.shape[1]
    error = products.std(axis=0, ddof=1) / np.sqrt(64)
    # Overdamped steps of length e add a fraction e l / 4 to the variance, for curvatures l up to 1.3.
    slack = 0 if name == "underdamped" else 0.01 * np.abs(COVARIANCE)
    assert (np.abs(products.mean(axis=0) - COVARIANCE) < 4 * error + slack).all()
