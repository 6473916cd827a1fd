"""The command in a separate process, with one addition: an image called `diverging` diverges.

Its measurement is NaN, which no file can hold, so the guard undoes every step until the fit has diverged.
"""

import sys

import jax.numpy as jnp

import main
from dip_jax.batch import load

build_case = load.build_case


def build_case_that_may_diverge(config, name, measurement, **side_inputs):
    case = build_case(config, name, measurement, **side_inputs)
    if name != "diverging":
        return case
    problem = case.problem
    return case._replace(problem=problem._replace(measurement=jnp.nan * problem.measurement))


load.build_case = build_case_that_may_diverge
sys.exit(main.main())
