"""Programs: traced, compiled, and their text kept from one start to the next.

What JAX compiles it keeps (see `compilation`), but it finds it by the program's text, and to have that it must trace:
2.5 seconds for the standard network. So the text is kept as well, under a checksum of all that it depends on: this
package's source, the versions of Python and the libraries, JAX's settings, the devices, and the form of the program that the caller
gives. A form that holds what is neither this package's nor a library's (an operator of the user's, whose source
may change) is not kept, nor is anything unless `cache_exports` was called. The folder is trusted, as JAX's own is: a
file in it is a pickle.
"""

import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.resources
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
import platformdirs
from jax import export

from dip_jax.images import atomic

_MAX_EXPORT_BYTES = 200_000_000
_MAX_COMPILED_BYTES = 2_000_000_000
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "opt_einsum", "ml_dtypes")
# What a form may hold things of.
_PACKAGE = __name__.partition(".")[0]
_KNOWN = (_PACKAGE, *_LIBRARIES, "builtins", "collections", "copyreg")

_LOG = logging.getLogger(__name__)
_folder: Path | None = None


def _source() -> bytes:
    """A checksum of all source files of the package, subpackages included."""
    root = Path(str(importlib.resources.files(_PACKAGE)))
    files = sorted(root.rglob("*.py"))
    contents = [(f.relative_to(root).as_posix(), f.read_bytes()) for f in files]
    return hashlib.sha256(repr(contents).encode()).digest()


# As near as can be to what was imported: the files may change while this process runs.
_SOURCE = _source()


class Program(NamedTuple):
    """A compiled function of trees."""

    compiled: jax.stages.Compiled
    """The same function, of the leaves of its first argument, which are donated, and those of the others."""
    in_tree: Any
    out_tree: Any

    def __call__(self, *arguments: Any) -> Any:
        """Runs it.

        Raises:
          TypeError: If the arguments have another structure than those that it was compiled for.
        """
        if jax.tree.structure(arguments) != self.in_tree:
            raise TypeError(
                f"The program was compiled for {self.in_tree}, came {jax.tree.structure(arguments)}."
            )
        leaves = self.compiled(*_leaves(arguments))
        return jax.tree.unflatten(self.out_tree, leaves)


class _Text(NamedTuple):
    """What a file holds."""

    exported: bytes
    out_tree: Any
    about: Any


class _Lowered(NamedTuple):
    """A program that is yet to be compiled, from its file or traced."""

    lowered: jax.stages.Lowered
    in_tree: Any
    out_tree: Any
    about: Any


