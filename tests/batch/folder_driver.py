"""The command in a process of its own, with one thing more: a picture called `diverging` does.

Its measurement is NaN, which no file can be, so every step is undone until the guard gives up.
"""

import sys

import jax.numpy as jnp

import main
from dip_jax.batch import inputs as jobs

build_case = jobs.build_case


def build_case_that_may_diverge(config, name, image, **more):
    case = build_case(config, name, image, **more)
    if name != "diverging":
        return case
    problem = case.problem
    return case._replace(problem=problem._replace(measurement=jnp.nan * problem.measurement))


jobs.build_case = build_case_that_may_diverge
sys.exit(main.main())
