"""Several processes on one folder: who is who, and who does what.

Pictures are independent, so processes need to meet only once: `jax.distributed` introduces them (on CPU,
whatever the work then runs on), process 0 prepares the output folder and tells the others how that
went, and they part. From there on each is a world of its own: one that dies takes its share with it and
nothing else, process 0 included. What they have in common is the output folder.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.extend import backend

from dip_jax.errors import InputError

T = TypeVar("T")
_MESSAGE_BYTES = 4096


class Partition(NamedTuple):
    """A process's part of the work."""

    process: int = 0
    num_processes: int = 1

    def of(self, items: Sequence[T]) -> list[T]:
        """The items of this process: every `num_processes`-th, beginning with its own number."""
        return list(items[self.process :: self.num_processes])


@contextlib.contextmanager
def meeting(
    *, coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Iterator[Partition]:
    """A context in which the processes know of each other; see `agree`. No array survives its end.

    Args:
      coordinator: `host:port` of process 0; None where the environment says who is who (Slurm, Open
        MPI, Kubernetes, TPU), as for the others.
      num_processes: How many there are.
      process_id: Which one this is.

    Raises:
      InputError: If they do not find each other.
    """
    platforms = jax.config.values["jax_platforms"]
    jax.config.update("jax_platforms", "cpu")
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"The processes did not find each other ({str(error).splitlines()[0]}); expected "
            "--coordinator=host:port, --num_processes and --process_id on each, or a launcher that says "
            "who is who."
        ) from None
    try:
        yield Partition(jax.process_index(), jax.process_count())
    finally:
        jax.distributed.shutdown()
        backend.clear_backends()
        jax.config.update("jax_platforms", platforms)


def agree(problem: str) -> str:
    """Tells all processes what process 0 has to say: what is wrong, or nothing. To be called by all."""
    text = np.zeros(_MESSAGE_BYTES, np.uint8)
    encoded = problem.encode()[:_MESSAGE_BYTES]
    text[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    heard = np.asarray(multihost_utils.broadcast_one_to_all(text))
    return heard.tobytes().rstrip(b"\0").decode(errors="ignore")


# A process of which nothing was heard for so long is given up.
_SILENCE_SECONDS = 120.0


class Heartbeats:
    """A process's own sign among those of the others; alone it gives none and waits for nobody."""

    def __init__(self, folder: Path, partition: Partition):
        """Names where the signs are, a file for each process, and this process's part."""
        self.folder, self.partition = folder, partition

    def _path(self, process: int) -> Path:
        return self.folder / str(process)

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """A context in which the other processes see now and then that this one is there."""
        if self.partition.num_processes == 1:
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
            if self.partition.process != 0:
                self._give("done")

    def _give(self, text: str) -> None:
        path = self._path(self.partition.process)
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
        heard = dict.fromkeys(range(1, self.partition.num_processes), (0, time.monotonic()))
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
