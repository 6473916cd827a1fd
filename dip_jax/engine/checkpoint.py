"""Checkpoints of networks in progress, so that a stopped or killed run can be resumed.

A checkpoint holds everything that the next step needs: params, state of the optimizer, random key, averages, window
of the stopping rule, guard, and the curve so far. Orbax writes it under a temporary name and renames it, so it is
complete or absent. No other file uses orbax.

Each network has its own folder, which contains its newest checkpoints by step. A network can be resumed in any slot,
on any number of devices and by any process, independently of other networks.
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

from dip_jax.engine.active_network import SavedNetwork
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
        """Creates nothing yet; the folder is created by the first save.

        Args:
          folder: Folder of the checkpoints; networks are resumed from checkpoints of an earlier run in it.
          every_minutes: Time between saves in minutes; 0 saves after every chunk.
          keep: Number of checkpoints to keep of each network.
          on_message: Called with sentences for the user.
        """
        # Orbax logs each of its steps, which a user does not need.
        logging.getLogger("absl").setLevel(logging.ERROR)
        self._folder = Path(folder).absolute()
        self._seconds_between_saves = 60 * every_minutes
        self._keep = keep
        self._on_message = on_message
        self._last_due = time.monotonic()
        self._managers: dict[str, ocp.CheckpointManager] = {}

    def load(self, name: str, fingerprint: int, shapes: Slot) -> SavedNetwork | None:
        """Returns the newest checkpoint of a network that can be read.

        Unreadable checkpoints are removed, and so are those of another case.

        Args:
          name: Label of the network, see `network_label`.
          fingerprint: Checksum of its case.
          shapes: Shapes of a slot.

        Returns:
          The state of the network; None if there is no checkpoint of this case.
        """
        folder = self._network_folder(name)
        steps = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
        for step in sorted(steps, reverse=True):
            try:
                tree = self._manager(name).restore(step, args=ocp.args.StandardRestore())
                saved = _read(name, tree, shapes)
            except Exception as error:  # any error: the lost steps can be computed again
                text = str(error).strip().split("\n")[0]
                self._on_message(f"{name}: the checkpoint of step {step} cannot be read ({text})")
                self._close(name)
                shutil.rmtree(folder / str(step), ignore_errors=True)
                continue
            if saved.fingerprint == fingerprint:
                self._on_message(f"{name}: resumed from step {step}")
                return saved
            self._on_message(f"{name}: changed since its last checkpoint; starting anew")
            self.remove(name)
            break
        return None

    def is_due(self) -> bool:
        """Returns whether it is time to save; if it is, the time to the next save begins."""
        now = time.monotonic()
        if now - self._last_due < self._seconds_between_saves:
            return False
        self._last_due = now
        return True

    def save(self, networks: Sequence[SavedNetwork]) -> None:
        """Saves networks in progress, each completely or not at all.

        A network that cannot be saved is reported, and the others are saved.

        Raises:
          OSError: If the disk is full.
        """
        for saved in networks:
            try:
                self._save(saved)
            except Exception as error:  # any error concerns only this network
                if is_disk_full(error):
                    raise
                text = str(error).strip().split("\n")[0]
                self._on_message(f"{saved.name}: could not be saved ({text})")
                self._close(saved.name)

    def _save(self, saved: SavedNetwork) -> None:
        self._network_folder(saved.name).mkdir(parents=True, exist_ok=True)
        manager, step = self._manager(saved.name), int(saved.slot.state.step)
        if step != manager.latest_step():
            manager.save(step, args=ocp.args.StandardSave(_tree(saved)))
            manager.wait_until_finished()

    def remove(self, name: str) -> None:
        """Deletes the checkpoints of a network."""
        self._close(name)
        shutil.rmtree(self._network_folder(name), ignore_errors=True)

    def close(self) -> None:
        """Releases the files of all networks."""
        for name in list(self._managers):
            self._close(name)

    def _network_folder(self, name: str) -> Path:
        """Returns the folder of a network, whose name may contain any characters."""
        return self._folder / hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()

    def _close(self, name: str) -> None:
        manager = self._managers.pop(name, None)
        if manager is not None:
            manager.close()

    def _manager(self, name: str) -> Any:
        if name not in self._managers:
            # Processes save at different times, so none may wait for another.
            process = jax.process_index()
            own_process = ocp.options.MultiprocessingOptions(
                primary_host=process,
                active_processes={process},
                barrier_sync_key_prefix=f"process_{process}",
            )
            options = ocp.CheckpointManagerOptions(
                max_to_keep=self._keep,
                create=False,
                cleanup_tmp_directories=True,
                enable_async_checkpointing=False,
                multiprocessing_options=own_process,
            )
            self._managers[name] = ocp.CheckpointManager(
                self._network_folder(name), options=options
            )
        return self._managers[name]


def _tree(saved: SavedNetwork) -> dict[str, Any]:
    leaves = jax.tree.leaves(saved.slot)
    return {
        "fingerprint": np.uint32(saved.fingerprint),
        "seconds": np.float64(saved.seconds),
        # Orbax does not store empty arrays.
        "curve": {key: column for key, column in saved.curve.items() if column.size},
        "slot": {str(i): np.asarray(leaf) for i, leaf in enumerate(leaves) if np.size(leaf)},
    }


def _read(name: str, tree: dict[str, Any], shapes: Slot) -> SavedNetwork:
    expected, structure = jax.tree.flatten(shapes)
    leaves = [
        np.asarray(tree["slot"][str(i)]) if np.size(shape) else np.zeros(shape.shape, shape.dtype)
        for i, shape in enumerate(expected)
    ]
    for leaf, shape in zip(leaves, expected, strict=True):
        if (leaf.shape, leaf.dtype) != (shape.shape, shape.dtype):
            raise ValueError(f"expected {shape.dtype}{shape.shape}, got {leaf.dtype}{leaf.shape}")
    return SavedNetwork(
        name,
        int(tree["fingerprint"]),
        jax.tree.unflatten(structure, leaves),
        {key: np.asarray(column) for key, column in tree["curve"].items()},
        float(tree["seconds"]),
    )
