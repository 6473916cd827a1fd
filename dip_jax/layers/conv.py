"""Convolution and transposed convolution of one image, each with several lowerings.

Arrays are `[H, W, C]` and kernels `[k, k, C_in, C_out]` (HWIO); `vmap` or `lax.map` makes a batch.
A convolution has one definition and, per platform, one implementation, called its lowering:

* `winograd` (CPU, 3x3, stride 1): a quarter of the multiplications; see `winograd`.
* `patches` (CPU, all other kernels): one matrix product with image patches; see `patches`.
* `xla` (GPU, TPU): the convolution of XLA (cuDNN, or the matrix unit); see `xla_conv`.

On CPU every lowering is a matrix product. XLA:CPU replaces convolutions by fast library calls only
at the top level of a program, so inside `lax.scan` their gradients become scalar loops
(https://github.com/jax-ml/jax/issues/12868). Measured in docs/development/performance-log.md.
"""

import functools
import typing
from collections.abc import Callable
from typing import Literal

import jax
from jax import lax

from dip_jax.base import Array
from dip_jax.layers.padding import Padding, pad_fused
from dip_jax.layers.patches import conv_patches, conv_patches_transposed, margin
from dip_jax.layers.precision import Precision, emulate
from dip_jax.layers.winograd import winograd
from dip_jax.layers.xla_conv import Batching, require_batching, xla_conv, xla_conv_transposed

Lowering = Literal["auto", "winograd", "patches", "xla"]
PrecisionChoice = Literal["auto", Precision]

# With fewer pixels or channels, the transforms of Winograd cost more than its products save.
_WINOGRAD_MIN_PIXELS = 256
_WINOGRAD_MIN_CHANNELS = 16


def conv2d(
    x: Array,
    kernel: Array,
    *,
    stride: int = 1,
    padding: Padding = "reflect",
    lowering: Lowering = "auto",
    precision: PrecisionChoice = "auto",
    batching: Batching = "auto",
) -> Array:
    """Convolves an image with a kernel, in the sense of deep learning (a cross-correlation).

    y[i, j, o] = sum_{a, b, c} x[s i + a - p, s j + b - p, c] kernel[a, b, c, o], p = (k - 1) / 2.

    The padding is p on every side, also for stride 2: the output has `ceil(H / stride)` rows.
    (`SAME` in XLA would shift a strided output by half a pixel.)

    Args:
      x: Image `[H, W, C_in]`.
      kernel: `[k, k, C_in, C_out]`, or `[1, k, ...]` for signals of one row; k odd.
      stride: s, 1 or 2.
      padding: `reflect` (without repeating the border; needs an image larger than p) or `zero`.
      lowering: The implementation; `auto` selects one per platform. `winograd` computes kernels
        that it does not support by `patches`.
      precision: Precision of the products; sums are float32. `auto` means float32 on CPU and tf32
        elsewhere. On CPU the other precisions are emulated.
      batching: How `vmap` batches the convolution of XLA; see `xla_conv`.

    Returns:
      `[ceil(H / stride), ceil(W / stride), C_out]`, bfloat16 with precision `bfloat16`.

    Raises:
      ValueError: For an unsupported shape, stride, padding, lowering, precision or batching.

    Example:
      >>> import jax.numpy as jnp
      >>> x = jnp.arange(9.0).reshape(3, 3, 1)
      >>> print(conv2d(x, jnp.ones((3, 3, 1, 1)), padding="zero")[..., 0])
      [[ 8. 15. 12.]
       [21. 36. 27.]
       [20. 33. 24.]]
    """
    if x.ndim != 3 or kernel.ndim != 4 or x.shape[-1] != kernel.shape[2]:
        raise ValueError(
            f"conv2d expected an image [H, W, C] and a kernel [k, k, C, O], got {x.shape} and "
            f"{kernel.shape}; batch with jax.vmap or jax.lax.map."
        )
    if kernel.shape[0] % 2 == 0 or kernel.shape[1] % 2 == 0 or stride not in (1, 2):
        raise ValueError(
            "conv2d expected odd kernel sides and stride 1 or 2, got "
            f"{kernel.shape[:2]} and {stride}."
        )
    _require_known(lowering, precision)
    require_batching(batching)

    def on_cpu(x: Array, kernel: Array, winograd_min: tuple[int, int] | None) -> Array:
        convolve = functools.partial(
            _convolve_on_cpu, stride=stride, padding=padding, winograd_min=winograd_min
        )
        return emulate(convolve, x, kernel, precision)

    def by_xla(x: Array, kernel: Array) -> Array:
        padded = pad_fused(x, margin(kernel), padding)
        known: Precision = "tf32" if precision == "auto" else precision
        return xla_conv(padded, kernel, stride, precision=known, batching=batching)

    if lowering == "auto":
        winograd_min = (_WINOGRAD_MIN_PIXELS, _WINOGRAD_MIN_CHANNELS)
        return _per_platform(
            functools.partial(on_cpu, winograd_min=winograd_min), by_xla, x, kernel
        )
    if lowering == "xla":
        return by_xla(x, kernel)
    return on_cpu(x, kernel, (0, 0) if lowering == "winograd" else None)


