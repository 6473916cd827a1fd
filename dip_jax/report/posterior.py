"""The files of a posterior: of the samples of chains, or of a fit with several seeds.

Both have a standard deviation. Samples also have a 90 % interval, traces with their convergence, and
calibration: against the reference, and against measurements that were held out.
"""

import jax.numpy as jnp
import numpy as np
from scipy import stats

from dip_jax.base import Case, Posterior, Result
from dip_jax.images.read import StoredImage
from dip_jax.images.write import write_image
from dip_jax.operators.pixelwise import is_pixelwise, measured_std
from dip_jax.posterior.calibration import calibrate, calibrate_scaled
from dip_jax.posterior.convergence import RHAT_LIMIT, Diagnosis, diagnose
from dip_jax.posterior.law import Law, law_of
from dip_jax.posterior.leave_one_out import leave_one_out
from dip_jax.posterior.prediction import PredictiveCheck, check_prediction
from dip_jax.problem import noise_variance
from dip_jax.report.manifest import Manifest
from dip_jax.report.posterior_figures import draw_calibration, draw_std, draw_traces
from dip_jax.report.summarize import point_summary, posterior_summary, seeds_summary
from dip_jax.report.summary import PosteriorSummary
from dip_jax.storage.atomic import write_array

_LEVEL = 0.9  # of interval.npy
_UNCHECKED = ("tobit", "laplace", "interval")
"""Likelihoods whose residuals have another variance than the noise level says."""


def report_posterior(
    files: Manifest,
    case: Case,
    result: Result,
    template: StoredImage,
    *,
    likelihood: str | None,
) -> tuple[PosteriorSummary, list[str]]:
    """Writes the files of a posterior.

    Args:
      files: The record of the image.
      case: The case that was restored.
      result: Its result.
      template: The stored image whose file type, depth and range written images take.
      likelihood: Name of the likelihood of the samples; None for unknown.

    Returns:
      The keys of the summary, and sentences for the user; both empty for a single point estimate.

    Raises:
      OSError: If a file cannot be written.
    """
    posterior = result.posterior
    if posterior is None:
        return {}, []
    is_fit = not result.samples_posterior
    if posterior.num_samples < 2:
        return {}, [f"too few {'estimates' if is_fit else 'samples'} for a standard deviation"]
    files.reserve(_file_names(posterior, template.suffix, is_fit=is_fit))
    write_array(files.path("std.npy"), posterior.std)
    if is_fit:
        draw_std(files.path("std.png"), posterior.std)
        median = np.median(posterior.chain_means, axis=0)
        write_image(files.path(f"median{template.suffix}"), median, template)
        return seeds_summary(posterior, median, case.reference), []
    return _report_samples(files, case, result, posterior, likelihood, template)


def _file_names(posterior: Posterior, suffix: str, *, is_fit: bool) -> list[str]:
    if is_fit:
        return ["std.npy", "std.png", f"median{suffix}"]
    samples = [_sample_name(number, suffix) for number in range(1, len(posterior.samples) + 1)]
    return ["std.npy", "std.png", "interval.npy", "traces.png", *samples]


def _sample_name(number: int, suffix: str) -> str:
    return f"samples/{number:04d}{suffix}"


def _report_samples(
    files: Manifest,
    case: Case,
    result: Result,
    posterior: Posterior,
    likelihood: str | None,
    template: StoredImage,
) -> tuple[PosteriorSummary, list[str]]:
    half_width = stats.norm.ppf((1 + _LEVEL) / 2) * posterior.std
    interval = np.stack([posterior.mean - half_width, posterior.mean + half_width])
    write_array(files.path("interval.npy"), interval)
    diagnosis = diagnose(
        posterior.traces, posterior.trace_names, chains_per_start=posterior.chains_per_start
    )
    draw_std(files.path("std.png"), posterior.std, state=_state(diagnosis))
    draw_traces(files.path("traces.png"), posterior, diagnosis)
    calibration = scaled = None
    if case.reference is not None:
        calibration = calibrate(posterior.mean, posterior.std, case.reference)
        scaled = calibrate_scaled(posterior.mean, posterior.std, case.reference)
        draw_calibration(files.path("calibration.png"), calibration, scaled)
    for number, sample in enumerate(posterior.samples, start=1):
        write_image(files.path(_sample_name(number, template.suffix)), sample, template)
    law = law_of(result.network_curves or (result.curve,))
    check = _check_held_out(case, result, posterior, likelihood, law)
    left_out = leave_one_out(posterior)
    notes = [] if diagnosis.converged else [diagnosis.message]
    notes += [left_out.message] if left_out is not None and left_out.message else []
    notes += [law.message] if law.message else []
    notes += [check.message] if check is not None else []
    summary = posterior_summary(posterior, diagnosis, calibration, scaled, check, law, left_out)
    return {**summary, **point_summary(result)}, notes


def _state(diagnosis: Diagnosis) -> str:
    """The state of the chains for the figure of the standard deviation; empty if they have converged."""
    if diagnosis.converged:
        return ""
    if diagnosis.converged is None:
        return "a single chain, or start: others might differ more"
    if np.isnan(diagnosis.rhat_max):
        return "too few samples to assess convergence"
    if diagnosis.rhat_max <= RHAT_LIMIT:
        return f"too short (effective sample size {diagnosis.ess_min:.0f}): a lower bound"
    rhat = f" (R-hat {diagnosis.rhat_max:.2f})" if np.isfinite(diagnosis.rhat_max) else ""
    return f"not converged{rhat}: a lower bound"


def _check_held_out(
    case: Case, result: Result, posterior: Posterior, likelihood: str | None, law: Law
) -> PredictiveCheck | None:
    """The check on held-out measurements; None if their distribution is not known."""
    problem, held_out = case.problem, result.held_out
    if held_out is None or not held_out.any() or likelihood in _UNCHECKED:
        return None
    if not is_pixelwise(problem.operator):
        return None
    image = jnp.asarray(posterior.mean)
    mean = problem.operator(image)
    std = measured_std(problem.operator, image, jnp.asarray(posterior.std))
    if std is None:
        return None
    if np.isfinite(law.noise_std):
        problem = problem._replace(noise_std=jnp.float32(law.noise_std))
    noise_std = np.sqrt(np.asarray(noise_variance(problem, mean)))
    return check_prediction(
        np.asarray(mean), np.asarray(std), np.asarray(problem.measurement), noise_std, held_out
    )
