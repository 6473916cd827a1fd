"""Codes, the inputs z of networks, `[Hc, Wc, C_in]`.

Noise is independent of the image. Coordinates make the network a smooth function of the position.
An image as the code (the guide of task flash) passes its edges on. Any function `code(key, shape,
problem)` is a code; see `base.CodeBuilder`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array, CodeBuilder, Problem, Shape
from dip_jax.errors import InputError


def uniform(scale: float = 0.1) -> CodeBuilder:
    """Returns the code scale u, u ~ U(0, 1).

    In the 2018 code, `var` = 1/10 is this factor, not a variance.

    Args:
      scale: The factor.

    References:
      Ulyanov, Vedaldi and Lempitsky, Deep Image Prior, 2018, section 3.
    """

    def code(key: Array, shape: Shape, problem: Problem) -> Array:
        del problem
        return scale * jax.random.uniform(key, shape, jnp.float32)

    return code


def normal(scale: float = 0.1) -> CodeBuilder:
    """Returns the code scale n, n ~ N(0, 1).

    Args:
      scale: The factor.
    """

    def code(key: Array, shape: Shape, problem: Problem) -> Array:
        del problem
        return scale * jax.random.normal(key, shape, jnp.float32)

    return code


def meshgrid() -> CodeBuilder:
    """Returns the code of two channels, x / (W - 1) and y / (H - 1).

    Example:
      >>> import jax
      >>> code = meshgrid()(jax.random.key(0), (2, 3, 2), None)
      >>> code[0].tolist()
      [[0.0, 0.0], [0.5, 0.0], [1.0, 0.0]]
    """

    def code(key: Array, shape: Shape, problem: Problem) -> Array:
        del key, problem
        _require_depth("meshgrid", "2", shape[2], is_valid=shape[2] == 2)
        return _positions(shape)

    return code


def fourier(std: float = 10.0) -> CodeBuilder:
    """Returns the code of random waves: sin(2 pi v B) and cos(2 pi v B) of the positions v in [0, 1]^2.

    There are C_in / 2 frequencies B ~ N(0, std^2).

    Args:
      std: Standard deviation of the frequencies, in waves per image.

    References:
      Tancik et al., Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional
        Domains, 2020, section 5.
    """

    def code(key: Array, shape: Shape, problem: Problem) -> Array:
        del problem
        depth = shape[2]
        _require_depth("fourier", "an even number", depth, is_valid=depth % 2 == 0)
        frequencies = std * jax.random.normal(key, (2, depth // 2), jnp.float32)
        # With bfloat16 products, a phase of many turns would be lost.
        phases = (
            2 * np.float32(np.pi) * jnp.dot(_positions(shape), frequencies, precision="highest")
        )
        return jnp.concatenate([jnp.sin(phases), jnp.cos(phases)], axis=-1)

    return code


def image() -> CodeBuilder:
    """Returns the image `Problem.code_image` as the code, centered; its border is repeated.

    Raises an `InputError` if there is no such image, or if it is larger than the code.

    References:
      Ulyanov, Vedaldi and Lempitsky, Deep Image Prior, 2018, section 3 (flash and no-flash).
    """

    def code(key: Array, shape: Shape, problem: Problem) -> Array:
        del key
        return _code_from_image(problem.code_image, shape)

    return code


def guided(scale: float = 0.1, *, guide_scale: float = 1.0) -> CodeBuilder:
    """Returns the code of `uniform` whose first channels are a guide, guide_scale (guide - 1/2).

    The guide is `Problem.code_image`, centered; its border is repeated. Without one, the code is that of `uniform`.

    Args:
      scale: Factor of the noise.
      guide_scale: Factor of the guide. A larger factor, relative to the perturbation of the fit, passes more detail of the
        guide to the network.
    """
    noise = uniform(scale)

    def code(key: Array, shape: Shape, problem: Problem) -> Array:
        z = noise(key, shape, problem)
        guide = problem.code_image
        if guide is None:
            return z
        channels = guide.shape[-1]
        if channels >= shape[-1]:
            raise InputError(
                f"The code guided expects more channels than the guide's {channels} (net.input_depth), got {shape[-1]}."
            )
        padded = _code_from_image(guide, (*shape[:2], channels))
        return jnp.concatenate([guide_scale * (padded - 0.5), z[..., channels:]], axis=-1)

    return code


def _positions(shape: Shape) -> Array:
    """Returns x / (W - 1) and y / (H - 1), `[H, W, 2]`."""
    height, width, _ = shape
    y, x = jnp.mgrid[0:height, 0:width].astype(jnp.float32)
    return jnp.stack([x / max(width - 1, 1), y / max(height - 1, 1)], axis=-1)


def _code_from_image(image: Array | None, shape: Shape) -> Array:
    if image is None:
        raise InputError(
            "The code image (fit.code) expects a guide, Problem.code_image, got none; add one (--guide)."
        )
    channels = image.shape[-1]
    _require_depth("image", f"{channels}", shape[-1], is_valid=channels == shape[-1])
    margins = []
    for side, image_side in zip(shape[:2], image.shape[:2], strict=True):
        before = (side - image_side) // 2
        margins.append((before, side - image_side - before))
    if min(min(margin) for margin in margins) < 0:
        raise InputError(
            f"The code image (fit.code) expects a guide of at most {shape[:2]}, the size of the code, got the "
            f"larger {image.shape[:2]}; use a network whose code is as large as the image."
        )
    return jnp.pad(jnp.asarray(image), [*margins, (0, 0)], mode="edge")


def _require_depth(code: str, expected: str, depth: int, *, is_valid: bool) -> None:
    if not is_valid:
        raise InputError(
            f"The code {code} expects input_depth={expected} (net.input_depth), got {depth}."
        )
