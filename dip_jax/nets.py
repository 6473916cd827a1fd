"""Networks as two pure functions, `Net(init, apply)`.

A network maps a code `[Hc, Wc, C_in]` to an image `[H, W, C]`. Its normalizations use the
statistics of the current image, so its only state is its params, a plain tree of arrays. `vmap`
makes batches, in which each image has its own params.

`skip`, `unet` and the others return networks for images of any shape; see `base.NetBuilder`.
`from_flax` returns one for a flax module of the user.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.architectures.blocks import Architecture, center_crop
from dip_jax.architectures.decoders import CONV_DECODER, DEEP_DECODER
from dip_jax.architectures.flax_module import from_flax as from_flax
from dip_jax.architectures.resnet import RESNET
from dip_jax.architectures.skip import SKIP
from dip_jax.architectures.texture import TEXTURE
from dip_jax.architectures.unet import UNET
from dip_jax.base import Array, Net, NetBuilder, Params, Shape
from dip_jax.config import (
    Activation,
    Batching,
    Downsampling,
    Kind,
    Lowering,
    NetConfig,
    Padding,
    Precision,
    Upsampling,
)
from dip_jax.errors import InputError

_ARCHITECTURES: dict[Kind, Architecture] = {
    "skip": SKIP,
    "unet": UNET,
    "resnet": RESNET,
    "texture": TEXTURE,
    "conv_decoder": CONV_DECODER,
    "deep_decoder": DEEP_DECODER,
}


class Options(TypedDict, total=False):
    """Settings that most networks share; see the fields of `config.NetConfig`."""

    input_depth: int
    padding: Padding
    activation: Activation
    bias: bool
    sigmoid: bool
    scale_init: Literal["uniform", "one"]
    lowering: Lowering
    precision: Precision
    batching: Batching


@dataclasses.dataclass(frozen=True)
class ConfiguredNet:
    """A network of `NetConfig` for images of any shape."""

    config: NetConfig

    def __call__(self, shape: Shape, /) -> Net:
        """Returns the network for images of one shape.

        Args:
          shape: Shape of the image, `(H, W, C)`.
        """
        return build_net(self.config, shape)


def skip(
    *,
    channels_down: Sequence[int] = (128,) * 5,
    channels_up: Sequence[int] | None = None,
    channels_skip: Sequence[int] | None = None,
    kernel_down: tuple[int, ...] = (3,),
    kernel_up: tuple[int, ...] = (3,),
    kernel_skip: int = 1,
    conv1x1_up: bool = True,
    downsample: tuple[Downsampling, ...] = ("stride",),
    upsample: tuple[Upsampling, ...] = ("bilinear",),
    normalization: Literal["batch", "group"] = "batch",
    num_groups: int = 8,
    remat: bool = False,
    **options: Unpack[Options],
) -> NetBuilder:
    """Returns the hourglass with skip connections. Tuples have a value per scale, the finest first.

    Args:
      channels_down: Channels of the encoder; the number of values is the number of halvings.
      channels_up: Channels of the decoder; None for those of the encoder.
      channels_skip: Channels of the skip branches, 0 for none; None for 4 at each scale.
      kernel_down: Kernel sides of the encoder; one value serves all scales.
      kernel_up: Kernel sides of the decoder; one value serves all scales.
      kernel_skip: Kernel side of the skip branches.
      conv1x1_up: Append a 1x1 convolution to each scale of the decoder.
      downsample: Method that halves the image; one value serves all scales.
      upsample: Method that doubles the image; one value serves all scales.
      normalization: Statistics of each channel, or of groups of channels.
      num_groups: Number of groups.
      remat: Compute activations again in the gradient, which saves memory and takes time.
      **options: See `Options`.

    Raises:
      InputError: For values that are not allowed or do not fit together.

    References:
      Ulyanov, Vedaldi and Lempitsky, Deep Image Prior, 2018, supplement, figure 21.

    Example:
      >>> net = skip(channels_down=(8, 16), input_depth=4)((32, 48, 3))
      >>> net.code_shape, net.image_shape
      ((32, 48, 4), (32, 48, 3))
    """
    return ConfiguredNet(
        NetConfig(
            kind="skip",
            channels_down=tuple(channels_down),
            channels_up=tuple(channels_down if channels_up is None else channels_up),
            channels_skip=tuple(
                (4,) * len(channels_down) if channels_skip is None else channels_skip
            ),
            kernel_down=kernel_down,
            kernel_up=kernel_up,
            kernel_skip=kernel_skip,
            conv1x1_up=conv1x1_up,
            downsample=downsample,
            upsample=upsample,
            normalization=normalization,
            num_groups=num_groups,
            remat="on" if remat else "off",
            **options,
        )
    )


def unet(
    *,
    channels: Sequence[int] = (64, 128, 256, 512, 1024),
    extra_scales: int = 0,
    concat_input: bool = False,
    upsample: Upsampling = "bilinear",
    normalization: Literal["batch", "instance", "none"] = "batch",
    **options: Unpack[Options],
) -> NetBuilder:
    """Returns the U-Net of the 2018 code.

    Args:
      channels: Channels of the encoder, the finest scale first.
      extra_scales: Additional scales, as wide as the coarsest one.
      concat_input: Append the reduced code to each scale of the encoder.
      upsample: Method that doubles the image; `deconv` is a transposed convolution.
      normalization: Normalization of the encoder.
      **options: See `Options`.

    Raises:
      InputError: For values that are not allowed or do not fit together.

    References:
      Ronneberger, Fischer and Brox, U-Net, 2015; Ulyanov et al., Deep Image Prior, 2018 (its code).
    """
    return ConfiguredNet(
        NetConfig(
            kind="unet",
            channels_down=tuple(channels),
            extra_scales=extra_scales,
            concat_input=concat_input,
            upsample=(upsample,),
            normalization=normalization,
            **options,
        )
    )


def resnet(
    *, width: int = 32, depth: int = 8, residual: bool = True, **options: Unpack[Options]
) -> NetBuilder:
    """Returns the residual network of the 2018 code, with one scale.

    Args:
      width: Channels.
      depth: Number of residual blocks.
      residual: Add the input of each block to its output.
      **options: See `Options`.
    """
    return ConfiguredNet(
        NetConfig(kind="resnet", width=width, depth=depth, residual=residual, **options)
    )


def texture(
    *,
    width: int = 32,
    depth: int = 8,
    upsample: Literal["bilinear", "nearest"] = "bilinear",
    **options: Unpack[Options],
) -> NetBuilder:
    """Returns the texture network of the 2018 code, which joins the code at several scales.

    Args:
      width: Channels of the coarsest scale; the j-th has j times as many.
      depth: Number of scales.
      upsample: Method that doubles the image.
      **options: See `Options`.
    """
    return ConfiguredNet(
        NetConfig(kind="texture", width=width, depth=depth, upsample=(upsample,), **options)
    )


def conv_decoder(
    *,
    width: int = 32,
    depth: int = 8,
    upsample: Literal["bilinear", "nearest"] = "bilinear",
    **options: Unpack[Options],
) -> NetBuilder:
    """Returns the decoder with 3x3 convolutions; its code is small.

    Args:
      width: Channels.
      depth: Number of doublings of the code.
      upsample: Method that doubles the image.
      **options: See `Options`.
    """
    return ConfiguredNet(
        NetConfig(kind="conv_decoder", width=width, depth=depth, upsample=(upsample,), **options)
    )


def deep_decoder(
    *,
    width: int = 32,
    depth: int = 8,
    upsample: Literal["bilinear", "nearest"] = "bilinear",
    **options: Unpack[Options],
) -> NetBuilder:
    """Returns the decoder with 1x1 convolutions, which has fewer weights than the image has values.

    Args:
      width: Channels.
      depth: Number of doublings of the code.
      upsample: Method that doubles the image.
      **options: See `Options`.

    References:
      Heckel and Hand, Deep Decoder, 2019.
    """
    return ConfiguredNet(
        NetConfig(kind="deep_decoder", width=width, depth=depth, upsample=(upsample,), **options)
    )


def identity() -> NetBuilder:
    """Returns the network without weights, whose code is the image: for fitting pixels directly."""
    return ConfiguredNet(NetConfig(kind="identity"))


def code_size(config: NetConfig, size: int) -> int:
    """The side of the code for an image of side `size`.

    Args:
      config: The network's settings.
      size: Height or width of the image; the height 1 of a signal stays 1.

    Returns:
      The height or width of the code, at most `size` for decoders and at least `size` for others.

    Example:
      >>> code_size(NetConfig(kind="texture", depth=6), 100)
      128
      >>> code_size(NetConfig(kind="deep_decoder", depth=3), 100)
      13
    """
    if size == 1 or config.kind == "identity":
        return size
    return _ARCHITECTURES[config.kind].code_size(config, size)


def build_net(config: NetConfig, shape: Shape) -> Net:
    """Builds the network of a config for images of one shape.

    `init` draws weights as PyTorch does by default (uniform, bound 1 / sqrt(fan_in)). If the
    architecture cannot produce the size of the image, the code is larger and `apply` crops the
    network's output at its center. The kind `identity` has no params: its code is the image,
    without a sigmoid, for optimizing pixels directly.

    Args:
      config: The network's settings.
      shape: Height, width and channels of the image. Height 1 means a signal: kernels have one row,
        and rows are neither halved nor doubled.

    Returns:
      A `Net` with `apply(params, code[Hc, Wc, C_in]) -> image[H, W, C]`.

    References:
      The files in `architectures` have the references of the kinds.

    Example:
      >>> import jax
      >>> config = NetConfig(
      ...     input_depth=2, channels_down=(8,), channels_up=(8,), channels_skip=(4,)
      ... )
      >>> net = build_net(config, (33, 40, 3))
      >>> params = jax.eval_shape(net.init, jax.random.key(0))
      >>> net.code_shape, params["head_conv"]["kernel"].shape, num_params(params)
      ((33, 40, 2), (1, 1, 8, 3), 1815)
    """
    height, width, channels = shape
    if config.kind == "identity":
        return Net(lambda key: {}, lambda params, code: code, shape, shape)
    module = _ARCHITECTURES[config.kind].module(config, channels)
    code_shape = (code_size(config, height), code_size(config, width), config.input_depth)

    @functools.cache  # tracing a flax module is slow
    def param_shapes() -> Params:
        # Shapes of params depend neither on the size of the image nor on the lowering, so this
        # traces a small code with the lowering that is traced fastest.
        side = code_size(config, 33)
        sides = (1 if height == 1 else side, side)
        code = jax.ShapeDtypeStruct((*sides, config.input_depth), jnp.float32)
        by_patches = dataclasses.replace(config, lowering="patches")
        module = _ARCHITECTURES[config.kind].module(by_patches, channels)
        return jax.eval_shape(module.init, jax.random.key(0), code)["params"]

    def init(key: Array) -> Params:
        return _draw_params(key, config, param_shapes())

    def apply(params: Params, code: Array) -> Array:
        image = module.apply({"params": params}, code)
        return center_crop(image, height, width)  # type: ignore[arg-type]

    return Net(jax.jit(init), apply, code_shape, shape)


def cropped(net: Net, shape: Shape) -> Net:
    """Returns a network of a canvas as a network of the image in its top left corner.

    Args:
      net: The network of the canvas.
      shape: Height, width and channels of the image.
    """
    height, width, _ = shape

    def apply(params: Params, code: Array) -> Array:
        return net.apply(params, code)[:height, :width]

    return net if shape == net.image_shape else Net(net.init, apply, net.code_shape, shape)


def _module_order(config: NetConfig) -> tuple[str, ...]:
    if config.kind == "identity":
        return ()
    return tuple(_ARCHITECTURES[config.kind].module_order(config))


def _draw_params(key: Array, config: NetConfig, shapes: Params) -> Params:
    """Draws initial params, with the distributions of the modules.

    Convolutions follow the default of PyTorch, for weights and biases: U(-b, b) with
    b = 1 / sqrt(fan in). Normalizations have bias 0, and scale U(0, 1) or 1.
    """
    # One draw gives all numbers. The modules would use a generator for each array, which takes ten
    # seconds to compile.
    uniform = jax.random.uniform(key, (num_params(shapes),), jnp.float32)
    end = 0

    def take(shape: tuple[int, ...]) -> Array:
        nonlocal end
        size = int(np.prod(shape))
        end += size
        return uniform[end - size : end].reshape(shape)

    params: dict[str, dict[str, Array]] = {}
    for name in _module_order(config):
        leaves = {leaf: value.shape for leaf, value in shapes[name].items()}
        if "kernel" in leaves:
            # PyTorch takes the outputs of a transposed kernel for its fan in.
            num_inputs = leaves["kernel"][3 if name.endswith("_deconv") else 2]
            bound = float(np.prod(leaves["kernel"][:2]) * num_inputs) ** -0.5
            params[name] = {k: bound * (2 * take(shape) - 1) for k, shape in leaves.items()}
        else:
            scale = take(leaves["scale"])
            scale = scale if config.scale_init == "uniform" else jnp.ones_like(scale)
            params[name] = {"scale": scale, "bias": jnp.zeros(leaves["bias"], jnp.float32)}
    return params


def num_params(params: Params) -> int:
    """The number of weights in a tree of params, or of their shapes.

    Example:
      >>> import numpy as np
      >>> num_params({"conv": {"kernel": np.zeros((3, 3, 2, 4)), "bias": np.zeros(4)}})
      76
    """
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(params))


def params_from_torch(config: NetConfig, state: Mapping[str, Any]) -> Params:
    """Converts the state of a PyTorch network of 2018 to params.

    The tensors are converted in order, that of the network's definition. Names serve only to skip
    running statistics, which the method never uses, and to report errors.

    Args:
      config: The settings of the network that the state belongs to.
      state: Names to numpy arrays; kernels `[O, I, k, k]`, transposed ones `[I, O, k, k]`. For
        signals, kernels are `[O, I, k]` and `[I, O, k]`.

    Returns:
      The params of `build_net(config, ...)`.

    Raises:
      InputError: If a tensor is missing, has another shape, or remains at the end.

    Example:
      >>> config = NetConfig(kind="deep_decoder", depth=1, width=2, input_depth=2)
      >>> conv, norm, head = np.ones((2, 2, 1, 1)), np.ones(2), np.ones((1, 2, 1, 1))
      >>> tensors = (conv, norm, norm, conv, norm, norm, head)
      >>> params = params_from_torch(config, {str(i): tensor for i, tensor in enumerate(tensors)})
      >>> params["head_conv"]["kernel"].shape
      (1, 1, 2, 1)
    """
    tensors = [
        (name, np.asarray(value, np.float32))
        for name, value in state.items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    ]
    # The last tensor belongs to the head, which has as many outputs as the image has channels.
    channels = tensors[-1][1].shape[0] if tensors else 0
    is_signal = any(value.ndim == 3 for _, value in tensors)
    shape = (1 if is_signal else 33, 33, max(channels, 1))
    expected = jax.eval_shape(build_net(config, shape).init, jax.random.key(0))
    params: dict[str, dict[str, Array]] = {}
    remaining = iter(tensors)
    for module in _module_order(config):
        params[module] = {}
        for leaf in ("kernel", "scale", "bias"):
            if leaf not in expected[module]:
                continue
            name, value = next(remaining, ("", None))
            if value is None:
                raise InputError(
                    f"The state ends before {module}/{leaf}; does it belong to this network?"
                )
            if leaf == "kernel" and value.ndim in (3, 4):
                value = _kernel_from_torch(value, is_transposed=module.endswith("_deconv"))
            if value.shape != expected[module][leaf].shape:
                raise InputError(
                    f"{name} should be {module}/{leaf} with shape {expected[module][leaf].shape} "
                    f"(kernels as [k, k, I, O]), got {value.shape}; does the state belong to this "
                    "network?"
                )
            params[module][leaf] = jnp.asarray(value)
    excess = [name for name, _ in remaining]
    if excess:
        raise InputError(
            f"The state has {len(excess)} tensors too many, from {excess[0]} on; does it belong to "
            "this network?"
        )
    return params


def _kernel_from_torch(value: np.ndarray, *, is_transposed: bool) -> np.ndarray:
    """`[O, I, k, k]`, or `[I, O, k, k]`, -> `[k, k, I, O]`; for signals `[1, k, I, O]`."""
    value = value if is_transposed else value.swapaxes(0, 1)
    value = np.moveaxis(value, (0, 1), (-2, -1))
    return value[None] if value.ndim == 3 else value
