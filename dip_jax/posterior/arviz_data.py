"""Posterior samples as the data structure of ArviZ, an optional dependency."""

import re
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from dip_jax.base import Posterior
from dip_jax.errors import InputError


def to_arviz(posterior: Posterior) -> Any:
    """Converts the samples of chains for ArviZ: its diagnostics, tables and plots.

    The group `posterior` has the traced quantities, with the dimensions `chain` and `draw`: the
    pixels as `x`, whose coordinate `pixel` is the text `row,column,channel`, and each summary under
    its name. A pixel that was traced twice appears once. The kept samples, if there are any, are
    the group `kept`, whose `image` has the dimensions `sample`, `row`, `column` and `channel`. They
    have no draws, because only some of the draws are kept, and chains may have kept different
    numbers: the samples are in the order of the chains.

    Args:
      posterior: The samples of chains, as in `Result.posterior`.

    Returns:
      An `xarray.DataTree`, or an `arviz.InferenceData` if ArviZ is older than version 1.

    Raises:
      InputError: If ArviZ is not installed, or nothing was traced, as in a fit with several seeds.

    References:
      Kumar, Carroll, Hartikainen and Martin, ArviZ, a unified library for exploratory analysis of
        Bayesian models in Python, 2019.

    Example:
      >>> import numpy as np
      >>> zero = np.zeros((1, 2, 1))
      >>> traces = np.random.default_rng(0).random((4, 50, 2))
      >>> names = ("x[0,1,0]", "misfit")
      >>> samples = np.zeros((0, 1, 2, 1))
      >>> posterior = Posterior(zero, zero, np.zeros((4, 1, 2, 1)), 200, traces, names, samples)
      >>> data = to_arviz(posterior)
      >>> dict(data["posterior"].sizes), data["posterior"]["pixel"].values.tolist()
      ({'chain': 4, 'draw': 50, 'pixel': 1}, ['0,1,0'])
    """
    return arrays_to_arviz(posterior.traces, posterior.trace_names, posterior.samples)


def arrays_to_arviz(traces: np.ndarray, trace_names: Sequence[str], samples: np.ndarray) -> Any:
    """Converts the arrays of a posterior that was read from a file, as `to_arviz` does.

    Args:
      traces: Traced quantities of each sample `[M, S, Q]`.
      trace_names: Names of the Q quantities.
      samples: Kept samples `[K, H, W, C]`.

    Raises:
      InputError: As in `to_arviz`.
    """
    arviz, xarray = _import_libraries()
    if not len(trace_names):
        raise InputError(
            "to_arviz expects the samples of chains, got a posterior without traced quantities, as several seeds have; "
            "sample with fit.method=sgld."
        )
    groups = {"posterior": _traces(xarray, traces, trace_names)}
    if len(samples):
        image = (("sample", "row", "column", "channel"), samples)
        groups["kept"] = xarray.Dataset({"image": image})
    if "InferenceData" in vars(arviz):
        return arviz.InferenceData(**groups)
    return xarray.DataTree.from_dict(groups)


def _traces(xarray: ModuleType, traces: np.ndarray, trace_names: Sequence[str]) -> Any:
    """The traced quantities as an `xarray.Dataset`."""
    num_chains, num_draws, _ = traces.shape
    matches = {name: re.fullmatch(r"x\[(.*)\]", name) for name in trace_names}
    pixels = {name: match[1] for name, match in matches.items() if match is not None}
    index = {name: i for i, name in enumerate(trace_names)}
    values: dict[str, Any] = {
        name: (("chain", "draw"), traces[..., index[name]]) for name in index if name not in pixels
    }
    if pixels:
        values["x"] = (("chain", "draw", "pixel"), traces[..., [index[name] for name in pixels]])
    coordinates = {"chain": np.arange(num_chains), "draw": np.arange(num_draws)}
    return xarray.Dataset(values, coordinates | {"pixel": list(pixels.values())})


def _import_libraries() -> tuple[ModuleType, ModuleType]:
    """ArviZ, and xarray, on which it depends."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # version 0 announces version 1 once per day
            import arviz
            import xarray
    except ImportError:
        raise InputError(
            "to_arviz expects the package arviz, which is not installed; `pip install arviz` installs it."
        ) from None
    return arviz, xarray
