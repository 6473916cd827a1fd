"""Restoration of images, each by one network or several.

The chains of a sampler and the seeds of a fit are independent networks of one image, each in a slot of its own.
Their results are merged when all have finished. The first of them is the network that the image would have alone.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any

from dip_jax.base import Case, Result, Status
from dip_jax.config import Config, RunConfig
from dip_jax.engine.active_network import SavedNetwork
from dip_jax.engine.devices import made_on_host, on_host
from dip_jax.engine.estimator import Estimator
from dip_jax.engine.from_config import estimator_from_config
from dip_jax.engine.intervals import bootstrap, linearize
from dip_jax.engine.merge import merge
from dip_jax.engine.observation import Observation
from dip_jax.engine.scheduler import (
    Progress,
    RunHooks,
    Store,
    report_phase,
    restore_each,
    without_frames,
)
from dip_jax.errors import InputError
from dip_jax.operators.from_function import as_operator


def restore_many(
    cases: Iterable[Case],
    estimator: Estimator | Config,
    *,
    run: RunConfig | None = None,
    devices: Sequence[Any] | None = None,
    max_cases: int | None = None,
    store: Store | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    start: Iterable[Result] = (),
    keep_networks: bool = False,
    on_step: Callable[[Observation], None] | None = None,
    every: int = 100,
) -> Iterator[Result]:
    """Restores images, each with its own networks, and yields results as they finish.

    The result of an image depends on its name, its problem, the estimator and the seed, not on the other images.

    Args:
      cases: Any number of cases of any shapes, with unique names. They are read ahead in a thread, so a generator
        that loads them need not hold them. Put cases of equal shape next to each other: they share a compiled
        program.
      estimator: The fit or sampler, with its stopping rule; or a config that describes one.
      run: How the run uses the machine, and its seed; None for `config.run`, or the defaults.
      devices: Devices to compute on; by default all devices of this process.
      max_cases: Maximum number of cases, so that there are no more slots than networks; by default the length of
        `cases`, if it has one.
      store: Storage for networks in progress, such as a `CheckpointStore`: they are saved there from time to time,
        and continued from there.
      on_progress: Called between chunks of steps.
      should_stop: Called between chunks of steps; True saves the networks in progress, yields their current
        estimates as `interrupted`, and ends the run.
      start: Earlier results of some of the cases, with their networks, that are continued: raise `num_steps`.
      keep_networks: Return the network, its weights and its whole state in each result. This takes about seven times
        the memory of the weights.
      on_step: Called every `every` steps of each network, and at its end, with an `Observation`: its step, its last
        values, and on request its estimate and its whole state. The fit that sampling is compared with is left out.
      every: Number of steps between two calls of `on_step`. Chunks of steps end there, so a small number costs time.

    Yields:
      A result for each case. Its status is `stopped` (by the stopping rule), `done` (all steps), `diverged`,
      `interrupted`, or `failed`. A failed result has an `error`; every other has the best `image` so far.

    Raises:
      InputError: If `every` is not positive, `run.log` is set, sampling needs a noise level that is neither known nor can be estimated,
        or a result in `start` has no network or belongs to another case or algorithm.

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
    if isinstance(estimator, Config):
        run = estimator.run if run is None else run
        estimator = estimator_from_config(estimator)
    run = RunConfig() if run is None else run
    if run.log != "none":
        raise InputError(
            f"run.log={run.log} belongs to the command and to restore_files, which have an output folder; write logs from "
            "on_step."
        )
    if max_cases is None and isinstance(cases, Sized):
        max_cases = len(cases)
    hooks = RunHooks(
        devices=devices,
        store=store,
        on_progress=on_progress,
        should_stop=should_stop,
        on_step=on_step,
        every=every,
        start=_saved_networks(start),
        keep_networks=keep_networks,
    )
    notes: dict[str, tuple[str, ...]] = {}

    def prepared() -> Iterator[Case]:
        for case in cases:
            with on_host():
                complete = estimator.prepared(_with_operator(case))
            notes[case.name] = complete.notes[len(case.notes) :]
            yield complete

    for result in _restore_all(prepared(), estimator, run, hooks, max_cases=max_cases):
        yield result._replace(notes=(*notes.pop(result.name, ()), *result.notes))


