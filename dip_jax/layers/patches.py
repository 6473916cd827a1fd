"""Convolutions as matrix products with image patches.

The patch of an output pixel consists of the k * k * C input values in its sum. The gradients reuse
the products and recompute the patches.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from dip_jax.base import Array
from dip_jax.layers.padding import Padding, fold, pad
from dip_jax.layers.resize import interleave


def image_patches(x: Array, sides: tuple[int, ...], stride: int) -> Array:
    """Collects the input values in the sum of each output pixel.

    Args:
      x: Padded image `[H, W, C]`.
      sides: Sides a, b of the kernel.
      stride: Step between patches.

    Returns:
      `[(H - a) // stride + 1, (W - b) // stride + 1, a * b * C]`.
    """
    height, width = ((n - side) // stride + 1 for n, side in zip(x.shape[:2], sides, strict=True))
    windows = [
        x[a : a + stride * (height - 1) + 1 : stride, b : b + stride * (width - 1) + 1 : stride]
        for a in range(sides[0])
        for b in range(sides[1])
    ]
    return windows[0] if len(windows) == 1 else jnp.concatenate(windows, axis=-1)


def margin(kernel: Array) -> tuple[int, int]:
    """The rows and columns by which a kernel of odd sides extends beyond its center."""
    return kernel.shape[0] // 2, kernel.shape[1] // 2


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv_patches(x: Array, kernel: Array, stride: int, padding: Padding | None) -> Array:
    """Convolves an image by one matrix product.

    Args:
      x: Image `[H, W, C]`.
      kernel: `[a, b, C, O]`; a and b odd, unless `padding` is None.
      stride: 1 or 2.
      padding: As for `conv.conv2d`; None for an image that is already padded.

    Returns:
      `[Ho, Wo, O]`.
    """
    return _patches_forward(x, kernel, stride, padding)[0]


def _patches_forward(x: Array, kernel: Array, stride: int, padding: Padding | None):
    x = lax.optimization_barrier(x)  # as in winograd
    padded = x if padding is None else pad(x, margin(kernel), padding)
    patches = image_patches(padded, kernel.shape[:2], stride)
    return jnp.einsum("hwk,ko->hwo", patches, kernel.reshape(-1, kernel.shape[3])), (x, kernel)


def _patches_backward(
    stride: int, padding: Padding | None, residuals: tuple[Array, Array], dy: Array
):
    x, kernel = residuals
    dy = lax.optimization_barrier(dy)
    sides = kernel.shape[:2]
    x = x if padding is None else pad(x, margin(kernel), padding)
    # Keeping the patches of the forward pass would take k * k times the memory of the image.
    patches = image_patches(x, sides, stride)
    dkernel = _weight_gradient(
        patches.reshape(-1, patches.shape[-1]), dy.reshape(-1, dy.shape[-1])
    ).reshape(kernel.shape)
    if stride == 1 and sides != (1, 1):
        # The gradient for the input is a convolution with the rotated kernel.
        rotated = kernel[::-1, ::-1].swapaxes(2, 3)
        padded_dy = jnp.pad(dy, ((sides[0] - 1,) * 2, (sides[1] - 1,) * 2, (0, 0)))
        dx = conv_patches(padded_dy, rotated, 1, None)
    else:
        dpatches = jnp.einsum("hwo,ko->hwk", dy, kernel.reshape(-1, kernel.shape[3]))
        (dx,) = jax.linear_transpose(lambda v: image_patches(v, sides, stride), x)(dpatches)
    return dx if padding is None else fold(dx, margin(kernel), padding), dkernel


conv_patches.defvjp(_patches_forward, _patches_backward)


def _weight_gradient(x: Array, dy: Array) -> Array:
    """x^T dy, `[n, C], [n, O] -> [C, O]`, in blocks of rows, as XLA:CPU computes short sums faster."""
    if dy.shape[1] < x.shape[1]:  # XLA:CPU is faster with the wider factor on the right
        return _weight_gradient(dy, x).T
    block = 8192
    num_blocks = x.shape[0] // block
    total = jnp.einsum("nc,no->co", x[num_blocks * block :], dy[num_blocks * block :])
    if num_blocks:
        rows = (num_blocks, block)
        blocks = (v[: num_blocks * block].reshape(*rows, -1) for v in (x, dy))
        total += jnp.einsum("bnc,bno->bco", *blocks).sum(axis=0)
    return total


def conv_patches_transposed(x: Array, kernel: Array) -> Array:
    """Computes `conv.conv2d_transposed` by four convolutions with 2x2 kernels, one per parity.

    An output pixel sums 2 of the 4 taps along an axis, so no product has a factor of zero:
    y[2 m] = x[m - 1] k[3] + x[m] k[1] and y[2 m + 1] = x[m] k[2] + x[m + 1] k[0].

    Args:
      x: Image `[H, W, C]`.
      kernel: `[4, 4, C, O]`, or `[1, 4, C, O]` for signals of one row.

    Returns:
      `[2 H, 2 W, O]`, or `[H, 2 W, O]` for a kernel of one row.
    """
    padded = jnp.pad(x, (*((side // 4, side // 4) for side in kernel.shape[:2]), (0, 0)))

    def convolve(x: Array, kernel: Array, axis: int) -> Array:
        """Splits even and odd output pixels along `axis` and the following axes."""
        if axis == 2:
            return conv_patches(x, kernel, 1, None)
        if kernel.shape[axis] == 1:
            return convolve(x, kernel, axis + 1)
        last = x.shape[axis] - 1
        taps = (jnp.take(kernel, jnp.array([3 - odd, 1 - odd]), axis) for odd in (0, 1))
        even, odd = (
            convolve(lax.slice_in_dim(x, first, last + first, axis=axis), k, axis + 1)
            for first, k in enumerate(taps)
        )
        return interleave(even, odd, axis)

    return convolve(padded, kernel, 0)
