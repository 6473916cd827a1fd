"""Signs of life of processes that share an output folder and have parted; see `hosts`.

Each writes a file of its own now and then, and `done` into it at its end. Process 0, which writes what is
about all pictures, waits for the others so long as they are heard of. On a folder that several machines mount this
needs no clock in common: what counts is that a file changes, not when it says that it did.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dip_jax.batch.processes import Share

# A process of which nothing was heard for so long is given up.
_SILENCE_SECONDS = 120.0


class Presence:
    """A process's own sign among those of the others; alone it gives none and waits for nobody."""

    def __init__(self, folder: Path, share: Share):
        """Names where the signs are, a file for each process, and this process's part."""
        self.folder, self.share = folder, share

    def _path(self, process: int) -> Path:
        return self.folder / str(process)

    @contextlib.contextmanager
    def signs_of_life(self) -> Iterator[None]:
        """A context in which the other processes see now and then that this one is there."""
        if self.share.num_processes == 1:
            yield
            return
        ended = threading.Event()

        def beat() -> None:
            while True:
                self._give("")
                if ended.wait(_SILENCE_SECONDS / 10):
                    return

        thread = threading.Thread(target=beat, name="signs of life", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            if self.share.process != 0:
                self._give("done")

    def _give(self, text: str) -> None:
        path = self._path(self.share.process)
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def wait_for_others(
        self,
        has_nothing_left: Callable[[int], bool],
        *,
        should_stop: Callable[[], bool],
        on_message: Callable[[str], None],
    ) -> None:
        """Returns when each of the other processes is done or silent.

        Args:
          has_nothing_left: Whether a process of which there is no sign has left nothing undone.
          should_stop: Whether to wait no longer.
          on_message: Called with a sentence about a process that is silent.
        """
        heard = dict.fromkeys(range(1, self.share.num_processes), (0, time.monotonic()))
        while heard and not should_stop():
            for process, (last_sign, since) in list(heard.items()):
                path = self._path(process)
                sign = path.stat().st_mtime_ns if path.exists() else 0
                if sign != last_sign:
                    heard[process] = (sign, time.monotonic())
                elif time.monotonic() - since > _SILENCE_SECONDS:
                    on_message(f"Process {process} is silent; it is not waited for.")
                    del heard[process]
                    continue
                if path.read_text() == "done" if path.exists() else has_nothing_left(process):
                    del heard[process]
            if heard:
                time.sleep(0.5)
