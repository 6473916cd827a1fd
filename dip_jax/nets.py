"""Networks: from a config to two pure functions, `Net(init, apply)`.

A network maps a code `[Hc, Wc, C_in]` to an image `[H, W, C]`. Its normalisations use the current
image's own statistics, so there is nothing but params: a plain tree of arrays. Only this file knows
flax. Batches are made from outside, and each image of a batch has its own params.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array, InputError, Net, Params
from dip_jax.config import NetConfig
from dip_jax.convolution import conv2d, downsample_lanczos, pool, upsample
from dip_jax.normalisation import normalise


def _declared(key: Array, shape: tuple[int, ...]) -> Array:
    """Modules only say the shapes of their params; `_start` draws the values."""
    del key
    return jnp.zeros(shape, jnp.float32)


class _Conv(nn.Module):
    """A convolution. Before a normalisation its bias is kept for interchange but not computed."""

    features: int
    side: int
    config: NetConfig
    downsample: str | None = None
    normalised: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.side, self.side, x.shape[-1], self.features)
        kernel = self.param("kernel", _declared, shape)
        bias = self.param("bias", _declared, (self.features,)) if self.config.bias else None
        y = conv2d(
            x,
            kernel,
            stride=2 if self.downsample == "stride" else 1,
            padding=self.config.padding,  # type: ignore[arg-type]
            lowering=self.config.lowering,  # type: ignore[arg-type]
        )
        if bias is not None and not self.normalised:
            y = y + bias[None, None]
        if self.downsample in ("avg", "max"):
            y = pool(y, self.downsample)
        elif self.downsample in ("lanczos2", "lanczos3"):
            y = downsample_lanczos(y, 2, int(self.downsample[-1]))
        return y


class _Norm(nn.Module):
    """Normalisation and activation of the channels of `x`, or of several arrays beside each other."""

    config: NetConfig
    activation: str

    @nn.compact
    def __call__(self, *xs: Array) -> Array:
        features = sum(x.shape[-1] for x in xs)
        scale = self.param("scale", _declared, (features,))
        bias = self.param("bias", _declared, (features,))
        # Each channel is normalised alone, so arrays need not lie beside each other for it.
        done, first = [], 0
        for x in xs:
            part = slice(first, first + x.shape[-1])
            done.append(normalise(x, scale[part], bias[part], self.activation))
            first += x.shape[-1]
        return done[0] if len(done) == 1 else jnp.concatenate(done, axis=-1)


class _Skip(nn.Module):
    """The hourglass with skips; see `build_net`."""

    config: NetConfig
    num_channels: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        c = self.config

        def block(x, name, features, side, downsample=None):
            x = _Conv(features, side, c, downsample, name=f"{name}_conv")(x)
            return _Norm(c, c.activation, name=f"{name}_norm")(x)

        skips: list[Array | None] = []
        for i in range(c.num_scales):
            features = c.channels_skip[i]
            skips.append(block(x, f"skip_{i}", features, c.kernel_skip) if features else None)
            down, side = c.channels_down[i], c.per_scale("kernel_down")[i]
            x = block(x, f"halve_{i}", down, side, c.per_scale("downsample")[i])
            x = block(x, f"down_{i}", down, side)
        for i in reversed(range(c.num_scales)):
            x = upsample(x, c.per_scale("upsample")[i])
            skip = skips[i]
            branches = [x] if skip is None else _crop_alike(skip, x)
            x = _Norm(c, "none", name=f"merge_{i}_norm")(*branches)
            x = block(x, f"up_{i}", c.channels_up[i], c.per_scale("kernel_up")[i])
            if c.conv1x1_up:
                x = block(x, f"mix_{i}", c.channels_up[i], 1)
        x = _Conv(self.num_channels, 1, c, normalised=False, name="head_conv")(x)
        return jax.nn.sigmoid(x) if c.sigmoid else x


def _crop(x: Array, height: int, width: int) -> Array:
    """The centre of `x`; an odd pixel too many is dropped at the end."""
    top, left = (x.shape[0] - height) // 2, (x.shape[1] - width) // 2
    return x[top : top + height, left : left + width]


def _crop_alike(*xs: Array) -> list[Array]:
    """All arrays at the least height and width among them."""
    height, width = (min(x.shape[axis] for x in xs) for axis in (0, 1))
    return [_crop(x, height, width) for x in xs]


def _module_order(config: NetConfig, scale: int = 0) -> Iterator[str]:
    """Names of the convolutions and normalisations in the 2018 network's order of definition."""
    if config.channels_skip[scale]:
        yield from (f"skip_{scale}_conv", f"skip_{scale}_norm")
    yield from (f"halve_{scale}_conv", f"halve_{scale}_norm")
    yield from (f"down_{scale}_conv", f"down_{scale}_norm")
    if scale + 1 < config.num_scales:
        yield from _module_order(config, scale + 1)
    yield f"merge_{scale}_norm"
    yield from (f"up_{scale}_conv", f"up_{scale}_norm")
    if config.conv1x1_up:
        yield from (f"mix_{scale}_conv", f"mix_{scale}_norm")
    if scale == 0:
        yield "head_conv"


