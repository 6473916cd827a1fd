"""The platform's own convolution, with a say in how `vmap` makes one of many.

`jax.lax.conv_general_dilated` is cuDNN on a GPU and the matrix unit on a TPU. Where pictures share a
device, each has a network of its own, so `vmap` batches images and kernels together. There are three ways:

* `grouped`: one convolution with a group for each picture, about what `vmap` makes by itself. The pictures
  are laid beside each other as channels, and back.
* `separate`: as many convolutions as pictures, one after the other.
* `product`: for each output pixel the k*k inputs that it sums, times the kernels as matrices, which is
  one batched matrix product.

The result of each is the same up to rounding. `choose_batching` says which, for each layer and for the
forward pass and both gradients apart; without `vmap` it chooses between the convolution and the product.

Three precisions of the products; sums are float32 in all of them:

| precision | operands | on a GPU | on a TPU |
|---|---|---|---|
| `float32` | float32 | float32 | six bfloat16 products for each |
| `tf32` | float32 | TensorFloat-32, where there is | three |
| `bfloat16` | bfloat16, and so the result | bfloat16 | one |

On CPU the first two are the same, and the last rounds as it would elsewhere.

References:
  Precision in JAX, https://docs.jax.dev/en/latest/201/precision.html, and jax.lax.Precision.
  How vmap batches a convolution on a GPU, and what it costs, https://github.com/jax-ml/jax/issues/26568.
"""

import functools
import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from dip_jax.base import Array
from dip_jax.layers.patches import image_patches

Precision = Literal["float32", "tf32", "bfloat16"]
Batching = Literal["auto", "grouped", "separate", "product"]
Pass = Literal["forward", "input", "weight"]

BATCHINGS = ("auto", "grouped", "separate", "product")

# HIGH is TF32 for cuDNN and cuBLAS as DEFAULT is, and on a TPU what comes nearest to it: so one value
# serves both. Of bfloat16 operands there is nothing to choose.
PRECISIONS = {
    "float32": lax.Precision.HIGHEST,
    "tf32": lax.Precision.HIGH,
    "bfloat16": lax.Precision.DEFAULT,
}

_ALIGNMENT = 8  # channels; what the tensor cores' 16-byte reads of bfloat16 want


class _Layer(NamedTuple):
    """What is fixed about a convolution before any number is known."""

    x: jax.ShapeDtypeStruct
    kernel: jax.ShapeDtypeStruct
    stride: int
    precision: Precision
    batching: Batching


