"""Several processes that restore one folder: their partitions, a rendezvous, heartbeats.

The images are independent, so the processes need no connection while they work. With a rendezvous they meet
once through `jax.distributed`, so that process 0 prepares the output folder and all of them learn whether
that failed. Afterwards they share only the output folder: if one dies, only its own images are affected.
Heartbeats are files in that folder, by which process 0 knows how long to wait for the others.
"""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax._src import distributed  # no public name resets its state
from jax.experimental import multihost_utils
from jax.extend import backend

from dip_jax.errors import InputError
from dip_jax.storage.atomic import write_text
from dip_jax.storage.paths import AnyPath, make_folder, read_bytes

T = TypeVar("T")
_MESSAGE_BYTES = 4096
_SILENCE_SECONDS = 120.0  # process 0 stops waiting for a process without a heartbeat for that long
# `jax.distributed.initialize` changes the devices under Slurm: each task sees that of its local number.
_CHANGED_SETTINGS = ("jax_platforms", "jax_cuda_visible_devices", "jax_rocm_visible_devices")
_DONE = "done"  # content of the last heartbeat


class ProcessOptions(NamedTuple):
    """How several processes divide a run; by default, this process is the only one."""

    distributed: bool = False
    """Whether the processes meet through `jax.distributed` before they start."""
    coordinator: str | None = None
    """`host:port` of process 0; None if the launcher (Slurm, Open MPI, Kubernetes, TPU) provides it."""
    num_processes: int | None = None
    """Number of processes; None if the launcher provides it, or for one process."""
    process_id: int | None = None
    """Number of this process, from 0; None if the launcher provides it, or for one process."""


SINGLE_PROCESS = ProcessOptions()


class Partition(NamedTuple):
    """The part of a folder that one process restores."""

    process: int = 0
    """Number of the process, from 0."""
    num_processes: int = 1
    """Number of processes."""

    def of(self, items: Sequence[T]) -> list[T]:
        """Every `num_processes`-th item, starting with number `process`.

        Example:
          >>> Partition(1, 3).of("abcdefg")
          ['b', 'e']
        """
        return list(items[self.process :: self.num_processes])


def independent_partition(num_processes: int, process_id: int, *, resume: bool) -> Partition:
    """The partition of a process that never meets the others.

    Raises:
      InputError: If `process_id` is out of range, or `resume` is off: without a rendezvous the processes
        cannot agree on who creates the output folder.
    """
    if not 0 <= process_id < num_processes:
        raise InputError(
            f"Expected --process_id from 0 to {num_processes - 1} for --num_processes={num_processes}, "
            f"got {process_id}."
        )
    if not resume:
        raise InputError(
            "Processes without a rendezvous cannot agree on who creates the output folder: add --resume, "
            "or --coordinator=host:port."
        )
    return Partition(process_id, num_processes)


@contextlib.contextmanager
def rendezvous(options: ProcessOptions) -> Iterator[Partition]:
    """A context in which the processes are connected. JAX arrays do not survive its end.

    It runs on CPU, whichever device restores the images. Afterwards each process is the only one for JAX again, and
    sees the devices that it saw before.

    Args:
      options: The number of processes, this process and the coordinator.

    Yields:
      The partition of this process.

    Raises:
      InputError: If the processes do not find each other.
    """
    settings = {name: jax.config.values[name] for name in _CHANGED_SETTINGS}
    jax.config.update("jax_platforms", "cpu")
    try:
        jax.distributed.initialize(options.coordinator, options.num_processes, options.process_id)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"The processes did not find each other ({str(error).splitlines()[0]}); pass "
            "--coordinator=host:port, --num_processes and --process_id to each, or use a launcher that "
            "provides them."
        ) from None
    try:
        yield Partition(jax.process_index(), jax.process_count())
    finally:
        jax.distributed.shutdown()
        # JAX leaves its number to the process, and then only process 0 writes caches.
        distributed.global_state.process_id, distributed.global_state.num_processes = 0, 1
        backend.clear_backends()
        for name, value in settings.items():
            jax.config.update(name, value)


def broadcast_error(error: str) -> str:
    """Sends the error message of process 0 to all processes; each must call it inside `rendezvous`.

    Args:
      error: The message, empty for none; ignored in all processes but 0.

    Returns:
      The message of process 0, cut to 4096 bytes.
    """
    buffer = np.zeros(_MESSAGE_BYTES, np.uint8)
    encoded = error.encode()[:_MESSAGE_BYTES]
    buffer[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    received = np.asarray(multihost_utils.broadcast_one_to_all(buffer))
    return received.tobytes().rstrip(b"\0").decode(errors="ignore")


class Heartbeats:
    """The heartbeats of all processes, one file each: the number of the beat, and `done` at the end.

    A single process writes none and waits for none. The times of files are not used, because object stores and
    clocks of other hosts differ in them.
    """

    def __init__(self, folder: AnyPath, partition: Partition):
        """Writes nothing yet.

        Args:
          folder: The folder of the heartbeat files, common to all processes.
          partition: The partition of this process.
        """
        self._folder, self._partition = folder, partition

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """A context in which a thread renews the heartbeat of this process.

        At its end, a process other than 0 marks itself as done.
        """
        if self._partition.num_processes == 1:
            yield
            return
        ended = threading.Event()

        def beat() -> None:
            for number in itertools.count():
                self._write(str(number))
                if ended.wait(_SILENCE_SECONDS / 10):
                    return

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            if self._partition.process != 0:
                self._write(_DONE)

    def wait_for_others(
        self,
        is_finished: Callable[[int], bool],
        *,
        should_stop: Callable[[], bool],
        on_message: Callable[[str], None],
    ) -> None:
        """Waits until each of the other processes is done, or silent for too long.

        Args:
          is_finished: Returns whether all images of a process are restored; asked for a process that has
            no heartbeat, since it may have ended before this one started.
          should_stop: Returns whether to stop waiting.
          on_message: Called with a sentence about a process that is silent.
        """
        last_beats = dict.fromkeys(range(1, self._partition.num_processes), ("", time.monotonic()))
        while last_beats and not should_stop():
            for process, (last_beat, since) in list(last_beats.items()):
                beat = self._read(process)
                if beat != last_beat:
                    last_beats[process] = (beat, time.monotonic())
                elif time.monotonic() - since > _SILENCE_SECONDS:
                    on_message(
                        f"Process {process} sent no heartbeat for {_SILENCE_SECONDS:g} s; continuing "
                        "without it."
                    )
                    del last_beats[process]
                    continue
                if beat == _DONE if beat else is_finished(process):
                    del last_beats[process]
            if last_beats:
                time.sleep(0.5)

    def _path(self, process: int) -> AnyPath:
        return self._folder / str(process)

    def _write(self, text: str) -> None:
        path = self._path(self._partition.process)
        with contextlib.suppress(OSError):
            make_folder(path.parent)
            write_text(path, text)

    def _read(self, process: int) -> str:
        """The last heartbeat of a process; empty if there is none."""
        with contextlib.suppress(OSError):
            return read_bytes(self._path(process)).decode(errors="replace")
        return ""
