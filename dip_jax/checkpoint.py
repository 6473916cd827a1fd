"""Pictures in work on disk, so that a run can be stopped, killed and taken up again.

A checkpoint holds everything that the next step of each picture in work needs: weights, optimiser,
random key, averages, the stopping rule's window, the guard, and the curve so far. Orbax writes it under a
temporary name and renames it, so it is there whole or not at all. This is the only file that knows orbax.

A process writes only into its own folder, `checkpoints/<process>`, but looks for a picture in all of
them: after a run with other processes, a picture may have been in other hands.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from dip_jax.runner import Saved
from dip_jax.slots import Slot


class CheckpointStore:
    """The checkpoints of one process; the `Store` that `restore_many` takes."""

    def __init__(
        self,
        folder: Path,
        *,
        every_minutes: float,
        keep: int,
        on_message: Callable[[str], None] = lambda text: None,
    ):
        """Opens the folder.

        Args:
          folder: The folder of all processes' checkpoints; made when something is saved.
          every_minutes: How often `is_due` says yes; 0 for always.
          keep: How many of the newest checkpoints stay.
          on_message: Called with sentences for the user.
        """
        # Orbax tells of each of its steps; a user wants to hear of none.
        logging.getLogger("absl").setLevel(logging.ERROR)
        self._folder = folder.absolute()
        self._own = self._folder / str(jax.process_index())
        self._every = 60 * every_minutes
        self._keep = keep
        self._on_message = on_message
        self._last = time.monotonic()
        self._manager: ocp.CheckpointManager | None = None
        self._earlier = [
            manager
            for path in sorted(self._folder.glob("*"))
            if (manager := _manager(path, read_only=True)).latest_step() is not None
        ]

    def load(self, name: str, fingerprint: int, shapes: Slot) -> Saved | None:
        """The newest saved state of a picture, in the form of `shapes`, or None."""
        item = _item(name)
        for manager in self._earlier:
            number = manager.latest_step()
            if not (manager.directory / str(number) / item).exists():
                continue
            try:
                args = ocp.args.Composite(**{item: ocp.args.StandardRestore()})
                tree = manager.restore(number, args=args)[item]
                saved = _read(name, tree, shapes)
            except Exception as error:  # damaged by whatever: it can be computed again
                self._on_message(f"{name}: its checkpoint cannot be read ({error}); starting anew")
                return None
            if saved.fingerprint == fingerprint:
                self._on_message(f"{name}: going on from step {int(saved.slot.state.step)}")
                return saved
            self._on_message(f"{name}: changed since its checkpoint was made; starting anew")
        return None

    def is_due(self) -> bool:
        """Whether the last checkpoint is old enough."""
        return time.monotonic() - self._last >= self._every

    def save(self, pictures: Sequence[Saved]) -> None:
        """Saves all pictures in work, whole or not at all."""
        if self._manager is None:
            self._own.mkdir(parents=True, exist_ok=True)
            self._manager = _manager(self._own, keep=self._keep)
        items = {_item(saved.name): ocp.args.StandardSave(_tree(saved)) for saved in pictures}
        number = (self._manager.latest_step() or 0) + 1
        self._manager.save(number, args=ocp.args.Composite(**items))
        self._manager.wait_until_finished()
        self._last = time.monotonic()

    def close(self) -> None:
        """Ends the work with it."""
        for manager in (*self._earlier, *([self._manager] if self._manager else [])):
            manager.close()


def _manager(path: Path, *, keep: int | None = None, read_only: bool = False) -> Any:
    # Processes save at times of their own: none must wait for another.
    process = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=process,
        active_processes={process},
        barrier_sync_key_prefix=f"process_{process}",
    )
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=False,
        cleanup_tmp_directories=not read_only,
        read_only=read_only,
        enable_async_checkpointing=False,
        multiprocessing_options=alone,
    )
    return ocp.CheckpointManager(path, options=options)


def _item(name: str) -> str:
    """A folder's name for any picture's name."""
    return hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()


def _tree(saved: Saved) -> dict[str, Any]:
    leaves = jax.tree.leaves(saved.slot)
    return {
        "fingerprint": np.uint32(saved.fingerprint),
        "seconds": np.float64(saved.seconds),
        "curve": dict(saved.curve),
        "slot": {str(i): np.asarray(leaf) for i, leaf in enumerate(leaves)},
    }


def _read(name: str, tree: dict[str, Any], shapes: Slot) -> Saved:
    wanted, structure = jax.tree.flatten(shapes)
    leaves = [np.asarray(tree["slot"][str(i)]) for i in range(len(wanted))]
    for leaf, shape in zip(leaves, wanted, strict=True):
        if (leaf.shape, leaf.dtype) != (shape.shape, shape.dtype):
            raise ValueError(f"expected {shape.dtype}{shape.shape}, came {leaf.dtype}{leaf.shape}")
    return Saved(
        name,
        int(tree["fingerprint"]),
        jax.tree.unflatten(structure, leaves),
        {key: np.asarray(column) for key, column in tree["curve"].items()},
        float(tree["seconds"]),
    )
