"""The adjoint of a linear operator, and the check of the contract of an operator."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array, InputError, Operator


def adjoint(operator: Operator, shape: tuple[int, int, int]) -> Callable[[Array], Array]:
    """The adjoint A^T of a linear operator: its own gradient, also where that is a custom one.

    That the operator is linear, and its gradient right, is what `check_operator` finds out.

    Args:
      operator: A linear operator.
      shape: `(H, W, C)` of its images.

    Returns:
      A function measurement -> image with <A x, y> = <x, A^T y>, for complex y with
      <a, b> = Re sum a conj(b).

    Raises:
      InputError: If the operator says that it is not linear.
    """
    if not operator.is_linear:
        raise InputError(f"{type(operator).__name__} is not linear, so it has no adjoint.")

    def transposed(measurement: Array) -> Array:
        # The gradient of a linear operator is the same at every image.
        _, pull = jax.vjp(lambda image: operator(image), jnp.zeros(shape, jnp.float32))
        return pull(jnp.conj(measurement))[0]  # JAX's gradients pair without conjugation

    return transposed


def check_operator(
    operator: Operator, shape: tuple[int, int, int], *, tolerance: float = 1e-4, seed: int = 0
) -> None:
    """Refuses an operator that does not keep its contract.

    It must map a float32 image of `shape` to one finite array of a floating or complex type, to the same
    one each time, and be traceable and differentiable by JAX; if it says that it is linear, then
    A(x - 2 x') = A x - 2 A x' and <A x, y> = <x, A^T y> must hold to `tolerance`, relative.

    Args:
      operator: The operator.
      shape: `(H, W, C)` of its images.
      tolerance: Greatest relative error that rounding may explain.
      seed: For the random images.

    Raises:
      InputError: Naming what is broken, with the measured number.
    """
    name = type(operator).__name__
    rng = np.random.default_rng(seed)
    x, other = (jnp.asarray(rng.random(shape), jnp.float32) for _ in range(2))
    try:
        y = operator(x)
    except Exception as error:
        raise InputError(
            f"{name} failed on an image of shape {shape}: {type(error).__name__}: "
            f"{str(error).splitlines()[0]}"
        ) from None
    if not isinstance(y, jax.Array | np.ndarray) or not jnp.issubdtype(y.dtype, jnp.inexact):
        kind = getattr(y, "dtype", type(y).__name__)
        raise InputError(f"{name} must return one array of floats (or complex), came {kind}.")
    bad = int(jnp.sum(~jnp.isfinite(y)))
    if bad:
        raise InputError(f"{name} made {bad} values of {y.size} that are not finite.")
    if y.size == 0:
        raise InputError(f"{name} measured nothing: its array has the shape {y.shape}.")
    again = operator(x)
    gap = _relative(again - y, y) if again.shape == y.shape else float("inf")
    if not gap <= 1e-6:  # a GPU may add in another order
        raise InputError(
            f"{name} made two measurements of the same image that differ by {gap:.2g} relative; it must "
            "not keep a state or draw random numbers. Make what is random once, and keep it in a field."
        )
    try:
        jax.eval_shape(lambda image: operator(image), x)
    except Exception as error:
        raise InputError(
            f"{name} cannot be traced by JAX ({type(error).__name__}: {str(error).splitlines()[0]}); "
            "write it with jax.numpy in place of numpy, without if or while on values."
        ) from None
    if not operator.is_linear:
        gradient = jax.grad(lambda v: jnp.sum(jnp.abs(operator(v)) ** 2))(x)
        if not bool(jnp.all(jnp.isfinite(gradient))):
            raise InputError(f"{name} has a gradient that is not finite.")
        return
    # With a minus, because max(x, 0) is linear as long as nothing is negative; and with weights whose sum
    # is not 1, because otherwise the addition of a constant would go unseen.
    expected = y - 2 * operator(other)
    gap = _relative(operator(x - 2 * other) - expected, expected)
    if not gap <= tolerance:
        raise InputError(
            f"{name} says that it is linear, but A(x - 2 x') differs from A x - 2 A x' by {gap:.2g} "
            f"relative (at most {tolerance:g}); set is_linear = False or mend it."
        )
    v = rng.standard_normal(y.shape)
    if jnp.iscomplexobj(y):
        v = v + 1j * rng.standard_normal(y.shape)
    w = jnp.asarray(v, y.dtype)
    # By the gradient that a fit would use: a custom derivative can be wrong where the operator is right.
    # JAX's gradients pair without conjugation.
    left = jnp.real(jnp.sum(y * w))
    right = jnp.sum(x * jax.vjp(lambda image: operator(image), x)[1](w)[0])
    scale = float(jnp.linalg.norm(y) * jnp.linalg.norm(w))
    gap = abs(float(left - right)) / max(scale, 1e-30)
    if not gap <= tolerance:
        raise InputError(
            f"{name}: <A x, y> and <x, A^T y> differ by {gap:.2g} of |A x| |y| (at most {tolerance:g}); "
            "its gradient is wrong. Mend its custom derivative."
        )


def _relative(difference: Array, reference: Array) -> float:
    return float(jnp.linalg.norm(difference) / jnp.maximum(jnp.linalg.norm(reference), 1e-30))
