"""Intervals around a fit: from restored replicates, or from the linearized network. Neither needs a Markov chain."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax.base import Case, Posterior, PosteriorKind, Result, Status
from dip_jax.clipping import Limits
from dip_jax.errors import InputError
from dip_jax.keys import image_key, intervals_key
from dip_jax.posterior.linearized import linearized_posterior
from dip_jax.tasks.clipped_noise import limits_of
from dip_jax.tasks.noise_level import require_noise_std
from dip_jax.tasks.replicate import Symmetry, replicate_case

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

    With x the estimate and x_i that of replicate i, turned back, the variance of a pixel is the mean of (x_i - x)^2. It
    includes the bias of the method, as far as the estimate is as difficult an image as the original.

    Args:
      case: The case that was restored.
      result: Its result.
      number: Number of replicates.
      restore_all: Restores the replicates.
      seed: Seed of the run.

    Returns:
      The result with a posterior; interrupted if the run ended before all replicates.
    """
    case = require_noise_std(case, before_clipping=limits_of(case) != Limits())
    key = intervals_key(image_key(seed, case.name))
    symmetries: dict[str, Symmetry] = {}

    def replicates() -> Iterator[Case]:
        for number_of_one, one in enumerate(jax.random.split(key, number), start=1):
            replicate, symmetry = replicate_case(one, case, result.image, number_of_one)
            symmetries[replicate.name] = symmetry
            yield replicate

    images = []
    for restored in restore_all(replicates()):
        if restored.error is not None:
            return _without(result, f"a replicate failed: {restored.error}")
        if restored.status in (Status.DONE, Status.STOPPED):
            images.append(symmetries[restored.name].inverse(restored.image))
        elif restored.status == Status.INTERRUPTED:
            return _without(result, "the replicates were not finished")._replace(
                status=Status.INTERRUPTED
            )
    if len(images) < 2:
        return _without(result, "fewer than two replicates could be restored")
    estimates = np.stack(images)
    variance = np.mean(np.square(estimates - result.image, dtype=np.float64), axis=0)
    return result._replace(
        posterior=_posterior(PosteriorKind.BOOTSTRAP, result, variance, estimates)
    )


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
    variance = np.mean(np.square(found.samples, dtype=np.float64), axis=0)
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


def _without(result: Result, reason: str) -> Result:
    return result._replace(notes=(*result.notes, f"no intervals: {reason}"))
