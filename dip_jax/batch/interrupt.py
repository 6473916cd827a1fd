"""A request to stop: the first Ctrl-C or SIGTERM ends the run in order, the next one at once."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any


class Interrupt:
    """A request to stop; `interrupt()` returns whether there is one."""

    def __init__(self) -> None:
        """No request yet."""
        self.signum: int | None = None
        """The signal that made the request."""

    def __call__(self) -> bool:
        """Whether a signal asked the run to stop."""
        return self.signum is not None

    @property
    def is_from_keyboard(self) -> bool:
        """Whether a user pressed Ctrl-C, and so waits for the images in progress."""
        return self.signum == signal.SIGINT


@contextlib.contextmanager
def interruptible(on_message: Callable[[str], None]) -> Iterator[Interrupt]:
    """A context in which the first Ctrl-C or SIGTERM only sets the `Interrupt`.

    The next signal acts as it did before the context. Outside the main thread, signals are not handled.

    Args:
      on_message: Called with a sentence at the first signal.

    Yields:
      The request.
    """
    interrupt = Interrupt()
    previous: dict[int, Any] = {}

    def request_stop(signum: int, frame: FrameType | None) -> None:
        interrupt.signum = signum
        restore_handlers()
        on_message("Stopping; images in progress are being saved (Ctrl-C again to discard them).")

    def restore_handlers() -> None:
        for signum, handler in previous.items():
            signal.signal(signum, handler)

    # `signal.signal` raises ValueError outside the main thread.
    with contextlib.suppress(ValueError):
        for signum in (signal.SIGINT, signal.SIGTERM):
            previous[signum] = signal.signal(signum, request_stop)
    try:
        yield interrupt
    finally:
        restore_handlers()
