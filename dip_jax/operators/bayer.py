"""Lost color: gray images and color filter arrays."""

import dataclasses
from typing import ClassVar, get_args

import jax
import jax.numpy as jnp
from jax import lax

from dip_jax.base import Array
from dip_jax.config import Pattern
from dip_jax.errors import InputError

PATTERNS: tuple[Pattern, ...] = get_args(Pattern)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Gray:
    """A x = 0.299 R + 0.587 G + 0.114 B, the luma: `[H, W, 3] -> [H, W, 1]`.

    References:
      Rec. ITU-R BT.601-7, 2011, section 2.5.1.

    Example:
      >>> import jax.numpy as jnp
      >>> luma = Gray()(jnp.array([[[0.0, 1.0, 0.0]]]))
      >>> print(luma.shape, f"{luma.item():.3f}")
      (1, 1, 1) 0.587
    """

    is_linear: ClassVar[bool] = True
    is_pixelwise: ClassVar[bool] = True

    def __call__(self, image: Array) -> Array:
        """Returns the luma of `image`.

        Raises:
          InputError: If the image does not have three channels.
        """
        red, green, blue = _split_channels(image)
        return 0.299 * red + 0.587 * green + 0.114 * blue

    def pad(self, height: int, width: int) -> "Gray":
        """Returns the operator for a canvas `[height, width]`, which is this one."""
        del height, width
        return self


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bayer:
    """A x = one channel at each pixel, the one that its color filter transmits: `[H, W, 3] -> [H, W, 1]`.

    References:
      Bayer, Color Imaging Array, US patent 3971065, 1976.

    Example:
      >>> import jax.numpy as jnp
      >>> image = jnp.broadcast_to(jnp.array([1.0, 2.0, 3.0]), (2, 4, 3))
      >>> Bayer("RGGB")(image)[..., 0].tolist()
      [[1.0, 2.0, 1.0, 2.0], [2.0, 3.0, 2.0, 3.0]]
    """

    pattern: Pattern = dataclasses.field(default="RGGB", metadata={"static": True})
    """Filters of the top left 2 x 2 pixels, in row-major order."""
    is_linear: ClassVar[bool] = True
    is_pixelwise: ClassVar[bool] = True

    def __call__(self, image: Array) -> Array:
        """Returns the mosaic of `image`.

        Raises:
          InputError: If the pattern is unknown or the image does not have three channels.
        """
        require_pattern(self.pattern)
        channels = dict(zip("RGB", _split_channels(image), strict=True))
        top_left, top_right, bottom_left, bottom_right = (channels[name] for name in self.pattern)
        shape = (*image.shape[:2], 1)
        is_top = lax.broadcasted_iota(jnp.int32, shape, 0) % 2 == 0
        is_left = lax.broadcasted_iota(jnp.int32, shape, 1) % 2 == 0
        top = jnp.where(is_left, top_left, top_right)
        return jnp.where(is_top, top, jnp.where(is_left, bottom_left, bottom_right))

    def pad(self, height: int, width: int) -> "Bayer":
        """Returns the operator for a canvas `[height, width]`: this one, as the top left corner stays."""
        del height, width
        return self


def _split_channels(image: Array) -> tuple[Array, Array, Array]:
    """Red, green and blue, each `[H, W, 1]`."""
    if image.ndim != 3 or image.shape[2] != 3:
        raise InputError(
            f"A color image [H, W, 3] is needed, got {list(image.shape)}; give an RGB image."
        )
    return image[..., 0:1], image[..., 1:2], image[..., 2:3]


def require_pattern(pattern: str) -> None:
    """Raises an `InputError` unless `pattern` is one of `PATTERNS`."""
    if pattern not in PATTERNS:
        raise InputError(f"pattern must be one of {', '.join(PATTERNS)}, got {pattern!r}.")
