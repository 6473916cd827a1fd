"""Named streams of random numbers.

Every random number of a run follows from its seed and the name of the image. Each stream folds its
own constant into a key, so no two uses of one key draw the same numbers. Changing a constant
changes results.
"""

import zlib
from pathlib import PurePosixPath

import jax

from dip_jax.base import Array

_NETWORK = 1000  # above all constants below
# Of the key of an image.
_SIMULATION = 1
_INFORMATIVE = 2
_HELD_OUT = 3
_PROBE = 4
_FOLDS = 5
_INTERVALS = 6
_SAMPLER = 1  # of the key of a step


def image_key(seed: int, name: str, *, network_index: int = 0) -> Array:
    """Returns the random key of an image, from the seed of the run and the last part of its name.

    The key depends neither on the position of the image in the run nor on its folder. The first of
    several networks has the key that it would have alone.

    Args:
      seed: `run.seed`.
      name: Name of the image, e.g. `a/photo`.
      network_index: Index of the network, if several networks serve the image.

    Example:
      >>> bool(image_key(0, "a/photo") == image_key(0, "b/photo"))
      True
    """
    last_part = PurePosixPath(name).name
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(last_part.encode()))
    return jax.random.fold_in(key, _NETWORK + network_index) if network_index else key


def simulation_key(key: Array) -> Array:
    """Returns the key of the simulated degradation of an image, from the key of the image."""
    return jax.random.fold_in(key, _SIMULATION)


def informative_key(key: Array) -> Array:
    """Returns the key of the random image for `informative_mask`, from the key of the image."""
    return jax.random.fold_in(key, _INFORMATIVE)


def held_out_key(key: Array) -> Array:
    """Returns the key of the choice of held-out measurements, from the key of the image."""
    return jax.random.fold_in(key, _HELD_OUT)


def probe_key(key: Array) -> Array:
    """Returns the key of the signs of a Monte Carlo divergence, from the key of the image."""
    return jax.random.fold_in(key, _PROBE)


def folds_key(key: Array) -> Array:
    """Returns the key of the folds of a cross-validation, from the key of the image."""
    return jax.random.fold_in(key, _FOLDS)


def intervals_key(key: Array) -> Array:
    """Returns the key of the replicates or samples around a fit, from the key of the image."""
    return jax.random.fold_in(key, _INTERVALS)


def sampler_key(key: Array) -> Array:
    """Returns the key of a sampler for one step, from the key of the step."""
    return jax.random.fold_in(key, _SAMPLER)