def _with_operator(case: Case) -> Case:
    """The case with an operator in place of a plain function."""
    operator = as_operator(case.problem.operator, case.shape)
    return case._replace(problem=case.problem._replace(operator=operator))


def _saved_networks(results: Iterable[Result]) -> dict[str, SavedNetwork]:
    """The networks of earlier results by their labels."""
    saved: dict[str, SavedNetwork] = {}
    for result in results:
        if not result.networks:
            raise InputError(
                f"{result.name}: expected a result with its networks, got none; restore it with keep_networks=True."
            )
        saved |= {network.name: network for network in result.networks}
    return saved


def _restore_all(
    cases: Iterable[Case],
    estimator: Estimator,
    run: RunConfig,
    hooks: RunHooks,
    max_cases: int | None,
) -> Iterator[Result]:
    """Restores prepared cases, each with its networks and its intervals, and yields their merged results."""
    if estimator.num_networks == 1 and not estimator.is_sampler and estimator.intervals is None:
        yield from restore_each(cases, estimator, run, hooks, max_cases=max_cases)
        return
    number, ensemble, intervals = estimator.num_networks, estimator.ensemble, estimator.intervals
    needs_network = intervals is not None and intervals.needs_network
    of_networks = hooks._replace(keep_networks=hooks.keep_networks or needs_network)
    in_progress: dict[str, Case] = {}
    members: dict[str, list[Case]] = {}

    def networks() -> Iterator[Case]:
        for case in cases:
            in_progress[case.name] = case
            has_guides = ensemble is not None and ensemble.is_guided
            if has_guides and len(in_progress) == 1:  # no network makes steps
                report_phase(hooks, case.name, "making guides", estimator.num_steps)
            of_case = members.setdefault(case.name, [])
            for member in made_on_host(_networks(case, estimator, run.seed)):
                of_case.append(member)
                yield member

    finished: dict[str, list[Result]] = {}
    for result in restore_each(
        networks(),
        estimator,
        run,
        of_networks,
        max_cases=None if max_cases is None else number * max_cases,
        save_finished=number > 1 or intervals is not None,
    ):
        results = finished.setdefault(result.name, [])
        results.append(result)
        if len(results) == number:
            case = in_progress.pop(result.name)
            if ensemble is not None and not in_progress:
                report_phase(hooks, case.name, "combining networks", estimator.num_steps)
            with on_host():
                merged = merge(
                    case,
                    finished.pop(result.name),
                    ensemble,
                    members.pop(result.name),
                    run.seed,
                    chains_per_start=estimator.chains_per_start,
                )
            if (
                estimator.comparison is not None
                and merged.status == Status.DONE
                and case.reference is not None
            ):
                merged = _with_point_estimate(merged, case, estimator.comparison, run, hooks)
            if intervals is not None and merged.status in (Status.DONE, Status.STOPPED):
                merged = _with_intervals(merged, case, estimator, run, hooks)
            if needs_network and not hooks.keep_networks:
                merged = merged._replace(net=None, networks=())
            yield merged
    for name, results in finished.items():  # the run ended before their other networks had started
        with on_host():
            merged = merge(in_progress.pop(name), results, ensemble, members.pop(name), run.seed)
        yield merged._replace(status=Status.INTERRUPTED)


def _networks(case: Case, estimator: Estimator, seed: int) -> Iterator[Case]:
    """Yields the case of each network."""
    if estimator.ensemble is not None:
        yield from estimator.ensemble.members(case, seed)
        return
    for index in range(estimator.num_networks):
        yield case._replace(network_index=index)


