"""Cheap normal noise for the code.

Every step adds fresh noise to the code: two million numbers for a 256 x 256 picture. JAX's default
generator is built to survive any statistical test and takes 5 % of a step for them on CPU. Here each number
is a hash of its place, keyed by a JAX key: one pass, the same on every device, and the same whether
images are computed alone or under `vmap`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array


def _mix(h: Array) -> Array:
    """The final mixing of MurmurHash3: a bijection in which every bit depends on every other."""
    h = (h ^ (h >> 16)) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * np.uint32(0xC2B2AE35)
    return h ^ (h >> 16)


def normal(key: Array, shape: tuple[int, ...], *, first: int = 0) -> Array:
    """Draws standard normal numbers, good enough to shake a network with (not for statistics).

    n = sqrt(2) erfinv(u), u uniform on (-1, 1) from 24 bits, so |n| < 5.5.

    Args:
      key: A random key, consumed.
      shape: The shape to draw.
      first: How many numbers of this key are already in use: parts of one draw are drawn apart.

    Returns:
      float32 array of `shape`.

    References:
      Appleby, MurmurHash3, 2011 (the finaliser); used twice with a key word before each.
    """
    words = jax.random.bits(key, (2,), jnp.uint32)
    place = jax.lax.iota(jnp.uint32, int(np.prod(shape))).reshape(shape)
    place = place + np.uint32(first)
    h = _mix(_mix(place * np.uint32(0x9E3779B1) + words[0]) + words[1])
    # The middle of one of 2^24 equal bins: symmetric, and never -1 or 1.
    u = (h >> 8).astype(jnp.float32) * np.float32(2**-23) - np.float32(1 - 2**-24)
    return np.float32(np.sqrt(2)) * jax.lax.erf_inv(u)