def xla_conv(
    x: Array,
    kernel: Array,
    stride: int,
    *,
    precision: Precision = "tf32",
    batching: Batching = "auto",
) -> Array:
    """The platform's own convolution of an image that is padded already.

    With `bfloat16` both are rounded to it and channels are filled up with zeros to a multiple of 8 inside,
    which fast kernels want. The kernel's gradient has the kernel's own type.

    Args:
      x: Image `[H, W, C]`.
      kernel: `[a, b, C, O]`.
      stride: 1 or 2.
      precision: `float32`, `tf32` or `bfloat16`, see above.
      batching: What `vmap` makes of it, see above; `auto` asks `choose_batching`.

    Returns:
      `[(H - a) // stride + 1, (W - b) // stride + 1, O]` of the kernel's type, bfloat16 with `bfloat16`.

    Raises:
      ValueError: On a precision or batching that is not one of these.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, came {precision!r}.")
    if batching not in BATCHINGS:
        raise ValueError(f"batching must be one of {', '.join(BATCHINGS)}, came {batching!r}.")
    outputs = kernel.shape[3]
    if precision == "bfloat16":
        x, kernel = _align(x.astype(jnp.bfloat16), 1), _align(kernel, 2)
    else:
        x = x.astype(kernel.dtype)
    x_shape, kernel_shape = (jax.ShapeDtypeStruct(v.shape, v.dtype) for v in (x, kernel))
    y = _forward(_Layer(x_shape, kernel_shape, stride, precision, batching), x, kernel)
    return y if y.shape[-1] == outputs else y[..., :outputs]


def _align(x: Array, num_axes: int) -> Array:
    """Zeros behind the last `num_axes` axes, up to a multiple of 8."""
    widths = [(0, 0)] * (x.ndim - num_axes)
    widths += [(0, -size % _ALIGNMENT) for size in x.shape[-num_axes:]]
    return jnp.pad(x, widths) if any(after for _, after in widths) else x


def choose_batching(
    which: Pass,
    *,
    num_pixels: int,
    sides: tuple[int, int],
    channels: tuple[int, int],
    stride: int,
    num_images: int,
) -> Batching:
    """The way to go for one pass of one layer. It is reasoned, not measured.

    An image alone is the platform's own business. A large GPU computes a result in tiles of about 128 x 128
    and has about 130 places for them, so 128 channels of 128 x 128 pixels fill it: from there on side by side
    gains nothing, and separate convolutions spare the grouped one's way to channels and back. A product
    writes and reads patches of k*k times the image. That costs little where they are no larger than the
    result, or where the images are so small that most places would be empty. In between it is grouped,
    except for a strided layer's gradient for its input: in groups XLA:GPU makes it a convolution of
    mostly zeros.

    Args:
      which: `forward`, or the gradient for the `input` or for the `weight`.
      num_pixels: Of the layer's output.
      sides: Of the kernel.
      channels: Input and output channels of the layer.
      stride: Of the layer.
      num_images: How many are convolved, each with its own kernel.

    Returns:
      `grouped`, `separate` or `product`.
    """
    taps = math.prod(sides)
    if taps == 1:
        return "product"  # without any patches
    if num_images == 1:
        return "separate"
    inputs, outputs = reversed(channels) if which == "input" else channels
    if taps * inputs <= outputs or num_pixels <= 32 * 32:
        return "product"
    if num_pixels >= 128 * 128 or (which == "input" and stride > 1):
        return "separate"
    return "grouped"


# --- One image, as a convolution or as a product -----------------------------------------------------


def _convolve(layer: _Layer, x: Array, kernel: Array) -> Array:
    y = lax.conv_general_dilated(
        lax.expand_dims(x, (0,)),
        kernel.astype(x.dtype),
        (layer.stride, layer.stride),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=PRECISIONS[layer.precision],
    )
    return lax.squeeze(y, (0,))


def _convolve_input(layer: _Layer, dy: Array, kernel: Array) -> Array:
    transpose = jax.linear_transpose(lambda x: _convolve(layer, x, kernel), layer.x)
    return transpose(dy)[0]


def _convolve_weight(layer: _Layer, x: Array, dy: Array) -> Array:
    """Of one image, or of many `[N, ...]` as one convolution in groups."""
    forward, many = functools.partial(_convolve, layer), x.shape[:-3]
    if many:
        forward = jax.vmap(forward)
    # Of bfloat16 the sum is float32, rounded once at its end. XLA:GPU knows no convolution of mixed types
    # (ConvBfloat16Support in xla/service/gpu): asked for a float32 result it would widen the operands.
    narrow = jax.ShapeDtypeStruct((*many, *layer.kernel.shape), x.dtype)
    transpose = jax.linear_transpose(lambda kernel: forward(x, kernel), narrow)
    return transpose(dy)[0].astype(layer.kernel.dtype)


def _multiply(layer: _Layer, x: Array, kernel: Array) -> Array:
    patches = image_patches(x, kernel.shape[:2], layer.stride)
    matrix = kernel.astype(x.dtype).reshape(-1, kernel.shape[3])
    return jnp.einsum("hwk,ko->hwo", patches, matrix, precision=PRECISIONS[layer.precision])


def _multiply_input(layer: _Layer, dy: Array, kernel: Array) -> Array:
    sides = kernel.shape[:2]
    if layer.stride == 1:
        # A convolution again, with the kernel turned by half a turn: it reads patches, where a
        # transposed product would write them and add them up.
        turned = kernel[::-1, ::-1].swapaxes(2, 3)
        return _multiply(layer, jnp.pad(dy, (*((n - 1,) * 2 for n in sides), (0, 0))), turned)
    matrix = kernel.astype(dy.dtype).reshape(-1, kernel.shape[3])
    dpatches = jnp.einsum("hwo,ko->hwk", dy, matrix, precision=PRECISIONS[layer.precision])
    scatter = jax.linear_transpose(lambda x: image_patches(x, sides, layer.stride), layer.x)
    return scatter(dpatches)[0]


def _multiply_weight(layer: _Layer, x: Array, dy: Array) -> Array:
    dkernel = jnp.einsum(
        "hwk,hwo->ko",
        image_patches(x, layer.kernel.shape[:2], layer.stride),
        dy,
        precision=PRECISIONS[layer.precision],
        preferred_element_type=layer.kernel.dtype,
    )
    return dkernel.reshape(layer.kernel.shape)


_WAYS: dict[Pass, tuple[Callable[..., Array], Callable[..., Array]]] = {
    "forward": (_convolve, _multiply),
    "input": (_convolve_input, _multiply_input),
    "weight": (_convolve_weight, _multiply_weight),
}


# --- Many images -------------------------------------------------------------------------------------


def _run(which: Pass, layer: _Layer, *operands: Array) -> Array:
    """One pass of one image, which under `vmap` goes the way of the table."""
    convolve, multiply = (functools.partial(function, layer) for function in _WAYS[which])

    def way(num_images: int) -> Batching:
        if layer.batching != "auto":
            return layer.batching
        height, width = (
            (n - side) // layer.stride + 1
            for n, side in zip(layer.x.shape, layer.kernel.shape[:2], strict=False)
        )
        return choose_batching(
            which,
            num_pixels=height * width,
            sides=layer.kernel.shape[:2],
            channels=layer.kernel.shape[2:],
            stride=layer.stride,
            num_images=num_images,
        )

    @jax.custom_batching.custom_vmap
    def one(*operands: Array) -> Array:
        return (multiply if way(1) == "product" else convolve)(*operands)

    @one.def_vmap
    def many(num_images: int, in_batched: list[bool], *operands: Array) -> tuple[Array, bool]:
        # What all images share makes one ordinary convolution of them; only where they share nothing is
        # there a choice. Within an outer `vmap` these are convolutions like any other.
        nothing_shared, chosen = all(in_batched), way(num_images)
        if nothing_shared and chosen == "separate":
            images = [convolve(*(v[i] for v in operands)) for i in range(num_images)]
            return jnp.stack(images), True
        if nothing_shared and chosen == "grouped" and which == "weight":
            # The grouped convolution's gradient, not the gradients in groups, which `vmap` would make and
            # XLA:GPU would take for a convolution with a kernel of the image's size (MatchBackwardFilter).
            return convolve(*operands), True
        function = multiply if chosen == "product" else convolve
        axes = [0 if batched else None for batched in in_batched]
        return jax.vmap(function, axes)(*operands), True

    return one(*operands)


# A convolution is linear in the image and in the kernel, so the gradients of each pass are the other two.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _forward(layer: _Layer, x: Array, kernel: Array) -> Array:
    return _run("forward", layer, x, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _input_gradient(layer: _Layer, dy: Array, kernel: Array) -> Array:
    return _run("input", layer, dy, kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _weight_gradient(layer: _Layer, x: Array, dy: Array) -> Array:
    return _run("weight", layer, x, dy)


_forward.defvjp(
    lambda layer, x, kernel: (_forward(layer, x, kernel), (x, kernel)),
    lambda layer, saved, dy: (
        _input_gradient(layer, dy, saved[1]),
        _weight_gradient(layer, saved[0], dy),
    ),
)
_input_gradient.defvjp(
    lambda layer, dy, kernel: (_input_gradient(layer, dy, kernel), (dy, kernel)),
    lambda layer, saved, dx: (
        _forward(layer, dx, saved[1]),
        _weight_gradient(layer, dx, saved[0]),
    ),
)
_weight_gradient.defvjp(
    lambda layer, x, dy: (_weight_gradient(layer, x, dy), (x, dy)),
    lambda layer, saved, dkernel: (
        _input_gradient(layer, saved[1], dkernel),
        _forward(layer, saved[0], dkernel),
    ),
)
