"""What a run will cost, before it runs: memory from the compiled program, time from a short probe."""

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
from dip_jax.engine.canvas import canvas_side, pad_case
from dip_jax.engine.memory import peak_bytes
from dip_jax.engine.restore import num_networks, with_noise
from dip_jax.engine.slots import Slots
from dip_jax.errors import InputError
from dip_jax.tasks.cases import is_pixelwise

# The probe lasts about so long, or one step if that takes longer.
_PROBE_SECONDS = 4.0


class Plan(NamedTuple):
    """The forecast for the pictures that one program serves."""

    shape: tuple[int, int, int]
    """Height, width and channels of their canvas."""
    num_images: int
    """Networks: with several for each picture, so many times more."""
    num_slots: int
    """How many are fitted side by side, on all devices of this process."""
    bytes_per_image: int
    """Device memory of a slot."""
    peak_bytes: int
    """On CPU the most memory of the whole process, elsewhere of a device."""
    compile_seconds: float
    seconds_per_step: float
    """Of a picture, with all slots in use."""
    num_steps: int
    """At most; a stopping rule may end earlier."""

    @property
    def gigabytes_per_megapixel(self) -> float:
        """Device memory of a slot, weights and all, for the pixels of its canvas."""
        return self.bytes_per_image / 1e3 / (self.shape[0] * self.shape[1])

    @property
    def seconds(self) -> float:
        """At max_cases, for all of them."""
        rounds = math.ceil(self.num_images / self.num_slots)
        return self.compile_seconds + rounds * self.num_steps * self.seconds_per_step


def seconds_since_start() -> float:
    """How long this process has been there: what every run takes before its first picture."""
    return time.time() - psutil.Process().create_time()


def plan_inputs(entries: Sequence[LazyInput], config: Config) -> list[Plan]:
    """Forecasts a run over entries by compiling and probing each program that it would use.

    Args:
      entries: The pictures, see `list_inputs`.
      config: The settings.

    Returns:
      A forecast for each canvas, in the order of their first pictures; the pictures' headers decide
      which canvas that is. Pictures that cannot be read are left out.

    Raises:
      InputError: If no picture can be read, or one would not fit into memory.
    """
    groups: dict[tuple[int, int, int], list[LazyInput]] = {}
    per_octave = config.net.sides_per_octave if is_pixelwise(config.task) else 0
    for entry in entries:
        if entry.shape is not None:
            height, width, channels = entry.shape
            canvas = canvas_side(height, per_octave), canvas_side(width, per_octave), channels
            groups.setdefault(canvas, []).append(entry)
    plans, fault = [], None
    for group in groups.values():
        for entry in group:
            try:
                case = pad_case(with_noise(entry.load().case, config), per_octave)
            except InputError as error:
                fault = error
                continue
            plans.append(_probe(case, len(group) * num_networks(config), config))
            break
    if not plans:
        raise fault or InputError("None of the pictures can be read.")
    return plans


def _probe(case: Case, num_images: int, config: Config) -> Plan:
    """Compiles the program and runs a few steps."""
    slots = Slots(case, config, max_cases=num_images)
    peak = slots.bytes_per_device
    if jax.default_backend() == "cpu":
        resident = psutil.Process().memory_info().rss
        peak = max(peak_bytes(), resident + peak * len(slots.devices))
    for index in range(min(len(slots), num_images)):
        slots.put(index, case)
    slots.advance(1)  # the first touch of all memory is not what a step takes
    clock = time.perf_counter()
    slots.advance(1)
    seconds = time.perf_counter() - clock
    count = int(np.clip(_PROBE_SECONDS / seconds, 1, config.run.chunk))
    clock = time.perf_counter()
    status, _ = slots.advance(count)
    seconds = (time.perf_counter() - clock) / max(1, int(status.num_steps.max()) - 2)
    return Plan(
        shape=case.shape,
        num_images=num_images,
        num_slots=len(slots),
        bytes_per_image=slots.bytes_per_device // slots.per_device,
        peak_bytes=peak,
        compile_seconds=slots.compile_seconds,
        seconds_per_step=seconds,
        num_steps=config.fit.num_steps,
    )
