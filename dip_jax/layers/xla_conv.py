"""The convolution of XLA, with a choice of how `vmap` batches it.

`jax.lax.conv_general_dilated` uses cuDNN on a GPU and the matrix unit on a TPU. Images that share a
device have one network each, so `vmap` batches images and kernels together. There are three
batchings, with equal results up to rounding:

* `grouped`: one convolution with a group for each image, similar to the default of `vmap`. It
  copies the images into the channels of one array, and the results back.
* `separate`: one convolution for each image, one after the other.
* `product`: one batched matrix product of image patches (the k * k inputs of each output pixel) and
  kernels.

`choose_batching` selects one for each layer and for each pass: forward, gradient for the input, and
gradient for the weight. For a single image it selects a convolution or a product.

References:
  How vmap batches a convolution on a GPU, and its cost, https://github.com/jax-ml/jax/issues/26568.
"""

import functools
import math
import typing
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from dip_jax.base import Array
from dip_jax.layers.patches import image_patches
from dip_jax.layers.precision import Precision, xla_precision

Batching = Literal["auto", "grouped", "separate", "product"]
Pass = Literal["forward", "input", "weight"]

_ALIGNMENT = 8  # channels; tensor cores read bfloat16 in units of 16 bytes


def xla_conv(
    x: Array,
    kernel: Array,
    stride: int,
    *,
    precision: Precision = "tf32",
    batching: Batching = "auto",
) -> Array:
    """Convolves an image that is already padded.

    With `bfloat16`, both operands are rounded and their channels are filled up with zeros to a
    multiple of 8, which fast kernels require. The gradient for the kernel has the kernel's type.

    Args:
      x: Image `[H, W, C]`.
      kernel: `[a, b, C, O]`.
      stride: 1 or 2.
      precision: See `precision`.
      batching: How `vmap` batches the convolution; `auto` calls `choose_batching`.

    Returns:
      `[(H - a) // stride + 1, (W - b) // stride + 1, O]` of the kernel's type, bfloat16 with
      precision `bfloat16`.

    Raises:
      ValueError: For an unknown precision or batching.
    """
    num_outputs = kernel.shape[3]
    x, kernel = _prepare(x, kernel, precision, batching)
    layer = _Layer(_type(x), _type(kernel), stride, precision, batching)
    return _forward(layer, x, kernel)[..., :num_outputs]


