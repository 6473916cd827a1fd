"""The check of a posterior on held-out measurements, if their distribution is known."""

import jax.numpy as jnp
import numpy as np

from dip_jax.base import Case, Posterior, Result
from dip_jax.operators.pixelwise import is_pixelwise, measured_std
from dip_jax.posterior.law import Law
from dip_jax.posterior.prediction import PredictiveCheck, check_prediction
from dip_jax.problem import measure, noise_variance
from dip_jax.tasks.noise_level import clipped_noise_of

_UNCHECKED = ("laplace", "interval")
"""Likelihoods whose residuals have another variance than the noise level says."""


def check_held_out(
    case: Case, result: Result, posterior: Posterior, likelihood: str | None, law: Law
) -> PredictiveCheck | None:
    """Returns the check on held-out measurements; None if their distribution is not known.

    Args:
      case: The case that was sampled.
      result: Its result, with the held-out measurements.
      posterior: Its samples.
      likelihood: Name of the likelihood; None for unknown.
      law: The state of the sampler, with the noise level that it has found, if it samples it.
    """
    problem, held_out = case.problem, result.held_out
    if held_out is None or not held_out.any() or likelihood in _UNCHECKED:
        return None
    if not is_pixelwise(problem.operator):
        return None
    image = jnp.asarray(posterior.mean)
    mean = measure(problem.operator, image)
    std = measured_std(problem.operator, image, jnp.asarray(posterior.std))
    if std is None:
        return None
    level, limits = clipped_noise_of(case, posterior.mean, law.noise_std)
    problem = problem._replace(noise_std=jnp.float32(level))
    noise_std = np.sqrt(np.asarray(noise_variance(problem, mean)))
    return check_prediction(
        np.asarray(mean),
        np.asarray(std),
        np.asarray(problem.measurement),
        noise_std,
        held_out,
        limits,
    )
