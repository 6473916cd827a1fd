"""Pictures in work on disk, so that a run can be stopped, killed and taken up again.

A picture's checkpoint holds everything that its next step needs: weights, optimizer, random key,
averages, the stopping rule's window, the guard, and the curve so far. Orbax writes it under a temporary
name and renames it, so it is there whole or not at all. This is the only file that knows orbax.

Each picture has a folder of its own, with its newest checkpoints by their steps: it can be taken up in any
slot, on any number of devices, by any process, and whatever else is in work is none of its business.
"""

import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from dip_jax.engine.scheduler import Saved
from dip_jax.engine.step_loop import Slot
from dip_jax.errors import is_disk_full


class CheckpointStore:
    """Checkpoints in a folder; the `Store` that `restore_many` takes."""

    def __init__(
        self,
        folder: str | Path,
        *,
        every_minutes: float,
        keep: int,
        on_message: Callable[[str], None] = lambda text: None,
    ):
        """Names the folder; it is made when something is saved.

        Args:
          folder: Where the checkpoints are; what an earlier run left there is taken up.
          every_minutes: How often `is_due` says yes; 0 for always.
          keep: How many of a picture's newest checkpoints stay.
          on_message: Called with sentences for the user.
        """
        # Orbax tells of each of its steps; a user wants to hear of none.
        logging.getLogger("absl").setLevel(logging.ERROR)
        self._folder = Path(folder).absolute()
        self._every = 60 * every_minutes
        self._keep = keep
        self._on_message = on_message
        self._last = time.monotonic()
        self._managers: dict[str, ocp.CheckpointManager] = {}

    def load(self, name: str, fingerprint: int, shapes: Slot) -> Saved | None:
        """The newest saved state of a picture that can be read, in the form of `shapes`, or None."""
        folder = self._of(name)
        steps = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
        for step in sorted(steps, reverse=True):
            try:
                tree = self._manager(name).restore(step, args=ocp.args.StandardRestore())
                saved = _read(name, tree, shapes)
            except Exception as error:  # damaged by whatever: what is lost can be computed again
                text = str(error).strip().split("\n")[0]
                self._on_message(f"{name}: its checkpoint of step {step} cannot be read ({text})")
                self._forget(name)
                shutil.rmtree(folder / str(step), ignore_errors=True)
                continue
            if saved.fingerprint == fingerprint:
                self._on_message(f"{name}: going on from step {step}")
                return saved
            self._on_message(f"{name}: changed since its checkpoint was made; starting anew")
            self.remove(name)
            break
        return None

    def is_due(self) -> bool:
        """Whether the last time that it said yes is long enough ago."""
        now = time.monotonic()
        if now - self._last < self._every:
            return False
        self._last = now
        return True

    def save(self, pictures: Sequence[Saved]) -> None:
        """Saves pictures in work, each whole or not at all; raises only where the disk is full."""
        for saved in pictures:
            try:
                self._save(saved)
            except Exception as error:  # of whatever kind: the others must be saved all the same
                if is_disk_full(error):
                    raise
                text = str(error).strip().split("\n")[0]
                self._on_message(f"{saved.name}: could not be saved ({text})")
                self._forget(saved.name)

    def _save(self, saved: Saved) -> None:
        self._of(saved.name).mkdir(parents=True, exist_ok=True)
        manager, step = self._manager(saved.name), int(saved.slot.state.step)
        if step != manager.latest_step():
            manager.save(step, args=ocp.args.StandardSave(_tree(saved)))
            manager.wait_until_finished()

    def remove(self, name: str) -> None:
        """Deletes what was saved of a picture."""
        self._forget(name)
        shutil.rmtree(self._of(name), ignore_errors=True)

    def close(self) -> None:
        """Ends the work with it."""
        for name in list(self._managers):
            self._forget(name)

    def _of(self, name: str) -> Path:
        """The folder of any picture's name."""
        return self._folder / hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()

    def _forget(self, name: str) -> None:
        manager = self._managers.pop(name, None)
        if manager is not None:
            manager.close()

    def _manager(self, name: str) -> Any:
        if name not in self._managers:
            # Processes save at times of their own: none must wait for another.
            process = jax.process_index()
            alone = ocp.options.MultiprocessingOptions(
                primary_host=process,
                active_processes={process},
                barrier_sync_key_prefix=f"process_{process}",
            )
            options = ocp.CheckpointManagerOptions(
                max_to_keep=self._keep,
                create=False,
                cleanup_tmp_directories=True,
                enable_async_checkpointing=False,
                multiprocessing_options=alone,
            )
            self._managers[name] = ocp.CheckpointManager(self._of(name), options=options)
        return self._managers[name]


def _tree(saved: Saved) -> dict[str, Any]:
    leaves = jax.tree.leaves(saved.slot)
    return {
        "fingerprint": np.uint32(saved.fingerprint),
        "seconds": np.float64(saved.seconds),
        # Orbax takes no empty arrays.
        "curve": {key: column for key, column in saved.curve.items() if column.size},
        "slot": {str(i): np.asarray(leaf) for i, leaf in enumerate(leaves) if np.size(leaf)},
    }


def _read(name: str, tree: dict[str, Any], shapes: Slot) -> Saved:
    wanted, structure = jax.tree.flatten(shapes)
    leaves = [
        np.asarray(tree["slot"][str(i)]) if np.size(shape) else np.zeros(shape.shape, shape.dtype)
        for i, shape in enumerate(wanted)
    ]
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
