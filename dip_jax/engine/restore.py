"""Restoration of images, each by one network or several.

The chains of a sampler and the seeds of a fit are independent networks of one image, each in a slot of its own.
Their results are merged when all have finished. The first of them is the network that the image would have alone.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any

from dip_jax.base import Case, Result, Status
from dip_jax.config import Config, StopConfig
from dip_jax.engine.merge import merge
from dip_jax.engine.observation import Observation
from dip_jax.engine.scheduler import Progress, RunHooks, Store, restore_each
from dip_jax.errors import InputError
from dip_jax.tasks.noise_level import resolve_noise


def num_networks(config: Config) -> int:
    """Returns the number of networks of each image: chains of a sampler, or seeds of a fit."""
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
    on_step: Callable[[Observation], None] | None = None,
    every: int = 100,
) -> Iterator[Result]:
    """Restores images, each with its own networks, and yields results as they finish.

    The result of an image depends on its name, its problem and the config, not on the other images.

    Args:
      cases: Any number of cases of any shapes, with unique names. They are read ahead in a thread, so a generator
        that loads them need not hold them. Put cases of equal shape next to each other: they share a compiled
        program.
      config: The settings.
      devices: Devices to compute on; by default all devices of this process.
      max_cases: Maximum number of cases, so that there are no more slots than networks; by default the length of
        `cases`, if it has one.
      store: Storage for networks in progress, such as a `CheckpointStore`: they are saved there from time to time,
        and continued from there.
      on_progress: Called between chunks of steps.
      should_stop: Called between chunks of steps; True saves the networks in progress, yields their current
        estimates as `interrupted`, and ends the run.
      on_step: Called every `every` steps of each network, and at its end, with an `Observation`: its step, its last
        values, and on request its estimate and its whole state. The fit that sampling is compared with is left out.
      every: Number of steps between two calls of `on_step`. Chunks of steps end there, so a small number costs time.

    Yields:
      A result for each case. Its status is `stopped` (by the stopping rule), `done` (all steps), `diverged`,
      `interrupted`, or `failed`. A failed result has an `error`; every other has the best `image` so far.

    Raises:
      InputError: If `every` is not positive, or sampling needs a noise level that is neither known nor can be
        estimated.

    Example:
      >>> import numpy as np
      >>> from dip_jax import build_case, build_config, restore_many
      >>> net = ["net.kind=deep_decoder", "net.depth=1", "net.width=4", "net.input_depth=4"]
      >>> config = build_config(overrides=["fit.num_steps=1", *net])
      >>> y = np.random.default_rng(0).random((33, 33, 1), np.float32)
      >>> cases = (build_case(config.task, name, y) for name in "ab")
      >>> [(result.name, result.status.value) for result in restore_many(cases, config)]
      [('a', 'done'), ('b', 'done')]
    """
    if every < 1:
        raise InputError(f"Expected `every` to be at least 1, got {every}; 100 is the default.")
    if max_cases is None and isinstance(cases, Sized):
        max_cases = len(cases)
    hooks = RunHooks(devices, store, on_progress, should_stop, on_step, every)
    resolved = (resolve_noise(case, config) for case in cases)
    number = num_networks(config)
    if number == 1 and config.fit.method == "fit":
        yield from restore_each(resolved, config, hooks, max_cases=max_cases)
    else:
        yield from _restore_merged(resolved, config, hooks, number, max_cases)


def _restore_merged(
    cases: Iterable[Case], config: Config, hooks: RunHooks, number: int, max_cases: int | None
) -> Iterator[Result]:
    """Restores each image with `number` networks and yields their merged results."""
    in_progress: dict[str, Case] = {}

    def networks() -> Iterator[Case]:
        for case in cases:
            in_progress[case.name] = case
            for index in range(number):
                yield case._replace(network_index=index)

    finished: dict[str, list[Result]] = {}
    for result in restore_each(
        networks(),
        config,
        hooks,
        max_cases=None if max_cases is None else number * max_cases,
        save_finished=number > 1,
    ):
        results = finished.setdefault(result.name, [])
        results.append(result)
        if len(results) == number:
            case = in_progress.pop(result.name)
            merged = merge(case, finished.pop(result.name), config)
            if _needs_point_estimate(merged, case, config):
                merged = _with_point_estimate(merged, case, config, hooks)
            yield merged
    for name, results in finished.items():  # the run ended before their other networks had started
        merged = merge(in_progress.pop(name), results, config)
        yield merged._replace(status=Status.INTERRUPTED)


def restore(
    cases: Sequence[Case],
    config: Config,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    on_step: Callable[[Observation], None] | None = None,
    every: int = 100,
) -> list[Result]:
    """Restores images, each with its own networks; see `restore_many`.

    Args:
      cases: The cases, with unique names.
      config: The settings.
      on_progress: Called between chunks of steps.
      should_stop: Called between chunks of steps; True ends the run with the current estimates.
      on_step: Called every `every` steps of each network, and at its end; see `restore_many`.
      every: Number of steps between two calls of `on_step`.

    Returns:
      A result for each case that was started, in the order of the cases.

    Raises:
      InputError: If two cases have the same name, `every` is not positive, or the run needs more memory than is
        available, with the amount and the settings that lower it. Any other error of a case is raised unchanged.

    Example:
      >>> import numpy as np
      >>> from dip_jax import build_case, build_config
      >>> net = ["net.kind=deep_decoder", "net.depth=1", "net.width=4", "net.input_depth=4"]
      >>> config = build_config(overrides=["fit.num_steps=1", *net])
      >>> y = np.random.default_rng(0).random((33, 33, 1), np.float32)
      >>> (result,) = restore([build_case(config.task, "a", y)], config)
      >>> result.image.shape
      (33, 33, 1)
    """
    names = [case.name for case in cases]
    if len(set(names)) < len(names):
        raise InputError(f"Expected unique names of cases, got {names}; rename the cases.")
    results = {}
    for result in restore_many(
        cases,
        config,
        on_progress=on_progress,
        should_stop=should_stop,
        on_step=on_step,
        every=every,
    ):
        if result.error is not None:
            raise result.error
        results[result.name] = result
    return [results[name] for name in names if name in results]


def _needs_point_estimate(merged: Result, case: Case, config: Config) -> bool:
    return (
        merged.status == Status.DONE
        and config.fit.method == "sgld"
        and config.sgld.point_estimate
        and case.reference is not None
    )


def _with_point_estimate(merged: Result, case: Case, config: Config, hooks: RunHooks) -> Result:
    """Adds the result of a fit with as many steps; the other networks wait for it."""
    fit = dataclasses.replace(config.fit, method="fit", num_seeds=1)
    config = dataclasses.replace(config, fit=fit, stop=StopConfig(rule="fixed"))
    hooks = hooks._replace(store=None, on_step=None)
    results = list(restore_each([case], config, hooks, max_cases=1))
    if results and results[0].status == Status.DONE:
        return merged._replace(point_estimate=results[0])
    note = "the fit for comparison was not finished, so it is left out"
    return merged._replace(notes=(*merged.notes, note))
