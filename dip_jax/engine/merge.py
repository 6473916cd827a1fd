"""One result from the results of several networks of an image: chains of a sampler, or seeds of a fit."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dip_jax.base import Case, Posterior, PosteriorKind, Result, Status
from dip_jax.ensemble.ensemble import Ensemble
from dip_jax.posterior.convergence import diagnose
from dip_jax.posterior.pooling import outliers, pool_chains, pool_seeds
from dip_jax.tasks.cases import finish_image

# The status of the merged result is the first of these that a network has.
_STATUS_ORDER = (Status.INTERRUPTED, Status.DIVERGED, Status.DONE, Status.STOPPED)


def merge(
    case: Case,
    results: Sequence[Result],
    ensemble: Ensemble | None = None,
    members: Sequence[Case] = (),
    seed: int = 0,
    *,
    chains_per_start: int = 1,
) -> Result:
    """Returns the result of several networks of one image.

    For chains, the estimate is the mean of all samples, and their variance is the sum of the variance within and
    between chains. For seeds, it is the mean of the estimates without outliers, or the combination of an
    ensemble. Diverged networks are left out unless all diverged, and interrupted ones if others have finished.

    Args:
      case: The case of the image.
      results: A result for each network; at least one.
      ensemble: How networks that are stopped together are combined; None for networks that are averaged.
      members: The cases of the networks of an ensemble, by their index.
      seed: Seed of the run, for the folds of an ensemble.
      chains_per_start: Number of consecutive chains that started from the same weights; it is stated in the posterior
        if no chain is left out.

    Returns:
      The merged result; the first failed one if a network failed.
    """
    results = sorted(results, key=lambda result: result.network_index)
    for result in results:
        if result.error is not None:
            return result
    if len(results) == 1 and ensemble is None and results[0].posterior is None:
        return results[0]
    selection = _select(results)
    combination = (
        None if ensemble is None else ensemble.combine(case, members, selection.results, seed)
    )
    stop_step = round(float(np.median([result.stop_step for result in selection.results])))
    if combination is not None:
        posterior = pool_seeds(combination.members, combination.members)
        estimate, stop_step, pool_notes = (
            combination.image,
            combination.stop_step,
            combination.notes,
        )
    else:
        pool = _pool_seeds if results[0].posterior is None else _pool_chains
        posterior, estimate, pool_notes = pool(selection.results)
        if len(selection.results) == len(results):
            posterior = posterior._replace(chains_per_start=chains_per_start)
        if posterior.kind == PosteriorKind.SAMPLES:
            posterior, convergence = _diagnosed(posterior)
            pool_notes += convergence
    image, notes = finish_image(case, estimate)
    statuses = [result.status for result in selection.results]
    status = next(s for s in _STATUS_ORDER if s in statuses)
    return selection.results[0]._replace(
        status=status if selection.is_complete else Status.INTERRUPTED,
        image=image,
        raw=estimate,
        num_steps=max(result.num_steps for result in results),
        stop_step=stop_step,
        num_rollbacks=sum(result.num_rollbacks for result in results),
        seconds=sum(result.seconds for result in results),
        notes=(*notes, *selection.notes, *pool_notes),
        posterior=posterior,
        kept=None,
        network_curves=tuple(result.curve for result in results),
        networks=tuple(network for result in results for network in result.networks),
    )


def _diagnosed(posterior: Posterior) -> tuple[Posterior, tuple[str, ...]]:
    """The samples with the state of their chains, and a note unless they have converged."""
    diagnosis = diagnose(
        posterior.traces, posterior.trace_names, chains_per_start=posterior.chains_per_start
    )
    posterior = posterior._replace(
        rhat_max=diagnosis.rhat_max, ess_min=diagnosis.ess_min, converged=diagnosis.converged
    )
    return posterior, () if diagnosis.converged else (diagnosis.message,)


class _Selection(NamedTuple):
    """The networks of which an image is made."""

    results: list[Result]
    is_complete: bool
    """Whether no interrupted network was left out."""
    notes: list[str]


def _select(results: Sequence[Result]) -> _Selection:
    sound = [result for result in results if result.status != Status.DIVERGED] or list(results)
    notes = [
        f"network {result.network_index + 1} diverged and is left out"
        for result in results
        if len(sound) < len(results) and result.status == Status.DIVERGED
    ]
    finished = [result for result in sound if result.status != Status.INTERRUPTED]
    num_interrupted = len(sound) - len(finished)
    if not finished or not num_interrupted:
        return _Selection(sound, num_interrupted == 0, notes)
    plural = "networks were" if num_interrupted > 1 else "network was"
    notes.append(f"{num_interrupted} {plural} interrupted and left out")
    return _Selection(finished, False, notes)


def _pool_chains(results: Sequence[Result]) -> tuple[Posterior, np.ndarray, tuple[str, ...]]:
    posterior = pool_chains([r.posterior for r in results if r.posterior is not None])
    if posterior.num_samples:
        return posterior, posterior.mean, ()
    return posterior, np.mean([result.raw for result in results], axis=0), ()


def _pool_seeds(results: Sequence[Result]) -> tuple[Posterior, np.ndarray, tuple[str, ...]]:
    estimates = np.stack([result.raw for result in results])
    excluded = outliers(estimates)
    notes = tuple(
        f"network {results[i].network_index + 1} differs from the others and is left out of the mean"
        for i in excluded
    )
    posterior = pool_seeds(np.delete(estimates, excluded, axis=0), estimates)
    return posterior, posterior.mean, notes
