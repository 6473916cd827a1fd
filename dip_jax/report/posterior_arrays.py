"""The file `posterior.npz`: the numbers of a posterior as float32 arrays, written and read."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from dip_jax.base import Posterior, PosteriorKind
from dip_jax.report.manifest import Manifest
from dip_jax.storage.atomic import write_arrays
from dip_jax.storage.paths import AnyPath, local_copy

FILE = "posterior.npz"
LEVEL = 0.9
"""Probability of the interval."""


def interval_of(posterior: Posterior) -> tuple[np.ndarray, np.ndarray]:
    """The ends `[H, W, C]` of the central interval of probability `LEVEL`, for normal values."""
    half_width = stats.norm.ppf((1 + LEVEL) / 2) * posterior.std
    return posterior.mean - half_width, posterior.mean + half_width


def write_posterior(files: Manifest, posterior: Posterior, state: str) -> None:
    """Writes a posterior, all in [0, 1] units.

    The arrays are `mean`, `std` and, except for seeds, `low`, `high` `[H, W, C]` and `level`; `kind` and `state` are texts.
    Of chains there are also `traces` `[M, S, Q]` with the unique `trace_names`, and the kept `samples`
    `[M, K, H, W, C]`, if there are any. A chain that kept fewer than K is filled up with NaN.

    Args:
      files: The record of the image.
      posterior: The posterior.
      state: What is missing from the deviation and the interval; empty for nothing.

    Raises:
      OSError: If the file cannot be written.
    """
    arrays = {"mean": posterior.mean, "std": posterior.std}
    if posterior.kind != PosteriorKind.SEEDS:
        arrays["low"], arrays["high"] = interval_of(posterior)
        arrays["level"] = np.array(LEVEL)
    texts: dict[str, Sequence[str]] = {"kind": posterior.kind.value, "state": state}
    if posterior.kind == PosteriorKind.SAMPLES:
        # A pixel of a small image may be traced twice, with the same values.
        first = {name: i for i, name in reversed([*enumerate(posterior.trace_names)])}
        order = sorted(first.values())
        arrays["traces"] = posterior.traces[..., order]
        texts["trace_names"] = [posterior.trace_names[i] for i in order]
        if len(posterior.samples):
            arrays["samples"] = samples_by_chain(posterior)
    numbers = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    write_arrays(files.path(FILE), **numbers, **texts)


def samples_by_chain(posterior: Posterior) -> np.ndarray:
    """The kept samples with an axis of chains, `[M, K, H, W, C]`; NaN where a chain kept fewer than K.

    The axis has length 1 if the posterior does not tell the samples of its chains apart.

    Example:
      >>> x = np.arange(3.0).reshape(3, 1, 1, 1)
      >>> none = np.zeros((2, 0, 0))
      >>> posterior = Posterior(x[0], x[0], x[:2], 9, none, (), x, num_kept=(1, 2))
      >>> samples_by_chain(posterior)[..., 0, 0, 0].tolist()
      [[0.0, nan], [1.0, 2.0]]
    """
    samples, num_chains = posterior.samples, len(posterior.chain_means)
    counts = posterior.num_kept or (len(samples) // num_chains,) * num_chains
    if sum(counts) != len(samples):
        return samples[np.newaxis]
    parts = np.split(samples, np.cumsum(counts)[:-1])
    padded = np.full((len(counts), max(counts), *samples.shape[1:]), math.nan, samples.dtype)
    for chain, part in zip(padded, parts, strict=True):
        chain[: len(part)] = part
    return padded


def read_posterior(path: AnyPath, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Reads some of the arrays; those that the file does not have are left out.

    Args:
      path: The file.
      names: Names of arrays, as in `write_posterior`.

    Raises:
      OSError: If the file is missing or cannot be read.
      Exception: Of any type, from numpy, if it is damaged.
    """
    with (
        local_copy(path) as copy,
        copy.open("rb") as file,  # numpy leaves a damaged file open
        np.load(file, allow_pickle=False) as archive,
    ):
        return {name: archive[name] for name in names if name in archive}
