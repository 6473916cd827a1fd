"""Codes, the inputs z of networks, `[Hc, Wc, C_in]`.

Noise is independent of the image. Coordinates make the network a smooth function of the position.
An image as the code (the guide of task flash) passes its edges on.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array
from dip_jax.config import FitConfig
from dip_jax.errors import InputError


def build_code(
    key: Array, config: FitConfig, shape: tuple[int, int, int], *, image: Array | None = None
) -> Array:
    """Returns the code that `config.code` selects.

    * `uniform`: code_scale u, u ~ U(0, 1). (In the 2018 code, `var` = 1/10 is this factor, not a
      variance.)
    * `normal`: code_scale n, n ~ N(0, 1).
    * `meshgrid`: two channels, x / (W - 1) and y / (H - 1).
    * `fourier`: sin(2 pi v B) and cos(2 pi v B) of the positions v in [0, 1]^2, with C_in / 2
      frequencies B ~ N(0, fourier_std^2).
    * `image`: the image, centered. If the code is larger, its border is repeated.

    Args:
      key: Random key, consumed.
      config: Settings `code`, `code_scale` and `fourier_std`.
      shape: Shape of the code, `(Hc, Wc, C_in)`.
      image: Image for the code `image`, `[H, W, C_in]`, at most as large as the code.

    Raises:
      InputError: If the code does not exist in this shape, or the image is missing or too large.

    References:
      Ulyanov, Vedaldi and Lempitsky, Deep Image Prior, 2018, section 3.
      Tancik et al., Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional
        Domains, 2020, section 5 (`fourier`).

    Example:
      >>> import jax
      >>> code = build_code(jax.random.key(0), FitConfig(code="meshgrid"), (2, 3, 2))
      >>> code[0].tolist()
      [[0.0, 0.0], [0.5, 0.0], [1.0, 0.0]]
    """
    height, width, depth = shape
    if config.code == "uniform":
        return config.code_scale * jax.random.uniform(key, shape, jnp.float32)
    if config.code == "normal":
        return config.code_scale * jax.random.normal(key, shape, jnp.float32)
    if config.code == "image":
        return _code_from_image(image, shape)
    y, x = jnp.mgrid[0:height, 0:width].astype(jnp.float32)
    positions = jnp.stack([x / max(width - 1, 1), y / max(height - 1, 1)], axis=-1)
    if config.code == "meshgrid":
        _require_depth(config.code, "2", depth, is_valid=depth == 2)
        return positions
    _require_depth(config.code, "an even number", depth, is_valid=depth % 2 == 0)
    frequencies = config.fourier_std * jax.random.normal(key, (2, depth // 2), jnp.float32)
    # With bfloat16 products, a phase of many turns would be lost.
    phases = 2 * np.float32(np.pi) * jnp.dot(positions, frequencies, precision="highest")
    return jnp.concatenate([jnp.sin(phases), jnp.cos(phases)], axis=-1)


def _code_from_image(image: Array | None, shape: tuple[int, int, int]) -> Array:
    if image is None:
        raise InputError("fit.code=image expects a guide image, got none; add --guide=...")
    channels = image.shape[-1]
    _require_depth("image", f"{channels}", shape[-1], is_valid=channels == shape[-1])
    margins = []
    for side, image_side in zip(shape[:2], image.shape[:2], strict=True):
        before = (side - image_side) // 2
        margins.append((before, side - image_side - before))
    if min(min(margin) for margin in margins) < 0:
        raise InputError(
            f"fit.code=image expects a guide of at most {shape[:2]}, the size of the code, got the "
            f"larger {image.shape[:2]}; use a network whose code is as large as the image."
        )
    return jnp.pad(jnp.asarray(image), [*margins, (0, 0)], mode="edge")


def _require_depth(code: str, expected: str, depth: int, *, is_valid: bool) -> None:
    if not is_valid:
        raise InputError(f"fit.code={code} expects net.input_depth={expected}, got {depth}.")
