"""The loop: pictures of one shape side by side, chunks of steps in one dispatch, results as numpy.

Everything here has a batch axis (a batch of one is a batch). A chunk is one compiled program: for each
image a `while` loop that runs up to `count` steps, or fewer where the image is done. How the images
share a device is `run.share`: `map` (one after the other: right on CPU, where one image fills the
machine) or `vmap` (side by side: right on GPU and TPU).

The host never waits for a step: it dispatches the next chunk before it reads the numbers of the last.
"""

import collections
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax import lax

from dip_jax.base import Algorithm, Array, Case, Info, InputError, Problem, Result, Stopper
from dip_jax.config import Config
from dip_jax.fit import FitState, average_lag, build_fit
from dip_jax.metrics import psnr
from dip_jax.nets import build_net, num_params
from dip_jax.stopping import build_stopper
from dip_jax.tasks import paste_known

# A chunk should last about this long: short enough for Ctrl-C, long enough to hide its overhead.
_CHUNK_SECONDS = 3.0


class Answer(NamedTuple):
    """The image that the stopping rule would hand out now."""

    image: Array
    """The running average `[H, W, C]` at the best step."""
    step: Array


class Slot(NamedTuple):
    """All that is kept of one image between chunks."""

    state: FitState
    stop: Any
    answer: Answer


class Progress(NamedTuple):
    """What is known while a batch runs."""

    names: tuple[str, ...]
    step: int
    """Steps of the image that is furthest."""
    num_steps: int
    steps_per_second: float
    seconds_left: float
    loss: float
    """Mean over the images, of the last step."""
    psnr: float | None
    """Of the running average, mean over the images with a reference."""


_LOGS = ("loss", "psnr", "psnr_average", "variance")


