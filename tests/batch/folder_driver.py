"""The command in a separate process, with two additions: an image that diverges, and buckets that are local folders.

The measurement of an image called `diverging` is NaN, which no file can hold, so the guard undoes every step until
the fit has diverged. The folder in the environment variable `TEST_BUCKETS` is behind `gs://`.
"""

import os
import sys
from pathlib import Path

import jax.numpy as jnp

from dip_jax.batch import load
from dip_jax.cli.command import main
from tests.storage.bucket import install

build_case = load.build_case


def build_case_that_may_diverge(config, name, measurement, **side_inputs):
    case = build_case(config, name, measurement, **side_inputs)
    if name != "diverging":
        return case
    problem = case.problem
    return case._replace(problem=problem._replace(measurement=jnp.nan * problem.measurement))


load.build_case = build_case_that_may_diverge
if "TEST_BUCKETS" in os.environ:
    install(Path(os.environ["TEST_BUCKETS"]))
sys.exit(main())
