"""Intervals around a fit: from restored replicates, or from the linearized network. Neither needs a Markov chain."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from dip_jax.base import Array, Case, Posterior, PosteriorKind, Result, Status
from dip_jax.clipping import Limits
from dip_jax.errors import InputError
from dip_jax.keys import image_key, intervals_key
from dip_jax.posterior.linearized import linearized_posterior
from dip_jax.tasks.clipped_noise import limits_of
from dip_jax.tasks.noise_level import require_noise_std
from dip_jax.tasks.replicate import Symmetry, replicate_case

_WINDOW = 2.0
"""Standard deviation of the window of `smooth_variance`, pixels."""

RestoreAll = Callable[[Iterable[Case]], Iterator[Result]]
"""Restores cases as the original was restored."""


@dataclasses.dataclass(frozen=True)
class Intervals:
    """How the error of a fit is estimated."""

    kind: Literal["bootstrap", "linearized"]
    """`bootstrap` restores replicates of the case (`tasks.replicate`); `linearized` samples the posterior of the network
    that is linearized in its weights (`posterior.linearized`)."""
    number: int = 16
    """Number of replicates or samples."""
    prior_precision: float | None = None
    """(linearized) Precision of the prior of each weight; None for one as wide as the initial weights."""

    def __post_init__(self) -> None:
        """Checks the number.

        Raises:
          InputError: If it is less than 2.
        """
        if self.number < 2:
            raise InputError(f"number must be at least 2, got {self.number}.")

    @property
    def needs_network(self) -> bool:
        """Whether the network of the fit must be kept."""
        return self.kind == "linearized"


def bootstrap(
    case: Case, result: Result, number: int, restore_all: RestoreAll, *, seed: int
) -> Result:
    """Returns a result with the spread of the errors of restored replicates about it.

    With x the estimate and x_i that of replicate i of n, turned back, the variance of a pixel is

        f^2 G * mean_i (x_i - x)^2,   f^2 = mean (x_i - x)^2 / mean (x_1j - x_1)^2.

    It includes the bias of the method. G averages over neighbors (`smooth_variance`). An estimate is smoother than the
    original, so its replicates have smaller errors than the original. The factor f measures by how much, one level
    below: x_1j are the estimates of n / 2 replicates of the first replicate's estimate x_1 (iterated bootstrap).

    Args:
      case: The case that was restored.
      result: Its result.
      number: Number n of replicates.
      restore_all: Restores the replicates.
      seed: Seed of the run.

    Returns:
      The result with a posterior; interrupted if the run ended before all replicates.

    References:
      Hall, The bootstrap and Edgeworth expansion, 1992, section 1.4 (iteration).
    """
    case = require_noise_std(case, before_clipping=limits_of(case) != Limits())
    key, iterated_key = jax.random.split(intervals_key(image_key(seed, case.name)))
    try:
        estimates = _restore_replicates(key, case, result.image, number, restore_all)
        below = _restore_replicates(
            iterated_key,
            case._replace(name=f"{case.name}, replicate 1"),
            estimates[0],
            max(2, number // 2),
            restore_all,
        )
    except _NotFinishedError as error:
        found = result._replace(notes=(*result.notes, f"no intervals: {error}"))
        return found._replace(status=Status.INTERRUPTED) if error.is_interrupted else found
    squares = np.square(estimates - result.image, dtype=np.float64)
    factor = squares.mean() / np.mean(np.square(below - estimates[0], dtype=np.float64))
    variance = factor * smooth_variance(squares.mean(axis=0))
    return result._replace(
        posterior=_posterior(PosteriorKind.BOOTSTRAP, result, variance, estimates)
    )


class _NotFinishedError(Exception):
    """Why there are no intervals."""

    def __init__(self, reason: str, *, is_interrupted: bool = False):
        super().__init__(reason)
        self.is_interrupted = is_interrupted


def _restore_replicates(
    key: Array, case: Case, image: np.ndarray, number: int, restore_all: RestoreAll
) -> np.ndarray:
    """The estimates `[n, H, W, C]` of the replicates of an image, turned back."""
    symmetries: dict[str, Symmetry] = {}

    def replicates() -> Iterator[Case]:
        for index, one in enumerate(jax.random.split(key, number), start=1):
            replicate, symmetry = replicate_case(one, case, image, index)
            symmetries[replicate.name] = symmetry
            yield replicate

    images = []
    for restored in restore_all(replicates()):
        if restored.error is not None:
            raise _NotFinishedError(f"a replicate failed: {restored.error}")
        if restored.status == Status.INTERRUPTED:
            raise _NotFinishedError("the replicates were not finished", is_interrupted=True)
        if restored.status in (Status.DONE, Status.STOPPED):
            images.append(symmetries[restored.name].inverse(restored.image))
    if len(images) < 2:
        raise _NotFinishedError("fewer than two replicates could be restored")
    return np.stack(images)


def smooth_variance(variance: np.ndarray) -> np.ndarray:
    """Returns a map of variances, averaged over neighbors by a Gaussian window of 2 pixels.

    The mean of n squares has a relative standard deviation of (2 / n)^(1/2), which is that of a map from few replicates.
    The window has an effective area of 16 pi = 50 pixels, and errors change little within it.

    Args:
      variance: `[H, W, C]`.
    """
    return ndimage.gaussian_filter(variance, (_WINDOW, _WINDOW, 0))


def linearize(
    case: Case,
    result: Result,
    intervals: Intervals,
    *,
    seed: int,
) -> Result:
    """Returns a result with samples of the linearized network around it.

    The weights are those after the last step of the first network; its estimate may be that of an earlier step.

    Args:
      case: The case that was restored.
      result: Its result, with its network.
      intervals: Number of samples, and the prior.
      seed: Seed of the run.
    """
    case = require_noise_std(case)
    assert result.net is not None
    assert result.code is not None
    found = linearized_posterior(
        result.net,
        jax.tree.map(jnp.asarray, result.params),
        jnp.asarray(result.code),
        case.problem,
        key=intervals_key(image_key(seed, case.name)),
        num_samples=intervals.number,
        prior_precision=intervals.prior_precision,
    )
    variance = smooth_variance(np.mean(np.square(found.samples, dtype=np.float64), axis=0))
    posterior = _posterior(PosteriorKind.LINEARIZED, result, variance, result.image + found.samples)
    notes = (*result.notes, *found.notes)
    return result._replace(posterior=posterior, notes=notes)


def _posterior(
    kind: PosteriorKind, result: Result, variance: np.ndarray, estimates: np.ndarray
) -> Posterior:
    return Posterior(
        mean=result.image,
        std=np.sqrt(variance).astype(np.float32),
        chain_means=estimates,
        num_samples=len(estimates),
        traces=np.zeros((len(estimates), 0, 0), np.float32),
        trace_names=(),
        samples=estimates,
        kind=kind,
    )
