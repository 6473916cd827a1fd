"""The calibration of the standard deviations of a folder, from the summaries of its images: `conformal.json`."""

import json
import math
from collections.abc import Sequence
from typing import TypedDict

from dip_jax.base import Status
from dip_jax.posterior.conformal import FolderCalibration, calibrate_folder
from dip_jax.posterior.prediction import PredictiveCheck
from dip_jax.report.manifest import Manifest
from dip_jax.report.summary import Summary
from dip_jax.storage.atomic import write_text

_FILE = "conformal.json"
_LEAST_IMAGES = 5
"""Number of images below which a spread over images means nothing."""


class ImageCalibration(TypedDict):
    """What one image contributes to the calibration, and its own bound; numbers without unit."""

    score: float
    """Estimated mean squared error / predicted variance; the noise may make it negative."""
    region_factor: float | None
    """`region_factor` of `FolderSummary` from all other images; None if they are too few."""


class FolderSummary(TypedDict):
    """The content of `conformal.json`; all factors are without unit."""

    num_images: int
    """Number of images that were calibrated together."""
    num_held_out: int
    """Number of held-out measurements of all these images."""
    std_factor: float | None
    """Factor on `std` of all images, pooled; None if the estimated error is not positive."""
    std_factor_low: float
    """Lower end of its 95 % range."""
    std_factor_high: float
    """Upper end of that range."""
    can_tell: bool
    """Whether the ends of that range are within a factor of 2 of each other."""
    level: float
    """Probability of the bound `region_factor`."""
    region_factor: float | None
    """Bound on (root mean squared error) / (root mean square of `std`) of a further image; None if the images are
    too few, or the estimated errors are not positive."""
    noise_fraction: float | None
    """Fraction of the variance of the scores that is noise of the held-out measurements; None if it is unknown."""
    message: str
    """The result in one or two sentences."""
    images: dict[str, ImageCalibration]
    """The images that were calibrated together, by name."""


def summarize_folder(summaries: Sequence[Summary]) -> FolderSummary | None:
    """Calibrates the standard deviations of the images of a run by their held-out measurements.

    Args:
      summaries: The summary of each image. Only images with a check take part; those that failed, diverged or were
        interrupted do not.

    Returns:
      The calibration; None if fewer than five images take part.
    """
    checks = {s["name"]: check for s in summaries if (check := _check_of(s)) is not None}
    if len(checks) < _LEAST_IMAGES:
        return None
    found = calibrate_folder(list(checks.values()))
    return {
        "num_images": found.scale.num_images,
        "num_held_out": sum(check.num_held_out for check in checks.values()),
        "std_factor": _finite(found.scale.factor),
        "std_factor_low": found.scale.factor_low,
        "std_factor_high": found.scale.factor_high,
        "can_tell": found.scale.can_tell,
        "level": found.level,
        "region_factor": _finite(found.region_factor),
        "noise_fraction": _finite(found.noise_fraction),
        "message": found.message,
        "images": _images(list(checks), found),
    }


def write_folder_calibration(files: Manifest, summaries: Sequence[Summary]) -> FolderSummary | None:
    """Writes `conformal.json`, or removes that of an earlier run if there is nothing to calibrate.

    Args:
      files: The record of the run.
      summaries: The summary of each image.

    Returns:
      The content of the file, or None.

    Raises:
      OSError: If the file cannot be written.
    """
    found = summarize_folder(summaries)
    if found is None:
        files.remove(_FILE)
    else:
        write_text(files.path(_FILE), json.dumps(found, indent=2) + "\n")
    return found


def _check_of(summary: Summary) -> PredictiveCheck | None:
    """The check of an image as its summary has it; None if the image does not take part."""
    num, v = summary.get("num_held_out"), summary.get("held_out_squared_error")
    predicted_error = summary.get("held_out_predicted_error")
    is_restored = summary["status"] in (Status.DONE, Status.STOPPED)
    if not is_restored or not num or v is None or not predicted_error:
        return None
    return PredictiveCheck(
        num_held_out=num,
        error=_or_nan(summary.get("held_out_error")),
        error_low=_or_nan(summary.get("held_out_error_low")),
        error_high=_or_nan(summary.get("held_out_error_high")),
        predicted_error=predicted_error,
        z_rms=_or_nan(summary.get("held_out_z_rms")),
        coverage_90=_or_nan(summary.get("held_out_coverage_90")),
        nll=_or_nan(summary.get("held_out_nll")),
        message="",
        squared_error=v,
        squared_error_std=_or_nan(summary.get("held_out_squared_error_std")),
    )


def _images(names: Sequence[str], found: FolderCalibration) -> dict[str, ImageCalibration]:
    return {
        name: {"score": float(score), "region_factor": _finite(region)}
        for name, score, region in zip(names, found.scores, found.region_factors, strict=True)
    }


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _finite(value: float) -> float | None:
    """The value; None for NaN and infinity, which JSON lacks."""
    return float(value) if math.isfinite(value) else None