def output_shape(config: NetConfig, height: int, width: int) -> tuple[int, int]:
    """The height and width that the network makes of a code of `height` x `width`."""
    sizes = [(height, width)]
    for mode in config.per_scale("downsample"):
        sizes.append(tuple(-(-n // 2) if mode == "stride" else n // 2 for n in sizes[-1]))  # type: ignore
    current = sizes[-1]
    for i in reversed(range(config.num_scales)):
        current = (2 * current[0], 2 * current[1])
        if config.channels_skip[i]:
            current = (min(current[0], sizes[i][0]), min(current[1], sizes[i][1]))
    return current


def code_size(config: NetConfig, size: int) -> int:
    """The least side of the code, at least `size`, for which the network makes `size` or more.

    The coarsest scale must have two pixels a side (one has no variance to normalise by), and more
    than half a kernel where it is reflected. Most pictures need nothing: with strides and a skip at
    the finest scale the code has the picture's own size.
    """
    sides = (*config.kernel_down, *config.kernel_up, config.kernel_skip)
    least = max(2, max(sides) // 2 + 1) if config.padding == "reflect" else 2
    candidate = size
    while True:
        coarsest = candidate
        for mode in config.per_scale("downsample"):
            coarsest = -(-coarsest // 2) if mode == "stride" else coarsest // 2
        if coarsest >= least and output_shape(config, candidate, candidate)[0] >= size:
            return candidate
        candidate += 1


def build_net(config: NetConfig, shape: tuple[int, int, int]) -> Net:
    """Builds the network of a config for pictures of one shape.

    Weights start as PyTorch's defaults (uniform, bound 1 / sqrt(fan_in)). Where the architecture
    cannot make the picture's size itself, the code is made larger and the image is cropped at its
    centre: the user's picture is never cropped.

    Args:
      config: The network's settings.
      shape: Height, width and channels of the image.

    Returns:
      A `Net` with `apply(params, code[Hc, Wc, C_in]) -> image[H, W, C]`.

    References:
      Ulyanov, Vedaldi and Lempitsky, Deep Image Prior, 2018, supplementary material, figure 21.
    """
    height, width, channels = shape
    module = _Skip(config, channels)
    code_shape = (code_size(config, height), code_size(config, width), config.input_depth)

    def init(key: Array) -> Params:
        # The params do not depend on the picture's size, so the smallest code will do.
        side = code_size(config, 33)
        code = jax.ShapeDtypeStruct((side, side, config.input_depth), jnp.float32)
        return _start(key, config, jax.eval_shape(module.init, key, code)["params"])

    def apply(params: Params, code: Array) -> Array:
        return _crop(module.apply({"params": params}, code), height, width)  # type: ignore[arg-type]

    return Net(jax.jit(init), apply, code_shape, shape)


def _start(key: Array, config: NetConfig, shapes: Params) -> Params:
    """Draws the first params.

    Convolutions as PyTorch's default, weights and biases alike: U(-b, b), b = 1 / sqrt(fan in).
    Normalisations: bias 0, scale U(0, 1) or 1.
    """
    # All numbers come from one draw: a generator per array takes ten seconds to compile.
    uniform = jax.random.uniform(key, (num_params(shapes),))
    first = 0

    def take(shape: tuple[int, ...]) -> Array:
        nonlocal first
        size = int(np.prod(shape))
        first += size
        return uniform[first - size : first].reshape(shape)

    params: dict[str, dict[str, Array]] = {}
    for name in _module_order(config):
        leaves = {leaf: value.shape for leaf, value in shapes[name].items()}
        if name.endswith("_conv"):
            bound = float(np.prod(leaves["kernel"][:3])) ** -0.5
            params[name] = {k: bound * (2 * take(shape) - 1) for k, shape in leaves.items()}
        else:
            scale = take(leaves["scale"])
            scale = scale if config.scale_init == "uniform" else jnp.ones_like(scale)
            params[name] = {"scale": scale, "bias": jnp.zeros(leaves["bias"])}
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
      state: Names to numpy arrays; kernels `[O, I, k, k]`.

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
    wanted = jax.eval_shape(build_net(config, (33, 33, max(channels, 1))).init, jax.random.key(0))
    params: dict[str, dict[str, Array]] = {}
    tensors = iter(given)
    for module in _module_order(config):
        params[module] = {}
        for leaf in ("kernel", "bias") if module.endswith("_conv") else ("scale", "bias"):
            if leaf not in wanted[module]:
                continue
            name, value = next(tensors, ("", None))
            if value is None:
                raise InputError(f"The state ends before {module}/{leaf}; is it this network's?")
            if leaf == "kernel" and value.ndim == 4:
                value = value.transpose(2, 3, 1, 0)
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
