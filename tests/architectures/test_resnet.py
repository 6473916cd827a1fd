"""The residual network: its published formula and its sizes."""

import functools

import pytest

from tests.architectures.published import Layers, assert_is_published, assert_makes_images


def published_resnet(t: Layers, inputs: int):
    n = t.config.width

    def block():
        conv = functools.partial(t.conv, n, n, bias=False, padding="zero")
        inside = t.chain(conv(), t.norm(n), t.act, conv(), t.norm(n))
        return lambda x: inside(x) + (x if t.config.residual else 0)

    first = [t.conv(inputs, n), t.act, *(block() for _ in range(t.config.depth))]
    return t.chain(*first, t.conv(n, n, padding="zero"), t.norm(n), t.conv(n, 3))


def test_a_network_for_signals_is_the_published_formula():
    assert_is_published(published_resnet, "resnet", (1, 33), residual=False)


@pytest.mark.parametrize("size", [(33, 33), (100, 65), (1, 47)])
def test_every_image_and_signal_is_made_at_its_own_size(size):
    assert_makes_images(size, kind="resnet", input_depth=3, width=4, depth=1)
