"""Programs that several tests of this folder share."""

from typing import Any

import jax
import pytest

from dip_jax.engine import program_cache, step_loop

_PROGRAMS: dict[Any, Any] = {}


def build_shared(dependencies, trace, argument_shapes):
    """Does the same as `build_program`, but once for equal dependencies."""
    leaves, structure = jax.tree.flatten(dependencies)
    # A test may patch the length of a block, which is otherwise a constant of the platform.
    key = (*leaves, structure, step_loop.block_length())
    if key not in _PROGRAMS:
        _PROGRAMS[key] = program_cache.build_program(dependencies, trace, argument_shapes)
    return _PROGRAMS[key]


@pytest.fixture(scope="module")
def shared_programs():
    """Lets all slots of equal settings and shapes share a compiled program."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("dip_jax.engine.slots.build_program", build_shared)
        yield
