"""The files of a posterior: of chains, of several seeds, or of the intervals around a fit.

All have a standard deviation, and all but seeds a 90 % interval and, with a reference, its calibration. Samples of chains
also have traces with their convergence, and a check against measurements that were held out.

Values that are known exactly replace those of the estimate (`tasks.cases.known_values`). Their standard deviation and the
width of their interval are 0 in the files, and the calibration is that of the other values.
"""

import numpy as np

from dip_jax.base import Case, Posterior, PosteriorKind, Result
from dip_jax.images.read import StoredImage
from dip_jax.images.write import write_image
from dip_jax.posterior.calibration import Calibration, calibrate, calibrate_scaled
from dip_jax.posterior.convergence import RHAT_LIMIT, Diagnosis, diagnose
from dip_jax.posterior.law import law_of
from dip_jax.posterior.leave_one_out import leave_one_out
from dip_jax.report.held_out import check_held_out
from dip_jax.report.manifest import Manifest
from dip_jax.report.posterior_arrays import FILE, interval_of, write_posterior
from dip_jax.report.posterior_figures import draw_calibration, draw_std, draw_traces
from dip_jax.report.summarize import error_summary, point_summary, posterior_summary, seeds_summary
from dip_jax.report.summary import PosteriorSummary
from dip_jax.report.views import write_view
from dip_jax.tasks.cases import known_values

_STATES = {
    PosteriorKind.SEEDS: "spread of several fits: a lower bound",
    PosteriorKind.BOOTSTRAP: "from {} restored replicates",
    PosteriorKind.LINEARIZED: "from {} samples of the linearized network",
}
"""State of a deviation without chains."""
_INTERVAL_IMAGES = ("interval_low.png", "interval_high.png")


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
    kind = posterior.kind
    if posterior.num_samples < 2:
        sort = "estimates" if kind == PosteriorKind.SEEDS else "samples"
        return {}, [f"too few {sort} for a standard deviation"]
    shown = _with_known_values(case, result.image, posterior)
    files.reserve(_file_names(posterior, template.suffix))
    if kind == PosteriorKind.SEEDS:
        _write_numbers(files, shown, _STATES[kind])
        median = np.median(posterior.chain_means, axis=0)
        write_image(files.path(f"median{template.suffix}"), median, template)
        return seeds_summary(posterior, median, case.reference), []
    if kind != PosteriorKind.SAMPLES:
        state = _STATES[kind].format(posterior.num_samples)
        _write_numbers(files, shown, state)
        calibrations = _calibrate(files, case, posterior)
        return {"num_samples": posterior.num_samples, **error_summary(posterior, *calibrations)}, []
    diagnosis = diagnose(
        posterior.traces, posterior.trace_names, chains_per_start=posterior.chains_per_start
    )
    _write_numbers(files, shown, _state(diagnosis))
    draw_traces(files.path("traces.png"), posterior, diagnosis)
    for number, sample in enumerate(posterior.samples, start=1):
        write_image(files.path(_sample_name(number, template.suffix)), sample, template)
    law = law_of(result.network_curves or (result.curve,))
    check = check_held_out(case, result, posterior, likelihood, law)
    left_out = leave_one_out(posterior)
    is_known = diagnosis.converged or diagnosis.message in result.notes
    notes = [] if is_known else [diagnosis.message]
    notes += [left_out.message] if left_out is not None and left_out.message else []
    notes += [law.message] if law.message else []
    notes += [check.message] if check is not None else []
    calibrations = _calibrate(files, case, posterior)
    summary = posterior_summary(posterior, diagnosis, check, law, left_out)
    errors = error_summary(posterior, *calibrations)
    return {**summary, **errors, **point_summary(result)}, notes


def _file_names(posterior: Posterior, suffix: str) -> list[str]:
    if posterior.kind == PosteriorKind.SEEDS:
        return [FILE, "std.png", f"median{suffix}"]
    names = [FILE, "std.png", *_INTERVAL_IMAGES]
    if posterior.kind != PosteriorKind.SAMPLES:
        return names
    samples = [_sample_name(number, suffix) for number in range(1, len(posterior.samples) + 1)]
    return [*names, "traces.png", *samples]


def _write_numbers(files: Manifest, posterior: Posterior, state: str) -> None:
    """Writes the arrays, the figure of the deviation, and the ends of the interval as images."""
    write_posterior(files, posterior, state)
    draw_std(files.path("std.png"), posterior.std, state=state)
    if posterior.kind != PosteriorKind.SEEDS:
        for name, end in zip(_INTERVAL_IMAGES, interval_of(posterior), strict=True):
            write_view(files.path(name), end)


def _sample_name(number: int, suffix: str) -> str:
    return f"samples/{number:04d}{suffix}"


def _with_known_values(case: Case, image: np.ndarray, posterior: Posterior) -> Posterior:
    """The posterior with the values of the restored image, and no deviation, where they are known exactly."""
    is_known = known_values(case)
    if is_known is None:
        return posterior
    return posterior._replace(
        mean=np.where(is_known, image, posterior.mean),
        std=np.where(is_known, np.float32(0), posterior.std),
    )


def _calibrate(
    files: Manifest, case: Case, posterior: Posterior
) -> tuple[Calibration | None, Calibration | None]:
    """Calibration of the values that are not known, and the same with the scaled deviation, with their figure.

    Both are None without a reference, or for less than two values.
    """
    if case.reference is None:
        return None, None
    is_known = known_values(case)
    values = [_unknown(x, is_known) for x in (posterior.mean, posterior.std, case.reference)]
    if len(values[0]) < 2:
        return None, None
    calibration, scaled = calibrate(*values), calibrate_scaled(*values)
    draw_calibration(files.path("calibration.png"), calibration, scaled)
    return calibration, scaled


def _unknown(values: np.ndarray, is_known: np.ndarray | None) -> np.ndarray:
    """The values `[..., C]` that are not known: pixels if all channels of a pixel are known or none, else values."""
    if is_known is None:
        return values
    if (is_known == is_known[..., :1]).all():
        return values[~is_known[..., 0]]
    return values[~is_known][:, None]


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
