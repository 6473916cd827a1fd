"""Being asked to stop: the first Ctrl-C or SIGTERM is a request, the next one acts as usual."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any


class Interrupt:
    """Whether the run was asked to stop, and by what."""

    signum: int | None = None

    def __call__(self) -> bool:
        """Whether it was."""
        return self.signum is not None


@contextlib.contextmanager
def interruptible(on_message: Callable[[str], None]) -> Iterator[Interrupt]:
    """A context in which the first Ctrl-C or SIGTERM asks to stop; the next one acts as usual."""
    interrupt = Interrupt()

    def ask(signum: int, frame: FrameType | None) -> None:
        interrupt.signum = signum
        restore_handlers()
        on_message("Stopping; what is in work is being saved (Ctrl-C again to drop it).")

    def restore_handlers() -> None:
        for signum, handler in previous.items():
            signal.signal(signum, handler)

    previous: dict[int, Any] = {}
    # Outside the main thread signals are somebody else's business.
    with contextlib.suppress(ValueError):
        for signum in (signal.SIGINT, signal.SIGTERM):
            previous[signum] = signal.signal(signum, ask)
    try:
        yield interrupt
    finally:
        restore_handlers()