def cache_exports(folder: Path | None) -> None:
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
      form: All that `trace` makes the program of, as far as it is not this package's source; anything that can be
        pickled.
      trace: Returns the function, and what its maker says about it (e.g. the shapes of its state).
      arguments: From the latter to the shapes of the function's arguments, with their shardings.

    Returns:
      The program and what its maker says about it.
    """
    path = _path(form)
    found = (path and _read(path, arguments)) or _make(path, trace, arguments)
    return Program(found.lowered.compile(), found.in_tree, found.out_tree), found.about


def _make(
    path: Path | None,
    trace: Callable[[], tuple[Callable[..., Any], Any]],
    arguments: Callable[[Any], tuple[Any, ...]],
) -> _Lowered:
    """Traces the program, and keeps its text at `path`."""
    function, about = trace()
    shapes = arguments(about)
    in_tree, out_tree = jax.tree.structure(shapes), None

    def of_leaves(donated: list[jax.Array], others: list[jax.Array]) -> list[jax.Array]:
        nonlocal out_tree
        made = function(*jax.tree.unflatten(in_tree, [*donated, *others]))
        leaves, out_tree = jax.tree.flatten(made)
        return leaves

    jitted = jax.jit(of_leaves, donate_argnums=0)
    traced = jitted.trace(*_leaves(shapes))  # what is wrong with the function is said here
    lowered: jax.stages.Lowered | None = None
    if path is not None:
        try:
            exported = export.export(jitted)(*_leaves(shapes))
            _write(path, _Text(bytes(exported.serialize()), out_tree, about))
            # From its text at once: bits must not depend on whether it was the first start.
            lowered = _lower(exported, shapes)
        except Exception as error:  # not every program has a text, and not every disk has room
            _LOG.warning("The program's text cannot be kept: %s", error)
    return _Lowered(lowered or traced.lower(), in_tree, out_tree, about)


def _leaves(arguments: tuple[Any, ...]) -> tuple[list[Any], list[Any]]:
    """Those of the first argument and those of the others."""
    return jax.tree.leaves(arguments[0]), jax.tree.leaves(arguments[1:])


def _lower(exported: export.Exported, shapes: tuple[Any, ...]) -> jax.stages.Lowered:
    return jax.jit(exported.call, donate_argnums=0).lower(*_leaves(shapes))


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
    around = (_SOURCE, _versions(), sorted(jax.config.values.items()), devices)
    return _folder / f"{hashlib.sha256(repr(around).encode() + pickled).hexdigest()}.program"


@functools.cache
def _versions() -> tuple[str, ...]:
    return (platform.python_version(), *map(importlib.metadata.version, _LIBRARIES))


def _read(path: Path, arguments: Callable[[Any], tuple[Any, ...]]) -> _Lowered | None:
    try:
        text: _Text = pickle.loads(zlib.decompress(path.read_bytes()))
        shapes = arguments(text.about)
        lowered = _lower(export.deserialize(bytearray(text.exported)), shapes)
        found = _Lowered(lowered, jax.tree.structure(shapes), text.out_tree, text.about)
    except FileNotFoundError:
        return None
    except Exception as error:  # a damaged file costs seconds, not the run
        _LOG.warning("%s is of no use (%s); the program is traced again.", path, error)
        return None
    with contextlib.suppress(OSError):  # a folder may be read-only
        os.utime(path)  # the longest unused go first
    return found


def _write(path: Path, text: _Text) -> None:
    if _source() != _SOURCE:
        return  # the files are not what runs here
    path.parent.mkdir(parents=True, exist_ok=True)
    data = zlib.compress(pickle.dumps(text), 1)
    atomic.write(path, lambda file: file.write(data))
    with contextlib.suppress(FileNotFoundError):  # another process tidies up, too
        _tidy(path.parent)


def _tidy(folder: Path) -> None:
    """Removes the longest unused, and what killed processes left, until the rest is small enough."""
    files = sorted((file.stat().st_mtime, file.stat().st_size, file) for file in folder.iterdir())
    total = sum(size for _, size, _ in files)
    for _, size, file in files:
        if total <= _MAX_EXPORT_BYTES:
            return
        file.unlink(missing_ok=True)
        total -= size


def cache_folder() -> Path:
    """Where programs are kept unless the user says otherwise, e.g. `~/.cache/dip_jax/compiled`."""
    return Path(platformdirs.user_cache_dir("dip_jax", appauthor=False)) / "compiled"


def keep_compiled(folder: Path | None = None) -> None:
    """Has JAX keep what it compiles, up to 2 GB, and its texts kept; what has not been used for longest goes first.

    A folder that the user has told JAX itself (`JAX_COMPILATION_CACHE_DIR`) stays, and so does a no
    (`JAX_ENABLE_COMPILATION_CACHE=0`). Where nothing can be written, nothing is kept, and JAX compiles as without.

    Args:
      folder: Where; None for `cache_folder`.
    """
    if not jax.config.values["jax_enable_compilation_cache"]:
        return
    given = jax.config.values["jax_compilation_cache_dir"]
    if folder is None and given is not None:
        if given and "://" not in given:  # neither JAX's way to say no nor a bucket
            cache_exports(Path(given) / "traced")
        return
    folder = folder or cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(folder, os.W_OK):
        return
    cache_exports(folder / "traced")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", _MAX_COMPILED_BYTES)
    # Of the many small programs, too: together they take seconds.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