def picture_key(seed: int, name: str) -> Array:
    """The random key of a picture: from the run's seed and its own name, not from its place."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def build_chunk(
    algorithm: Algorithm, stopper: Stopper, config: Config, *, side_by_side: bool
) -> Any:
    """Builds `chunk(slots, problems, references, count) -> (slots, logs, running)`.

    Args:
      algorithm: The estimator.
      stopper: The stopping rule.
      config: For `fit.num_steps` and `run.chunk`, the most steps of one chunk.
      side_by_side: `vmap` over the images, otherwise `map`.

    Returns:
      A jitted function of trees with a batch axis. `references` may be None; `count` is how many steps
      to run, at most `run.chunk`. `logs` are arrays `[N, run.chunk]`, among them `step`, -1 where none was
      made; `running[N]` says which images go on. The slots are donated.
    """

    def log(step: Array, info: Info, stop: Any, reference: Array | None) -> dict[str, Array]:
        nan = jnp.float32(jnp.nan)
        return {
            "step": step,
            "loss": info.loss,
            "psnr": nan if reference is None else psnr(info.image, reference),
            "psnr_average": nan if reference is None else psnr(info.average, reference),
            "variance": getattr(stop, "variance", nan),
        }

    def goes_on(slot: Slot) -> Array:
        return (slot.state.step < config.fit.num_steps) & ~slot.stop.done & ~slot.state.diverged

    def one(slot: Slot, problem: Problem, reference: Array | None, count: Array) -> Any:
        def more(carry):
            i, slot, _ = carry
            return (i < count) & goes_on(slot)

        def body(carry):
            i, slot, logs = carry
            step = slot.state.step
            state, info = algorithm.step(problem, slot.state)
            stop, improved = stopper.update(slot.stop, step, info)
            answer = lax.cond(improved, lambda: Answer(info.average, step), lambda: slot.answer)
            values = log(step, info, stop, reference)
            logs = {name: logs[name].at[i].set(values[name]) for name in logs}
            return i + 1, Slot(state, stop, answer), logs

        empty = {name: jnp.full((config.run.chunk,), jnp.nan) for name in _LOGS}
        empty["step"] = jnp.full((config.run.chunk,), -1)
        _, slot, logs = lax.while_loop(more, body, (jnp.int32(0), slot, empty))
        return slot, logs, goes_on(slot)

    def chunk(slots: Slot, problems: Problem, references: Array | None, count: Array):
        if side_by_side:
            return jax.vmap(one, in_axes=(0, 0, 0, None))(slots, problems, references, count)
        return lax.map(lambda x: one(x[0], x[1], x[2], count), (slots, problems, references))

    return jax.jit(chunk, donate_argnums=0)


def group_cases(cases: Iterable[Case], size: int) -> Iterator[list[Case]]:
    """Groups cases that one program can serve: same shape and operator, at most `size` each."""
    groups: dict[Any, list[Case]] = {}
    for case in cases:
        leaves, tree = jax.tree.flatten(case.problem)
        shapes = tuple(np.shape(leaf) for leaf in leaves)
        groups.setdefault((case.shape, case.reference is None, tree, shapes), []).append(case)
    for group in groups.values():
        for first in range(0, len(group), size):
            yield group[first : first + size]


def restore(
    cases: Sequence[Case],
    config: Config,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Result]:
    """Restores pictures of one shape, each with its own network.

    Args:
      cases: One or more of the same shape and operator (see `group_cases`).
      config: The settings.
      on_progress: Called between chunks.
      should_stop: Asked between chunks; True ends the run with what there is.

    Returns:
      A result for each case, in order. Their status is `stopped` (by the rule), `done` (all steps),
      `interrupted` or `diverged`; `image` is the best answer so far in every case.

    Raises:
      InputError: If the run would need more memory than there is, with the amount and what to lower.
    """
    shape = cases[0].shape
    net = build_net(config.net, shape)
    algorithm = build_fit(config.fit, net)
    stopper = build_stopper(config.stop, lag=average_lag(config.fit))

    def init(key: Array, problem: Problem) -> Slot:
        answer = Answer(jnp.zeros(shape), jnp.int32(0))
        return Slot(algorithm.init(key, problem), stopper.init(shape), answer)

    @jax.jit
    def init_all(keys: Array, problems: Problem) -> Slot:
        return lax.map(lambda pair: init(*pair), (keys, problems))

    problems = _stack([case.problem for case in cases])
    references = None
    if cases[0].reference is not None:
        references = jnp.stack([jnp.asarray(case.reference) for case in cases])
    keys = jnp.stack([picture_key(config.run.seed, case.name) for case in cases])

    clock = time.perf_counter()
    chunk = build_chunk(algorithm, stopper, config, side_by_side=_side_by_side(config))
    shapes = jax.eval_shape(init_all, jax.ShapeDtypeStruct(keys.shape, keys.dtype), problems)
    compiled = chunk.lower(shapes, problems, references, jnp.int32(0)).compile()
    _require_memory(compiled.memory_analysis(), config, shape, len(cases))
    slots = init_all(keys, problems)
    jax.block_until_ready(slots)
    compile_seconds = time.perf_counter() - clock

    def dispatch() -> tuple[dict[str, Array], Array]:
        nonlocal slots
        slots, logs, running = compiled(slots, problems, references, jnp.int32(pace.count))
        return logs, running

    clock = time.perf_counter()
    pace = _Pace(config.run.chunk)
    logs: list[dict[str, np.ndarray]] = []
    queue = collections.deque([dispatch()])
    running, interrupted = True, False
    while queue:
        # The next chunk is queued before the last one's numbers are read; only the first is awaited,
        # because it tells how long a step takes.
        if logs and not interrupted and running:
            queue.append(dispatch())
        chunk_logs, chunk_running = jax.device_get(queue.popleft())
        logs.append(chunk_logs)
        running = bool(chunk_running.any())
        num_made = int((chunk_logs["step"] >= 0).any(axis=0).sum())
        if num_made:
            pace.update(num_made)
            if on_progress is not None:
                on_progress(_progress(cases, config, chunk_logs, pace))
        interrupted = interrupted or should_stop()
        if not queue and running and not interrupted:
            queue.append(dispatch())
    seconds = time.perf_counter() - clock
    columns = {name: np.concatenate([log[name] for log in logs], axis=1) for name in logs[0]}
    results = []
    for i, case in enumerate(cases):
        slot = jax.tree.map(lambda leaf, i=i: leaf[i], slots)
        raw = np.asarray(slot.answer.image)
        pastes = config.task.paste_known and float(case.problem.noise_std) == 0
        made = columns["step"][i] >= 0
        results.append(
            Result(
                name=case.name,
                status=_status(slot, config, interrupted),
                image=paste_known(case.problem, raw) if pastes else raw,
                raw=raw,
                num_steps=int(slot.state.step),
                stop_step=int(slot.answer.step),
                num_rollbacks=int(slot.state.num_rollbacks),
                num_params=num_params(slot.state.params),
                curve={name: column[i][made] for name, column in columns.items()},
                seconds=seconds,
                compile_seconds=compile_seconds,
            )
        )
    return results


def _status(slot: Slot, config: Config, interrupted: bool) -> str:
    if slot.state.diverged:
        return "diverged"
    if slot.stop.done:
        return "stopped"
    return "interrupted" if interrupted and slot.state.step < config.fit.num_steps else "done"


def _stack(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack([jnp.asarray(leaf) for leaf in leaves]), *trees)


def _side_by_side(config: Config) -> bool:
    if config.run.share == "auto":
        return jax.default_backend() != "cpu"
    return config.run.share == "vmap"


def batch_size(config: Config) -> int:
    """How many images share the device: `run.batch`, by default 1 on CPU and 8 elsewhere."""
    if config.run.batch is not None:
        return config.run.batch
    return 1 if jax.default_backend() == "cpu" else 8


def _require_memory(analysis: Any, config: Config, shape: tuple[int, ...], num: int) -> None:
    """Refuses, before anything runs, what would not fit; `analysis` is the compiler's forecast."""
    needed = (
        analysis.temp_size_in_bytes
        + analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
    )
    if config.run.max_memory is not None:
        available = config.run.max_memory * 1e9
    elif jax.default_backend() == "cpu":
        available = psutil.virtual_memory().available
    else:
        available = (jax.devices()[0].memory_stats() or {}).get("bytes_limit", np.inf)
    if needed > available:
        raise InputError(
            f"{num} picture{'s' * (num > 1)} of {shape[1]} x {shape[0]} would need about "
            f"{needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are available; use a smaller "
            "picture, fewer channels (--preset=denoise_small or --set net.channels_down=...), or say "
            "that there is more (--set run.max_memory=GB)."
        )


