"""One place for how the tests run: on CPU unless asked, strict about ranks and warnings."""

import contextlib
import gc
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# The same small programs are built again and again, in every worker and in the processes that tests start:
# compile each once.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache/jax")
)

# The threads of BLAS wait actively for each other. With a worker on each core they wait for most of the time:
# filtering small images took seven times as much of the processor with two threads as with one.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import numpy as np
import pytest

from dip_jax import config
from dip_jax.engine import program_cache, recent_programs, step_loop
from dip_jax.presets import PRESETS
from dip_jax.tasks import registry

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


_FLAGS = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if jax.__version_info__ < (0, 11):  # later ones have no other emitters
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")


def pytest_configure(config):
    """The default tests compile much and compute little; the slow ones are the other way round."""
    if config.option.markexpr != "slow":
        os.environ.setdefault("XLA_FLAGS", " ".join(_FLAGS))


def pytest_collection_finish():
    """The modules and tests stay until the end, so the garbage collector need not visit them.

    Traces make many objects and few cycles: with the default thresholds a fifth of the time is spent in search of these.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


# The network that compiles fastest: what surrounds it is the same for every network.
TINY = ("net.kind=deep_decoder", "net.depth=1", "net.width=4", "net.input_depth=4")


@pytest.fixture
def tiny() -> tuple[str, ...]:
    """Overrides for a network that compiles and runs in no time."""
    return TINY


def smooth_image() -> np.ndarray:
    """A smooth image with an edge, float32 [40, 36, 3]."""
    rows, columns = np.mgrid[0:40, 0:36] / 40
    waves = [0.5 + 0.4 * np.sin(6 * rows + k) * np.cos(4 * columns) for k in range(3)]
    image = np.stack(waves, axis=-1)
    image[10:20, 8:25] = (0.8, 0.2, 0.4)
    return image.astype(np.float32)


@pytest.fixture
def image() -> np.ndarray:
    """A smooth image with an edge, float32 [40, 36, 3]."""
    return smooth_image()


@pytest.fixture
def double():
    """Float64 for comparisons with numbers that were computed in it."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True)
def no_recent_programs():
    """Each test builds its programs, as it may replace a part of them."""
    recent_programs.forget_programs()


_PROGRAMS: dict[Any, Any] = {}


def build_shared(estimator, form, trace, argument_shapes):
    """Does the same as `recall_program`, but keeps all programs."""
    dependencies = (estimator, form)
    leaves, structure = jax.tree.flatten(dependencies)
    # A test may patch the length of a block, which is otherwise a constant of the platform.
    key = (*leaves, structure, step_loop.block_length())
    if key not in _PROGRAMS:
        _PROGRAMS[key] = program_cache.build_program(dependencies, trace, argument_shapes)
    return _PROGRAMS[key]


@contextlib.contextmanager
def sharing_programs() -> Iterator[None]:
    """Lets all slots of equal settings and shapes share a compiled program, also those of other modules."""
    with mock.patch("dip_jax.engine.slots.recall_program", build_shared):
        yield


@pytest.fixture(scope="module")
def shared_programs():
    """Tests that do not depend on how programs are built share them."""
    with sharing_programs():
        yield


@pytest.fixture
def registered():
    """A test may register tasks, which are removed after it."""
    with (
        mock.patch.dict(registry._tasks),
        mock.patch.dict(PRESETS),
        mock.patch.object(config, "_added_tasks", []),
    ):
        yield


def run_command(*args) -> tuple[int, str, str]:
    """Runs the command in this process: `(status, output, errors)`."""
    from dip_jax.cli import command

    output, errors = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        try:
            status = command.main([*map(str, args)])
        finally:
            program_cache.cache_exports(None)  # other tests trace what they build
    return status, output.getvalue(), errors.getvalue()


@pytest.fixture(scope="session")
def run():
    """The command, in this process: `run(*args) -> (status, output, errors)`."""
    return run_command
