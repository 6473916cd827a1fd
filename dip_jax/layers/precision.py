"""The precisions of products, and their emulation on CPU.

Sums are float32 in every precision:

| precision | operands | on a GPU | on a TPU |
|---|---|---|---|
| `float32` | float32 | float32 | six bfloat16 products for each product |
| `tf32` | float32 | TensorFloat-32 if available | three bfloat16 products |
| `bfloat16` | bfloat16, as is the result | bfloat16 | one bfloat16 product |

On CPU, XLA computes `tf32` like `float32`; `emulate` rounds operands as a GPU does.

References:
  Precision in JAX, https://docs.jax.dev/en/latest/201/precision.html, and jax.lax.Precision.
"""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from dip_jax.base import Array

Precision = Literal["float32", "tf32", "bfloat16"]


def xla_precision(precision: Precision) -> lax.Precision:
    """Returns the precision that XLA needs for a product on the default backend.

    Args:
      precision: The precision of this package.

    Example:
      >>> xla_precision("float32").name
      'HIGHEST'
    """
    if precision == "float32":
        return lax.Precision.HIGHEST
    # On a GPU, DEFAULT is TF32 for all products. With jax 0.10, HIGH is float32 for Triton, which
    # computes most matrix products. On a TPU, HIGH is three bfloat16 products and DEFAULT is one.
    if precision == "tf32" and jax.default_backend() == "tpu":
        return lax.Precision.HIGH
    return lax.Precision.DEFAULT  # of bfloat16 operands there is only one


_MANTISSA_BITS = {"tf32": 10, "bfloat16": 7}


def emulate(
    product: Callable[[Array, Array], Array], x: Array, kernel: Array, precision: str
) -> Array:
    """Computes `product(x, kernel)` and its gradients with the rounding of a GPU.

    Args:
      product: A bilinear function, computed in float32.
      x: First operand.
      kernel: Second operand.
      precision: `tf32` or `bfloat16`; any other name does not round.

    Returns:
      The product, bfloat16 with precision `bfloat16`.
    """
    bits = _MANTISSA_BITS.get(precision)
    if bits is None:
        return product(x, kernel)
    x, kernel = (_round(v.astype(jnp.float32), bits, None) for v in (x, kernel))
    y = product(x, kernel)
    if precision == "tf32":
        return _round(y, None, bits)
    return _round(y, bits, bits).astype(jnp.bfloat16)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _round(x: Array, bits: int | None, gradient_bits: int | None) -> Array:
    """Rounds an array, and its gradient, to numbers of mantissa bits; None does not round."""
    # XLA may remove a pair of casts, but not this operation.
    return x if bits is None else lax.reduce_precision(x, 8, bits)


_round.defvjp(
    lambda x, bits, gradient_bits: (_round(x, bits, gradient_bits), None),
    lambda bits, gradient_bits, _, dy: (_round(dy, gradient_bits, bits),),
)
