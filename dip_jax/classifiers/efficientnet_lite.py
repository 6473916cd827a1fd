"""EfficientNet-Lite0, a classifier of the 1000 classes of ImageNet, as a function of an image.

| layer | side of a 224 x 224 image | channels |
|---|---|---|
| `stem`, `block1` | 112 | 32, 16 |
| `block2`, `block3` | 56 | 24 |
| `block4`, `block5` | 28 | 40 |
| `block6` to `block8` | 14 | 80 |
| `block9` to `block11` | 14 | 112 |
| `block12` to `block15`, `block16` | 7 | 192, 320 |
| `head` | 7 | 1280 |
| `logits` | | 1000 |

`stem` and `head` are convolutions with a ReLU6. A block widens its input sixfold (not `block1`), filters each channel by
itself, and narrows the result without an activation function; where the shape stays, its input is added. The logits are a
linear function of the mean of `head`. An image may have any size.

References:
  Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, 2019.
  Liu and Tan, Higher accuracy on vision models with EfficientNet-Lite, TensorFlow Blog, 2020.
"""

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array
from dip_jax.config import Layer
from dip_jax.errors import InputError
from dip_jax.fields import require_choice

# Number of blocks, kernel side and stride of the first block, for each width.
_STAGES = ((1, 3, 1), (2, 3, 2), (2, 5, 2), (3, 3, 2), (3, 5, 1), (4, 5, 2), (1, 3, 1))
_STRIDES = {
    "stem": 2,
    **{
        f"block{number}": stride
        for number, stride in enumerate(
            (stride if index == 0 else 1 for count, _, stride in _STAGES for index in range(count)),
            start=1,
        )
    },
    "head": 1,
}
LAYERS: tuple[str, ...] = get_args(Layer)
"""Names of the layers, the first one first."""
SIDE = 224
"""Side of the images that the classifier was trained with."""
# The classifier was trained with (v - 127) / 128, for v from 0 to 255.
_MEAN, _STD = 127 / 255, 128 / 255
_EPSILON = 1e-3  # of the normalizations
_HIGHEST = jax.lax.Precision.HIGHEST


class Linear(NamedTuple):
    """A linear map of the channels with its bias; the normalization that follows it is part of both."""

    kernel: Array
    """`[kh, kw, C_in, C_out]`, `[kh, kw, C]` for a filter of each channel by itself, or `[C_in, C_out]`."""
    bias: Array
    """`[C_out]`."""


Weights = dict[str, tuple[Linear, ...]]
"""The linear maps of each layer, in the order in which they are applied."""


def weights_from_torch(state: Mapping[str, np.ndarray]) -> Weights:
    """Returns the weights in the state dictionary of the package `efficientnet-lite-pytorch`.

    Args:
      state: The tensors by name.

    Raises:
      InputError: If a tensor is missing or has another shape.
    """
    try:
        weights: Weights = {"stem": (_folded(state, "_conv_stem", "_bn0"),)}
        for index, name in enumerate(LAYERS[1:-2]):
            prefix = f"_blocks.{index}."
            parts = ("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")
            weights[name] = tuple(
                _folded(state, prefix + kernel, prefix + norm)
                for kernel, norm in parts[not index :]
            )
        weights["head"] = (_folded(state, "_conv_head", "_bn1"),)
        weights["logits"] = (_linear(state["_fc.weight"].T, state["_fc.bias"]),)
    except (KeyError, ValueError, TypeError) as error:
        raise InputError(f"These are not the weights of EfficientNet-Lite0: {error}.") from None
    channels = 3
    for name in LAYERS:
        for linear in weights[name]:
            if linear.kernel.shape[-1 if linear.kernel.ndim == 3 else -2] != channels:
                raise InputError(
                    f"These are not the weights of EfficientNet-Lite0: {name} expects {channels} channels, got a kernel "
                    f"{linear.kernel.shape}."
                )
            channels = linear.bias.shape[0]
    return weights


def up_to(weights: Weights, layer: str) -> Weights:
    """Returns the weights of a layer and of those before it.

    Args:
      weights: The weights of at least these layers.
      layer: One of `LAYERS`.

    Raises:
      InputError: If there is no such layer.
    """
    require_choice("layer", layer, LAYERS)
    return {name: weights[name] for name in LAYERS[: LAYERS.index(layer) + 1]}


def reduction(layer: str) -> int | None:
    """Returns the factor by which a layer reduces the sides of an image; None for `logits`.

    Args:
      layer: One of `LAYERS`.

    Example:
      >>> reduction("stem"), reduction("block6"), reduction("logits")
      (2, 16, None)
    """
    if layer not in _STRIDES:
        return None
    return math.prod(_STRIDES[name] for name in LAYERS[: LAYERS.index(layer) + 1])


def num_channels(weights: Weights, layer: str) -> int:
    """Returns the number of channels of a layer, or of classes.

    Args:
      weights: The weights of at least this layer.
      layer: One of `LAYERS`.
    """
    return weights[layer][-1].bias.shape[0]


