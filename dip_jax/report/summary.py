"""The schema of `summary.json`: one entry per image."""

import functools
import importlib.metadata
import json
import math
import platform
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dip_jax.base import Case, Posterior, Result
from dip_jax.config import Config
from dip_jax.engine.memory import peak_bytes
from dip_jax.images.atomic import write_text
from dip_jax.metrics import psnr_on_host, ssim
from dip_jax.posterior.calibration import Calibration
from dip_jax.posterior.convergence import Diagnosis
from dip_jax.posterior.prediction import PredictiveCheck
from dip_jax.report.figures import degraded_image

_VERSIONS = ("dip_jax", "jax", "flax", "optax", "numpy")


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The summary that an earlier run left in a picture's `folder`, or None."""
    path = folder / "summary.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def write_failure(folder: Path, summary: dict[str, Any]) -> None:
    """Writes the summary of a picture that was not restored into its `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")


def failure_summary(
    name: str, config: Config, error: str, *, status: str = "failed"
) -> dict[str, Any]:
    """The summary of a picture that was not restored, and why."""
    keys = [
        "num_steps",
        "stop_step",
        "num_rollbacks",
        "psnr",
        "ssim",
        "psnr_raw",
        "psnr_measurement",
        "psnr_best",
        "best_step",
        "loss",
        "seconds",
        "seconds_per_step",
        "compile_seconds",
        "peak_gigabytes",
        "num_params",
    ]
    return {
        "name": name,
        "task": config.task.name,
        "method": config.fit.method,
        "status": status,
        **dict.fromkeys(keys),
        "seed": config.run.seed,
        "device": _device(),
        "versions": _versions(),
        "notes": [],
        "error": error,
        "digest": "",
    }


def summarize(case: Case, result: Result, config: Config) -> dict[str, Any]:
    """The numbers of one picture; None where there is no reference.

    `psnr` belongs to the answer as written, `psnr_raw` to the network's output before known pixels
    were put back, `psnr_measurement` to the damaged picture or its preview. `peak_gigabytes` is that of the whole run
    until now.
    """
    reference = case.reference
    losses = result.curve["loss"]

    def against(image: np.ndarray) -> float | None:
        return None if reference is None else _finite(psnr_on_host(image, reference))

    return {
        "name": result.name,
        "task": config.task.name,
        "method": config.fit.method,
        "status": result.status,
        "num_steps": result.num_steps,
        "stop_step": result.stop_step,
        "num_rollbacks": result.num_rollbacks,
        "psnr": against(result.image),
        "ssim": None if reference is None else ssim(result.image, reference),
        "psnr_raw": against(result.raw),
        "psnr_measurement": against(degraded_image(case)),
        "loss": _finite(float(losses[-1])) if losses.size else None,
        **_best(result),
        "stops": _stops(result) if config.fit.method == "fit" else {},
        "seconds": round(result.seconds, 3),
        "seconds_per_step": round(result.seconds / max(_steps_made(result), 1), 5),
        "compile_seconds": round(result.compile_seconds, 3),
        "peak_gigabytes": round(peak_bytes() / 1e9, 3),
        "num_params": result.num_params,
        "seed": config.run.seed,
        "device": _device(),
        "versions": _versions(),
        "notes": [*case.notes, *result.notes],
        "error": None,
    }


def _steps_made(result: Result) -> int:
    """Of all its networks together, as its seconds are."""
    return sum(len(curve["step"]) for curve in result.network_curves) or result.num_steps


def _best(result: Result) -> dict[str, Any]:
    """The best that the answer passed through, which only a reference can know."""
    known = result.curve.get("psnr_mean", result.curve["psnr_average"])
    # Of several networks together no step but the last is known.
    if not np.isfinite(known).any() or len(result.network_curves) > 1:
        return {"psnr_best": None, "best_step": None}
    best = int(np.nanargmax(known))
    return {"psnr_best": float(known[best]), "best_step": int(result.curve["step"][best])}


def _stops(result: Result) -> dict[str, dict[str, Any]]:
    """Where each rule's answer is, whether it fired, and how far it is from the best step that was run."""
    curve = result.curve
    known = curve["psnr_average"]
    best = float(known.max()) if known.size else math.nan
    found: dict[str, dict[str, Any]] = {}
    for rule, (step, fired) in (result.stops or {}).items():
        there = known[curve["step"] == step]
        value = float(there[0]) if there.size else math.nan
        found[rule] = {
            "estimate_step": step,
            "fired": fired,
            "psnr": _finite(value),
            "gap": _finite(best - value),
        }
    return found


def _finite(value: float) -> float | None:
    """JSON has no infinity and no NaN."""
    return value if math.isfinite(value) else None


@functools.cache
def _device() -> str:
    device = jax.devices()[0]
    return device.device_kind if device.platform != "cpu" else f"cpu ({platform.machine()})"


@functools.cache
def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in _VERSIONS:
        if name == "dip_jax":
            from dip_jax._version import __version__

            versions[name] = __version__
        else:
            versions[name] = importlib.metadata.version(name)
    return versions


def posterior_summary(
    posterior: Posterior,
    diagnosis: Diagnosis,
    calibration: Calibration | None,
    scaled_calibration: Calibration | None,
    check: PredictiveCheck | None,
) -> dict[str, Any]:
    """The numbers of a posterior for `summary.json`; None for what is not known.

    Args:
      posterior: What was sampled.
      diagnosis: Of its traces.
      calibration: Against the reference, or None where there is none.
      scaled_calibration: The same after scaling.
      check: Against held-out measurements, or None where there were none.
    """
    plain, scaled, held = calibration, scaled_calibration, check
    return {
        "num_samples": posterior.num_samples,
        "num_chains": posterior.traces.shape[0],
        "rhat_max": _number(diagnosis.rhat_max),
        "ess_min": _number(diagnosis.ess_min),
        "converged": diagnosis.converged,
        "std_mean": _number(float(np.sqrt(np.mean(np.square(posterior.std, dtype=np.float64))))),
        "nll": plain and _number(plain.nll),
        "coverage_90": plain and _number(plain.coverage_90),
        "width_90": plain and _number(plain.width_90),
        "uce": plain and _number(plain.uce),
        "ause": plain and _number(plain.ause),
        "std_scale": scaled and _number(scaled.applied_scale),
        "nll_scaled": scaled and _number(scaled.nll),
        "coverage_90_scaled": scaled and _number(scaled.coverage_90),
        "width_90_scaled": scaled and _number(scaled.width_90),
        "uce_scaled": scaled and _number(scaled.uce),
        "num_held": held and held.num_held,
        "held_out_z_rms": held and _number(held.z_rms),
        "held_out_coverage_90": held and _number(held.coverage_90),
        "held_out_nll": held and _number(held.nll),
    }


def _number(value: float) -> float | None:
    """JSON has no infinity and no NaN."""
    return float(value) if math.isfinite(value) else None
