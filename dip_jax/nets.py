"""Networks: from a config to two pure functions, `Net(init, apply)`.

A network maps a code `[Hc, Wc, C_in]` to an image `[H, W, C]`. Its normalizations use the current
image's own statistics, so there is nothing but params: a plain tree of arrays. Batches are made from
outside, and each image of a batch has its own params.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.architectures.blocks import Architecture, crop
from dip_jax.architectures.decoders import CONV_DECODER, DEEP_DECODER
from dip_jax.architectures.resnet import RESNET
from dip_jax.architectures.skip import SKIP
from dip_jax.architectures.texture import TEXTURE
from dip_jax.architectures.unet import UNET
from dip_jax.base import Array, InputError, Net, Params
from dip_jax.config import NetConfig

_ARCHITECTURES: dict[str, Architecture] = {
    "skip": SKIP,
    "unet": UNET,
    "resnet": RESNET,
    "texture": TEXTURE,
    "conv_decoder": CONV_DECODER,
    "deep_decoder": DEEP_DECODER,
}


def code_size(config: NetConfig, size: int) -> int:
    """The side of the code for pictures of side `size`; signals, one row high, stay one row."""
    if size == 1 or config.kind == "identity":
        return size
    return _ARCHITECTURES[config.kind].code_size(config, size)


def build_net(config: NetConfig, shape: tuple[int, int, int]) -> Net:
    """Builds the network of a config for pictures of one shape.

    Weights start as PyTorch's defaults (uniform, bound 1 / sqrt(fan_in)). Where the architecture
    cannot make the picture's size itself, the code is made larger and the image is cropped at its
    center: the user's picture is never cropped. The kind `identity` has no params: its code is the
    image (without a sigmoid), for optimizing pixels directly.

    Args:
      config: The network's settings.
      shape: Height, width and channels of the image. Height 1 is a signal: kernels are one row high,
        and nothing is halved or doubled along it.

    Returns:
      A `Net` with `apply(params, code[Hc, Wc, C_in]) -> image[H, W, C]`.

    References:
      Those of the kinds are in their files.
    """
    height, width, channels = shape
    if config.kind == "identity":
        return Net(lambda key: {}, lambda params, code: code, shape, shape)
    module = _ARCHITECTURES[config.kind].module(config, channels)
    code_shape = (code_size(config, height), code_size(config, width), config.input_depth)

    @functools.cache  # Flax takes a while for it
    def shapes() -> Params:
        # The params do not depend on the picture's size, so the smallest code will do.
        side = code_size(config, 33)
        sides = (1 if height == 1 else side, side)
        code = jax.ShapeDtypeStruct((*sides, config.input_depth), jnp.float32)
        # Nor on how it is computed, so what is traced fastest will do.
        simple = dataclasses.replace(config, lowering="patches")
        module = _ARCHITECTURES[config.kind].module(simple, channels)
        return jax.eval_shape(module.init, jax.random.key(0), code)["params"]

    def init(key: Array) -> Params:
        return _start(key, config, shapes())

    def apply(params: Params, code: Array) -> Array:
        return crop(module.apply({"params": params}, code), height, width)  # type: ignore[arg-type]

    return Net(jax.jit(init), apply, code_shape, shape)


def _module_order(config: NetConfig) -> tuple[str, ...]:
    if config.kind == "identity":
        return ()
    return tuple(_ARCHITECTURES[config.kind].module_order(config))


def _start(key: Array, config: NetConfig, shapes: Params) -> Params:
    """Draws the first params.

    Convolutions as PyTorch's default, weights and biases alike: U(-b, b), b = 1 / sqrt(fan in).
    Normalizations: bias 0, scale U(0, 1) or 1.
    """
    # All numbers come from one draw: a generator per array takes ten seconds to compile.
    uniform = jax.random.uniform(key, (num_params(shapes),), jnp.float32)
    first = 0

    def take(shape: tuple[int, ...]) -> Array:
        nonlocal first
        size = int(np.prod(shape))
        first += size
        return uniform[first - size : first].reshape(shape)

    params: dict[str, dict[str, Array]] = {}
    for name in _module_order(config):
        leaves = {leaf: value.shape for leaf, value in shapes[name].items()}
        if "kernel" in leaves:
            # PyTorch counts a transposed kernel's outputs as its inputs.
            inputs = leaves["kernel"][3 if name.endswith("_deconv") else 2]
            bound = float(np.prod(leaves["kernel"][:2]) * inputs) ** -0.5
            params[name] = {k: bound * (2 * take(shape) - 1) for k, shape in leaves.items()}
        else:
            scale = take(leaves["scale"])
            scale = scale if config.scale_init == "uniform" else jnp.ones_like(scale)
            params[name] = {"scale": scale, "bias": jnp.zeros(leaves["bias"], jnp.float32)}
    return params


def num_params(params: Params) -> int:
    """How many numbers a params tree (or its shapes) holds."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def params_from_torch(config: NetConfig, state: Mapping[str, Any]) -> Params:
    """Turns a PyTorch state of the 2018 network into our params.

    The tensors are taken in order (that of the network's definition); names serve only to leave out
    running statistics, which the method never uses, and to say what does not fit.

    Args:
      config: The network that the state belongs to.
      state: Names to numpy arrays; kernels `[O, I, k, k]`, transposed ones `[I, O, k, k]`; of a
        network for signals `[O, I, k]` and `[I, O, k]`.

    Raises:
      InputError: If a tensor is missing, left over or of another shape.
    """
    given = [
        (name, np.asarray(value, np.float32))
        for name, value in state.items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    ]
    # The head is the last convolution, so its size tells the image's channels.
    channels = given[-1][1].shape[0] if given else 0
    is_signal = any(value.ndim == 3 for _, value in given)
    shape = (1 if is_signal else 33, 33, max(channels, 1))
    wanted = jax.eval_shape(build_net(config, shape).init, jax.random.key(0))
    params: dict[str, dict[str, Array]] = {}
    tensors = iter(given)
    for module in _module_order(config):
        params[module] = {}
        for leaf in ("kernel", "scale", "bias"):
            if leaf not in wanted[module]:
                continue
            name, value = next(tensors, ("", None))
            if value is None:
                raise InputError(f"The state ends before {module}/{leaf}; is it this network's?")
            if leaf == "kernel" and value.ndim in (3, 4):
                value = _kernel_from_torch(value, is_transposed=module.endswith("_deconv"))
            if value.shape != wanted[module][leaf].shape:
                raise InputError(
                    f"{name} should be {module}/{leaf} with shape {wanted[module][leaf].shape} (kernels "
                    f"as [k, k, I, O]), came {value.shape}; is the state this network's?"
                )
            params[module][leaf] = jnp.asarray(value)
    left = [name for name, _ in tensors]
    if left:
        raise InputError(
            f"{len(left)} tensors too many, from {left[0]}; is it this network's state?"
        )
    return params


def _kernel_from_torch(value: np.ndarray, *, is_transposed: bool) -> np.ndarray:
    """`[O, I, k, k]`, or `[I, O, k, k]` where transposed, as `[k, k, I, O]`; `[O, I, k]` as one row."""
    value = value if is_transposed else value.swapaxes(0, 1)
    value = np.moveaxis(value, (0, 1), (-2, -1))
    return value[None] if value.ndim == 3 else value
