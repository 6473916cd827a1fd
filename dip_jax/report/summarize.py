"""The computation of a summary: of a restored image, of a failed one, and of a posterior."""

import functools
import importlib.metadata
import math
import platform
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from dip_jax._version import __version__
from dip_jax.base import Case, Posterior, Result, Status
from dip_jax.config import Config
from dip_jax.engine.memory import peak_bytes
from dip_jax.metrics import psnr, psnr_on_host, ssim
from dip_jax.posterior.calibration import Calibration
from dip_jax.posterior.convergence import Diagnosis
from dip_jax.posterior.law import Law
from dip_jax.posterior.leave_one_out import LeaveOneOut
from dip_jax.posterior.pooling import error_of_mean
from dip_jax.posterior.prediction import PredictiveCheck
from dip_jax.report.sheet import degraded_image
from dip_jax.report.summary import PosteriorSummary, StopSummary, Summary

_LIBRARIES = ("jax", "flax", "optax", "numpy")


def summarize(
    case: Case,
    result: Result,
    config: Config | None,
    *,
    digest: str = "",
    posterior: PosteriorSummary | None = None,
    notes: Sequence[str] = (),
) -> Summary:
    """The summary of a restored image.

    Args:
      case: The case that was restored.
      result: Its result.
      config: The settings; None for an estimator of objects.
      digest: Checksum of the input files.
      posterior: Keys of the posterior, if there is one.
      notes: Sentences in addition to those of the case and of the result.
    """
    reference = case.reference
    losses = result.curve["loss"]
    best, best_step = _best(result)
    low, high = case.value_range or (math.nan, math.nan)

    def decibels(image: np.ndarray) -> float | None:
        return None if reference is None else _finite(psnr_on_host(image, reference))

    return {
        "name": result.name,
        "task": "custom" if config is None else config.task.name,
        "method": "sgld" if result.samples_posterior else "fit",
        "status": result.status,
        "num_steps": result.num_steps,
        "stop_step": result.stop_step,
        "num_rollbacks": result.num_rollbacks,
        "psnr": decibels(result.image),
        "ssim": None if reference is None else _finite(ssim(result.image, reference)),
        "psnr_raw": decibels(result.raw),
        "psnr_measurement": decibels(degraded_image(case)),
        "value_range": None if case.value_range is None else [low, high],
        "noise_std": _finite(float(case.problem.noise_std) * (high - low)),
        "loss": _finite(losses[-1]) if losses.size else None,
        "psnr_best": best,
        "best_step": best_step,
        "stops": {} if result.samples_posterior else _stops(result),
        "seconds": round(result.seconds, 3),
        "seconds_per_step": round(result.seconds / max(_num_steps(result), 1), 5),
        "compile_seconds": round(result.compile_seconds, 3),
        "peak_gigabytes": round(peak_bytes() / 1e9, 3),
        "num_params": result.num_params,
        "seed": None if config is None else config.run.seed,
        "device": _device(),
        "versions": _versions(),
        "notes": [*case.notes, *result.notes, *notes],
        "error": None,
        "digest": digest,
        **(posterior or {}),
    }


def failure_summary(
    name: str, config: Config, error: str, *, status: Status = Status.FAILED
) -> Summary:
    """The summary of an image that was not restored: every required key, None where there is no value.

    Args:
      name: Name of the image.
      config: The settings.
      error: Why it was not restored.
      status: `failed`, or `interrupted` if a resumed run may restore it.
    """
    summary: dict[str, Any] = {
        key: None for key in Summary.__annotations__ if key in Summary.__required_keys__
    }
    summary |= {
        "name": name,
        "task": config.task.name,
        "method": config.fit.method,
        "status": status,
        "stops": {},
        "seed": config.run.seed,
        "device": _device(),
        "versions": _versions(),
        "notes": [],
        "error": error,
        "digest": "",
    }
    return cast(Summary, summary)


def posterior_summary(
    posterior: Posterior,
    diagnosis: Diagnosis,
    check: PredictiveCheck | None,
    law: Law,
    left_out: LeaveOneOut | None = None,
) -> PosteriorSummary:
    """The keys of a sampled posterior.

    Args:
      posterior: The samples of one image.
      diagnosis: Convergence of its traces.
      check: Check on held-out measurements, or None if none were held out.
      law: What the sampler states about its steps.
      left_out: How well chains predict each other, or None for fewer than three.
    """
    error = error_of_mean(posterior)
    return {
        "num_samples": posterior.num_samples,
        "num_chains": posterior.traces.shape[0],
        "rhat_max": _finite(diagnosis.rhat_max),
        "ess_min": _finite(diagnosis.ess_min),
        "converged": diagnosis.converged,
        "temperature": _finite(law.temperature),
        "virial": _finite(law.virial),
        "step_size": _finite(law.step_size),
        "sampled_noise_std": _finite(law.noise_std),
        "error_of_mean": None if error is None else _root_mean_square(error),
        "leave_one_out": _field(left_out, "fraction"),
        "outlier_chain": None
        if left_out is None or left_out.outlier is None
        else left_out.outlier + 1,
        "num_held_out": None if check is None else check.num_held_out,
        "held_out_error": _field(check, "error"),
        "held_out_error_low": _field(check, "error_low"),
        "held_out_error_high": _field(check, "error_high"),
        "held_out_squared_error": _field(check, "squared_error"),
        "held_out_squared_error_std": _field(check, "squared_error_std"),
        "held_out_predicted_error": _field(check, "predicted_error"),
        "held_out_z_rms": _field(check, "z_rms"),
        "held_out_coverage_90": _field(check, "coverage_90"),
        "held_out_nll": _field(check, "nll"),
    }


