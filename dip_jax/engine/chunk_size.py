"""How many steps a chunk makes."""

import time

import jax

# A chunk should last about this long: short enough to stop and to refill soon, long enough to hide what
# a dispatch costs. On CPU that is the first touch of its memory, elsewhere next to nothing.
_CHUNK_SECONDS = {"cpu": 3.0}
_CHUNK_SECONDS_ELSEWHERE = 0.5


class ChunkSizer:
    """How many steps the next chunk makes, so that it lasts as long as it should."""

    def __init__(self, most: int, block: int = 1):
        """Begins with one step; a chunk never has more than `most`, and a multiple of `block` if it can."""
        self.count = 1
        self._block = block
        self.steps_per_second = 0.0
        self._most = most
        self._num_chunks = 0
        self._clock = 0.0

    def start(self) -> None:
        """Says that a chunk begins."""
        self._clock = time.perf_counter()

    def update(self, steps: int) -> None:
        """Learns from a chunk of `steps` that has ended."""
        if not steps:
            return
        speed = steps / max(time.perf_counter() - self._clock, 1e-6)
        # The first chunk pays for first-time allocations, so it is soon forgotten.
        self._num_chunks += 1
        old = self.steps_per_second
        self.steps_per_second = speed if self._num_chunks <= 2 else 0.7 * old + 0.3 * speed
        seconds = _CHUNK_SECONDS.get(jax.default_backend(), _CHUNK_SECONDS_ELSEWHERE)
        blocks = max(1, round(seconds * speed / self._block))
        self.count = min(blocks * self._block, self._most)
