"""The texture network: its published formula and its sizes."""

import functools

import numpy as np
import pytest

from tests.architectures.published import Layers, assert_is_published, assert_makes_images


def published_texture(t: Layers, inputs: int):
    n, depth = t.config.width, t.config.depth

    def branch(j):
        layers = t.blocks(inputs, n, 3, 3, 1)
        halvings = [lambda x: t.pool(x, np.mean)] * (depth - 1 - j)
        return t.chain(*halvings, layers)

    def join(trunk, j):
        trunk = t.chain(trunk, t.up, t.norm(j * n))
        normalized_branch = t.chain(branch(j), t.norm(n))
        rest = t.blocks((j + 1) * n, (j + 1) * n, 3, 3, 1)
        return lambda x: rest(np.concatenate([trunk(x), normalized_branch(x)], axis=-1))

    trunk = functools.reduce(join, range(1, depth), branch(0))
    return t.chain(trunk, t.conv(depth * n, 3, 1))


@pytest.mark.parametrize(
    ("size", "fields"),
    [((9, 14), {"depth": 3, "upsample": ("nearest",)}), ((1, 33), {"depth": 2})],
)
def test_a_network_is_the_published_formula_for_images_and_signals(size, fields):
    assert_is_published(published_texture, "texture", size, **fields)


@pytest.mark.parametrize("size", [(33, 33), (100, 65), (1, 47)])
def test_every_image_and_signal_is_made_at_its_own_size(size):
    assert_makes_images(size, kind="texture", input_depth=3, width=4, depth=6)
