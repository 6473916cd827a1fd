from typing import Any

import jax
import optax

import dip_jax as dip


def sghmc(e: float, f: float) -> optax.GradientTransformationExtraArgs:
    def update(g: Any, v: Any, w: Any, *, key: jax.Array, **extra: Any) -> tuple[Any, Any]:
        n = optax.tree.random_like(key, g, jax.random.normal)
        v = jax.tree.map(lambda v, g, n: v - f * v - e * g + (2 * f * e) ** 0.5 * n, v, g, n)
        return v, v

    return optax.GradientTransformationExtraArgs(optax.tree.zeros_like, update)


sampler = optax.chain(dip.langevin.energy_gradient(prior_precision=1.0), sghmc(1e-6, 0.1))
net, args = dip.nets.deep_decoder(depth=2, width=8), dip.sampler_args(dip.losses.gaussian)
fit = dip.build_fit(net, optimizer=sampler, extra_args=args, perturbation=0.0)
chain = dip.build_sgld(fit, samples=dip.every_nth(2, burn_in=12, num_steps=24), keep_samples=4)
estimator = dip.Estimator(chain, num_steps=24, num_networks=2)
