"""The U-Net: its published formula and its sizes."""

import itertools

import numpy as np
import pytest

from dip_jax.config import NetConfig
from dip_jax.errors import InputError
from dip_jax.nets import build_net
from tests.architectures.published import Layers, assert_is_published, assert_makes_images


def published_unet(t: Layers, inputs: int):
    c = t.config
    added = inputs if c.concat_input else 0
    first, last = c.channels_down[0], c.channels_down[-1]

    def pair(i, o, normalized):
        norm = (lambda: t.norm(o)) if normalized else (lambda: lambda x: x)
        return t.chain(t.conv(i, o), norm(), t.act, t.conv(o, o), norm(), t.act)

    def make_up(i, o):
        wider = t.deconv(i, o) if c.upsample[0] == "deconv" else t.chain(t.up, t.conv(i, o))
        merge = pair(2 * o, o, False)
        return lambda x, other: merge(np.concatenate([wider(x), other], axis=-1))

    widths = c.channels_down + (last,) * c.extra_scales
    normalized = c.normalization == "batch"
    encode = [pair(inputs, first - added, normalized)]
    encode += [pair(i, o - added, normalized) for i, o in itertools.pairwise(widths)]
    extra_ups = [make_up(last, last) for _ in range(c.extra_scales)]
    ups = [make_up(i, o) for o, i in reversed(list(itertools.pairwise(c.channels_down)))]
    head = t.conv(first, 3, 1)

    def apply(x):
        code, scales = x, []
        for i, layer in enumerate(encode):
            if i:
                x, code = t.pool(x, np.max), t.pool(code, np.mean)
            x = layer(x)
            x = np.concatenate([x, code], axis=-1) if added else x
            scales.append(x)
        scales.pop()
        for layer in [*reversed(extra_ups), *ups]:
            x = layer(x, scales.pop())
        return head(x)

    return apply


# Images are compared with the golden networks.
@pytest.mark.parametrize(
    "fields",
    [
        {"extra_scales": 2, "upsample": ("deconv",)},
        {"normalization": "none", "concat_input": True},
    ],
)
def test_a_network_for_signals_is_the_published_formula(fields):
    assert_is_published(published_unet, "unet", (1, 33), channels_down=(4, 6), **fields)


@pytest.mark.parametrize(
    "fields", [{"extra_scales": 1}, {"upsample": ("deconv",), "padding": "zero"}]
)
@pytest.mark.parametrize("size", [(33, 33), (100, 65), (1, 47)])
def test_every_image_and_signal_is_made_at_its_own_size(fields, size):
    assert_makes_images(size, kind="unet", input_depth=3, channels_down=(4,) * 5, **fields)


def test_a_code_too_deep_to_be_joined_to_the_encoder_is_refused():
    config = NetConfig(kind="unet", channels_down=(8, 32), concat_input=True, input_depth=8)
    with pytest.raises(InputError, match=r"net\.input_depth=8"):
        build_net(config, (33, 33, 3))
