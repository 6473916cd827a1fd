"""Several networks for each picture, and their answers put together.

The chains of a sampler and the seeds of a fit are networks for the same picture: each is a member of its
own on the batch axis, in a slot of its own, and when all are there they become one result. The first
member is the network that the picture would have alone.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any

import numpy as np

from dip_jax.base import Case, Result, Status
from dip_jax.config import Config, StopConfig
from dip_jax.engine.scheduler import Progress, Store, restore_each
from dip_jax.errors import InputError
from dip_jax.posterior.pooling import outliers, pool_chains, pool_seeds
from dip_jax.problem import MIN_NOISE_STD
from dip_jax.tasks.cases import restore_known_values
from dip_jax.tasks.noise_level import with_noise_std


def num_networks(config: Config) -> int:
    """Networks for each picture: chains of a sampler, or seeds of a fit."""
    return config.sgld.num_chains if config.fit.method == "sgld" else config.fit.num_seeds


def restore_many(
    cases: Iterable[Case],
    config: Config,
    *,
    devices: Sequence[Any] | None = None,
    max_cases: int | None = None,
    store: Store | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[Result]:
    """Restores pictures, each with its own network or several, and yields results as they finish.

    Args:
      cases: Any number of any shapes, with names of their own; read ahead in a thread, so a generator
        that loads them need not hold them. Alike pictures should come one after the other.
      config: The settings.
      devices: Where to compute; by default all devices of this process.
      max_cases: How many cases there are at most, where that is known (the length of a list is): no more slots are made
        than there are networks.
      store: Where pictures in work are saved now and then, and looked for before they are started.
      on_progress: Called between chunks.
      should_stop: Asked between chunks; True saves what is in work and hands it out as it is.

    Yields:
      A result per picture. Its status is `stopped` (by the rule), `done` (all steps), `diverged`,
      `interrupted`, or `failed` with the `error`; but for the last, `image` is the best answer so far.
      A picture's result depends on its name, its problem and the config, not on the others.

    Raises:
      InputError: If samples are wanted of a picture whose noise level is neither known nor can be estimated.
    """
    number = num_networks(config)
    if max_cases is None and isinstance(cases, Sized):
        max_cases = len(cases)
    watch: dict[str, Any] = {
        "devices": devices,
        "max_cases": None if max_cases is None else max_cases * number,
        "store": store,
        "on_progress": on_progress,
        "should_stop": should_stop,
    }
    if number == 1 and config.fit.method == "fit":
        yield from restore_each((with_noise(case, config) for case in cases), config, **watch)
        return
    in_work: dict[str, Case] = {}

    def members() -> Iterator[Case]:
        for case in cases:
            case = with_noise(case, config)
            in_work[case.name] = case
            for member in range(number):
                yield case._replace(network_index=member)

    waiting: dict[str, list[Result]] = {}
    for result in restore_each(members(), config, keep_finished=number > 1, **watch):
        together = waiting.setdefault(result.name, [])
        together.append(result)
        if len(together) == number:
            case = in_work.pop(result.name)
            merged = merge(case, waiting.pop(result.name), config)
            if merged.status == "done" and _wants_point_estimate(config, case):
                merged = _with_point_estimate(merged, case, config, watch)
            yield merged
    for name, together in waiting.items():  # the run was ended before the others were started
        merged = merge(in_work.pop(name), together, config)
        yield merged._replace(status=Status.INTERRUPTED)


def restore(
    cases: Sequence[Case],
    config: Config,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Result]:
    """Restores pictures, each with its own network or several; see `restore_many`.

    Args:
      cases: The pictures, with names of their own.
      config: The settings.
      on_progress: Called between chunks.
      should_stop: Asked between chunks; True ends the run with what there is.

    Returns:
      A result for each case that was started, in order.

    Raises:
      InputError: If two have one name, or the run would need more memory than there is, with the amount
        and what to lower. What else goes wrong with a picture is raised as it is.
    """
    names = [case.name for case in cases]
    if len(set(names)) < len(names):
        raise InputError(f"Pictures need names of their own, came {names}.")
    results = {}
    for result in restore_many(cases, config, on_progress=on_progress, should_stop=should_stop):
        if result.error is not None:
            raise result.error
        results[result.name] = result
    return [results[name] for name in names if name in results]


def with_noise(case: Case, config: Config) -> Case:
    """The case with its noise level estimated, where the settings need one and nobody has said it.

    Raises:
      InputError: If sampling needs it, and it can be neither known nor estimated.
    """
    samples = config.fit.method == "sgld" and config.sgld.sampler != "paper"
    likelihood, rule = config.fit.likelihood, config.stop.rule
    counts = likelihood in ("poisson", "poisson_gauss")
    if samples and not counts:
        case = with_noise_std(case)
        noise_std, has_photons = float(case.problem.noise_std), case.problem.peak is not None
        if np.isnan(noise_std) and not has_photons:
            raise InputError(
                "Sampling needs the noise level: say it with --noise_std=... (of 255)."
            )
        if noise_std < MIN_NOISE_STD and not has_photons:
            note = f"sampled as if it had noise of {255 * MIN_NOISE_STD:.2g} gray levels"
            case = case._replace(notes=(*case.notes, note))
        return case
    if config.fit.method == "sgld" or rule not in ("discrepancy", "sure", "all"):
        return case
    # Of these the level that an estimate finds is not what the rules mean by it.
    if config.task.noise != "salt_and_pepper" and likelihood not in ("interval", "laplace"):
        case = with_noise_std(case)
    noise_std = np.nan_to_num(float(case.problem.noise_std))
    if rule != "all" and noise_std == 0 and case.problem.peak is None:
        note = f"the rule {rule} needs a noise level (--noise_std); without one it never fires"
        case = case._replace(notes=(*case.notes, note))
    return case


def merge(case: Case, results: Sequence[Result], config: Config) -> Result:
    """The result of several networks for one picture.

    Of chains: the mean of all samples; their variance is that within the chains and that between them. Of
    seeds: the mean of the answers, outliers left out. Networks that diverged are left out too, and those that were
    interrupted beside finished ones, unless there are no others.
    """
    results = sorted(results, key=lambda result: result.network_index)
    for result in results:
        if result.error is not None:
            return result
    diverged = [result.network_index for result in results if result.status == "diverged"]
    if len(diverged) == len(results):
        diverged = []
    sound = [result for result in results if result.network_index not in diverged]
    notes = [f"network {member + 1} diverged and is left out" for member in diverged]
    finished = [result for result in sound if result.status != "interrupted"]
    if 0 < len(finished) < len(sound):
        notes.append(f"{len(sound) - len(finished)} networks were interrupted and are left out")
    is_whole = len(finished) == len(sound)
    sound = finished or sound
    if config.fit.method == "sgld":
        posterior = pool_chains([r.posterior for r in sound if r.posterior is not None])
        estimate = np.mean([result.raw for result in sound], axis=0)
        if posterior.num_samples:
            estimate = posterior.mean
    else:
        estimates = np.stack([result.raw for result in sound])
        strange = outliers(estimates)
        notes += [
            f"network {sound[i].network_index + 1} is unlike the others and is left out of the mean"
            for i in strange
        ]
        posterior = pool_seeds(np.delete(estimates, strange, axis=0), estimates)
        estimate = posterior.mean
    image, told = restore_known_values(config.task, case, estimate)
    statuses = [result.status for result in sound]
    order = (Status.INTERRUPTED, Status.DIVERGED, Status.DONE, Status.STOPPED)
    status = next(s for s in order if s in statuses) if is_whole else Status.INTERRUPTED
    first = sound[0]
    return first._replace(
        status=status,
        image=image,
        raw=estimate,
        num_steps=max(result.num_steps for result in results),
        stop_step=round(float(np.median([result.stop_step for result in sound]))),
        num_rollbacks=sum(result.num_rollbacks for result in results),
        seconds=sum(result.seconds for result in results),
        notes=(*told, *notes),
        posterior=posterior,
        network_curves=tuple(result.curve for result in results),
    )


def _wants_point_estimate(config: Config, case: Case) -> bool:
    return config.fit.method == "sgld" and config.sgld.point_estimate and case.reference is not None


def _with_point_estimate(
    merged: Result, case: Case, config: Config, watch: dict[str, Any]
) -> Result:
    """The result with what a fit of as many steps makes of the picture; the slots stand still meanwhile."""
    fit = dataclasses.replace(config.fit, method="fit", num_seeds=1)
    config = dataclasses.replace(config, fit=fit, stop=StopConfig(rule="fixed"))
    found = list(restore_each([case], config, **{**watch, "store": None, "max_cases": 1}))
    if found and found[0].status == "done":
        return merged._replace(point_estimate=found[0])
    note = "the fit to compare with was not finished, so it is left out"
    return merged._replace(notes=(*merged.notes, note))
