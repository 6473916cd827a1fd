"""The activations of a classifier as a measurement: all of a layer, or the mean of one channel."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from dip_jax.base import Array
from dip_jax.classifiers.efficientnet_lite import Weights, activations


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Activations:
    """A x = the activations of a layer, divided by a constant.

    `[H, W, C]` in [0, 1], gray or RGB -> `[h, w, K]`, or `[K]` for `logits`; see `classifiers.efficientnet_lite`.
    """

    weights: Weights
    """The weights of the layer and of those before it."""
    scale: Array
    """The constant, a scalar."""
    layer: str = dataclasses.field(metadata={"static": True})
    """Name of the layer."""
    is_linear: ClassVar[bool] = False

    def __call__(self, image: Array) -> Array:
        """Measures `image`."""
        return activations(self.weights, image, self.layer) / self.scale


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class UnitActivation:
    """A x = the mean activation of one channel of a layer, over its positions and several sizes of the image, `[1]`.

    `[H, W, C]` in [0, 1], gray or RGB; see `classifiers.efficientnet_lite`.
    """

    weights: Weights
    """The weights of the layer and of those before it."""
    unit: Array
    """Index of the channel, or of the class for `logits`, int32."""
    layer: str = dataclasses.field(metadata={"static": True})
    """Name of the layer."""
    num_sizes: int = dataclasses.field(default=1, metadata={"static": True})
    """Number of sizes: that of the image, half of it, a quarter, ..."""
    is_linear: ClassVar[bool] = False

    def __call__(self, image: Array) -> Array:
        """Measures `image`."""
        height, width, channels = image.shape
        means = []
        for k in range(self.num_sizes):
            resized = jax.image.resize(image, (height >> k, width >> k, channels), "linear")
            means.append(jnp.mean(activations(self.weights, resized, self.layer)[..., self.unit]))
        return jnp.mean(jnp.stack(means), keepdims=True)
