"""A cache of exported programs, so that a second start compiles nothing and traces nothing.

JAX's own cache finds a compiled executable by the text of the program (StableHLO), and the text needs a trace, which
takes 2.5 seconds for the standard network. This cache stores the text too, under a checksum of everything that it
depends on: the source of this package, the versions of Python and the libraries, the settings of JAX, the devices, and
the arguments of the trace. A program that depends on anything else is not cached, such as an operator of the user,
whose source may change. Nothing is cached unless `cache_exports` was called. As in JAX's cache, the folder is trusted:
its files are pickles.
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

from dip_jax.storage import atomic

_MAX_EXPORT_BYTES = 200_000_000
_MAX_COMPILED_BYTES = 2_000_000_000
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "opt_einsum", "ml_dtypes")
_PACKAGE = __name__.partition(".")[0]
# Packages whose classes are covered by the checksum.
_KNOWN_PACKAGES = (_PACKAGE, *_LIBRARIES, "builtins", "collections", "copyreg")

_LOG = logging.getLogger(__name__)
_folder: Path | None = None


def source_checksum(root: Path) -> bytes:
    """Returns a checksum of all Python files in a folder and its subfolders."""
    files = sorted(root.rglob("*.py"))
    contents = [(file.relative_to(root).as_posix(), file.read_bytes()) for file in files]
    return hashlib.sha256(repr(contents).encode()).digest()


def _package_checksum() -> bytes:
    return source_checksum(Path(str(importlib.resources.files(_PACKAGE))))


# Read at import: the files may change while this process runs.
_SOURCE = _package_checksum()


class Program(NamedTuple):
    """A compiled function of trees, whose first argument is donated."""

    compiled: jax.stages.Compiled
    """The function of two lists: the leaves of the first argument, and those of the others."""
    in_tree: Any
    """Tree structure of the tuple of arguments."""
    out_tree: Any
    """Tree structure of the result."""

    def __call__(self, *arguments: Any) -> Any:
        """Runs the program.

        Raises:
          TypeError: If the arguments have another tree structure than those of the compilation.
        """
        structure = jax.tree.structure(arguments)
        if structure != self.in_tree:
            raise TypeError(f"Expected arguments of the structure {self.in_tree}, got {structure}.")
        leaves = self.compiled(*_leaves(arguments))
        return jax.tree.unflatten(self.out_tree, leaves)


class _File(NamedTuple):
    """The content of a cache file."""

    exported: bytes
    """The exported program, serialized."""
    out_tree: Any
    info: Any


class _Lowered(NamedTuple):
    """A program before its compilation."""

    lowered: jax.stages.Lowered
    in_tree: Any
    out_tree: Any
    info: Any


def cache_exports(folder: Path | None) -> None:
    """Caches exported programs in a folder.

    Args:
      folder: The folder, which is kept below 200 MB by removing the least recently used files; None for no cache.
    """
    global _folder
    _folder = folder


def build_program(
    dependencies: Any,
    trace: Callable[[], tuple[Callable[..., Any], Any]],
    argument_shapes: Callable[[Any], tuple[Any, ...]],
) -> tuple[Program, Any]:
    """Compiles a function of trees, the first of which is donated.

    Args:
      dependencies: Everything that determines the result of `trace`, other than the source of this package. The
        program is cached if this can be pickled and contains only classes of this package and its libraries.
      trace: Returns the function and information about it, such as the shapes of its state.
      argument_shapes: Returns the shapes of the arguments, with their shardings, from that information.

    Returns:
      The program and the information about it.
    """
    path = _cache_path(dependencies)
    program = None if path is None else _read(path, argument_shapes)
    if program is None:
        program = _lower(path, trace, argument_shapes)
    return Program(program.lowered.compile(), program.in_tree, program.out_tree), program.info


def _lower(
    path: Path | None,
    trace: Callable[[], tuple[Callable[..., Any], Any]],
    argument_shapes: Callable[[Any], tuple[Any, ...]],
) -> _Lowered:
    """Traces the program, and stores it at `path`."""
    function, info = trace()
    shapes = argument_shapes(info)
    in_tree, out_tree = jax.tree.structure(shapes), None

    def of_leaves(donated: list[jax.Array], others: list[jax.Array]) -> list[jax.Array]:
        nonlocal out_tree
        result = function(*jax.tree.unflatten(in_tree, [*donated, *others]))
        leaves, out_tree = jax.tree.flatten(result)
        return leaves

    jitted = jax.jit(of_leaves, donate_argnums=0)
    traced = jitted.trace(*_leaves(shapes))  # raises the errors of the function
    lowered: jax.stages.Lowered | None = None
    if path is not None:
        try:
            exported = export.export(jitted)(*_leaves(shapes))
            _write(path, _File(bytes(exported.serialize()), out_tree, info))
            # The export is lowered here too, so that the first run has the bits of later runs.
            lowered = _lower_exported(exported, shapes)
        except Exception as error:  # e.g. the program cannot be exported, or the disk is full
            _LOG.warning("The program cannot be cached: %s", error)
    return _Lowered(lowered or traced.lower(), in_tree, out_tree, info)


def _leaves(arguments: tuple[Any, ...]) -> tuple[list[Any], list[Any]]:
    """Returns the leaves of the first argument, and those of the others."""
    return jax.tree.leaves(arguments[0]), jax.tree.leaves(arguments[1:])


def _lower_exported(exported: export.Exported, shapes: tuple[Any, ...]) -> jax.stages.Lowered:
    return jax.jit(exported.call, donate_argnums=0).lower(*_leaves(shapes))


class _KnownUnpickler(pickle.Unpickler):
    """Loads only classes and functions of known packages."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] not in _KNOWN_PACKAGES:
            raise pickle.UnpicklingError(f"{module}.{name} belongs to no known package")
        return super().find_class(module, name)


