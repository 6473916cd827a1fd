"""The hourglass with skip connections: its published formula and its sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax.architectures.skip import Skip
from dip_jax.config import NetConfig
from dip_jax.errors import InputError
from dip_jax.nets import code_size
from tests.architectures.published import Layers, assert_is_published, assert_makes_images


def published_skip(t: Layers, inputs: int, scale: int = 0):
    c = t.config
    down, up, skip = c.channels_down[scale], c.channels_up[scale], c.channels_skip[scale]
    branch = t.blocks(inputs, skip, c.kernel_skip) if skip else None
    strided = c.downsample[0] == "stride"
    halve = [t.conv(inputs, down, 3, 2 if strided else 1)]
    halve += [] if strided else [lambda x: t.pool(x, np.mean)]
    deeper = [*halve, t.norm(down), t.act, t.blocks(down, down, 3)]
    last = scale + 1 == c.num_scales
    deeper += [] if last else [published_skip(t, down, scale + 1)]
    deeper = t.chain(*deeper, t.up)
    merged = skip + (down if last else c.channels_up[scale + 1])
    rest = t.chain(t.norm(merged), t.blocks(merged, up, 3, 1))
    head = t.conv(up, 3, 1) if scale == 0 else lambda x: x

    def apply(x):
        y = deeper(x)
        if branch:
            sides = [min(x.shape[a], y.shape[a]) for a in t.axes]
            y = np.concatenate([t.crop(branch(x), sides), t.crop(y, sides)], axis=-1)
        return head(rest(y))

    return apply


# Images are compared with the golden networks.
@pytest.mark.parametrize(
    "fields",
    [
        {"channels_skip": (2, 0)},
        {"channels_skip": (0, 2), "upsample": ("nearest",), "downsample": ("avg",)},
    ],
)
def test_a_network_for_signals_is_the_published_formula(fields):
    sizes = {"channels_down": (4, 6), "channels_up": (4, 6), "kernel_down": (3,)}
    assert_is_published(published_skip, "skip", (1, 37), **sizes, **fields)


# Pooling and Lanczos give the same sizes, strides give others.
@pytest.mark.parametrize(
    "downsample",
    [
        "stride",
        "avg",
        *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("max", "lanczos2", "lanczos3")),
    ],
)
@pytest.mark.parametrize("skips", [(4,) * 5, (0,) * 5, (0, 0, 0, 4, 4)])
@pytest.mark.parametrize(
    "size",
    [
        pytest.param((33, 33), marks=pytest.mark.slow),
        (47, 64),
        pytest.param((100, 65), marks=pytest.mark.slow),
    ],
)
def test_every_image_is_made_at_its_own_size(downsample, skips, size):
    channels = {"channels_down": (4,) * 5, "channels_up": (4,) * 5, "channels_skip": skips}
    net = assert_makes_images(size, input_depth=2, downsample=(downsample,), **channels)
    assert all(a >= b for a, b in zip(net.code_shape, size, strict=False))


def test_the_code_has_the_size_of_the_image_if_the_network_can_make_it():
    assert code_size(NetConfig(), 33) == 33
    assert code_size(NetConfig(), 515) == 515
    assert code_size(NetConfig(channels_skip=(0,) * 5), 100) == 128  # the image of 100 is larger
    assert code_size(NetConfig(downsample=("avg",)), 100) == 128


@pytest.mark.parametrize(
    "fields",
    [
        {"channels_up": (8,) * 4},
        {"kernel_down": (3, 3)},
        {"kernel_up": (4,)},
        {"upsample": ("nearest",) * 3},
    ],
)
def test_lists_that_do_not_fit_the_scales_are_refused(fields):
    with pytest.raises(InputError):
        NetConfig(**fields)


def test_the_module_draws_weights_below_one_over_the_root_of_the_fan_in():
    config = NetConfig(
        input_depth=2, channels_down=(64,) * 2, channels_up=(64,) * 2, channels_skip=(4,) * 2
    )
    code = jnp.zeros((32, 32, 2))
    params = jax.jit(lambda key: Skip(config, 3).init(key, code)["params"])(jax.random.key(0))
    fan_ins = {"halve_0": 9 * 2, "down_0": 9 * 64, "up_0": 9 * (4 + 64), "mix_1": 64, "head": 64}
    for name, fan_in in fan_ins.items():
        for leaf, close in (("kernel", 0.9), ("bias", 0.1)):
            largest = np.abs(params[f"{name}_conv"][leaf]).max() * np.sqrt(fan_in)
            assert close < largest <= 1, (name, leaf)
    values = np.ravel(params["down_0_conv"]["kernel"])
    # uniform: standard deviation bound / sqrt(3), up to five standard errors
    assert abs(values.std() * np.sqrt(3 * 9 * 64) - 1) < 5 / np.sqrt(values.size)
