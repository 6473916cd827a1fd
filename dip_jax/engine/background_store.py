"""A store whose saves run in a thread, while the devices make the next steps."""

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from dip_jax.engine.active_network import SavedNetwork
from dip_jax.engine.step_loop import Slot


class Store(Protocol):
    """Storage for networks in progress; see `checkpoint.CheckpointStore`."""

    def load(self, name: str, fingerprint: int, shapes: Slot) -> SavedNetwork | None:
        """Returns the saved state of a network, in the form of `shapes`; None if there is none."""
        ...

    def is_due(self) -> bool:
        """Returns whether it is time to save."""
        ...

    def save(self, networks: Sequence[SavedNetwork]) -> None:
        """Saves networks in progress, each completely or not at all; called in a thread, and once at a time."""
        ...


class BackgroundStore:
    """A `Store` that saves in a thread. There is one save at a time, and its error is raised by a later call."""

    def __init__(self, store: Store, executor: ThreadPoolExecutor):
        """Saves nothing yet; see `saving_in_background`."""
        self._store, self._executor = store, executor
        self._pending: Future[None] | None = None

    def load(self, name: str, fingerprint: int, shapes: Slot) -> SavedNetwork | None:
        """Returns the saved state of a network, after the save that runs."""
        self.wait()
        return self._store.load(name, fingerprint, shapes)

    def is_due(self) -> bool:
        """Returns whether it is time to save."""
        if self._pending is not None and self._pending.done():
            self.wait()
        return self._store.is_due()

    def save(self, networks: Sequence[SavedNetwork]) -> None:
        """Begins to save networks, whose arrays must not change any more."""
        self.wait()
        self._pending = self._executor.submit(self._store.save, networks)

    def wait(self) -> None:
        """Waits for the save that runs.

        Raises:
          Exception: The error of the save, such as that of a full disk.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


@contextlib.contextmanager
def saving_in_background(store: Store | None) -> Iterator[BackgroundStore | None]:
    """A context whose store saves in a thread; at its end all saves are complete.

    Args:
      store: The store; None for none.
    """
    if store is None:
        yield None
        return
    with ThreadPoolExecutor(1, "save") as executor:
        background = BackgroundStore(store, executor)
        yield background
        background.wait()
