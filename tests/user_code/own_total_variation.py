import jax
import jax.numpy as jnp

import dip_jax


def variation(image: jax.Array, params: object, problem: dip_jax.Problem) -> jax.Array:
    rows, columns = jnp.diff(image, axis=0), jnp.diff(image, axis=1)
    return 1e-4 * (jnp.abs(rows).sum() + jnp.abs(columns).sum())


net = dip_jax.nets.deep_decoder(depth=2, width=8)
fit = dip_jax.build_fit(net, regularizer=variation)
estimator = dip_jax.Estimator(fit, dip_jax.stopping.wmv(fit, window=4), num_steps=24)
