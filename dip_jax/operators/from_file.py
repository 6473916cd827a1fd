"""A user's own operator: any JAX function from an image to a measurement, `path.py:function`."""

import dataclasses
import functools
import hashlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array, InputError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CustomOperator:
    """A x = function(x)."""

    function: Callable[[Array], Array] = dataclasses.field(metadata={"static": True})
    is_linear: bool = dataclasses.field(metadata={"static": True})
    digest: str = dataclasses.field(default="", metadata={"static": True})
    """Of the file that it comes from: a changed file is another operator."""

    def __call__(self, image: Array) -> Array:
        """Measures `image`."""
        return self.function(image)


def load_operator(text: str, shape: tuple[int, int, int]) -> CustomOperator:
    """The operator of a file of the user's; the file is run.

    A function that has an attribute `is_linear` says so itself; of others it is found out by a trial, as
    A(x - 2 x') = A x - 2 A x'. Either way `operators.check_operator` has the last word.

    Args:
      text: `path.py:name` of a function (or any callable) image `[H, W, C]` -> measurement.
      shape: Of its images.

    Raises:
      InputError: If there is no such file or name, it cannot be run, or it cannot be called.
    """
    function, digest = _load(text)
    is_linear = getattr(function, "is_linear", None)
    if is_linear is None:
        is_linear = _seems_linear(function, shape)
    return CustomOperator(function, is_linear, digest)


@functools.cache  # every picture of a run has the same one, and so the same compiled program
def _load(text: str) -> tuple[Callable[[Array], Array], str]:
    path, colon, name = text.rpartition(":")
    if not colon or not name.isidentifier():
        raise InputError(f"--operator expects path.py:function, came {text!r}.")
    if not Path(path).is_file():
        raise InputError(f"--operator: there is no file {path!r}.")
    module_name = f"_dip_jax_operator_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"--operator: {path} must be a Python file (.py).")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    sys.path.insert(0, str(Path(path).resolve().parent))  # as `python path.py` would
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever their file does
        raise InputError(
            f"--operator: {path} cannot be run: {type(error).__name__}: {error}."
        ) from None
    finally:
        sys.path.pop(0)
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"--operator: {path} has no function {name!r}.")
    return function, hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _seems_linear(function: Callable[[Array], Array], shape: tuple[int, int, int]) -> bool:
    rng = np.random.default_rng(0)
    try:
        x, other = (jnp.asarray(rng.random(shape), jnp.float32) for _ in range(2))
        expected = function(x) - 2 * function(other)
        gap = jnp.linalg.norm(jnp.ravel(function(x - 2 * other) - expected))
        return bool(gap <= 1e-4 * jnp.linalg.norm(jnp.ravel(expected)))
    except Exception:  # the check that follows says what is wrong
        return False
