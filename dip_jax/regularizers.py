"""Regularizers: terms that are added to the loss of a fit.

Any function `regularizer(image, params, problem)` that returns a scalar is a regularizer; see
`base.Regularizer`. Terms are added by ordinary functions.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from dip_jax.base import Array, Params, Problem, Regularizer

_SMOOTHING = 1e-3


def tv(weight: float, *, form: Literal["isotropic", "smooth"] = "isotropic") -> Regularizer:
    """Returns weight times the total variation of the image; see `total_variation`.

    Args:
      weight: The weight.
      form: The form of the total variation.
    """

    def regularizer(image: Array, params: Params, problem: Problem) -> Array:
        del params
        return weight * total_variation(image, form, region=problem.region)

    return regularizer


def weight_penalty(precision: float) -> Regularizer:
    """Returns (precision / 2) |w|^2, the negative log density of a normal prior of the weights.

    Relative to a likelihood, the precision is that of the prior divided by k; see `losses.nll_scale`.

    Args:
      precision: The precision.

    Example:
      >>> import jax.numpy as jnp
      >>> float(weight_penalty(2.0)(jnp.zeros((1, 1, 1)), {"w": jnp.array([1.0, 2.0])}, None))
      5.0
    """

    def regularizer(image: Array, params: Params, problem: Problem) -> Array:
        del image, problem
        squares = [jnp.sum(jnp.square(w)) for w in jax.tree.leaves(params)]
        return precision / 2 * jnp.sum(jnp.stack(squares))

    return regularizer


def total_variation(
    image: Array, form: Literal["isotropic", "smooth"], *, region: Array | None = None
) -> Array:
    """Returns the sum of the norm of the gradient over pixels and channels.

    * `isotropic`: sum (d_h^2 + d_w^2)^(1/2). Its gradient is 0 where the image is flat (NaN in the
      2018 code).
    * `smooth`: sum (d_h^2 + d_w^2 + e^2)^(1/2) - e, with e = 1e-3.

    d_h and d_w are forward differences, at the pixels that have both neighbors. A signal (one row)
    has only d_w.

    Args:
      image: `[H, W, C]`.
      form: `isotropic` or `smooth`.
      region: Canvas mask `[H, W, 1]`: 1 = image, a rectangle in the top left corner, 0 = margin.

    References:
      Rudin, Osher and Fatemi, Nonlinear total variation based noise removal, 1992.

    Example:
      >>> import jax.numpy as jnp
      >>> image = jnp.array([[0.0, 3.0], [4.0, 0.0]])[..., None]
      >>> float(total_variation(image, "isotropic"))
      5.0
    """
    rows = image if image.shape[0] == 1 else image[:-1]
    squares = (rows[:, 1:] - rows[:, :-1]) ** 2
    if image.shape[0] > 1:
        squares += (image[1:, :-1] - image[:-1, :-1]) ** 2
    if region is not None:
        squares = squares * region[1:, 1:]
    if form == "smooth":
        return jnp.sum(jnp.sqrt(squares + _SMOOTHING**2) - _SMOOTHING)
    # `where` on both sides of the root: the gradient of an unused sqrt(0) would still be NaN.
    is_flat = squares == 0
    return jnp.sum(jnp.where(is_flat, 0.0, jnp.sqrt(jnp.where(is_flat, 1.0, squares))))
