"""An operator from a user's file: any JAX function from an image to a measurement, `path.py:function`."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array
from dip_jax.errors import InputError, describe_error
from dip_jax.problem import full_precision
from dip_jax.user_file import run_user_file


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CustomOperator:
    """A x = function(x).

    Example:
      >>> import jax.numpy as jnp
      >>> operator = CustomOperator(lambda image: image[:, ::2], is_linear=True)
      >>> operator(jnp.ones((4, 6, 3))).shape
      (4, 3, 3)
    """

    function: Callable[[Array], Array] = dataclasses.field(metadata={"static": True})
    is_linear: bool = dataclasses.field(metadata={"static": True})
    digest: str = dataclasses.field(default="", metadata={"static": True})
    """Checksum of the function's file: a changed file is another operator."""
    is_pixelwise: bool = dataclasses.field(default=False, metadata={"static": True})
    """Whether the function maps each pixel by itself, in images of any size."""

    def __call__(self, image: Array) -> Array:
        """Measures `image`."""
        try:
            return self.function(image)
        except SystemExit as error:  # would end the whole run
            raise RuntimeError(f"it exits with status {error.code}") from None

    def pad(self, height: int, width: int) -> "CustomOperator":
        """Returns the operator for a canvas `[height, width]`: this one; only for a pixelwise function."""
        del height, width
        return self


def load_operator(text: str, shape: tuple[int, int, int]) -> CustomOperator:
    """Runs a user's file and returns one of its functions as an operator.

    The function may have the attributes `is_linear` and `is_pixelwise` (default False). Without `is_linear`, a
    trial decides: A(x - 2 x') = A x - 2 A x'. `check_operator` tests both attributes.

    Args:
      text: `path.py:name` of a function (or any callable) image `[H, W, C]` -> measurement.
      shape: `(H, W, C)` of the images of the trial.

    Raises:
      InputError: If the file or the name does not exist, the file cannot be run, the name is not callable, or an
        attribute is not a bool.

    Example:
      >>> import pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp(), "mine.py")
      >>> _ = path.write_text("halve = lambda image: 0.5 * image")
      >>> load_operator(f"{path}:halve", (4, 4, 1)).is_linear
      True
    """
    function, digest = _load_function(text)
    is_linear, is_pixelwise = (
        _declaration(function, name, text) for name in ("is_linear", "is_pixelwise")
    )
    operator = CustomOperator(function, bool(is_linear), digest, bool(is_pixelwise))
    if is_linear is None:
        operator = dataclasses.replace(operator, is_linear=seems_linear(operator, shape))
    return operator


def _declaration(function: Callable[[Array], Array], name: str, text: str) -> bool | None:
    """The value of an attribute of a user's function; None if it has none."""
    try:
        value = getattr(function, name, None)
    except Exception as error:  # the user's code may raise anything
        value = error
    if not isinstance(value, bool | np.bool_ | None):
        raise InputError(
            f"--operator: expected {name} of {text} to be True or False, got {type(value).__name__}."
        )
    return None if value is None else bool(value)


def _load_function(text: str) -> tuple[Callable[[Array], Array], str]:
    """The function, the same for all images of a run, and the checksum of its file."""
    path, colon, name = text.rpartition(":")
    if not colon or not name.isidentifier():
        raise InputError(f"--operator expects path.py:function, got {text!r}.")
    module, digest = run_user_file(path, flag="--operator")
    try:
        function = getattr(module, name, None)
    except BaseException as error:  # the file may define `__getattr__`
        raise InputError(
            f"--operator: {path} cannot be run: {type(error).__name__}: {describe_error(error)}."
        ) from None
    if not callable(function):
        raise InputError(f"--operator: {path} has no function {name!r}.")
    return function, digest


def seems_linear(function: Callable[[Array], Array], shape: tuple[int, int, int]) -> bool:
    """Returns whether A(x - 2 x') = A x - 2 A x' for two random images; False for a function that fails.

    Args:
      function: The function A.
      shape: `(H, W, C)` of the images.
    """
    rng = np.random.default_rng(0)
    try:
        x, other = (jnp.asarray(rng.random(shape), jnp.float32) for _ in range(2))
        with full_precision():
            expected = function(x) - 2 * function(other)
            gap = jnp.linalg.norm(jnp.ravel(function(x - 2 * other) - expected))
        return bool(gap <= 1e-4 * jnp.linalg.norm(jnp.ravel(expected)))
    except Exception:  # `check_operator` reports the reason
        return False
