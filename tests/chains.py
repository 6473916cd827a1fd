"""Chains of samplers alone, and the moments that they should have."""

import jax
import numpy as np
import optax


def run_chain(sampler, gradient, start, *, num_steps, **extra):
    """Runs a sampler; returns the path of w `[num_steps, ...]` and the last state."""

    def step(carry, key):
        w, state = carry
        updates, state = sampler.update(gradient(w), state, w, key=key, **extra)
        w = optax.apply_updates(w, updates)
        return (w, state), w

    keys = jax.random.split(jax.random.key(0), num_steps)
    (_, state), path = jax.jit(lambda w: jax.lax.scan(step, (w, sampler.init(w)), keys))(start)
    return np.asarray(path), state


def assert_moments(path, variance, correlation):
    """Asserts mean 0, the variance and the lag-1 correlation, within five standard errors."""
    steps, chains = path.shape
    effective = steps * chains * (1 - correlation) / (1 + correlation)
    assert abs(path.mean()) < 5 * np.sqrt(variance / effective)
    squares = steps * chains * (1 - correlation**2) / (1 + correlation**2)
    assert abs(path.var() / variance - 1) < 5 * np.sqrt(2 / squares)
    lag = (path[1:] * path[:-1]).mean() / (path**2).mean()
    assert abs(lag - correlation) < 5 * np.sqrt((1 - correlation**2) / (steps * chains))
