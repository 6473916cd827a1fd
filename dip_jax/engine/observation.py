"""What a network has reached after some of its steps; a callback gets it every N steps."""

import dataclasses
import functools

import numpy as np

from dip_jax.base import Case
from dip_jax.engine.slots import Slots
from dip_jax.engine.step_loop import Slot


@dataclasses.dataclass(eq=False, kw_only=True)
class Observation:
    """A network in progress, or one that has just finished.

    Arrays are copied from the device when they are first read, so an observation of which only the values are read
    costs nothing. Read them during the callback: afterwards the slot makes further steps.
    """

    name: str
    """Label of the network, see `network_label`."""
    case: Case
    """The case of the network."""
    step: int
    """Number of steps made."""
    num_steps: int
    """Maximum number of steps."""
    values: dict[str, float]
    """Values of the last step, with the names of `Result.curve`: `loss`, `psnr`, `psnr_average`, `signal_RULE`, ... A
    value that does not exist is NaN."""
    _slots: Slots | None = dataclasses.field(repr=False)
    """The slots, of which one holds the state of the network; None after the callback."""
    _index: int = dataclasses.field(repr=False)
    """The slot of the network."""

    @functools.cached_property
    def image(self) -> np.ndarray:
        """The estimate `[H, W, C]`, before known values are put back.

        Raises:
          RuntimeError: If it is first read after the callback.
        """
        height, width, _ = self.case.shape
        return self._open_slots().estimate(self._index)[:height, :width]

    @functools.cached_property
    def state(self) -> Slot:
        """The whole state of the network, as NumPy arrays on its canvas.

        Raises:
          RuntimeError: If it is first read after the callback.
        """
        return self._open_slots().save(self._index)

    def close(self) -> None:
        """Ends the time in which arrays can be copied; those that were read stay valid."""
        self._slots = None

    def _open_slots(self) -> Slots:
        if self._slots is None:
            raise RuntimeError(
                f"{self.name}: expected that arrays are read during the callback, got a first read after it; read "
                "`image` or `state` in the callback and keep the array"
            )
        return self._slots