def error_summary(
    posterior: Posterior, plain: Calibration | None, scaled: Calibration | None
) -> PosteriorSummary:
    """The keys of a standard deviation and its calibration.

    Args:
      posterior: Its standard deviation.
      plain: Calibration against the reference, or None without one.
      scaled: The same with the scaled standard deviation.
    """
    return {
        "intervals": posterior.kind,
        "std_mean": _root_mean_square(posterior.std),
        "nll": _field(plain, "nll"),
        "coverage_90": _field(plain, "coverage_90"),
        "width_90": _field(plain, "width_90"),
        "uce": _field(plain, "uce"),
        "ause": _field(plain, "ause"),
        "std_scale": _field(scaled, "applied_scale"),
        "nll_scaled": _field(scaled, "nll"),
        "coverage_90_scaled": _field(scaled, "coverage_90"),
        "width_90_scaled": _field(scaled, "width_90"),
        "uce_scaled": _field(scaled, "uce"),
    }


def seeds_summary(
    posterior: Posterior, median: np.ndarray, reference: np.ndarray | None
) -> PosteriorSummary:
    """The keys of a fit with several seeds.

    Args:
      posterior: The mean of the networks and the estimate of each.
      median: Their pixelwise median `[H, W, C]`.
      reference: The ground truth `[H, W, C]`, or None.
    """
    summary: PosteriorSummary = {
        "intervals": posterior.kind,
        "num_seeds": len(posterior.chain_means),
        "num_averaged": posterior.num_samples,
        "std_mean": _root_mean_square(posterior.std),
    }
    if reference is not None:
        truth = jnp.asarray(reference)
        summary["psnr_median"] = _finite(psnr(jnp.asarray(median), truth))
        summary["psnr_seeds"] = [
            _finite(psnr(jnp.asarray(image), truth)) for image in posterior.chain_means
        ]
    return summary


def point_summary(result: Result) -> PosteriorSummary:
    """The keys of the fit that sampling is compared with; empty if there is none."""
    if result.point_estimate is None:
        return {}
    curve = result.point_estimate.curve
    known = curve["psnr_average"]
    return {
        "psnr_point": _finite(known[-1]),
        "psnr_point_best": _finite(known.max()),
        "point_best_step": int(curve["step"][np.argmax(known)]),
        "psnr_sample": _finite(np.mean([curve["psnr"][-1] for curve in result.network_curves])),
    }


def _best(result: Result) -> tuple[float | None, int | None]:
    """PSNR and step of the best estimate; None for several networks, for which only the final PSNR is known."""
    known = result.curve.get("psnr_mean", result.curve["psnr_average"])
    if not np.isfinite(known).any() or len(result.network_curves) > 1:
        return None, None
    best = int(np.nanargmax(known))
    return _finite(known[best]), int(result.curve["step"][best])


def _stops(result: Result) -> dict[str, StopSummary]:
    curve = result.curve
    known = curve["psnr_average"]
    best = float(known.max()) if known.size else math.nan
    stops: dict[str, StopSummary] = {}
    for rule, (step, fired) in (result.stops or {}).items():
        at_step = known[curve["step"] == step]
        value = float(at_step[0]) if at_step.size else math.nan
        stops[rule] = {
            "estimate_step": step,
            "fired": fired,
            "psnr": _finite(value),
            "gap": _finite(best - value),
        }
    return stops


def _num_steps(result: Result) -> int:
    """The steps of all networks together, because `seconds` is the time of all networks."""
    return sum(len(curve["step"]) for curve in result.network_curves) or result.num_steps


def _root_mean_square(values: np.ndarray) -> float | None:
    return _finite(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _field(source: Calibration | PredictiveCheck | LeaveOneOut | None, name: str) -> float | None:
    return None if source is None else _finite(getattr(source, name))


def _finite(value: Any) -> float | None:
    """The value as a float; None for NaN and infinity, which JSON lacks."""
    return float(value) if math.isfinite(value) else None


@functools.cache
def _device() -> str:
    device = jax.devices()[0]
    return device.device_kind if device.platform != "cpu" else f"cpu ({platform.machine()})"


@functools.cache
def _versions() -> dict[str, str]:
    libraries = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"python": platform.python_version(), "dip_jax": __version__, **libraries}
