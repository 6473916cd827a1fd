"""Operators that act on each pixel alone.

Their images may be padded to a canvas that several sizes share, and a measured value can be held out and
predicted from the image value at its pixel.
"""

from typing import Protocol, TypeGuard

import jax
import jax.numpy as jnp

from dip_jax.base import Array, Operator
from dip_jax.problem import measure


class PixelwiseOperator(Operator, Protocol):
    """An operator `[H, W, C] -> [H, W, K]` whose value at a pixel depends on the image at that pixel alone."""

    @property
    def is_pixelwise(self) -> bool:
        """True; a constant of the class or of the object. Operators without the attribute are not pixelwise."""
        ...

    def pad(self, height: int, width: int) -> "PixelwiseOperator":
        """Returns the operator for a canvas `[height, width]` with the image in its top left corner."""
        ...


def is_pixelwise(operator: Operator | type[Operator]) -> TypeGuard[PixelwiseOperator]:
    """Whether an operator, or every operator of a class, declares that it acts on each pixel alone.

    Example:
      >>> from dip_jax.operators import Downsample, Identity
      >>> is_pixelwise(Identity()), is_pixelwise(Downsample(2))
      (True, False)
    """
    return getattr(operator, "is_pixelwise", False) is True


def measured_std(operator: PixelwiseOperator, mean: Array, std: Array) -> Array | None:
    """The standard deviation of A x at each measured value, to first order.

    If a value depends on one channel c, its standard deviation is |dA / dx_c| std_c. If it depends on several
    channels, their covariance is needed too.

    Args:
      operator: A pixelwise operator A.
      mean: Mean of x, `[H, W, C]`.
      std: Standard deviation of x, `[H, W, C]`.

    Returns:
      `[H, W, K]`, or None if a measured value depends on several channels.

    Example:
      >>> import jax.numpy as jnp
      >>> from dip_jax.operators import Gray, Mask
      >>> image, mask = jnp.full((1, 2, 3), 0.5), jnp.array([[[1.0], [0.0]]])
      >>> measured_std(Mask(mask), image, 0.25 * image)[..., 0].tolist()
      [[0.125, 0.0]]
      >>> print(measured_std(Gray(), image, image))
      None
    """
    _, derivative = jax.linearize(lambda image: measure(operator, image), mean)
    total, num_channels = jnp.zeros(()), jnp.zeros((), int)
    for c in range(mean.shape[-1]):
        # One tangent gives the slope at all pixels, because they do not depend on each other.
        slope = jnp.abs(derivative(jnp.zeros_like(mean).at[..., c].set(1.0)))
        total = total + slope * std[..., c : c + 1]
        num_channels = num_channels + (slope != 0)
    return None if bool(jnp.any(num_channels > 1)) else total
