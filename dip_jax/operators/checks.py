"""The adjoint of a linear operator, and the test of an operator's contract."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array, Operator
from dip_jax.errors import InputError
from dip_jax.operators.pixelwise import is_pixelwise
from dip_jax.problem import full_precision

_STEP = 0.02  # of the differences, in [0, 1] units
_MIN_DERIVATIVE = 0.02  # relative to the differences; quantization with a custom derivative has 0.1


def adjoint(operator: Operator, shape: tuple[int, int, int]) -> Callable[[Array], Array]:
    """The adjoint A^T of a linear operator, from its gradient; a custom gradient is used too.

    `check_operator` tests whether the operator is linear and its gradient is right.

    Args:
      operator: A linear operator.
      shape: `(H, W, C)` of its images.

    Returns:
      A function measurement -> image with <A x, y> = <x, A^T y>, for complex y with
      <a, b> = Re sum a conj(b).

    Raises:
      InputError: If the operator declares that it is not linear.

    Example:
      >>> import jax.numpy as jnp
      >>> from dip_jax.operators import Downsample
      >>> spread = adjoint(Downsample(2, "box"), (2, 4, 1))
      >>> spread(jnp.array([[[4.0], [8.0]]]))[..., 0].tolist()
      [[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0]]
    """
    if not operator.is_linear:
        raise InputError(f"{type(operator).__name__} is not linear, so it has no adjoint.")

    def transposed(measurement: Array) -> Array:
        # The gradient of a linear operator is the same at every image.
        with full_precision():
            _, pull = jax.vjp(lambda image: operator(image), jnp.zeros(shape, jnp.float32))
            return pull(jnp.conj(measurement))[0]  # JAX's gradients pair without conjugation

    return transposed


def check_operator(
    operator: Operator, shape: tuple[int, int, int], *, tolerance: float = 1e-4, seed: int = 0
) -> None:
    """Refuses an operator that breaks its contract.

    The operator maps a float32 image of `shape` to one finite array, float32 or complex64. It returns the same array
    each time, and JAX can trace and differentiate it. The derivative of an operator that is not linear does not vanish and
    points in the direction in which its values change. The rest holds to a relative `tolerance`:

    * A linear operator satisfies A(x - 2 x') = A x - 2 A x' and <A x, y> = <x, A^T y>.
    * A pixelwise operator's value at a pixel depends on that pixel alone, also on a canvas; see `is_pixelwise`.

    Args:
      operator: The operator.
      shape: `(H, W, C)` of its images.
      tolerance: Largest relative error that counts as rounding.
      seed: Seed of the random images.

    Raises:
      InputError: If a condition is violated; the message names the condition, the measured error and a remedy.

    Example:
      >>> import jax.numpy as jnp
      >>> from dip_jax.operators import Blur
      >>> check_operator(Blur(jnp.ones((3, 3)) / 9), (8, 6, 1))
    """
    with full_precision():
        trial = _measure(operator, shape, tolerance, seed)
        for check in _CHECKS:
            fault = check(trial)
            if fault is not None:
                raise InputError(f"{trial.name} {fault}")


class _Trial(NamedTuple):
    """An operator under test with its random images."""

    operator: Operator
    x: Array
    other: Array
    """A second image, x'."""
    y: Array
    """A x, unless `_returns_array` objects."""
    rng: np.random.Generator
    tolerance: float

    @property
    def name(self) -> str:
        return _name(self.operator)


def _measure(
    operator: Operator, shape: tuple[int, int, int], tolerance: float, seed: int
) -> _Trial:
    rng = np.random.default_rng(seed)
    x, other = (jnp.asarray(rng.random(shape), jnp.float32) for _ in range(2))
    try:
        y = operator(x)
    except Exception as error:
        raise InputError(
            f"{_name(operator)} failed on an image of shape {shape}: {_first_line(error)}; "
            "it must accept images of this shape. If the image has another shape than the measurement, state it with "
            "--set task.image_shape=H,W,C."
        ) from None
    return _Trial(operator, x, other, y, rng, tolerance)


def _returns_array(trial: _Trial) -> str | None:
    y = trial.y
    if not isinstance(y, jax.Array | np.ndarray) or not jnp.issubdtype(y.dtype, jnp.inexact):
        kind = getattr(y, "dtype", type(y).__name__)
        return f"must return one array of floats (or complex), got {kind}; concatenate or convert."
    return None


def _is_finite(trial: _Trial) -> str | None:
    y = trial.y
    bad = int(jnp.sum(~jnp.isfinite(y)))
    if bad:
        return (
            f"returned {bad} values of {y.size} that are not finite; "
            "guard its divisions, roots and logarithms."
        )
    if y.size == 0:
        return f"measured nothing: its array has the shape {y.shape}; return at least one value."
    return None


def _is_deterministic(trial: _Trial) -> str | None:
    y, again = trial.y, trial.operator(trial.x)
    gap = _relative(again - y, y) if again.shape == y.shape else float("inf")
    if not gap <= 1e-6:  # a GPU may add in another order
        return (
            f"returned two measurements of the same image that differ by {gap:.2g} relative; it must "
            "not keep state or draw random numbers. Draw them once and store them in a field."
        )
    return None


def _is_traceable(trial: _Trial) -> str | None:
    try:
        jax.eval_shape(lambda image: trial.operator(image), trial.x)
    except Exception as error:
        return (
            f"cannot be traced by JAX ({_first_line(error)}); write it with jax.numpy instead of "
            "numpy, and without if or while on values."
        )
    return None


def _has_dtype(trial: _Trial) -> str | None:
    dtype = jax.eval_shape(lambda image: trial.operator(image), trial.x).dtype
    if dtype not in (jnp.float32, jnp.complex64):
        expected = "complex64" if jnp.issubdtype(dtype, jnp.complexfloating) else "float32"
        return f"must return {expected}, got {dtype}; end it with .astype(jnp.{expected})."
    return None


def _is_differentiable(trial: _Trial) -> str | None:
    try:
        y, pull = jax.vjp(lambda image: trial.operator(image), trial.x)
        pull(jnp.zeros_like(y))
    except Exception as error:
        return (
            f"cannot be differentiated by JAX ({_first_line(error)}); write it with jax.numpy, or give "
            "it a derivative with jax.custom_vjp."
        )
    return None


def _has_finite_gradient(trial: _Trial) -> str | None:
    if trial.operator.is_linear:
        return None  # `_has_adjoint` tests it
    gradient = jax.grad(lambda image: jnp.sum(jnp.abs(trial.operator(image)) ** 2))(trial.x)
    bad = int(jnp.sum(~jnp.isfinite(gradient)))
    if bad:
        return (
            f"has a gradient with {bad} values of {gradient.size} that are not finite; "
            "guard its divisions, roots and logarithms."
        )
    return None


def _has_derivative(trial: _Trial) -> str | None:
    """Compares the derivative of an operator that is not linear with differences, in a random direction d.

    (A(x + h d) - A(x - h d)) / 2h = J d up to the curvature of A, but J = 0 for rounding and thresholds. The test is
    coarse, because a custom derivative of such an operator is no limit of differences and yet useful.
    """
    operator, x = trial.operator, trial.x
    if operator.is_linear:
        return None
    d = jnp.asarray(trial.rng.choice((-1.0, 1.0), x.shape), jnp.float32)
    difference = (operator(x + _STEP * d) - operator(x - _STEP * d)) / (2 * _STEP)
    _, pull = jax.vjp(lambda image: operator(image), x)
    # <J d, w> = <d, J^T w>, with the difference itself for w. JAX's gradients pair without conjugation.
    size = float(jnp.sum(jnp.abs(difference) ** 2))
    if size == 0:
        return "does not depend on the image: its measurements of two images are equal."
    fraction = float(jnp.sum(d * pull(jnp.conj(difference))[0])) / size
    if not fraction >= _MIN_DERIVATIVE:
        return (
            f"has a derivative that is {fraction:.2g} times its change between nearby images (expected "
            "about 1); a fit cannot follow it. Leave out rounding and thresholds, or fix its custom derivative."
        )
    return None


def _is_linear(trial: _Trial) -> str | None:
    operator, x, other = trial.operator, trial.x, trial.other
    if not operator.is_linear:
        return None
    # The minus exposes max(x, 0), which is linear for nonnegative images. The weights do not sum to 1, or an
    # added constant would cancel.
    expected = trial.y - 2 * operator(other)
    gap = _relative(operator(x - 2 * other) - expected, expected)
    if not gap <= trial.tolerance:
        return (
            f"declares itself linear, but A(x - 2 x') differs from A x - 2 A x' by {gap:.2g} relative "
            f"(at most {trial.tolerance:g}); set is_linear = False or fix it."
        )
    return None


def _has_adjoint(trial: _Trial) -> str | None:
    operator, x, y = trial.operator, trial.x, trial.y
    if not operator.is_linear:
        return None
    v = trial.rng.standard_normal(y.shape)
    if jnp.iscomplexobj(y):
        v = v + 1j * trial.rng.standard_normal(y.shape)
    w = jnp.asarray(v, y.dtype)
    # With the gradient that a fit uses: a custom derivative can be wrong where the operator is right.
    # JAX's gradients pair without conjugation.
    left = jnp.real(jnp.sum(y * w))
    right = jnp.sum(x * jax.vjp(lambda image: operator(image), x)[1](w)[0])
    scale = float(jnp.linalg.norm(y) * jnp.linalg.norm(w))
    gap = abs(float(left - right)) / max(scale, 1e-30)
    if not gap <= trial.tolerance:
        return (
            f"has <A x, y> and <x, A^T y> that differ by {gap:.2g} of |A x| |y| (at most "
            f"{trial.tolerance:g}); its gradient is wrong. Fix its custom derivative."
        )
    return None


def _acts_pixelwise(trial: _Trial) -> str | None:
    operator, x, y = trial.operator, trial.x, trial.y
    if not is_pixelwise(operator):
        return None
    height, width = x.shape[:2]
    if y.shape[:-1] != (height, width):
        return (
            f"declares itself pixelwise, but makes {y.shape} of an image {x.shape}; "
            "set is_pixelwise = False."
        )
    chosen = jnp.asarray(trial.rng.random((height, width, 1)) < 0.5)
    mixed = operator(jnp.where(chosen, trial.other, x))
    gap = _relative(mixed - jnp.where(chosen, operator(trial.other), y), y)
    if not gap <= trial.tolerance:
        return (
            f"declares itself pixelwise, but other pixels change a measured value by {gap:.2g} relative "
            f"(at most {trial.tolerance:g}); set is_pixelwise = False."
        )
    try:
        canvas = jnp.pad(x, ((0, 3), (0, 2), (0, 0)))
        padded = operator.pad(height + 3, width + 2)(canvas)[:height, :width]
        gap = _relative(padded - y, y)
    except Exception as error:
        return (
            f"declares itself pixelwise, but its pad(height, width) failed ({_first_line(error)}); "
            "it must return the operator for a larger canvas."
        )
    if not gap <= trial.tolerance:
        return (
            f"measures the image on a canvas with a difference of {gap:.2g} relative (at most "
            f"{trial.tolerance:g}); fix its pad(height, width)."
        )
    return None


_CHECKS = (
    _returns_array,
    _is_finite,
    _is_deterministic,
    _is_traceable,
    _has_dtype,
    _is_differentiable,
    _has_finite_gradient,
    _has_derivative,
    _is_linear,
    _has_adjoint,
    _acts_pixelwise,
)


def _name(operator: Operator) -> str:
    """The name of an operator in messages: of its function, if it has one, otherwise of its class."""
    function = getattr(operator, "function", None)
    name = getattr(function, "__name__", None)
    return f"The operator {name}" if name else type(operator).__name__


def _relative(difference: Array, reference: Array) -> float:
    return float(jnp.linalg.norm(difference) / jnp.maximum(jnp.linalg.norm(reference), 1e-30))


def _first_line(error: Exception) -> str:
    """The type of an error and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
