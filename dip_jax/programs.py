"""Programs: traced, compiled, and their text kept from one start to the next.

What JAX compiles it keeps (see `compilation`), but it finds it by the program's text, and to have that it must trace:
2.5 seconds for the standard network. So the text is kept as well, under a checksum of all that it depends on: this
package's source, the versions of Python and the libraries, JAX's settings, the devices, and the form of the program that the caller
gives. A form that holds what is neither this package's nor a library's (an operator of the user's, whose source
may change) is not kept, nor is anything unless `keep_texts` was called.
"""

import functools
import hashlib
import importlib.metadata
import io
import logging
import os
import pickle
import platform
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax import export

from dip_jax.writing import part_of

_MOST_BYTES = 200_000_000
_LIBRARIES = ("jax", "jaxlib", "numpy", "optax")
_KNOWN = (__package__, *_LIBRARIES, "builtins", "collections", "copyreg")

_LOG = logging.getLogger(__name__)
_folder: Path | None = None


class Program(NamedTuple):
    """A compiled function of trees."""

    compiled: jax.stages.Compiled
    """The same function, of the leaves of its first argument, which are donated, and those of the others."""
    out_tree: Any

    def __call__(self, donated: Any, *others: Any) -> Any:
        """Runs it."""
        leaves = self.compiled(jax.tree.leaves(donated), jax.tree.leaves(others))
        return jax.tree.unflatten(self.out_tree, leaves)


class _Text(NamedTuple):
    exported: bytes
    out_tree: Any
    about: Any


def keep_texts(folder: Path | None) -> None:
    """Has texts kept in a folder, up to 200 MB, the longest unused go first; None for not at all."""
    global _folder
    _folder = folder


def build_program(
    form: Any,
    trace: Callable[[], tuple[Callable[..., Any], Any]],
    arguments: Callable[[Any], tuple[Any, ...]],
) -> tuple[Program, Any]:
    """Compiles a function of trees, the first of which is donated.

    Args:
      form: All that `trace` makes the program of, as far as it is not this package's source; anything that can be pickled.
      trace: Returns the function, and what its maker says about it (e.g. the shapes of its state).
      arguments: From the latter to the shapes of the function's arguments, with their shardings.

    Returns:
      The program and what its maker says about it.
    """
    path = _path(form)
    text = _read(path) if path else None
    if text is None:
        function, about = trace()
    else:
        about = text.about
    shapes = arguments(about)
    tree: Any = jax.tree.structure(shapes)
    leaves = (jax.tree.leaves(shapes[0]), jax.tree.leaves(shapes[1:]))
    out_tree = None

    def of_leaves(donated: list[jax.Array], others: list[jax.Array]) -> list[jax.Array]:
        nonlocal out_tree
        made, out_tree = jax.tree.flatten(function(*tree.unflatten([*donated, *others])))
        return made

    if path is None:
        lowered = jax.jit(of_leaves, donate_argnums=0).lower(*leaves)
        return Program(lowered.compile(), out_tree), about
    if text is None:
        exported = export.export(jax.jit(of_leaves, donate_argnums=0))(*leaves)
        _write(path, _Text(bytes(exported.serialize()), out_tree, about))
    else:
        exported = export.deserialize(bytearray(text.exported))
        out_tree = text.out_tree
    lowered = jax.jit(exported.call, donate_argnums=0).lower(*leaves)
    return Program(lowered.compile(), out_tree), about


class _Known(pickle.Unpickler):
    """Finds what is this package's or a library's, and refuses the rest."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] not in _KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name} is not known")
        return super().find_class(module, name)


def _path(form: Any) -> Path | None:
    """Where the text of a program of this form is kept, or would be; None if it is not to be."""
    if _folder is None or jax.process_count() > 1:
        return None
    try:
        pickled = pickle.dumps(form)
        _Known(io.BytesIO(pickled)).load()
    except (pickle.PickleError, AttributeError, TypeError):
        return None
    devices = [(device.platform, device.device_kind, device.id) for device in jax.devices()]
    around = (_versions(), sorted(jax.config.values.items()), devices)
    checksum = hashlib.sha256(_source() + repr(around).encode() + pickled)
    return _folder / f"{checksum.hexdigest()}.program"


@functools.cache
def _versions() -> tuple[str, ...]:
    return (platform.python_version(), *map(importlib.metadata.version, _LIBRARIES))


@functools.cache
def _source() -> bytes:
    """A checksum of this package's files."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest()


def _read(path: Path) -> _Text | None:
    try:
        data = path.read_bytes()
        os.utime(path)  # the longest unused go first
        return _Known(io.BytesIO(zlib.decompress(data))).load()
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged file costs seconds, not the run
        _LOG.warning("%s cannot be read (%s); the program is traced again.", path, error)
        return None


def _write(path: Path, text: _Text) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = part_of(path)
        try:
            part.write_bytes(zlib.compress(pickle.dumps(text), 1))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        kept = sorted(path.parent.glob("*.program"), key=lambda file: file.stat().st_mtime)
        total = sum(file.stat().st_size for file in kept)
        while total > _MOST_BYTES:
            oldest = kept.pop(0)
            total -= oldest.stat().st_size
            oldest.unlink()
    except OSError as error:  # e.g. a full disk, or another process tidied up
        _LOG.warning("%s cannot be kept (%s); the next start traces again.", path, error)
