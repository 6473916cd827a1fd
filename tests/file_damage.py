"""Damage to the files of a folder, as a failing disk, a sync tool or a user may cause it."""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

OTHER_JSON = (None, 3, 1e400, "text", [], {}, [[]], [None], [1, "a"], {"name": 1}, [{"status": []}])
OUTSIDE = "mine.txt"
"""A file next to the damaged folder, which a link or a record may name."""


class Damage(NamedTuple):
    """One change of one file or folder."""

    name: str
    """Path in the damaged folder."""
    kind: str
    """A name in `KINDS`."""
    seed: int
    """Determines positions and values."""

    def apply(self, root: Path) -> None:
        """Changes the file; does nothing if an earlier damage removed it."""
        path = root / self.name
        if os.path.lexists(path):
            KINDS[self.kind](path, root, np.random.default_rng(self.seed))


def damages(names: Sequence[str]) -> st.SearchStrategy[list[Damage]]:
    """One to three damages of the named files and folders."""
    one = st.builds(
        Damage, st.sampled_from(names), st.sampled_from(sorted(KINDS)), st.integers(0, 2**32 - 1)
    )
    return st.lists(one, min_size=1, max_size=3)


def relative_names(root: Path) -> list[str]:
    """The paths of all files and folders in a folder, sorted."""
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*"))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _replace(path: Path, content: bytes) -> None:
    _remove(path)
    path.write_bytes(content)


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _flip_bits(path: Path, root: Path, rng: np.random.Generator) -> None:
    content = bytearray(_content(path))
    for _ in range(rng.integers(1, 4)):
        if content:
            content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    _replace(path, bytes(content))


def _truncate(path: Path, root: Path, rng: np.random.Generator) -> None:
    content = _content(path)
    _replace(path, content[: rng.integers(max(len(content), 1))])


def _delete(path: Path, root: Path, rng: np.random.Generator) -> None:
    _remove(path)


def _empty(path: Path, root: Path, rng: np.random.Generator) -> None:
    _replace(path, b"")


def _make_folder(path: Path, root: Path, rng: np.random.Generator) -> None:
    _remove(path)
    path.mkdir()
    if rng.random() < 0.5:
        (path / "file").write_text("of another program")


def _make_link(path: Path, root: Path, rng: np.random.Generator) -> None:
    """To another file, to a folder, to itself, or to nothing."""
    others = [other for other in sorted(root.rglob("*")) if other != path]
    targets = [*others, path, root / "nothing", root.parent / OUTSIDE]
    target = targets[rng.integers(len(targets))]
    if target.is_relative_to(path) and target != path:
        return
    _remove(path)
    path.symlink_to(target)


def _swap(path: Path, root: Path, rng: np.random.Generator) -> None:
    others = [p for p in sorted(root.rglob("*")) if p.is_file() and p != path]
    if path.is_file() and others:
        other = others[rng.integers(len(others))]
        content = path.read_bytes()
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)


def _make_other_text(path: Path, root: Path, rng: np.random.Generator) -> None:
    """Not UTF-8."""
    content = _content(path)
    position = rng.integers(len(content) + 1)
    _replace(path, content[:position] + b"\xff\xfe\x80" + content[position:])


def _make_other_json(path: Path, root: Path, rng: np.random.Generator) -> None:
    """Valid JSON of another type, at the top or in a member."""
    outside = [f"../{OUTSIDE}", str(root.parent / OUTSIDE), "config.json/../../" + OUTSIDE]
    others = [*OTHER_JSON, outside]
    other = others[rng.integers(len(others))]
    try:
        value = json.loads(_content(path))
    except ValueError:
        value = None
    if isinstance(value, dict) and value and rng.random() < 0.7:
        keys = sorted(value)
        other = {**value, keys[rng.integers(len(keys))]: other}
    elif isinstance(value, list) and value and rng.random() < 0.7:
        other = [*(other if isinstance(other, list) else [other]), *value[1:]]
    _replace(path, json.dumps(other).encode())


KINDS: dict[str, Callable[[Path, Path, np.random.Generator], None]] = {
    "flip bits": _flip_bits,
    "truncate": _truncate,
    "delete": _delete,
    "empty": _empty,
    "make a folder": _make_folder,
    "make a link": _make_link,
    "swap": _swap,
    "other text": _make_other_text,
    "other JSON": _make_other_json,
}
