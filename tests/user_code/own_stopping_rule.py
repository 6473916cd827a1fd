import jax
import jax.numpy as jnp

import dip_jax


def sharpness(
    memory: jax.Array, problem: dip_jax.Problem, info: dip_jax.Info
) -> tuple[jax.Array, jax.Array]:
    memory = 0.9 * memory + 0.1 * jnp.std(jnp.diff(info.image, axis=0))
    return memory, memory


fit = dip_jax.build_fit(dip_jax.nets.deep_decoder(depth=2, width=8))
rule = dip_jax.stopping.stop_at_minimum(
    sharpness, init_memory=lambda key, problem, shape: jnp.float32(1), window=3
)
estimator = dip_jax.Estimator(fit, rule, num_steps=24)
