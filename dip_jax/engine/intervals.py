"""Intervals around a fit: from restored replicates, or from the linearized network. Neither needs a Markov chain."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from dip_jax.base import Array, Case, Posterior, PosteriorKind, Result, Status
from dip_jax.config import num_iterated
from dip_jax.errors import InputError
from dip_jax.keys import image_key, intervals_key
from dip_jax.posterior.linearized import linearized_posterior
from dip_jax.tasks.cases import measured_values
from dip_jax.tasks.noise_level import require_noise_std
from dip_jax.tasks.replicate import Noise, Symmetry, noise_of, replicate_case

_WINDOW = 2.0
"""Standard deviation of the window of `mean_variance`, pixels."""
_PRIOR = 1e-4
"""Number of squares that the mean of all squares stands for in `mean_variance`."""

RestoreAll = Callable[[Iterable[Case]], Iterator[Result]]
"""Restores cases as the original was restored."""


@dataclasses.dataclass(frozen=True)
class Intervals:
    """How the error of a fit is estimated."""

    kind: Literal["bootstrap", "linearized"]
    """`bootstrap` restores replicates of the case (`tasks.replicate`); `linearized` samples the posterior of the network
    that is linearized in its weights (`posterior.linearized`)."""
    number: int = 8
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

    It includes the bias of the method. G averages over neighbors (`mean_variance`). An estimate is smoother than the
    original, so its replicates have smaller errors than the original. The factor f measures by how much, one level
    below: x_1j are the estimates of `num_iterated` replicates of the first replicate's estimate x_1 (iterated
    bootstrap).

    The operator does not turn with the image, so a pixel that was not measured may be measured in a replicate. Each
    pixel counts only in replicates in which it is measured as in the original, and f is that of pixels of its kind.

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
    noise, x = noise_of(case, result.image), result.image
    measured = _measured(case)
    key, iterated_key = jax.random.split(intervals_key(image_key(seed, case.name)))
    first_case = case._replace(name=f"{case.name}, replicate 1")
    try:
        estimates, states = _restore_replicates(key, case, x, measured, noise, number, restore_all)
        below, states_below = _restore_replicates(
            iterated_key,
            first_case,
            estimates[0],
            measured,
            noise,
            num_iterated(number),
            restore_all,
        )
    except _NotFinishedError as error:
        found = result._replace(notes=(*result.notes, f"no intervals: {error}"))
        return found._replace(status=Status.INTERRUPTED) if error.is_interrupted else found
    squares = np.square(estimates - x, dtype=np.float64)
    squares_below = np.square(below - estimates[0], dtype=np.float64)
    variance = mean_variance(squares, states, measured)
    for kind in (True, False):
        is_kind = measured == kind
        level, level_below = (
            _level(squares, states, kind),
            _level(squares_below, states_below, kind),
        )
        if is_kind.any() and level_below > 0:
            variance[is_kind] *= level / level_below
    return result._replace(
        posterior=_posterior(PosteriorKind.BOOTSTRAP, result, variance, estimates),
        notes=(*result.notes, *noise.notes),
    )


class _NotFinishedError(Exception):
    """Why there are no intervals."""

    def __init__(self, reason: str, *, is_interrupted: bool = False):
        super().__init__(reason)
        self.is_interrupted = is_interrupted


def _restore_replicates(
    key: Array,
    case: Case,
    image: np.ndarray,
    measured: np.ndarray,
    noise: Noise,
    number: int,
    restore_all: RestoreAll,
) -> tuple[np.ndarray, np.ndarray]:
    """The estimates of the replicates of an image, turned back, and which of their values were measured.

    Both are `[n, H, W, C]`, in the order of the replicates. Replicates that diverged are left out.
    """
    symmetries: dict[str, Symmetry] = {}

    def replicates() -> Iterator[Case]:
        for index, one in enumerate(jax.random.split(key, number), start=1):
            replicate, symmetry = replicate_case(one, case, image, noise, index)
            symmetries[replicate.name] = symmetry
            yield replicate

    finished: dict[str, Result] = {}
    for restored in restore_all(replicates()):
        if restored.error is not None:
            raise _NotFinishedError(f"a replicate failed: {restored.error}")
        if restored.status != Status.INTERRUPTED:
            finished[restored.name] = restored
    if len(finished) < number:
        raise _NotFinishedError("the replicates were not finished", is_interrupted=True)
    sound = [name for name in symmetries if finished[name].status != Status.DIVERGED]
    if len(sound) < 2:
        raise _NotFinishedError("fewer than two replicates could be restored")
    return (
        np.stack([symmetries[name].inverse(finished[name].image) for name in sound]),
        np.stack([symmetries[name].inverse(measured) for name in sound]),
    )


def _measured(case: Case) -> np.ndarray:
    """Which values of the image are measured, boolean `[H, W, C]`; all, unless the operator lacks some."""
    measured = measured_values(case)
    return np.ones(case.shape, bool) if measured is None else measured


def mean_variance(squares: np.ndarray, states: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Returns the mean of squared errors, averaged over replicates and neighbors.

    The mean of n squares has a relative standard deviation of (2 / n)^(1/2), which is that of a map from few replicates.
    The Gaussian window of 2 pixels has an effective area of 16 pi = 50 pixels, and errors change little within it. Only
    squares count that are measured as the pixel, or as little.

    Args:
      squares: `[n, H, W, C]`.
      states: Whether each was measured, boolean, same shape.
      measured: Whether the values of the image are measured, boolean `[H, W, C]`.

    Returns:
      `[H, W, C]`, float64.
    """
    variance = np.zeros(measured.shape)
    for kind in (True, False):
        is_kind = measured == kind
        if not is_kind.any():
            continue
        counts = (states == kind) & is_kind
        sums, numbers = (
            ndimage.gaussian_filter(values, (_WINDOW, _WINDOW, 0))
            for values in ((counts * squares).sum(axis=0), counts.sum(axis=0).astype(np.float64))
        )
        # Far from any square that counts, it is the mean of all of this kind.
        found = (sums + _PRIOR * _level(squares, states, kind)) / (numbers + _PRIOR)
        variance[is_kind] = found[is_kind]
    return variance


def _level(squares: np.ndarray, states: np.ndarray, kind: bool) -> float:
    """The mean of the squares of one kind; of all, if there is none."""
    chosen = squares[states == kind]
    return float(chosen.mean() if chosen.size else squares.mean())


def linearize(case: Case, result: Result, intervals: Intervals, *, seed: int) -> Result:
    """Returns a result with samples of the linearized network around it.

    The weights are those after the last step; the estimate may be that of an earlier step.

    Args:
      case: The case that was restored.
      result: Its result, with its network.
      intervals: Number of samples, and the prior.
      seed: Seed of the run.
    """
    resolved = require_noise_std(case)
    assert result.net is not None
    assert result.code is not None
    found = linearized_posterior(
        result.net,
        jax.tree.map(jnp.asarray, result.params),
        jnp.asarray(result.code),
        resolved.problem,
        key=intervals_key(image_key(seed, case.name)),
        num_samples=intervals.number,
        prior_precision=intervals.prior_precision,
    )
    measured = _measured(case)
    squares = np.square(found.samples, dtype=np.float64)
    variance = mean_variance(squares, np.broadcast_to(measured, squares.shape), measured)
    posterior = _posterior(PosteriorKind.LINEARIZED, result, variance, result.image + found.samples)
    notes = (*result.notes, *resolved.notes[len(case.notes) :], *found.notes)
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
