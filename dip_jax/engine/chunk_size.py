"""The number of steps in a chunk."""

import math
import time

from dip_jax.config import RunConfig
from dip_jax.engine.devices import is_cpu

# Target duration of a chunk in seconds: short enough to stop and refill soon, long enough to hide the cost of a
# dispatch, which on CPU includes the first touch of its memory.
_SECONDS_ON_CPU, _SECONDS_ELSEWHERE = 3.0, 0.5
# A GPU makes 1000 steps of a small image in that time.
_STEPS_ON_CPU, _STEPS_ELSEWHERE = 100, 1000


def max_steps(run: RunConfig) -> int:
    """Returns the maximum number of steps of a chunk: `run.chunk`, or by default 100 on CPU and 1000 elsewhere."""
    if run.chunk is not None:
        return run.chunk
    return _STEPS_ON_CPU if is_cpu() else _STEPS_ELSEWHERE


class ChunkSizer:
    """Chooses the number of steps of the next chunk, so that a chunk takes a fixed time."""

    def __init__(self, max_count: int, block: int = 1):
        """Begins with one step.

        Args:
          max_count: Maximum number of steps in a chunk.
          block: Steps of a block; a count is a multiple of it unless `max_count` limits it.
        """
        self.count = 1
        """Number of steps of the next chunk."""
        self.steps_per_second = math.nan
        """Measured speed, a moving average; NaN before the end of the second chunk."""
        self._max_count, self._block = max_count, block
        self._num_chunks = 0
        self._clock = 0.0

    def start(self) -> None:
        """Starts the clock of a chunk."""
        self._clock = time.perf_counter()

    def update(self, num_steps: int) -> None:
        """Ends a chunk of `num_steps` steps and chooses the next count."""
        if not num_steps:
            return
        speed = num_steps / max(time.perf_counter() - self._clock, 1e-6)
        self._num_chunks += 1
        if self._num_chunks == 2:  # the first chunk includes first-time allocations
            self.steps_per_second = speed
        elif self._num_chunks > 2:
            self.steps_per_second = 0.7 * self.steps_per_second + 0.3 * speed
        seconds = _SECONDS_ON_CPU if is_cpu() else _SECONDS_ELSEWHERE
        num_blocks = max(1, round(seconds * speed / self._block))
        self.count = min(num_blocks * self._block, self._max_count)