@functools.partial(jax.jit, static_argnames="layer")
def activations(weights: Weights, image: Array, layer: str) -> Array:
    """Returns what a layer makes of an image.

    Args:
      weights: The weights of at least this layer and those before it.
      image: `[H, W, 3]` in [0, 1], or `[H, W, 1]` for gray.
      layer: One of `LAYERS`.

    Returns:
      `[h, w, C]`; for `logits` `[1000]`.

    Raises:
      InputError: If there is no such layer, or the image has another number of channels.
    """
    if image.shape[-1] not in (1, 3):
        raise InputError(
            f"A classifier expects an image of 1 or 3 channels, got {image.shape[-1]}; restore the others "
            "separately."
        )
    x = jnp.broadcast_to((image - _MEAN) / _STD, (*image.shape[:-1], 3))
    require_choice("layer", layer, LAYERS)
    for name in LAYERS[: LAYERS.index(layer) + 1]:
        x = _apply(name, weights[name], x)
    return x


def _apply(name: str, linears: tuple[Linear, ...], x: Array) -> Array:
    """The output of one layer."""
    if name == "stem":
        return _relu6(_convolve(x, linears[0], _STRIDES[name]))
    if name == "head":
        return _relu6(_mix(x, linears[0]))
    if name == "logits":
        return _mix(jnp.mean(x, axis=(0, 1)), linears[0])
    *expand, depthwise, project = linears
    y = _relu6(_mix(x, expand[0])) if expand else x
    y = _relu6(_filter(y, depthwise.kernel, _STRIDES[name]) + depthwise.bias[None, None])
    y = _mix(y, project)
    return x + y if x.shape == y.shape else y


def _mix(x: Array, linear: Linear) -> Array:
    """A linear map of the channels of each pixel."""
    y = jnp.dot(x, linear.kernel, precision=_HIGHEST)
    return y + jnp.expand_dims(linear.bias, tuple(range(y.ndim - 1)))


def _convolve(x: Array, linear: Linear, stride: int) -> Array:
    y = jax.lax.conv_general_dilated(
        x[None],
        linear.kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=_HIGHEST,
    )
    return y[0] + linear.bias[None, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _filter(x: Array, kernel: Array, stride: int) -> Array:
    """A convolution of each channel by itself. The kernel `[kh, kw, C]` is a constant, without a gradient."""
    side = kernel.shape[0]
    margins = [_same_margins(n, side, stride) for n in x.shape[:2]]
    return _slide(jnp.pad(x, [*margins, (0, 0)]), kernel, stride)


def _slide(x: Array, kernel: Array, stride: int) -> Array:
    """A convolution of each channel without margins, as a sum over shifted images: XLA's own takes eight times as long."""
    side = kernel.shape[0]
    rows, columns = ((n - side) // stride + 1 for n in x.shape[:2])
    y = jnp.zeros((rows, columns, x.shape[2]), x.dtype)
    for i in range(side):
        for j in range(side):
            shifted = x[i:, j:][
                : (rows - 1) * stride + 1 : stride, : (columns - 1) * stride + 1 : stride
            ]
            y = y + kernel[i, j][None, None] * shifted
    return y


def _filter_forward(x: Array, kernel: Array, stride: int) -> tuple[Array, tuple[Array, Array]]:
    return _filter(x, kernel, stride), (x, kernel)


def _filter_backward(
    stride: int, saved: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    """The same kind of sum: XLA would add one padded image for each weight, in six times as long."""
    x, kernel = saved  # of x only the shape, so it is not kept in memory
    last = kernel.shape[0] - 1
    margins = [_same_margins(n, last + 1, stride) for n in x.shape[:2]]
    spread = jax.lax.pad(
        gradient,
        jnp.zeros((), gradient.dtype),
        [*((last - before, last - after, stride - 1) for before, after in margins), (0, 0, 0)],
    )
    return _slide(spread, kernel[::-1, ::-1], 1), jnp.zeros_like(kernel)


_filter.defvjp(_filter_forward, _filter_backward)


def _same_margins(size: int, side: int, stride: int) -> tuple[int, int]:
    """TensorFlow's padding `SAME`: ceil(size / stride) outputs, with the larger margin after the image."""
    total = max((-(-size // stride) - 1) * stride + side - size, 0)
    return total // 2, total - total // 2


def _relu6(x: Array) -> Array:
    return jnp.clip(x, 0, 6)


def _folded(state: Mapping[str, np.ndarray], kernel_name: str, norm_name: str) -> Linear:
    """A convolution with the normalization by fixed statistics that follows it."""
    kernel = state[f"{kernel_name}.weight"].transpose(2, 3, 1, 0).astype(np.float64)
    scale, bias, mean, variance = (
        state[f"{norm_name}.{part}"].astype(np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    factor = scale / np.sqrt(variance + _EPSILON)
    kernel, bias = kernel * factor, bias - mean * factor
    if kernel.shape[:2] == (1, 1):
        kernel = kernel[0, 0]
    elif kernel.shape[2] == 1:
        kernel = kernel[:, :, 0]
    return _linear(kernel, bias)


def _linear(kernel: np.ndarray, bias: np.ndarray) -> Linear:
    return Linear(jnp.asarray(kernel, jnp.float32), jnp.asarray(bias, jnp.float32))
