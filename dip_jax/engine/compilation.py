"""Compiled programs are kept from one start to the next, in a folder of the user's.

Compiling the standard network takes a quarter of a minute on two cores; finding it takes a second. JAX keeps a
program under a checksum of its text, of the versions and of the device, so that none is ever used for another. The
texts are kept beside them, in the folder `traced`; see `programs`.
"""

import os
from pathlib import Path

import jax
import platformdirs

from dip_jax.engine import program_cache as programs

_MOST_BYTES = 2_000_000_000


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
            programs.keep_texts(Path(given) / "traced")
        return
    folder = folder or cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(folder, os.W_OK):
        return
    programs.keep_texts(folder / "traced")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", _MOST_BYTES)
    # Of the many small programs, too: together they take seconds.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
