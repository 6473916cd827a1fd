import optax

import dip_jax

net = dip_jax.nets.deep_decoder(depth=2, width=8)
optimizer = optax.adamw(optax.cosine_decay_schedule(0.01, decay_steps=24))
fit = dip_jax.build_fit(net, optimizer=optimizer)
estimator = dip_jax.Estimator(fit, num_steps=24)
