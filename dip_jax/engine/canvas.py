"""Canvases: padded sizes that images of similar sizes share, so that they share a compiled program.

The image lies in the top left corner of the canvas. The network fills the canvas; the loss, the stopping rule and
the PSNR see only the image (`Problem.region`), and the estimate is cropped. The canvas depends on the size of the
image alone, so a result does not depend on the other images of a run.
"""

import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array, Case, Operator
from dip_jax.operators.pixelwise import is_pixelwise


def canvas_side(side: int, sides_per_octave: int) -> int:
    """Rounds a side up to a multiple of the largest power of two p with `sides_per_octave` p <= side.

    Between a side and its double there are then at most `sides_per_octave` sides, and a side grows by less than
    1 / `sides_per_octave`.

    Args:
      side: Height or width in pixels.
      sides_per_octave: Maximum number of sides per octave; 0 keeps every side.

    Example:
      >>> canvas_side(501, 16), canvas_side(512, 16), canvas_side(501, 0)
      (512, 512, 501)
    """
    if sides_per_octave == 0 or side < sides_per_octave:
        return side
    multiple = 1 << (side // sides_per_octave).bit_length() - 1
    return -(-side // multiple) * multiple


def canvas_shape(
    shape: tuple[int, int, int], operator: Operator | type[Operator], sides_per_octave: int
) -> tuple[int, int, int]:
    """The shape of an image's canvas; the image's own shape unless the operator is pixelwise.

    Args:
      shape: Height, width and channels of the image.
      operator: The operator of the image, or its class.
      sides_per_octave: See `canvas_side`.

    Example:
      >>> from dip_jax.operators import Blur, Identity
      >>> canvas_shape((501, 333, 3), Identity, 16), canvas_shape((501, 333, 3), Blur, 16)
      ((512, 336, 3), (501, 333, 3))
    """
    if not is_pixelwise(operator):
        return shape
    height, width, channels = shape
    return canvas_side(height, sides_per_octave), canvas_side(width, sides_per_octave), channels


def pad_case(case: Case, sides_per_octave: int) -> Case:
    """Puts a case on its canvas; unchanged if its operator is not pixelwise.

    Args:
      case: The case.
      sides_per_octave: See `canvas_side`; 0 leaves the case unchanged.

    Returns:
      A case of the shape `canvas_shape(...)`, whose problem has a `region`.
    """
    problem, (height, width, _) = case.problem, case.shape
    operator = problem.operator
    if sides_per_octave == 0 or not is_pixelwise(operator):
        return case
    shape = canvas_shape(case.shape, operator, sides_per_octave)
    margins = [(0, shape[0] - height), (0, shape[1] - width), (0, 0)]

    def pad(array: np.ndarray | Array) -> Array:
        return jnp.asarray(np.pad(np.asarray(array), margins))

    code_image, weights, tolerance = problem.code_image, problem.weights, problem.tolerance
    if code_image is not None:  # a zero margin would be an edge that the network passes on
        code_image = jnp.asarray(np.pad(np.asarray(code_image), margins, mode="edge"))
    problem = problem._replace(
        operator=operator.pad(*shape[:2]),
        measurement=pad(problem.measurement),
        code_image=code_image,
        weights=None if weights is None else pad(weights),
        tolerance=None if tolerance is None else pad(tolerance),
        region=pad(np.ones((height, width, 1), jnp.float32)),
    )
    reference = None if case.reference is None else np.pad(case.reference, margins)
    return case._replace(problem=problem, shape=shape, reference=reference)
