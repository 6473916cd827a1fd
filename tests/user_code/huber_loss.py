import jax
import jax.numpy as jnp

import dip_jax


def huber(prediction: jax.Array, problem: dip_jax.Problem) -> jax.Array:
    r = jnp.abs(prediction - problem.measurement)
    return jnp.where(r < 0.1, r**2 / 2, 0.1 * r - 0.005)


fit = dip_jax.build_fit(dip_jax.nets.deep_decoder(depth=2, width=8), loss=huber)
estimator = dip_jax.Estimator(fit, dip_jax.stopping.held_out(fit), num_steps=24)