def pickle_known(dependencies: Any) -> bytes | None:
    """Returns a pickle of something; None if it needs a class or function that is not of a known package."""
    try:
        pickled = pickle.dumps(dependencies)
        _KnownUnpickler(io.BytesIO(pickled)).load()
    except (pickle.PickleError, AttributeError, TypeError):
        return None
    return pickled


def _cache_path(dependencies: Any) -> Path | None:
    """Returns the cache file of a program; None if the program is not cached."""
    if _folder is None or jax.process_count() > 1:
        return None
    pickled = pickle_known(dependencies)
    if pickled is None:
        return None
    devices = [(device.platform, device.device_kind, device.id) for device in jax.devices()]
    environment = (_SOURCE, _versions(), sorted(jax.config.values.items()), devices)
    checksum = hashlib.sha256(repr(environment).encode() + pickled)
    return _folder / f"{checksum.hexdigest()}.program"


@functools.cache
def _versions() -> tuple[str, ...]:
    return (platform.python_version(), *map(importlib.metadata.version, _LIBRARIES))


def _read(path: Path, argument_shapes: Callable[[Any], tuple[Any, ...]]) -> _Lowered | None:
    """Returns the program of a cache file; None if there is no readable file."""
    try:
        file: _File = pickle.loads(zlib.decompress(path.read_bytes()))
        shapes = argument_shapes(file.info)
        lowered = _lower_exported(export.deserialize(bytearray(file.exported)), shapes)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # a damaged file costs a trace, not the run
        _LOG.warning("%s cannot be read (%s); the program is traced again.", path, error)
        return None
    with contextlib.suppress(OSError):  # the folder may be read-only
        os.utime(path)  # marks the file as recently used
    return _Lowered(lowered, jax.tree.structure(shapes), file.out_tree, file.info)


def _write(path: Path, content: _File) -> None:
    if _package_checksum() != _SOURCE:
        return  # the files are no longer the source of this process
    path.parent.mkdir(parents=True, exist_ok=True)
    data = zlib.compress(pickle.dumps(content), 1)
    atomic.write(path, lambda file: file.write(data))
    with contextlib.suppress(FileNotFoundError):  # another process may remove files too
        _remove_least_recent(path.parent)


def _remove_least_recent(folder: Path) -> None:
    """Removes the least recently used files until the folder is small enough.

    Incomplete files of killed processes count as unused since they were written.
    """
    files = sorted((file.stat().st_mtime, file.stat().st_size, file) for file in folder.iterdir())
    total = sum(size for _, size, _ in files)
    for _, size, file in files:
        if total <= _MAX_EXPORT_BYTES:
            return
        file.unlink(missing_ok=True)
        total -= size


def cache_folder() -> Path:
    """Returns the default cache folder, e.g. `~/.cache/dip_jax/compiled`.

    Raises:
      RuntimeError: If the user has no home folder.
    """
    return Path(platformdirs.user_cache_dir("dip_jax", appauthor=False)) / "compiled"


def keep_compiled(folder: Path | None = None) -> None:
    """Caches compiled executables (JAX's cache, up to 2 GB) and exported programs (up to 200 MB) for later runs.

    The variables of JAX take precedence: `JAX_COMPILATION_CACHE_DIR` sets another folder, and
    `JAX_ENABLE_COMPILATION_CACHE=0` turns both caches off. If the folder cannot be written, nothing is cached.

    Args:
      folder: The folder; None for `cache_folder`.
    """
    if not jax.config.values["jax_enable_compilation_cache"]:
        return
    jax_folder = jax.config.values["jax_compilation_cache_dir"]
    if folder is None and jax_folder is not None:
        if jax_folder and "://" not in jax_folder:  # "" turns JAX's cache off; a bucket has a URL
            cache_exports(Path(jax_folder) / "traced")
        return
    try:
        folder = folder or cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: the user has no home folder
        return
    if not os.access(folder, os.W_OK):
        return
    cache_exports(folder / "traced")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", _MAX_COMPILED_BYTES)
    # Also cache small programs: there are many, and together they take seconds.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
