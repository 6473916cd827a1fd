"""Few shapes for many pictures: sides are rounded up, and the margin is nobody's business.

A picture is put into the top left corner of a slightly larger canvas. The network fills the canvas, the
loss, the stopping rule and the PSNR see only the picture (`Problem.region`), and the answer is cropped. What
a picture's canvas is depends on the picture alone, so its result does not depend on its neighbors.
"""

import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array, Case


def canvas_side(side: int, per_octave: int) -> int:
    """Rounds a side up to a multiple of the largest power of two p with `per_octave` p <= side.

    Between a length and its double there are then at most `per_octave` sides, and the picture grows by
    less than 1 / `per_octave`. `per_octave` = 0 rounds nothing.
    """
    if per_octave == 0 or side < per_octave:
        return side
    multiple = 1 << (side // per_octave).bit_length() - 1
    return -(-side // multiple) * multiple


def pad_case(case: Case, per_octave: int) -> Case:
    """Puts a case on its canvas; unchanged where its operator has no `pad(height, width)`.

    Such an operator acts on each pixel alone, and says by `pad` what it is on a larger canvas.
    """
    pad = getattr(case.problem.operator, "pad", None)
    if per_octave == 0 or pad is None:
        return case
    height, width, channels = case.shape
    canvas = canvas_side(height, per_octave), canvas_side(width, per_octave)

    margins = [(0, canvas[0] - height), (0, canvas[1] - width), (0, 0)]

    def padded(image: np.ndarray | Array) -> Array:
        return jnp.asarray(np.pad(np.asarray(image), margins))

    problem = case.problem
    code_image, weights, tolerance = problem.code_image, problem.weights, problem.tolerance
    if code_image is not None:  # its border would be an edge that the network passes on
        code_image = jnp.asarray(np.pad(np.asarray(code_image), margins, mode="edge"))
    problem = problem._replace(
        operator=pad(*canvas),
        measurement=padded(problem.measurement),
        code_image=code_image,
        weights=None if weights is None else padded(weights),
        tolerance=None if tolerance is None else padded(tolerance),
        region=padded(np.ones((height, width, 1), jnp.float32)),
    )
    reference = None if case.reference is None else np.pad(case.reference, margins)
    return case._replace(problem=problem, shape=(*canvas, channels), reference=reference)
