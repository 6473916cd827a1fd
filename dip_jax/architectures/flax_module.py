"""A network of the user: any flax module that maps a code to an image."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from dip_jax.architectures.blocks import center_crop
from dip_jax.base import Array, Net, NetBuilder, Params, Shape
from dip_jax.errors import InputError
from dip_jax.layers.flax_conv import conv_general_dilated


def from_flax(
    module: nn.Module | Callable[[int], nn.Module],
    *,
    input_depth: int = 32,
    multiple_of: int = 1,
    is_batched: bool = False,
) -> NetBuilder:
    """Returns a network for a flax module that maps a code to an image.

    The module keeps its own initializers. Its plain convolutions (square kernels of odd side, stride
    1, `SAME`) are computed by `layers.conv`, which is many times as fast as XLA on CPU. If its output is larger than the image, it is cropped at
    its center. Collections other than `params`, such as running statistics, start anew in each
    call, so a normalization must use the statistics of its input. No random keys are passed, so
    there is no dropout; the perturbation of the code is the noise of a fit.

    Args:
      module: A linen module `[Hc, Wc, C_in] -> [H, W, C]`, or a function that returns one for a
        number of channels C. An nnx module becomes a linen one by `flax.nnx.bridge.to_linen`.
      input_depth: Channels C_in of the code.
      multiple_of: The sides of the code are those of the image, rounded up to a multiple of this,
        e.g. 2^depth for a network that halves its input `depth` times.
      is_batched: Whether the module expects an axis of images in front.

    Raises:
      InputError: If `module` is no linen module, or its output has another shape than the image.

    Example:
      >>> net = from_flax(lambda channels: nn.Conv(channels, (3, 3)), input_depth=4)((8, 8, 3))
      >>> params = net.init(jax.random.key(0))
      >>> net.apply(params, jnp.ones(net.code_shape)).shape
      (8, 8, 3)
    """

    def build(shape: Shape) -> Net:
        height, width, channels = shape
        is_builder = callable(module) and not isinstance(module, nn.Module | nnx.Module)
        built = module(channels) if is_builder else module
        if not isinstance(built, nn.Module):
            raise InputError(
                f"from_flax expects a flax.linen module, got {type(built).__name__}; convert an nnx module by "
                "flax.nnx.bridge.to_linen(Module, ...)."
            )
        rows, columns = (-(-side // multiple_of) * multiple_of for side in (height, width))
        code_shape = (rows, columns, input_depth)

        def init(key: Array) -> Params:
            code = jnp.zeros(code_shape)
            return built.init(key, code[None] if is_batched else code).get("params", {})

        def apply(params: Params, code: Array) -> Array:
            with nn.intercept_methods(_use_fast_convolutions):
                image, _ = built.apply(
                    {"params": params},
                    code[None] if is_batched else code,
                    mutable=nn.DenyList("params"),
                )
            image = image[0] if is_batched else image
            if image.ndim != 3 or image.shape[2] != channels or _is_smaller(image, shape):
                raise InputError(
                    f"Expected the network to map a code {code_shape} to an image of at least {tuple(shape)}, got "
                    f"{image.shape}; see the arguments multiple_of and is_batched of from_flax."
                )
            return center_crop(image, height, width).astype(jnp.float32)

        return Net(jax.jit(init), apply, code_shape, shape)

    return build


def _use_fast_convolutions(
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: nn.module.InterceptorContext,
) -> Any:
    """Calls a method; a `flax.linen.Conv` that names no implementation gets that of `layers.flax_conv`."""
    module = context.module
    if isinstance(module, nn.Conv) and context.method_name == "__call__":
        named = module.conv_general_dilated, module.conv_general_dilated_cls
        if named == (None, None):
            # The module is a copy that lives for this call only; it refuses ordinary assignments.
            object.__setattr__(module, "conv_general_dilated_cls", lambda: conv_general_dilated)
    return call(*args, **kwargs)


def _is_smaller(image: Array, shape: Shape) -> bool:
    """Whether an image has fewer rows or columns than `shape`."""
    return image.shape[0] < shape[0] or image.shape[1] < shape[1]
