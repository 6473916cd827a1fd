"""The decoders: their published formulas and their sizes."""

import pytest

from dip_jax.config import NetConfig
from dip_jax.nets import build_net
from tests.architectures.published import Layers, assert_is_published, assert_makes_images


def published_conv_decoder(t: Layers, inputs: int):
    n, layers = t.config.width, []
    for i in range(t.config.depth + 1):
        up = [t.up] if i < t.config.depth else []
        layers += [*up, t.conv(inputs if i == 0 else n, n), t.act, t.norm(n)]
    return t.chain(*layers, t.conv(n, 3, 1))


def published_deep_decoder(t: Layers, inputs: int):
    n, layers = t.config.width, []
    for i in range(t.config.depth + 1):
        up = [t.up] if i < t.config.depth else []
        layers += [t.conv(inputs if i == 0 else n, n, 1, bias=False), *up, t.act, t.norm(n)]
    return t.chain(*layers, t.conv(n, 3, 1, bias=False))


@pytest.mark.parametrize("size", [(9, 14), (1, 33)])
@pytest.mark.parametrize(
    ("kind", "published", "fields"),
    [
        ("conv_decoder", published_conv_decoder, {"upsample": ("nearest",)}),
        ("deep_decoder", published_deep_decoder, {}),
    ],
)
def test_a_network_is_the_published_formula_for_images_and_signals(kind, published, fields, size):
    assert_is_published(published, kind, size, **fields)


@pytest.mark.parametrize(("kind", "depth"), [("conv_decoder", 4), ("deep_decoder", 7)])
@pytest.mark.parametrize("size", [(33, 33), (100, 65), (1, 47)])
def test_every_image_and_signal_is_made_at_its_own_size(kind, depth, size):
    assert_makes_images(size, kind=kind, input_depth=3, width=4, depth=depth)


@pytest.mark.parametrize("kind", ["conv_decoder", "deep_decoder"])
def test_a_decoder_has_a_small_code_of_at_least_two_pixels(kind):
    for depth, sides in ((3, (13, 9)), (5, (4, 3)), (9, (2, 2))):
        net = build_net(NetConfig(kind=kind, depth=depth, input_depth=7), (100, 65, 3))
        assert net.code_shape == (*sides, 7)