def xla_conv_transposed(
    x: Array, kernel: Array, *, precision: Precision = "tf32", batching: Batching = "auto"
) -> Array:
    """Doubles an image by a transposed convolution of stride 2, see `conv.conv2d_transposed`.

    It is the gradient of a convolution of stride 2 for its image, and is computed as such. As a
    convolution of the image with zeros between its pixels, XLA:GPU would compute its gradient for
    the kernel with a window of the image's size (MatchBackwardFilter).

    Args:
      x: Image `[H, W, C]`.
      kernel: `[4, 4, C, O]`, or `[1, 4, C, O]` for a signal, H = 1.
      precision: See `precision`.
      batching: As for `xla_conv`.

    Returns:
      `[2 H, 2 W, O]`, or `[1, 2 W, O]` for a signal, of the type that `xla_conv` returns.

    Raises:
      ValueError: For an unknown precision or batching.
    """
    num_outputs = kernel.shape[3]
    x, kernel = _prepare(x, kernel, precision, batching)
    kernel = kernel.swapaxes(2, 3)
    sides = kernel.shape[:2]
    padded = [2 * (n - 1) + side for n, side in zip(x.shape[:2], sides, strict=True)]
    image = jax.ShapeDtypeStruct((*padded, kernel.shape[2]), x.dtype)
    y = _input_gradient(_Layer(image, _type(kernel), 2, precision, batching), x, kernel)
    top, left = (side // 4 for side in sides)  # the padding
    return y[top : padded[0] - top, left : padded[1] - left, :num_outputs]


def _prepare(x: Array, kernel: Array, precision: str, batching: str) -> tuple[Array, Array]:
    """Returns the operands in the types and with the channels of the precision."""
    if precision not in (choices := typing.get_args(Precision)):
        raise ValueError(f"precision must be one of {', '.join(choices)}, got {precision!r}.")
    require_batching(batching)
    if precision == "bfloat16":
        return _align(x.astype(jnp.bfloat16), 1), _align(kernel, 2)
    return x.astype(kernel.dtype), kernel


def require_batching(batching: str) -> None:
    """Raises a `ValueError` unless `batching` is a `Batching`."""
    choices = typing.get_args(Batching)
    if batching not in choices:
        raise ValueError(f"batching must be one of {', '.join(choices)}, got {batching!r}.")


def choose_batching(
    which: Pass,
    *,
    num_pixels: int,
    sides: tuple[int, int],
    channels: tuple[int, int],
    stride: int,
    num_images: int,
) -> Batching:
    """Chooses the batching for one pass of one layer. The rules are reasoned, not measured.

    * A kernel of one pixel is a product without patches.
    * A single image needs only one ordinary convolution.
    * A product reads and writes patches of k * k times the image. This is cheap if the patches are
      no larger than the result, or if the images are so small that they leave most of the GPU idle.
    * A large GPU computes a result in about 130 tiles of about 128 x 128 at a time, so 128 channels
      of 128 x 128 pixels fill it. From this size on a grouped convolution gains nothing, and
      separate convolutions save its copies.
    * In between, grouped is best, except for the gradient for the input of a strided layer: in
      groups, XLA:GPU computes it as a convolution of mostly zeros.

    Args:
      which: `forward`, or the gradient for the `input` or for the `weight`.
      num_pixels: Pixels of the layer's output.
      sides: Sides of the kernel.
      channels: Input and output channels of the layer.
      stride: Stride of the layer.
      num_images: Number of images, each with its own kernel.

    Returns:
      `grouped`, `separate` or `product`.

    Example:
      >>> layer = {"sides": (3, 3), "channels": (128, 128), "stride": 1, "num_images": 8}
      >>> [choose_batching("forward", num_pixels=n**2, **layer) for n in (16, 64, 512)]
      ['product', 'grouped', 'separate']
    """
    taps = math.prod(sides)
    if taps == 1:
        return "product"
    if num_images == 1:
        return "separate"
    inputs, outputs = reversed(channels) if which == "input" else channels
    if taps * inputs <= outputs or num_pixels <= 32 * 32:
        return "product"
    if num_pixels >= 128 * 128 or (which == "input" and stride > 1):
        return "separate"
    return "grouped"


class _Layer(NamedTuple):
    """The static description of a convolution."""

    x: jax.ShapeDtypeStruct
    kernel: jax.ShapeDtypeStruct
    stride: int
    precision: Precision
    batching: Batching


def _type(x: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _align(x: Array, num_axes: int) -> Array:
    """Fills the last `num_axes` axes up with zeros to a multiple of 8."""
    widths = [(0, 0)] * (x.ndim - num_axes)
    widths += [(0, -size % _ALIGNMENT) for size in x.shape[-num_axes:]]
    return jnp.pad(x, widths) if any(after for _, after in widths) else x


def _convolve(layer: _Layer, x: Array, kernel: Array) -> Array:
    y = lax.conv_general_dilated(
        lax.expand_dims(x, (0,)),
        kernel.astype(x.dtype),
        (layer.stride, layer.stride),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=xla_precision(layer.precision),
    )
    return lax.squeeze(y, (0,))


def _convolve_input(layer: _Layer, dy: Array, kernel: Array) -> Array:
    transpose = jax.linear_transpose(lambda x: _convolve(layer, x, kernel), layer.x)
    return transpose(dy)[0]


def _convolve_weight(layer: _Layer, x: Array, dy: Array) -> Array:
    """The gradient for one kernel, or for `[N, ...]` kernels as one grouped convolution."""
    forward, batch = functools.partial(_convolve, layer), x.shape[:-3]
    if batch:
        forward = jax.vmap(forward)
    # The sum of bfloat16 products is float32 and is rounded once at its end. XLA:GPU has no
    # convolution of mixed types (ConvBfloat16Support in xla/service/gpu): for a float32 result it
    # would widen the operands.
    narrow = jax.ShapeDtypeStruct((*batch, *layer.kernel.shape), x.dtype)
    transpose = jax.linear_transpose(lambda kernel: forward(x, kernel), narrow)
    return transpose(dy)[0].astype(layer.kernel.dtype)


def _multiply(layer: _Layer, x: Array, kernel: Array) -> Array:
    patches = image_patches(x, kernel.shape[:2], layer.stride)
    matrix = kernel.astype(x.dtype).reshape(-1, kernel.shape[3])
    return jnp.einsum("hwk,ko->hwo", patches, matrix, precision=xla_precision(layer.precision))


def _multiply_input(layer: _Layer, dy: Array, kernel: Array) -> Array:
    sides = kernel.shape[:2]
    if layer.stride == 1:
        # A convolution with the rotated kernel reads patches; a transposed product would write and
        # add them.
        rotated = kernel[::-1, ::-1].swapaxes(2, 3)
        return _multiply(layer, jnp.pad(dy, (*((n - 1,) * 2 for n in sides), (0, 0))), rotated)
    matrix = kernel.astype(dy.dtype).reshape(-1, kernel.shape[3])
    dpatches = jnp.einsum("hwo,ko->hwk", dy, matrix, precision=xla_precision(layer.precision))
    scatter = jax.linear_transpose(lambda x: image_patches(x, sides, layer.stride), layer.x)
    return scatter(dpatches)[0]


def _multiply_weight(layer: _Layer, x: Array, dy: Array) -> Array:
    dkernel = jnp.einsum(
        "hwk,hwo->ko",
        image_patches(x, layer.kernel.shape[:2], layer.stride),
        dy,
        precision=xla_precision(layer.precision),
        preferred_element_type=layer.kernel.dtype,
    )
    return dkernel.reshape(layer.kernel.shape)


# Each pass of one image, as a convolution and as a product.
_IMPLEMENTATIONS: dict[Pass, tuple[Callable[..., Array], Callable[..., Array]]] = {
    "forward": (_convolve, _multiply),
    "input": (_convolve_input, _multiply_input),
    "weight": (_convolve_weight, _multiply_weight),
}


def _run(which: Pass, layer: _Layer, *operands: Array) -> Array:
    """Computes one pass of one image; under `vmap`, by the batching of the layer."""
    convolve, multiply = (functools.partial(f, layer) for f in _IMPLEMENTATIONS[which])

    def batching(num_images: int) -> Batching:
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
    def single(*operands: Array) -> Array:
        return (multiply if batching(1) == "product" else convolve)(*operands)

    @single.def_vmap
    def batched(num_images: int, in_batched: list[bool], *operands: Array) -> tuple[Array, bool]:
        # If all images share an operand, the batch is an ordinary convolution, so there is a choice
        # only if they share none. An outer `vmap` batches the following convolutions as usual.
        chosen = batching(num_images)
        if all(in_batched) and chosen == "separate":
            images = [convolve(*(v[i] for v in operands)) for i in range(num_images)]
            return jnp.stack(images), True
        if all(in_batched) and chosen == "grouped" and which == "weight":
            # This is the gradient of the grouped convolution. `vmap` would make grouped gradients,
            # which XLA:GPU takes for a convolution with a kernel of the image's size
            # (MatchBackwardFilter).
            return convolve(*operands), True
        function = multiply if chosen == "product" else convolve
        axes = [0 if is_batched else None for is_batched in in_batched]
        return jax.vmap(function, axes)(*operands), True

    return single(*operands)


# A convolution is linear in the image and in the kernel, so the gradients of each pass are the
# other two passes.


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
