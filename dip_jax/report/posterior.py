"""What a run leaves of a picture beyond its answer: of the samples, or of several seeds.

The deviation as numbers and as a picture, an interval; of samples also traces, whether the chains have
converged, and how well the deviation tells the error, by the reference or by measurements kept back.
"""

import contextlib
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import stats

from dip_jax.base import Case, Posterior, Result
from dip_jax.config import Config
from dip_jax.images.atomic import write_array
from dip_jax.images.read import StoredImage
from dip_jax.images.write import write_image
from dip_jax.metrics import psnr
from dip_jax.posterior.calibration import calibrate, calibrate_scaled
from dip_jax.posterior.convergence import diagnose
from dip_jax.posterior.prediction import PredictiveCheck, check_prediction
from dip_jax.problem import noise_variance
from dip_jax.report.posterior_figures import draw_calibration, draw_std, draw_traces
from dip_jax.report.summary import posterior_summary

_LEVEL = 0.9  # of the interval that is written
_FILES = ("std.*", "interval.npy", "traces.png", "calibration.png", "median.*", "samples/*")


def report_posterior(
    folder: Path, case: Case, result: Result, config: Config, like: StoredImage
) -> dict[str, Any]:
    """Writes what is known beyond the answer into a picture's `folder`.

    Args:
      folder: The picture's own folder.
      case: What was restored.
      result: What came of it.
      config: The settings.
      like: In what form the picture goes out.

    Returns:
      The fields that the summary has beside the usual ones; `notes` are sentences for the user.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").unlink(missing_ok=True)  # it says that all else is there
    for pattern in _FILES:
        for old in folder.glob(pattern):
            old.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        (folder / "samples").rmdir()
    posterior = result.posterior
    if posterior is None:
        return {}
    if posterior.num_samples < 2:
        words = "too few answers" if config.fit.method == "fit" else "too few samples"
        return {"notes": [f"{words} to say anything of the spread"]}
    write_array(folder / "std.npy", posterior.std)
    draw_std(folder / "std.png", posterior.std)
    if config.fit.method == "fit":
        return _report_seeds(folder, case, result, posterior, like)
    half = stats.norm.ppf((1 + _LEVEL) / 2) * posterior.std
    write_array(folder / "interval.npy", np.stack([posterior.mean - half, posterior.mean + half]))
    diagnosis = diagnose(posterior.traces, posterior.trace_names)
    draw_traces(folder / "traces.png", posterior, diagnosis)
    calibration = scaled = None
    if case.reference is not None:
        calibration = calibrate(posterior.mean, posterior.std, case.reference)
        scaled = calibrate_scaled(posterior.mean, posterior.std, case.reference)
        draw_calibration(folder / "calibration.png", calibration, scaled)
    check = _check_held(case, result, posterior, config.fit.likelihood)
    for number, sample in enumerate(posterior.samples, start=1):
        (folder / "samples").mkdir(exist_ok=True)
        write_image(folder / "samples" / f"{number:04d}{like.suffix}", sample, like)
    notes = [] if diagnosis.converged else [diagnosis.sentence]
    notes += [check.sentence] if check is not None else []
    fields = posterior_summary(posterior, diagnosis, calibration, scaled, check)
    return {**fields, **_against_point(case, result), "notes": notes}


def _report_seeds(
    folder: Path, case: Case, result: Result, posterior: Posterior, like: StoredImage
) -> dict[str, Any]:
    median = np.median(posterior.chain_means, axis=0)
    write_image(folder / f"median{like.suffix}", median, like)
    fields: dict[str, Any] = {
        "num_seeds": len(posterior.chain_means),
        "num_averaged": posterior.num_samples,
        "std_mean": float(np.sqrt(np.mean(np.square(posterior.std, dtype=np.float64)))),
    }
    if case.reference is not None:
        fields["psnr_median"] = _decibels(median, case)
        fields["psnr_seeds"] = [_decibels(image, case) for image in posterior.chain_means]
    return fields


def _against_point(case: Case, result: Result) -> dict[str, Any]:
    """What a fit of as many steps has as PSNR: at its end, and at best."""
    if result.point_estimate is None or case.reference is None:
        return {}
    known = result.point_estimate.curve["psnr_average"]
    return {
        "psnr_point": float(known[-1]),
        "psnr_point_best": float(known.max()),
        "point_best_step": int(result.point_estimate.curve["step"][np.argmax(known)]),
        "psnr_sample": float(np.mean([member["psnr"][-1] for member in result.network_curves])),
    }


def _check_held(
    case: Case, result: Result, posterior: Posterior, likelihood: str
) -> PredictiveCheck | None:
    """Of the measurements that no chain saw; None where there were none, or their noise is not normal."""
    problem, held = case.problem, result.held_out
    if held is None or not held.any() or likelihood in ("laplace", "interval"):
        return None
    # Each measured value is one of the picture's, so what is true of the picture is true of it.
    mean, std = (problem.operator(jnp.asarray(image)) for image in (posterior.mean, posterior.std))
    noise_std = np.sqrt(np.asarray(noise_variance(problem, mean)))
    return check_prediction(
        np.asarray(mean), np.asarray(std), np.asarray(problem.measurement), noise_std, held
    )


def _decibels(image: np.ndarray, case: Case) -> float:
    return float(psnr(jnp.asarray(image), jnp.asarray(case.reference)))
