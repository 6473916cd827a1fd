"""Checkpoints of networks in progress, so that a stopped or killed run can be resumed.

A checkpoint holds everything that the next step needs: params, state of the optimizer, random key, averages, window
of the stopping rule, guard, and the curve so far. Orbax writes it into a temporary folder, which is then packed into
one zip file: a single file is complete or absent also in an object store, which has no renaming. A checksum before
the archive shows damage, which orbax would restore. No other file uses orbax.

Each network has its own folder, which contains its newest checkpoints by step. A network can be resumed in any slot,
on any number of devices and by any process, independently of other networks.
"""

import collections
import contextlib
import hashlib
import io
import logging
import math
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from dip_jax.base import network_label
from dip_jax.config import MAX_NETWORKS
from dip_jax.engine.active_network import SavedNetwork
from dip_jax.engine.step_loop import Slot
from dip_jax.errors import is_disk_full
from dip_jax.storage import atomic
from dip_jax.storage.paths import (
    AnyPath,
    list_folder,
    make_folder,
    read_bytes,
    remove_file,
    remove_folder,
    remove_if_empty,
    to_path,
)

_SUFFIX = ".zip"
_CHECKSUM_BYTES = 32  # of SHA-256


class CheckpointStore:
    """Checkpoints in a folder, local or remote; the `Store` that `restore_many` takes."""

    def __init__(
        self,
        folder: str | AnyPath,
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
        self._folder = to_path(folder)
        self._seconds_between_saves = 60 * every_minutes
        self._keep = keep
        self._on_message = on_message
        self._last_due = time.monotonic()

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
        for step, path in self._newest_first(name):
            try:
                saved = _from_tree(name, _unpack(read_bytes(path)), shapes)
            except Exception as error:  # any error: the lost steps can be computed again
                text = str(error).strip().split("\n")[0]
                self._on_message(f"{name}: the checkpoint of step {step} cannot be read ({text})")
                with contextlib.suppress(OSError):
                    remove_file(path)
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

    def _save(self, saved: SavedNetwork) -> None:
        folder = self._network_folder(saved.name)
        make_folder(folder)
        parts = _pack(_to_tree(saved))
        path = folder / f"{int(saved.slot.state.step)}{_SUFFIX}"
        atomic.write(path, lambda file: file.writelines(parts), durable=True)
        for _, old in self._newest_first(saved.name)[self._keep :]:
            remove_file(old)

    def remove(self, name: str) -> None:
        """Deletes the checkpoints of a network."""
        remove_folder(self._network_folder(name))

    def remove_images(self, names: Iterable[str]) -> None:
        """Deletes the checkpoints of all networks of some images, and keeps those of others."""
        present = {folder.name: folder for folder in list_folder(self._folder)}
        if not present:
            return
        for name in names:
            for index in range(MAX_NETWORKS):
                folder = present.get(_folder_name(network_label(name, index)))
                if folder is not None:
                    remove_folder(folder)
        remove_if_empty(self._folder)

    def _network_folder(self, name: str) -> AnyPath:
        return self._folder / _folder_name(name)

    def _newest_first(self, name: str) -> list[tuple[int, AnyPath]]:
        """Step and file of each checkpoint of a network; none if its folder cannot be listed."""
        try:
            files = list_folder(self._network_folder(name))
        except OSError as error:
            self._on_message(f"{name}: its checkpoints cannot be listed ({error})")
            return []
        steps = {int(f.stem): f for f in files if f.suffix == _SUFFIX and f.stem.isdecimal()}
        return sorted(steps.items(), reverse=True)


def _folder_name(label: str) -> str:
    """The name of the folder of a network, whose label may contain any characters."""
    return hashlib.sha1(label.encode(), usedforsecurity=False).hexdigest()


def _pack(tree: dict[str, Any]) -> tuple[bytes, memoryview]:
    """A checksum, and the files that orbax writes for a tree as a zip archive."""
    buffer = io.BytesIO()
    with tempfile.TemporaryDirectory(prefix="dip_jax-") as temporary:
        folder = Path(temporary) / "tree"
        with _checkpointer() as checkpointer:
            checkpointer.save(folder, args=ocp.args.PyTreeSave(tree))
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                archive.writestr(path.relative_to(folder).as_posix(), path.read_bytes())
    data = buffer.getbuffer()
    return hashlib.sha256(data).digest(), data


def _unpack(data: bytes) -> dict[str, Any]:
    """The tree of an archive behind its checksum; raises an error of any type if it is damaged."""
    if hashlib.sha256(memoryview(data)[_CHECKSUM_BYTES:]).digest() != data[:_CHECKSUM_BYTES]:
        raise ValueError("its checksum is wrong")
    with tempfile.TemporaryDirectory(prefix="dip_jax-") as temporary:
        folder = Path(temporary) / "tree"
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            archive.extractall(folder)
        with _checkpointer() as checkpointer:
            return checkpointer.restore(folder, args=ocp.args.PyTreeRestore())


def _checkpointer() -> ocp.Checkpointer:
    # Processes save at different times, so none may wait for another.
    process = jax.process_index()
    own_process = ocp.options.MultiprocessingOptions(
        primary_host=process,
        active_processes={process},
        barrier_sync_key_prefix=f"process_{process}",
    )
    # Random numbers shrink by 7 %, which would take more than half of the time of a save.
    handler = ocp.PyTreeCheckpointHandler(
        use_ocdbt=False, use_compression=False, multiprocessing_options=own_process
    )
    return ocp.Checkpointer(handler, multiprocessing_options=own_process)


def _to_tree(saved: SavedNetwork) -> dict[str, Any]:
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(saved.slot)]
    return {
        "fingerprint": np.uint32(saved.fingerprint),
        "seconds": np.float64(saved.seconds),
        # Orbax does not store empty arrays.
        "curve": {key: column for key, column in saved.curve.items() if column.size},
        "form": np.uint32(_form(leaves)),
        # Orbax takes a millisecond per array.
        "slot": {
            name: np.concatenate([leaf.ravel() for leaf in leaves if leaf.dtype.name == name])
            for name in {leaf.dtype.name for leaf in leaves if leaf.size}
        },
    }


def _from_tree(name: str, tree: dict[str, Any], shapes: Slot) -> SavedNetwork:
    expected, structure = jax.tree.flatten(shapes)
    if int(tree.get("form", 0)) != _form(expected):
        raise ValueError("it belongs to another network, algorithm or version")
    vectors, starts = tree["slot"], collections.Counter[str]()
    leaves = []
    for shape in expected:
        kind, size = shape.dtype.name, math.prod(shape.shape)
        values = vectors[kind][starts[kind] : starts[kind] + size] if size else []
        starts[kind] += size
        leaves.append(np.array(values, shape.dtype).reshape(shape.shape))
    return SavedNetwork(
        name,
        int(tree["fingerprint"]),
        jax.tree.unflatten(structure, leaves),
        {key: np.asarray(column) for key, column in tree["curve"].items()},
        float(tree["seconds"]),
    )


def _form(leaves: Iterable[Any]) -> int:
    """A checksum of the types and shapes of the arrays of a slot."""
    return zlib.crc32(repr([(leaf.dtype.name, tuple(leaf.shape)) for leaf in leaves]).encode())
