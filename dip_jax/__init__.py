"""dip_jax: Deep Image Prior restoration in JAX. Restores a damaged picture without training data."""

from dip_jax._version import __version__
from dip_jax.base import Case, Problem, Result
from dip_jax.config import Config, build_config
from dip_jax.errors import InputError
from dip_jax.images import read_mask, read_picture, write_picture
from dip_jax.jobs import restore_files
from dip_jax.nets import build_net, num_params, params_from_torch
from dip_jax.operators import adjoint, check_operator
from dip_jax.runner import restore
from dip_jax.tasks import build_case, simulate_case

__all__ = [
    "Case",
    "Config",
    "InputError",
    "Problem",
    "Result",
    "__version__",
    "adjoint",
    "build_case",
    "build_config",
    "build_net",
    "check_operator",
    "num_params",
    "params_from_torch",
    "read_mask",
    "read_picture",
    "restore",
    "restore_files",
    "simulate_case",
    "write_picture",
]
