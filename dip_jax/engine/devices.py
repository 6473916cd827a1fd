"""The platform that JAX computes on."""

import jax


def is_cpu() -> bool:
    """Returns whether JAX computes on CPU by default."""
    return jax.default_backend() == "cpu"
