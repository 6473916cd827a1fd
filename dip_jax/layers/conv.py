"""Convolution on one image: the performance room.

Arrays are `[H, W, C]`, kernels `[k, k, C_in, C_out]` (HWIO); a batch of networks is made from outside
(`vmap` or `map`). Every operation has one meaning and, where it pays, one *lowering* per platform:

* `winograd` (CPU, 3x3, stride 1): a quarter of the multiplications; see `winograd`.
* `patches` (CPU, everything else): the k*k shifted copies of the image beside each other, times the
  kernel as a matrix.
* `xla` (GPU, TPU): the convolution of XLA (cuDNN, or the matrix unit), in the module `xla_conv`.

A transposed convolution on CPU is made of patches too, the even and the odd output pixels apart.

On CPU a convolution must be a matrix product: XLA rewrites convolutions into fast calls only at the
top level of a program, so inside `lax.scan` their gradients fall to scalar loops
(https://github.com/jax-ml/jax/issues/12868). docs/performance-log.md has the measurements.
"""

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from dip_jax.base import Array
from dip_jax.layers.padding import Padding, pad_fused
from dip_jax.layers.patches import conv_patches, margin, sub_pixels
from dip_jax.layers.winograd import winograd
from dip_jax.layers.xla_conv import BATCHINGS, PRECISIONS, Batching, xla_conv
from dip_jax.layers.xla_conv import Precision as XlaPrecision

Lowering = Literal["auto", "winograd", "patches", "xla"]
Precision = Literal["auto", "float32", "tf32", "bfloat16"]

LOWERINGS = ("auto", "winograd", "patches", "xla")
# Bits of the mantissa that the operands of products keep.
_MANTISSA = {"tf32": 10, "bfloat16": 7}

# Winograd pays for its transforms only where there are enough tiles and channels.
_WINOGRAD_MIN_PIXELS = 256
_WINOGRAD_MIN_CHANNELS = 16


def conv2d(
    x: Array,
    kernel: Array,
    *,
    stride: int = 1,
    padding: Padding = "reflect",
    lowering: Lowering = "auto",
    precision: Precision = "auto",
    batching: Batching = "auto",
) -> Array:
    """Convolves an image with a kernel, as deep learning means it (a cross-correlation).

    y[i, j, o] = sum_{a, b, c} x[s i + a - p, s j + b - p, c] kernel[a, b, c, o], p = (k - 1) / 2.

    The padding is symmetric (p on every side), also for stride 2: the output has
    `ceil(H / stride)` rows. (`SAME` in XLA would shift a strided output by half a pixel.)

    Args:
      x: Image `[H, W, C_in]`.
      kernel: `[k, k, C_in, C_out]`, or `[1, k, ...]` for signals that are one row; k odd.
      stride: 1 or 2.
      padding: `reflect` (without repeating the border; the image must be larger than p) or `zero`.
      lowering: How it is computed; `auto` chooses per platform.
      precision: Of the products; sums are float32. `auto` is float32 on CPU and tf32 elsewhere. On CPU the
        others are emulated: operands are rounded as a GPU would.
      batching: How `vmap` computes the convolution of XLA; see `xla_conv`.

    Returns:
      `[ceil(H / stride), ceil(W / stride), C_out]`, bfloat16 with precision `bfloat16`.

    Raises:
      ValueError: On a shape, stride, padding, lowering, precision or batching that is not one of these.
    """
    if x.ndim != 3 or kernel.ndim != 4 or x.shape[-1] != kernel.shape[2]:
        raise ValueError(
            f"conv2d expected an image [H, W, C] and a kernel [k, k, C, O], came {x.shape} and "
            f"{kernel.shape}; batch with jax.vmap or jax.lax.map."
        )
    if kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0 or stride not in (1, 2):
        raise ValueError(
            f"conv2d expected odd kernel sides and stride 1 or 2, came {kernel.shape[:2]} and {stride}."
        )
    _require_known(lowering, precision)
    if batching not in BATCHINGS:
        raise ValueError(f"batching must be one of {', '.join(BATCHINGS)}, came {batching!r}.")

    def products(x: Array, kernel: Array, threshold: tuple[int, int] | None) -> Array:
        make = functools.partial(
            _matrix_products, stride=stride, padding=padding, threshold=threshold
        )
        return _emulated(make, x, kernel, precision)

    def platform(x: Array, kernel: Array) -> Array:
        chosen: XlaPrecision = "tf32" if precision == "auto" else precision
        padded = pad_fused(x, margin(kernel), padding)
        return xla_conv(padded, kernel, stride, precision=chosen, batching=batching)

    if lowering == "auto":
        serves = (_WINOGRAD_MIN_PIXELS, _WINOGRAD_MIN_CHANNELS)
        on_cpu = functools.partial(products, threshold=serves)
        return _per_platform(on_cpu, platform, x, kernel)
    if lowering == "xla":
        return platform(x, kernel)
    return products(x, kernel, (0, 0) if lowering == "winograd" else None)