def restore(
    cases: Sequence[Case],
    estimator: Estimator | Config,
    *,
    run: RunConfig | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    start: Iterable[Result] = (),
    keep_networks: bool = True,
    on_step: Callable[[Observation], None] | None = None,
    every: int = 100,
) -> list[Result]:
    """Restores images, each with its own networks; see `restore_many`.

    Args:
      cases: The cases, with unique names.
      estimator: The fit or sampler, with its stopping rule; or a config that describes one.
      run: How the run uses the machine, and its seed; None for `config.run`, or the defaults.
      on_progress: Called between chunks of steps.
      should_stop: Called between chunks of steps; True ends the run with the current estimates.
      start: Earlier results that are continued.
      keep_networks: Return the network, its weights and its whole state in each result; about 60 MB for an image with
        the standard network.
      on_step: Called every `every` steps of each network, and at its end; see `restore_many`.
      every: Number of steps between two calls of `on_step`.

    Returns:
      A result for each case that was started, in the order of the cases.

    Raises:
      InputError: If two cases have the same name, `every` is not positive, or the run needs more memory than is
        available, with the amount and the settings that lower it. Any other error of a case is raised unchanged.

    Example:
      >>> import numpy as np
      >>> from dip_jax import Estimator, build_case, build_config, build_fit, nets, restore
      >>> y = np.random.default_rng(0).random((33, 33, 1), np.float32)
      >>> case = build_case(build_config().task, "a", y)
      >>> fit = build_fit(nets.deep_decoder(depth=1, width=4, input_depth=4))
      >>> (result,) = restore([case], Estimator(fit, num_steps=2))
      >>> (again,) = restore([case], Estimator(fit, num_steps=4), start=[result])
      >>> result.image.shape, result.num_steps, again.num_steps
      ((33, 33, 1), 2, 4)
      >>> result.net.apply(result.params, result.code).shape
      (33, 33, 1)
    """
    names = [case.name for case in cases]
    if len(set(names)) < len(names):
        raise InputError(f"Expected unique names of cases, got {names}; rename the cases.")
    start = list(start)
    for result in start:
        if result.name not in names:
            raise InputError(f"The result {result.name!r} belongs to none of the cases {names}.")
    results = {}
    for result in restore_many(
        cases,
        estimator,
        run=run,
        on_progress=on_progress,
        should_stop=should_stop,
        on_step=on_step,
        every=every,
        start=start,
        keep_networks=keep_networks,
    ):
        if result.error is not None:
            raise result.error
        results[result.name] = result
    return [results[name] for name in names if name in results]


def _with_intervals(
    merged: Result, case: Case, estimator: Estimator, run: RunConfig, hooks: RunHooks
) -> Result:
    """Adds the intervals of a fit; the other networks wait for them."""
    try:
        return _intervals(merged, case, estimator, run, hooks)
    except Exception as error:  # most likely out of memory; the fit itself is sound
        note = f"no intervals: {without_frames(error)}"
        return merged._replace(notes=(*merged.notes, note))


def _intervals(
    merged: Result, case: Case, estimator: Estimator, run: RunConfig, hooks: RunHooks
) -> Result:
    intervals = estimator.intervals
    assert intervals is not None
    if intervals.kind == "linearized":
        return linearize(case, merged, intervals, seed=run.seed)
    alone = hooks._replace(store=None, on_step=None, start={}, keep_networks=False)
    plain = dataclasses.replace(estimator, intervals=None)

    def restore_replicates(replicates: Iterable[Case]) -> Iterator[Result]:
        cases = map(plain.prepared, replicates)
        return _restore_all(cases, plain, run, alone, max_cases=intervals.number)

    return bootstrap(case, merged, intervals.number, restore_replicates, seed=run.seed)


def _with_point_estimate(
    merged: Result, case: Case, estimator: Estimator, run: RunConfig, hooks: RunHooks
) -> Result:
    """Adds the result of a fit with as many steps; the other networks wait for it."""
    alone = hooks._replace(store=None, on_step=None, start={}, keep_networks=False)
    results = list(restore_each([case], estimator, run, alone, max_cases=1))
    if results and results[0].status == Status.DONE:
        return merged._replace(point_estimate=results[0])
    note = "the fit for comparison was not finished, so it is left out"
    return merged._replace(notes=(*merged.notes, note))
