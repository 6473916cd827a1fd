"""Pictures are read in the background, a few before their turn."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from dip_jax.base import Case

# Pictures that are read before their turn.
MAX_PREFETCH = 8


@contextlib.contextmanager
def prefetch(
    cases: Iterable[Case], should_stop: Callable[[], bool]
) -> Iterator[Callable[..., Case | None]]:
    """Reads in a thread; gives `take(wait)`, the next case, None at the end, or what went wrong."""
    ready: queue.Queue[Any] = queue.Queue(MAX_PREFETCH)
    closed = threading.Event()

    def offer(item: Any) -> None:
        while not closed.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.2)
                return

    def read() -> None:
        try:
            for case in cases:
                offer(case)
                if closed.is_set():
                    return
            offer(None)
        except BaseException as error:  # handed to the caller, who is elsewhere
            offer(error)

    def take(*, wait: bool) -> Case | None:
        while True:
            try:
                item = ready.get(block=wait, timeout=0.2)
                break
            except queue.Empty:
                if not wait:
                    raise
                if should_stop():
                    return None
        if isinstance(item, BaseException):
            raise item
        return item

    thread = threading.Thread(target=read, name="read ahead", daemon=True)
    thread.start()
    try:
        yield take
    finally:
        closed.set()
        thread.join()
