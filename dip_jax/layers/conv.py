"""Convolution on one image: the performance room.

Arrays are `[H, W, C]`, kernels `[k, k, C_in, C_out]` (HWIO); a batch of networks is made from outside
(`vmap` or `map`). Every operation has one meaning and, where it pays, one *lowering* per platform:

* `winograd` (CPU, 3x3, stride 1): a quarter of the multiplications; see `winograd`.
* `patches` (CPU, everything else): the k*k shifted copies of the image beside each other, times the
  kernel as a matrix.
* `vendor` (GPU, TPU): cuDNN or the matrix unit, in the module `vendor`.

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
from dip_jax.layers.padding import Padding, fold, pad, pad_fused
from dip_jax.layers.resize import interleave
from dip_jax.layers.winograd import winograd
from dip_jax.layers.xla_conv import BATCHINGS, PRECISIONS, Batching, image_patches, vendor
from dip_jax.layers.xla_conv import Precision as VendorPrecision

Lowering = Literal["auto", "winograd", "patches", "vendor"]
Precision = Literal["auto", "float32", "tf32", "bfloat16"]

LOWERINGS = ("auto", "winograd", "patches", "vendor")
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
      batching: What `vmap` makes of the vendor's convolution; see `vendor`.

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
        chosen: VendorPrecision = "tf32" if precision == "auto" else precision
        padded = pad_fused(x, _margin(kernel), padding)
        return vendor(padded, kernel, stride, precision=chosen, batching=batching)

    if lowering == "auto":
        serves = (_WINOGRAD_MIN_PIXELS, _WINOGRAD_MIN_CHANNELS)
        on_cpu = functools.partial(products, threshold=serves)
        return _per_platform(on_cpu, platform, x, kernel)
    if lowering == "vendor":
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
    return winograd(x, kernel, padding) if serves else _patches(x, kernel, stride, padding)


# --- Matrix products ----------------------------------------------------------------------------


def _margin(kernel: Array) -> tuple[int, int]:
    """How far a kernel of odd sides reaches beyond the pixel in its middle."""
    return kernel.shape[0] // 2, kernel.shape[1] // 2


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _patches(x: Array, kernel: Array, stride: int, padding: Padding | None) -> Array:
    """Convolution as one matrix product over patches; without a padding, of what it is given."""
    return _patches_forward(x, kernel, stride, padding)[0]


def _patches_forward(x: Array, kernel: Array, stride: int, padding: Padding | None):
    x = lax.optimization_barrier(x)  # see winograd
    padded = x if padding is None else pad(x, _margin(kernel), padding)
    patches = image_patches(padded, kernel.shape[:2], stride)
    return jnp.einsum("hwk,ko->hwo", patches, kernel.reshape(-1, kernel.shape[3])), (x, kernel)


def _patches_backward(
    stride: int, padding: Padding | None, residuals: tuple[Array, Array], dy: Array
):
    x, kernel = residuals
    dy = lax.optimization_barrier(dy)
    sides = kernel.shape[:2]
    x = x if padding is None else pad(x, _margin(kernel), padding)
    # The patches are made again: keeping them would cost k * k times the memory of the image.
    patches = image_patches(x, sides, stride)
    dkernel = _weight_gradient(
        patches.reshape(-1, patches.shape[-1]), dy.reshape(-1, dy.shape[-1])
    ).reshape(kernel.shape)
    if stride == 1 and sides != (1, 1):
        # The input's gradient is a convolution again: with the kernel turned by half a turn.
        turned = kernel[::-1, ::-1].swapaxes(2, 3)
        around = jnp.pad(dy, ((sides[0] - 1,) * 2, (sides[1] - 1,) * 2, (0, 0)))
        dx = _patches(around, turned, 1, None)
    else:
        dpatches = jnp.einsum("hwo,ko->hwk", dy, kernel.reshape(-1, kernel.shape[3]))
        (dx,) = jax.linear_transpose(lambda v: image_patches(v, sides, stride), x)(dpatches)
    return dx if padding is None else fold(dx, _margin(kernel), padding), dkernel


_patches.defvjp(_patches_forward, _patches_backward)


def _weight_gradient(x: Array, dy: Array) -> Array:
    """x^T dy, `[n, C], [n, O] -> [C, O]`, in blocks of rows: XLA:CPU is faster at short sums."""
    if dy.shape[1] < x.shape[1]:  # and faster with the wider factor on the right
        return _weight_gradient(dy, x).T
    block = 8192
    blocks = x.shape[0] // block
    total = jnp.einsum("nc,no->co", x[blocks * block :], dy[blocks * block :])
    if blocks:
        rows = (blocks, block)
        head = (v[: blocks * block].reshape(*rows, -1) for v in (x, dy))
        total += jnp.einsum("bnc,bno->bco", *head).sum(axis=0)
    return total


# --- Transposed convolution -------------------------------------------------------------------------


def conv2d_transposed(
    x: Array, kernel: Array, *, lowering: Lowering = "auto", precision: Precision = "auto"
) -> Array:
    """Doubles an image by a transposed convolution with a kernel of side 4, stride 2, padding 1.

    y[2 i + a - 1, 2 j + b - 1, o] += x[i, j, c] kernel[a, b, c, o], summed over i, j, a, b, c.

    Args:
      x: Image `[H, W, C_in]`.
      kernel: `[4, 4, C_in, C_out]`, or `[1, 4, ...]` for signals that are one row.
      lowering: `vendor`, or anything else for sub-pixel products; `auto` chooses per platform.
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
        return _emulated(_sub_pixels, x, kernel, precision)

    def platform(x: Array, kernel: Array) -> Array:
        return _vendor_transposed(x, kernel, "tf32" if precision == "auto" else precision)

    if lowering == "auto":
        return _per_platform(products, platform, x, kernel)
    return (platform if lowering == "vendor" else products)(x, kernel)


def _vendor_transposed(x: Array, kernel: Array, precision: VendorPrecision) -> Array:
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


def _sub_pixels(x: Array, kernel: Array) -> Array:
    """Even and odd output pixels apart: each sees 2 of the 4 taps, so nothing is multiplied by zero.

    Along an axis y[2 m] = x[m - 1] k[3] + x[m] k[1] and y[2 m + 1] = x[m] k[2] + x[m + 1] k[0].
    """
    padded = jnp.pad(x, (*((side // 4, side // 4) for side in kernel.shape[:2]), (0, 0)))

    def make(x: Array, kernel: Array, axis: int) -> Array:
        if axis == 2:
            return _patches(x, kernel, 1, None)
        if kernel.shape[axis] == 1:
            return make(x, kernel, axis + 1)
        last = x.shape[axis] - 1
        taps = (jnp.take(kernel, jnp.array([3 - odd, 1 - odd]), axis) for odd in (0, 1))
        even, odd = (
            make(lax.slice_in_dim(x, first, last + first, axis=axis), k, axis + 1)
            for first, k in enumerate(taps)
        )
        return interleave(even, odd, axis)

    return make(padded, kernel, 0)