def conv2d_transposed(
    x: Array,
    kernel: Array,
    *,
    lowering: Lowering = "auto",
    precision: PrecisionChoice = "auto",
    batching: Batching = "auto",
) -> Array:
    """Doubles an image by a transposed convolution with a kernel of side 4, stride 2, padding 1.

    y[2 i + a - 1, 2 j + b - 1, o] += x[i, j, c] kernel[a, b, c, o], summed over i, j, a, b, c.

    Args:
      x: Image `[H, W, C_in]`.
      kernel: `[4, 4, C_in, C_out]`, or `[1, 4, ...]` for signals of one row.
      lowering: `xla`, or any other name for matrix products; `auto` selects one per platform.
      precision: As for `conv2d`.
      batching: As for `conv2d`.

    Returns:
      `[2 H, 2 W, C_out]`, or `[1, 2 W, C_out]` for a signal; bfloat16 with precision `bfloat16`.

    Raises:
      ValueError: For an unsupported shape, lowering, precision or batching.
    """
    sides = kernel.shape[:2] if kernel.ndim == 4 and x.ndim == 3 else None
    is_known = sides == (4, 4) or (sides == (1, 4) and x.shape[0] == 1)
    if not is_known or x.shape[-1] != kernel.shape[2]:
        raise ValueError(
            "conv2d_transposed expected an image [H, W, C] and a kernel [4, 4, C, O], or a signal "
            f"[1, W, C] and a kernel [1, 4, C, O], got {x.shape} and {kernel.shape}."
        )
    _require_known(lowering, precision)
    require_batching(batching)

    def on_cpu(x: Array, kernel: Array) -> Array:
        return emulate(conv_patches_transposed, x, kernel, precision)

    def by_xla(x: Array, kernel: Array) -> Array:
        known: Precision = "tf32" if precision == "auto" else precision
        return xla_conv_transposed(x, kernel, precision=known, batching=batching)

    if lowering == "auto":
        return _per_platform(on_cpu, by_xla, x, kernel)
    return (by_xla if lowering == "xla" else on_cpu)(x, kernel)


def _require_known(lowering: str, precision: str) -> None:
    known = {
        "lowering": (lowering, typing.get_args(Lowering)),
        "precision": (precision, typing.get_args(PrecisionChoice)),
    }
    for name, (value, choices) in known.items():
        if value not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}.")


def _per_platform(
    on_cpu: Callable[[Array, Array], Array],
    elsewhere: Callable[[Array, Array], Array],
    x: Array,
    kernel: Array,
) -> Array:
    # Tracing one platform instead of two saves a third of the time.
    if jax.default_backend() == "cpu":
        return on_cpu(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=elsewhere)


def _convolve_on_cpu(
    x: Array, kernel: Array, stride: int, padding: Padding, winograd_min: tuple[int, int] | None
) -> Array:
    """Convolves by Winograd if the kernel allows it and the image has enough pixels and channels.

    Args:
      x: Image `[H, W, C]`.
      kernel: `[k, k, C, O]`.
      stride: 1 or 2.
      padding: As for `conv2d`.
      winograd_min: The fewest pixels and channels for Winograd; None for never.
    """
    use_winograd = (
        winograd_min is not None
        and kernel.shape[:2] == (3, 3)
        and stride == 1
        and x.shape[0] * x.shape[1] >= winograd_min[0]
        and min(kernel.shape[2:]) >= winograd_min[1]
    )
    return (
        winograd(x, kernel, padding) if use_winograd else conv_patches(x, kernel, stride, padding)
    )