def _per_platform(
    on_cpu: Callable[[Array, Array], Array],
    elsewhere: Callable[[Array, Array], Array],
    x: Array,
    kernel: Array,
) -> Array:
    # Where there is nothing but CPU the choice need not be part of the program: that saves a
    # third of the time of tracing it.
    if jax.default_backend() == "cpu":
        return on_cpu(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=elsewhere)


def _require_known(lowering: str, precision: str) -> None:
    if lowering not in LOWERINGS:
        raise ValueError(f"lowering must be one of {', '.join(LOWERINGS)}, came {lowering!r}.")
    if precision not in ("auto", *PRECISIONS):
        raise ValueError(
            f"precision must be one of auto, {', '.join(PRECISIONS)}, came {precision!r}."
        )


def _emulated(
    make: Callable[[Array, Array], Array], x: Array, kernel: Array, precision: Precision
) -> Array:
    """`make(x, kernel)` as hardware of that precision would make it."""
    x, kernel = (_rounded(v, precision, which="operand") for v in (x, kernel))
    return _rounded(make(x, kernel), precision, which="result")


def _rounded(x: Array, precision: Precision, which: Literal["operand", "result"]) -> Array:
    """What a precision does to the operands or the result of a product, and to its gradient's.

    Only bfloat16 is also how results are kept.
    """
    bits = _MANTISSA.get(precision)
    if bits is None:
        return x
    if which == "operand":
        return _round_both(x.astype(jnp.float32), bits, None)
    if precision == "tf32":
        return _round_both(x, None, bits)
    return _round_both(x, bits, bits).astype(jnp.bfloat16)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _round_both(x: Array, bits: int | None, gradient_bits: int | None) -> Array:
    """Rounds to so many bits of the mantissa, and the gradient too; casts alone XLA may leave out."""
    return x if bits is None else lax.reduce_precision(x, 8, bits)


_round_both.defvjp(
    lambda x, bits, gradient_bits: (_round_both(x, bits, gradient_bits), None),
    lambda bits, gradient_bits, _, dy: (_round_both(dy, gradient_bits, bits),),
)


def _matrix_products(
    x: Array, kernel: Array, stride: int, padding: Padding, threshold: tuple[int, int] | None
) -> Array:
    """Winograd where it is possible and above a threshold of pixels and channels, otherwise patches."""
    serves = (
        threshold is not None
        and kernel.shape[:2] == (3, 3)
        and stride == 1
        and x.shape[0] * x.shape[1] >= threshold[0]
        and min(kernel.shape[2:]) >= threshold[1]
    )
    return winograd(x, kernel, padding) if serves else conv_patches(x, kernel, stride, padding)


# --- Matrix products ----------------------------------------------------------------------------


# --- Transposed convolution -------------------------------------------------------------------------


def conv2d_transposed(
    x: Array, kernel: Array, *, lowering: Lowering = "auto", precision: Precision = "auto"
) -> Array:
    """Doubles an image by a transposed convolution with a kernel of side 4, stride 2, padding 1.

    y[2 i + a - 1, 2 j + b - 1, o] += x[i, j, c] kernel[a, b, c, o], summed over i, j, a, b, c.

    Args:
      x: Image `[H, W, C_in]`.
      kernel: `[4, 4, C_in, C_out]`, or `[1, 4, ...]` for signals that are one row.
      lowering: `xla`, or anything else for sub-pixel products; `auto` chooses per platform.
      precision: As for `conv2d`.

    Returns:
      `[2 H, 2 W, C_out]`; `[H, 2 W, C_out]` for a kernel of one row; bfloat16 with precision `bfloat16`.

    Raises:
      ValueError: On a shape, lowering or precision that is not one of these.
    """
    sides_are_known = kernel.ndim == 4 and kernel.shape[:2] in ((4, 4), (1, 4))
    if x.ndim != 3 or not sides_are_known or x.shape[-1] != kernel.shape[2]:
        raise ValueError(
            "conv2d_transposed expected an image [H, W, C] and a kernel [4, 4, C, O] or [1, 4, C, O], "
            f"came {x.shape} and {kernel.shape}."
        )
    _require_known(lowering, precision)

    def products(x: Array, kernel: Array) -> Array:
        return _emulated(sub_pixels, x, kernel, precision)

    def platform(x: Array, kernel: Array) -> Array:
        return _xla_transposed(x, kernel, "tf32" if precision == "auto" else precision)

    if lowering == "auto":
        return _per_platform(products, platform, x, kernel)
    return (platform if lowering == "xla" else products)(x, kernel)


def _xla_transposed(x: Array, kernel: Array, precision: XlaPrecision) -> Array:
    """The platform's own: a convolution of the image with zeros between its pixels."""
    dtype = jnp.bfloat16 if precision == "bfloat16" else kernel.dtype
    doubled = tuple(2 if side == 4 else 1 for side in kernel.shape[:2])
    y = lax.conv_general_dilated(
        x[None].astype(dtype),
        kernel[::-1, ::-1].astype(dtype),
        (1, 1),
        [(side // 2, side // 2) for side in kernel.shape[:2]],
        lhs_dilation=doubled,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=PRECISIONS[precision],
    )
    return y[0]
