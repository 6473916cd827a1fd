"""A queue of cases: read ahead in a thread, and taken by the program that can serve them."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from dip_jax.base import Case
from dip_jax.engine.canvas import pad_case
from dip_jax.engine.devices import on_host

MAX_READ_AHEAD = 8
"""Maximum number of cases in the reading thread's buffer, and of cases that wait for another program."""


class QueuedCase(NamedTuple):
    """A case that waits for a slot."""

    case: Case
    padded: Case
    """The case on its canvas."""
    signature: Any
    """Equal for cases that one compiled program can serve."""


class CaseQueue:
    """Cases in the order of their source, of which a caller can take the first that fits its program."""

    def __init__(
        self,
        source: "queue.Queue[Any]",
        should_stop: Callable[[], bool],
        sides_per_octave: int,
    ):
        """Takes nothing yet; see `read_ahead`.

        Args:
          source: Gets the cases from the reading thread, then None or the exception of the reader.
          should_stop: Returns whether to wait no longer.
          sides_per_octave: See `canvas_side`.
        """
        self._source, self._should_stop = source, should_stop
        self._sides_per_octave = sides_per_octave
        self._waiting: list[QueuedCase] = []
        self._has_ended = False

    def peek(self) -> QueuedCase | None:
        """Waits for the first case and returns it; None at the end.

        Raises:
          BaseException: The error of the iterable of cases, if it raised one.
        """
        if not self._waiting:
            self._read(wait=True)
        return self._waiting[0] if self._waiting else None

    def take(self, signature: Any, *, wait: bool) -> QueuedCase | None:
        """Removes and returns the first case of a signature; None if there is none near the front.

        Args:
          signature: The signature.
          wait: Wait for cases that are still being read.

        Raises:
          BaseException: The error of the iterable of cases, if it raised one.
        """
        position = 0
        while True:
            for i, queued in enumerate(self._waiting[position:], position):
                if queued.signature == signature:
                    return self._waiting.pop(i)
            position = len(self._waiting)
            if position >= MAX_READ_AHEAD or not self._read(wait=wait):
                return None

    def put_back(self, queued: Iterable[QueuedCase]) -> None:
        """Puts cases before all that wait."""
        self._waiting[:0] = queued

    def _read(self, *, wait: bool) -> bool:
        """Moves a case from the source to the waiting ones; returns whether there was one."""
        case = None if self._has_ended else self._next(wait=wait)
        if case is None:
            return False
        with on_host():
            padded = pad_case(case, self._sides_per_octave)
        self._waiting.append(QueuedCase(case, padded, _signature(padded)))
        return True

    def _next(self, *, wait: bool) -> Case | None:
        while True:
            try:
                item = self._source.get(block=wait, timeout=0.2)
                break
            except queue.Empty:
                if not wait:
                    return None
                if self._should_stop():
                    item = None
                    break
        self._has_ended = item is None or isinstance(item, BaseException)
        if isinstance(item, BaseException):
            raise item
        return item


@contextlib.contextmanager
def read_ahead(
    cases: Iterable[Case], should_stop: Callable[[], bool], sides_per_octave: int
) -> Iterator[CaseQueue]:
    """Reads cases in a thread while the context is open.

    Args:
      cases: The cases; a generator runs in the thread, at most `MAX_READ_AHEAD` cases ahead.
      should_stop: Returns whether the queue should wait no longer for the thread.
      sides_per_octave: See `canvas_side`.
    """
    source: queue.Queue[Any] = queue.Queue(MAX_READ_AHEAD)
    closed = threading.Event()

    def put(item: Any) -> None:
        while not closed.is_set():
            with contextlib.suppress(queue.Full):
                source.put(item, timeout=0.2)
                return

    def read() -> None:
        try:
            for case in cases:
                put(case)
                if closed.is_set():
                    return
            put(None)
        except BaseException as error:  # raised again in the thread of the caller
            put(error)

    thread = threading.Thread(target=read, name="read ahead", daemon=True)
    thread.start()
    try:
        yield CaseQueue(source, should_stop, sides_per_octave)
    finally:
        closed.set()
        thread.join()


def _signature(case: Case) -> Any:
    leaves, tree = jax.tree.flatten(case.problem)
    shapes = tuple((np.shape(leaf), np.asarray(leaf).dtype.name) for leaf in leaves)
    return case.shape, case.reference is None, tree, shapes
