"""A replicate of a case: the same measurement of an image that is known, the estimate.

The errors of a method on replicates show its error on the original, for which the truth is unknown: the parametric
bootstrap. With the estimate x, the operator A and the noise of the case, a replicate is

    y' = A T x + noise.

T is a random flip or turn, under which images are as likely as before, but the operator is not: pixels that a mask
hides are known in T x, so a replicate also shows the error where the original measures nothing (equivariant bootstrap).

References:
  Efron, Bootstrap methods: another look at the jackknife, 1979.
  Tachella and Pereyra, Equivariant bootstrapping for uncertainty quantification in imaging inverse problems, 2024.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array, Case
from dip_jax.clipping import Limits
from dip_jax.errors import InputError
from dip_jax.tasks.cases import only_measured
from dip_jax.tasks.clipped_noise import limits_of


class Symmetry(NamedTuple):
    """A flip or a turn, which maps the pixels of an image to pixels."""

    is_transposed: bool = False
    """Exchange rows and columns first."""
    flips_rows: bool = False
    """Reverse the order of the rows."""
    flips_columns: bool = False
    """Reverse the order of the columns."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Returns the transformed image T x.

        Args:
          image: x, `[H, W, C]`.

        Example:
          >>> image = np.arange(4.0).reshape(2, 2, 1)
          >>> symmetry = Symmetry(is_transposed=True, flips_rows=True)
          >>> symmetry(image)[..., 0].tolist(), bool((symmetry.inverse(symmetry(image)) == image).all())
          ([[1.0, 3.0], [0.0, 2.0]], True)
        """
        turned = np.swapaxes(image, 0, 1) if self.is_transposed else image
        return self._flip(turned)

    def inverse(self, image: np.ndarray) -> np.ndarray:
        """Returns the image x of a transformed image T x.

        Args:
          image: T x, `[H, W, C]`.
        """
        flipped = self._flip(image)
        return np.swapaxes(flipped, 0, 1) if self.is_transposed else flipped

    def _flip(self, image: np.ndarray) -> np.ndarray:
        rows, columns = (slice(None, None, -1 if flip else 1) for flip in self[1:])
        return image[rows, columns]


def draw_symmetry(key: Array, shape: tuple[int, ...]) -> Symmetry:
    """Returns one of the eight symmetries of a square, or one of the four of a rectangle.

    Args:
      key: Random key, consumed.
      shape: Shape of the image, `(H, W, C)`.
    """
    is_transposed, *flips = np.asarray(jax.random.bernoulli(key, shape=(3,)))
    return Symmetry(bool(is_transposed) and shape[0] == shape[1], *map(bool, flips))


def replicate_case(key: Array, case: Case, image: np.ndarray, number: int) -> tuple[Case, Symmetry]:
    """Returns a replicate of a case, and the symmetry T.

    The noise is that of the case: Gaussian noise of its level, photons, or both, clipped where that of the case was. An
    image that serves as the code is transformed as well; masks and kernels are not, because they belong to A.

    Args:
      key: Random key, consumed.
      case: The case, with its noise level.
      image: The estimate x, `[H, W, C]`.
      number: Number of the replicate, for its name; each has networks of its own.

    Raises:
      InputError: If the noise is unknown.

    Example:
      >>> from dip_jax.config import TaskConfig
      >>> from dip_jax.tasks.cases import build_case
      >>> case = build_case(TaskConfig(), "photo", np.full((40, 40, 1), 0.5, np.float32))
      >>> case = case._replace(problem=case.problem._replace(noise_std=0.1))
      >>> other, _ = replicate_case(jax.random.key(0), case, np.full((40, 40, 1), 0.3), 1)
      >>> other.name, float(other.problem.measurement.std().round(2))
      ('photo, replicate 1', 0.1)
    """
    problem = case.problem
    if case.jpeg is not None or problem.tolerance is not None:
        raise InputError(
            f"{case.name}: a replicate expects Gaussian noise or photons, got the coefficients of a JPEG file; use "
            "--set task.jpeg=decoded, or --intervals=none."
        )
    if problem.peak is None and math.isnan(float(problem.noise_std)):
        raise InputError(
            f"{case.name}: a replicate needs the noise level, and it cannot be estimated from this measurement; set "
            "Problem.noise_std in [0, 1], or --noise_std=... of 255."
        )
    symmetry_key, noise_key = jax.random.split(key)
    symmetry = draw_symmetry(symmetry_key, case.shape)
    known = jnp.asarray(np.ascontiguousarray(symmetry(image)), jnp.float32)
    # The operator is an argument, because one with arrays cannot be a constant of a compiled function.
    clean = np.asarray(jax.jit(lambda operator, x: operator(x))(problem.operator, known))
    y = only_measured(problem.operator, _add_noise(noise_key, case, clean))
    if problem.weights is not None:
        y = np.where(np.asarray(problem.weights) > 0, y, np.asarray(problem.measurement))
    measured = problem._replace(measurement=jnp.asarray(y, problem.measurement.dtype))
    if problem.code_image is not None:
        guide = np.ascontiguousarray(symmetry(np.asarray(problem.code_image)))
        measured = measured._replace(code_image=jnp.asarray(guide))
    name = f"{case.name}, replicate {number}"
    return case._replace(name=name, problem=measured, reference=None, preview=None), symmetry


def _add_noise(key: Array, case: Case, clean: np.ndarray) -> np.ndarray:
    """Adds the noise of a case to noise-free measurements."""
    problem, random = case.problem, np.random.default_rng(np.asarray(jax.random.key_data(key)))
    y = clean
    if problem.peak is not None:
        peak = float(problem.peak)
        y = random.poisson(peak * np.maximum(y, 0)) / peak
    noise_std = float(np.nan_to_num(float(problem.noise_std)))
    if np.iscomplexobj(clean):
        y = y + noise_std / math.sqrt(2) * (random.normal(size=(*clean.shape, 2)) @ [1, 1j])
    elif noise_std > 0:
        y = y + noise_std * random.normal(size=clean.shape)
    limits = limits_of(case)
    if limits != Limits():
        y = np.clip(y, 0 if limits.black else None, 1 if limits.white else None)
    return y
