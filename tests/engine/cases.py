"""Cases, settings and runs that the tests of this folder share.

Most tests use the settings `tiny_config()`, alone or with two slots, because settings that differ need a program of
their own, which takes seconds to compile.
"""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from dip_jax.base import Case, Result
from dip_jax.config import Config
from dip_jax.engine.from_config import estimator_from_config
from dip_jax.engine.restore import restore_many
from dip_jax.engine.scheduler import Progress
from dip_jax.engine.slots import Slots
from dip_jax.keys import image_key, simulation_key
from dip_jax.presets import build_config
from dip_jax.tasks.simulate import simulate_case
from tests.conftest import TINY


def tiny_config(*overrides: str) -> Config:
    """The settings of a fit of twelve steps, in chunks of at most five."""
    return build_config(overrides=[*TINY, "fit.num_steps=12", "run.chunk=5", *overrides])


def simulate(image: np.ndarray, config: Config, name: str = "a") -> Case:
    """Degrades an image as the task of the settings describes."""
    return simulate_case(simulation_key(image_key(0, name)), config.task, name, image)


def restore_by_name(image: np.ndarray, names: Iterable[str], config: Config) -> dict[str, Result]:
    """Simulates a case for each name and restores all of them."""
    cases = [simulate(image, config, name) for name in names]
    return {result.name: result for result in restore_many(cases, config)}


def build_slots(case: Case, config: Config, **options: Any) -> Slots:
    """Returns the slots of the settings; the options are those of `Slots`."""
    return Slots(case, estimator_from_config(config), config.run, **options)


def stop_after(num_chunks: int) -> dict[str, Any]:
    """Arguments of `restore_many` that end the run after some chunks."""
    chunks: list[Any] = []

    def count(progress: Progress) -> None:
        if not progress.phase:
            chunks.append(progress)

    return {"on_progress": count, "should_stop": lambda: len(chunks) >= num_chunks}


def assert_same_bits(a: Any, b: Any) -> None:
    """Compares two trees of arrays."""
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_same_result(a: Result, b: Result) -> None:
    """Compares the images and the curves of two results."""
    assert_same_bits((a.image, a.raw, a.curve), (b.image, b.raw, b.curve))
    assert (a.status, a.num_steps, a.stop_step) == (b.status, b.num_steps, b.stop_step)
