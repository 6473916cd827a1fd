"""A replicate of a case: the same measurement of an image that is known, the estimate.

The errors of a method on replicates show its error on the original, for which the truth is unknown: the parametric
bootstrap. With the estimate x, the operator A and the noise of the case, a replicate is

    y' = A T x + noise.

T is a random flip or turn. It assumes that the turned image is as likely as the image, whereas the operator does not
turn: some pixels that the original hides are known in T x, so a replicate also shows the error where the original
measures nothing (equivariant bootstrap).

References:
  Efron, Bootstrap methods: another look at the jackknife, 1979.
  Tachella and Pereyra, Equivariant bootstrapping for uncertainty quantification in imaging inverse problems, 2024.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Array, Case, Operator
from dip_jax.clipping import Limits
from dip_jax.problem import measure
from dip_jax.tasks.cases import only_measured
from dip_jax.tasks.clipped_noise import limits_of
from dip_jax.tasks.noise_level import clipped_noise_of, require_known_noise, with_noise_std


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


class Noise(NamedTuple):
    """The noise of a case, as far as it is not that of photons."""

    std: float
    """Its standard deviation before clipping, 0 for none."""
    limits: Limits
    """The limits at which it was clipped."""
    notes: tuple[str, ...]
    """Sentences for the user."""


def noise_of(case: Case, image: np.ndarray) -> Noise:
    """Returns the noise of a case, estimated if it is not known.

    Args:
      case: The case.
      image: The estimate `[H, W, C]`, which tells whether values at a limit are clipped noise.

    Raises:
      InputError: If it cannot be estimated; see `require_known_noise`.
    """
    require_known_noise(case)
    resolved = with_noise_std(case, before_clipping=limits_of(case) != Limits())
    std, limits = clipped_noise_of(resolved, image)
    notes = resolved.notes[len(case.notes) :]
    if case.shares_noise:
        notes += ("neighboring pixels share their noise, so the intervals are a lower bound",)
    return Noise(float(np.nan_to_num(std)), limits, notes)


def replicate_case(
    key: Array, case: Case, image: np.ndarray, noise: Noise, number: int
) -> tuple[Case, Symmetry]:
    """Returns a replicate of a case, and the symmetry T.

    An image that serves as the code is transformed as well; masks and kernels are not, because they belong to A.

    Args:
      key: Random key, consumed.
      case: The case.
      image: The estimate x, `[H, W, C]`.
      noise: Its noise. A case with a peak also has that of photons.
      number: Number of the replicate, for its name; each has networks of its own.

    Example:
      >>> from dip_jax.config import TaskConfig
      >>> from dip_jax.tasks.cases import build_case
      >>> case = build_case(TaskConfig(), "photo", np.full((40, 40, 1), 0.5, np.float32))
      >>> noise = Noise(0.1, Limits(), ())
      >>> other, _ = replicate_case(jax.random.key(0), case, np.full((40, 40, 1), 0.3), noise, 1)
      >>> other.name, round(float(other.problem.measurement.std()), 2)
      ('photo, replicate 1', 0.1)
    """
    problem = case.problem
    symmetry_key, noise_key = jax.random.split(key)
    symmetry = draw_symmetry(symmetry_key, case.shape)
    turned = jnp.asarray(np.ascontiguousarray(symmetry(image)), jnp.float32)
    clean = np.asarray(_measure(problem.operator, turned))
    y = only_measured(problem.operator, _add_noise(noise_key, case, clean, noise))
    if problem.weights is not None:
        y = np.where(np.asarray(problem.weights) > 0, y, np.asarray(problem.measurement))
    measured = problem._replace(measurement=jnp.asarray(y, problem.measurement.dtype))
    if problem.code_image is not None:
        guide = np.ascontiguousarray(symmetry(np.asarray(problem.code_image)))
        measured = measured._replace(code_image=jnp.asarray(guide))
    name = f"{case.name}, replicate {number}"
    return case._replace(name=name, problem=measured, reference=None, preview=None), symmetry


@jax.jit
def _measure(operator: Operator, image: Array) -> Array:
    """A x; the operator is an argument, because one with arrays cannot be a constant of a compiled function."""
    return measure(operator, image)


def _add_noise(key: Array, case: Case, clean: np.ndarray, noise: Noise) -> np.ndarray:
    """Adds noise to noise-free measurements."""
    random, y = np.random.default_rng(np.asarray(jax.random.key_data(key))), clean
    if case.problem.peak is not None:
        peak = float(case.problem.peak)
        y = random.poisson(peak * np.maximum(y, 0)) / peak
    if np.iscomplexobj(clean):
        y = y + noise.std / math.sqrt(2) * (random.normal(size=(*clean.shape, 2)) @ [1, 1j])
    elif noise.std > 0:
        y = y + noise.std * random.normal(size=clean.shape)
    limits = noise.limits
    if limits != Limits():
        y = np.clip(y, 0 if limits.black else None, 1 if limits.white else None)
    return y
