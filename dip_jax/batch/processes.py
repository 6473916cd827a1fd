"""Several processes on one folder: who is who, and who does what.

Pictures are independent, so processes need to meet only once: `jax.distributed` introduces them (on CPU,
whatever the work then runs on), process 0 prepares the output folder and tells the others how that
went, and they part. From there on each is a world of its own: one that dies takes its share with it and
nothing else, process 0 included. What they have in common is the output folder.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.extend import backend

from dip_jax.errors import InputError

T = TypeVar("T")
_MESSAGE_BYTES = 4096


class Share(NamedTuple):
    """A process's part of the work."""

    process: int = 0
    num_processes: int = 1

    def of(self, items: Sequence[T]) -> list[T]:
        """The items of this process: every `num_processes`-th, beginning with its own number."""
        return list(items[self.process :: self.num_processes])


@contextlib.contextmanager
def meeting(
    *, coordinator: str | None, num_processes: int | None, process_id: int | None
) -> Iterator[Share]:
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
        yield Share(jax.process_index(), jax.process_count())
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
