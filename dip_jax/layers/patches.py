"""Convolutions as matrix products of image patches, with gradients of their own."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from dip_jax.base import Array
from dip_jax.layers.padding import Padding, fold, pad
from dip_jax.layers.resize import interleave


def margin(kernel: Array) -> tuple[int, int]:
    """How far a kernel of odd sides reaches beyond the pixel in its middle."""
    return kernel.shape[0] // 2, kernel.shape[1] // 2


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv_patches(x: Array, kernel: Array, stride: int, padding: Padding | None) -> Array:
    """Convolution as one matrix product over patches; without a padding, of what it is given."""
    return _patches_forward(x, kernel, stride, padding)[0]


def _patches_forward(x: Array, kernel: Array, stride: int, padding: Padding | None):
    x = lax.optimization_barrier(x)  # see winograd
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
    # The patches are made again: keeping them would cost k * k times the memory of the image.
    patches = image_patches(x, sides, stride)
    dkernel = _weight_gradient(
        patches.reshape(-1, patches.shape[-1]), dy.reshape(-1, dy.shape[-1])
    ).reshape(kernel.shape)
    if stride == 1 and sides != (1, 1):
        # The input's gradient is a convolution again: with the kernel turned by half a turn.
        turned = kernel[::-1, ::-1].swapaxes(2, 3)
        around = jnp.pad(dy, ((sides[0] - 1,) * 2, (sides[1] - 1,) * 2, (0, 0)))
        dx = conv_patches(around, turned, 1, None)
    else:
        dpatches = jnp.einsum("hwo,ko->hwk", dy, kernel.reshape(-1, kernel.shape[3]))
        (dx,) = jax.linear_transpose(lambda v: image_patches(v, sides, stride), x)(dpatches)
    return dx if padding is None else fold(dx, margin(kernel), padding), dkernel


conv_patches.defvjp(_patches_forward, _patches_backward)


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


def sub_pixels(x: Array, kernel: Array) -> Array:
    """Even and odd output pixels apart: each sees 2 of the 4 taps, so nothing is multiplied by zero.

    Along an axis y[2 m] = x[m - 1] k[3] + x[m] k[1] and y[2 m + 1] = x[m] k[2] + x[m + 1] k[0].
    """
    padded = jnp.pad(x, (*((side // 4, side // 4) for side in kernel.shape[:2]), (0, 0)))

    def make(x: Array, kernel: Array, axis: int) -> Array:
        if axis == 2:
            return conv_patches(x, kernel, 1, None)
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


def image_patches(x: Array, sides: tuple[int, ...], stride: int) -> Array:
    """`[Ho, Wo, a * b * C]`: for each output pixel the inputs that it sums."""
    height, width = ((n - side) // stride + 1 for n, side in zip(x.shape[:2], sides, strict=True))
    windows = [
        x[a : a + stride * (height - 1) + 1 : stride, b : b + stride * (width - 1) + 1 : stride]
        for a in range(sides[0])
        for b in range(sides[1])
    ]
    return windows[0] if len(windows) == 1 else jnp.concatenate(windows, axis=-1)
