"""A request to stop: the first Ctrl-C, SIGTERM or SIGHUP ends the run in order, the next one at once."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_HANGUP = getattr(signal, "SIGHUP", None)  # Windows has none


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
    """A context in which the first Ctrl-C, SIGTERM or SIGHUP only sets the `Interrupt`.

    The next signal acts as it did before the context. SIGHUP stays ignored if it was, as by `nohup`. Outside the main
    thread, signals are not handled.

    Args:
      on_message: Called in another thread with a sentence at the first signal.

    Yields:
      The request.
    """
    interrupt = Interrupt()
    previous: dict[int, Any] = {}

    def request_stop(signum: int, frame: FrameType | None) -> None:
        interrupt.signum = signum
        restore_handlers()

    def restore_handlers() -> None:
        for signum, handler in previous.items():
            signal.signal(signum, handler)

    signals = list(_SIGNALS)
    if _HANGUP is not None and signal.getsignal(_HANGUP) is not signal.SIG_IGN:
        signals.append(_HANGUP)
    with contextlib.ExitStack() as stack:
        # `set_wakeup_fd` and `signal.signal` raise ValueError outside the main thread.
        with contextlib.suppress(ValueError):
            stack.enter_context(_announcing(frozenset(signals), on_message))
            for signum in signals:
                previous[signum] = signal.signal(signum, request_stop)
        stack.callback(restore_handlers)
        yield interrupt


@contextlib.contextmanager
def _announcing(signals: frozenset[int], on_message: Callable[[str], None]) -> Iterator[None]:
    """A context in which a thread announces the first signal.

    Python runs handlers in the main thread only after a compilation, which takes minutes on some devices.
    """
    # A terminal that hangs up fails each print, which must not end the run before it is saved.
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
    receiver, sender = socket.socketpair()
    with receiver, sender:
        sender.setblocking(False)
        replaced = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)

        def announce() -> None:
            while received := receiver.recv(1):
                if received[0] == _HANGUP:
                    _discard_output(terminals)
                if received[0] in signals:
                    on_message(
                        "Stopping; images in progress are being saved, after a compilation that runs "
                        "(Ctrl-C again to discard them)."
                    )
                    return

        thread = threading.Thread(target=announce, name="signals", daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(replaced)
            sender.shutdown(socket.SHUT_WR)
            thread.join()


def _discard_output(descriptors: list[int]) -> None:
    with open(os.devnull, "w") as null:
        for descriptor in descriptors:
            os.dup2(null.fileno(), descriptor)