class _Pace:
    """How many steps the next chunk makes, so that it lasts about `_CHUNK_SECONDS`."""

    def __init__(self, most: int):
        self.count = 1
        self.done = 0
        self.steps_per_second = 0.0
        self._most = most
        self._clock = time.perf_counter()

    def update(self, steps: int) -> None:
        """Learns from `steps` that have ended since the last call."""
        now = time.perf_counter()
        speed = steps / max(now - self._clock, 1e-6)
        self._clock = now
        self.done += steps
        # The first chunk pays for first-time allocations, so it is soon forgotten.
        old = self.steps_per_second
        self.steps_per_second = speed if self.done <= 2 * steps else 0.7 * old + 0.3 * speed
        self.count = int(np.clip(round(_CHUNK_SECONDS * speed), 1, self._most))


def _progress(
    cases: Sequence[Case], config: Config, logs: dict[str, np.ndarray], pace: _Pace
) -> Progress:
    step = int(logs["step"].max())
    newest = logs["step"] == step
    psnr_now = float(np.mean(logs["psnr_average"][newest]))
    return Progress(
        names=tuple(case.name for case in cases),
        step=step + 1,
        num_steps=config.fit.num_steps,
        steps_per_second=pace.steps_per_second,
        seconds_left=(config.fit.num_steps - step - 1) / max(pace.steps_per_second, 1e-9),
        loss=float(np.mean(logs["loss"][newest])),
        psnr=None if np.isnan(psnr_now) else psnr_now,
    )
