"""The forecast of a run before it starts: memory from the compiled program, time from a short probe."""

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
import psutil

from dip_jax.base import Case
from dip_jax.batch.inputs import LazyInput
from dip_jax.config import Config
from dip_jax.engine.canvas import canvas_shape, pad_case
from dip_jax.engine.chunk_size import max_steps
from dip_jax.engine.from_config import estimator_from_config
from dip_jax.engine.memory import peak_bytes
from dip_jax.engine.slots import Slots
from dip_jax.errors import InputError
from dip_jax.tasks.cases import operator_class
from dip_jax.tasks.noise_level import resolve_noise

# Duration of the probe; a single step may take longer.
_PROBE_SECONDS = 4.0


class Plan(NamedTuple):
    """The forecast for the images that share a canvas, and with it a compiled program."""

    shape: tuple[int, int, int]
    """Height, width and channels of the canvas."""
    num_images: int
    """Number of images."""
    num_networks: int
    """Number of networks for all of them."""
    num_slots: int
    """Number of networks that this process fits in parallel, on all its devices."""
    bytes_per_slot: int
    """Device memory of a slot."""
    peak_bytes: int
    """Peak memory: of the whole process on CPU, of a device elsewhere."""
    compile_seconds: float
    """Seconds that the compilation takes."""
    seconds_per_step: float
    """Seconds per step of one network, with all slots in use."""
    num_steps: int
    """Maximum number of steps; a stopping rule may end earlier."""
    seconds_on_host: float = 0.0
    """Seconds that the host takes for each image beside its fits: guides and filters."""

    @property
    def gigabytes_per_megapixel(self) -> float:
        """Device memory of a slot, weights included, divided by the pixels of the canvas."""
        return self.bytes_per_slot / 1e3 / (self.shape[0] * self.shape[1])

    @property
    def seconds(self) -> float:
        """Maximum duration for all images."""
        rounds = math.ceil(self.num_networks / self.num_slots)
        fits = rounds * self.num_steps * self.seconds_per_step
        return self.compile_seconds + fits + self.num_images * self.seconds_on_host


def seconds_since_start() -> float:
    """Seconds since this process started, which every run takes before its first image."""
    return time.time() - psutil.Process().create_time()


def plan_inputs(inputs: Sequence[LazyInput], config: Config) -> list[Plan]:
    """Forecasts a run by compiling and probing each program that it would use.

    Args:
      inputs: The images, see `list_inputs`. Their headers determine the canvases.
      config: The settings.

    Returns:
      A forecast for each canvas, in the order of their first images. Unreadable images are left out.

    Raises:
      InputError: If no image can be read, or one does not fit into memory.
    """
    operator, sides_per_octave = operator_class(config.task), config.net.sides_per_octave
    groups: dict[tuple[int, int, int], list[LazyInput]] = {}
    for lazy in inputs:
        if lazy.shape is not None:
            canvas = canvas_shape(lazy.shape, operator, sides_per_octave)
            groups.setdefault(canvas, []).append(lazy)
    plans, last_error = [], None
    for group in groups.values():
        for lazy in group:
            try:
                resolved = resolve_noise(lazy.load().case, config)
                case = pad_case(resolved, sides_per_octave)
            except InputError as error:
                last_error = error
                continue
            seconds = estimator_from_config(config).seconds_on_host(resolved)
            plans.append(_probe(case, len(group), config)._replace(seconds_on_host=seconds))
            break
    if not plans:
        raise last_error or InputError("None of the images can be read.")
    return plans


def _probe(case: Case, num_images: int, config: Config) -> Plan:
    """Compiles the program for `case` and runs a few steps in all slots."""
    num_fits = num_images * config.num_fits
    slots = Slots(case, estimator_from_config(config), config.run, max_cases=num_fits)
    peak = slots.bytes_per_device
    if jax.default_backend() == "cpu":
        resident = psutil.Process().memory_info().rss
        peak = max(peak_bytes(), resident + peak * len(slots.devices))
    for index in range(min(len(slots), num_fits)):
        slots.put(index, case)
    slots.advance(1)  # touches all memory for the first time, which is slower than a later step
    clock = time.perf_counter()
    slots.advance(1)
    seconds = time.perf_counter() - clock
    num_steps = int(np.clip(_PROBE_SECONDS / seconds, 1, max_steps(config.run)))
    clock = time.perf_counter()
    status, _ = slots.advance(num_steps)
    seconds_per_step = (time.perf_counter() - clock) / max(1, int(status.num_steps.max()) - 2)
    return Plan(
        shape=case.shape,
        num_images=num_images,
        num_networks=num_fits,
        num_slots=len(slots),
        bytes_per_slot=slots.bytes_per_device // slots.per_device,
        peak_bytes=peak,
        compile_seconds=slots.compile_seconds,
        seconds_per_step=seconds_per_step,
        num_steps=config.fit.num_steps,
    )
