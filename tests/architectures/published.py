"""The layers of PyTorch by numpy and scipy, in which tests write down published networks."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import signal
from skimage.measure import block_reduce

from dip_jax.config import NetConfig
from dip_jax.nets import build_net, params_from_torch


class Layers:
    """Layers for maps `[*sides, C]` of one or two dimensions.

    A layer draws its weights when it is made, so `state` has them in the order of definition.
    """

    def __init__(self, config: NetConfig, num_axes: int):
        self.config, self.axes, self.state = config, tuple(range(num_axes)), {}
        self.draw = np.random.default_rng(0).standard_normal

    def weight(self, *shape):
        value = np.float32(self.draw(shape)) * 0.4
        self.state[f"param/{len(self.state)}"] = value
        return np.float64(value)

    def conv(self, inputs, outputs, side=3, stride=1, *, bias=True, padding=None):
        kernel = self.weight(outputs, inputs, *(side for _ in self.axes))
        offset = self.weight(outputs) if bias else 0
        mode = {"reflect": "reflect", "zero": "constant"}[padding or self.config.padding]

        def apply(x):
            x = np.pad(x, [(side // 2,) * 2 for _ in self.axes] + [(0, 0)], mode=mode)
            terms = [
                [signal.correlate(x[..., c], k[c], "valid") for c in range(inputs)] for k in kernel
            ]
            y = np.stack([sum(term) for term in terms], axis=-1) + offset
            return y[tuple(slice(None, None, stride) for _ in self.axes)]

        return apply

    def deconv(self, inputs, outputs):
        kernel = self.weight(inputs, outputs, *(4 for _ in self.axes))
        offset = self.weight(outputs)
        every_second = tuple(slice(None, None, 2) for _ in self.axes)

        def apply(x):
            dilated = np.zeros([2 * x.shape[a] - 1 for a in self.axes] + [inputs])
            dilated[every_second] = x
            terms = [
                [signal.convolve(dilated[..., c], kernel[c, o]) for c in range(inputs)]
                for o in range(outputs)
            ]
            y = np.stack([sum(term) for term in terms], axis=-1) + offset
            return y[tuple(slice(1, -1) for _ in self.axes)]

        return apply

    def norm(self, channels):
        scale, bias = self.weight(channels), self.weight(channels)

        def apply(x):
            mean, var = x.mean(self.axes), x.var(self.axes)
            return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

        return apply

    def act(self, x):
        return np.where(x > 0, x, {"relu": 0, "leaky_relu": 0.2}[self.config.activation] * x)

    def up(self, x):
        for axis in self.axes:
            if self.config.upsample[0] == "nearest":
                x = x.repeat(2, axis)
            else:
                old = np.arange(x.shape[axis])
                new = (np.arange(2 * len(old)) + 0.5) / 2 - 0.5
                x = np.apply_along_axis(lambda v, new=new, old=old: np.interp(new, old, v), axis, x)
        return x

    def pool(self, x, function):
        even = tuple(slice(x.shape[a] // 2 * 2) for a in self.axes)
        return block_reduce(x[even], (*(2 for _ in self.axes), 1), function)

    def crop(self, x, sides):
        first = [(x.shape[a] - sides[a]) // 2 for a in self.axes]
        return x[tuple(slice(f, f + n) for f, n in zip(first, sides, strict=True))]

    def chain(self, *layers):
        return lambda x: functools.reduce(lambda y, layer: layer(y), layers, x)

    def blocks(self, inputs, outputs, *sides):
        layers = []
        for side in sides:
            layers += [self.conv(inputs, outputs, side), self.norm(outputs), self.act]
            inputs = outputs
        return self.chain(*layers)


def assert_is_published(published, kind: str, size: tuple[int, int], **fields):
    """Asserts, in float64, that a network agrees with its published formula.

    Args:
      published: `published(layers, num_inputs) -> function` of the code.
      kind: The kind of network.
      size: Height and width of the image; height 1 means a signal.
      fields: Fields of the config.
    """
    common = {"input_depth": 3, "width": 4, "depth": 2, "sigmoid": False, "activation": "relu"}
    # XLA's convolution compiles fastest.
    config = NetConfig(kind=kind, lowering="xla", **{**common, **fields})
    net = build_net(config, (*size, 3))
    code = np.random.default_rng(1).standard_normal(net.code_shape)
    is_signal = size[0] == 1
    layers = Layers(config, 1 if is_signal else 2)
    network = published(layers, 3)
    expected = layers.crop(network(code[0] if is_signal else code), size[is_signal:])
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.float64, params_from_torch(config, layers.state))
        output = jax.jit(net.apply)(params, jnp.float64(code))
    output = output[0] if is_signal else output
    np.testing.assert_allclose(output, expected, atol=1e-9 * np.abs(expected).max())


def assert_makes_images(size: tuple[int, int], **fields):
    """Asserts that a network makes an image of a size, and a signal from a code of one row."""
    config = NetConfig(**fields)
    net = build_net(config, (*size, 3))
    # Weights depend neither on the size of the image nor on the downsampling.
    params = _param_shapes(dataclasses.replace(config, downsample=("stride",)), size[0] == 1)
    code = jax.ShapeDtypeStruct(net.code_shape, jnp.float32)
    assert jax.eval_shape(net.apply, params, code).shape == (*size, 3)
    assert (size[0] == 1) == (net.code_shape[0] == 1)
    return net


@functools.cache
def _param_shapes(config: NetConfig, is_signal: bool):
    net = build_net(config, (1 if is_signal else 33, 33, 3))
    return jax.eval_shape(net.init, jax.random.key(0))
