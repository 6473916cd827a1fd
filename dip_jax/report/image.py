"""What a run leaves for a person: pictures, a curve, a sheet, numbers.

A picture's folder appears file by file, each whole or not at all (written under a temporary name,
then renamed); `summary.json` comes last, so a folder that has it is complete.
"""

import functools
import importlib.metadata
import json
import math
import os
import platform
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dip_jax.base import Case, InputError, Result
from dip_jax.config import Config, from_json, to_json
from dip_jax.engine.memory import peak_bytes
from dip_jax.images.read import Picture
from dip_jax.images.write import part_of, remove_parts, write_picture
from dip_jax.metrics import psnr_on_host, ssim
from dip_jax.report.figures import damaged, draw_curve, draw_sheet

# What a run writes into its folder beside the pictures' own folders.
RUN_FILES = ("config.json", "summary.json", "summary.csv", "index.html", "contact-1.png")
LOG_EVERY = 10  # steps between the lines of metrics.jsonl
_VERSIONS = ("dip_jax", "jax", "flax", "optax", "numpy")


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    part = part_of(path)
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def prepare_folder(
    folder: Path, names: Sequence[str], config: Config, *, overwrite: bool, resume: bool
) -> None:
    """Makes the output folder and writes the run's `config.json` into it.

    Args:
      folder: Where the run goes.
      names: The pictures, each of which gets a folder in it.
      config: Its settings.
      overwrite: Go over what another run left there.
      resume: Go on with an earlier run of the same settings.

    Raises:
      InputError: If it cannot be written, holds another run and neither was asked for, or holds a run
        of other settings and is to be resumed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"The output folder {folder} cannot be written ({error.strerror}); choose another one with "
            "--output."
        ) from None
    path = folder / "config.json"
    is_taken = any((folder / name).exists() for name in (*RUN_FILES, *names))
    # Asked after that: another process may have begun in between.
    if path.exists() and resume:
        different = _difference(from_json(path.read_text()), config)
        if different:
            raise InputError(
                f"{folder} holds a run with {different}; to resume it, use its settings, otherwise "
                "choose another --output."
            )
    elif is_taken and not overwrite:
        raise InputError(
            f"The output folder {folder} holds another run, and nothing is overwritten unasked: choose "
            "another --output, --resume a run that was cut short, or --overwrite."
        )
    text = to_json(config)
    if not path.exists() or path.read_text() != text:
        write_text(path, text)


def _difference(old: Config, new: Config) -> str:
    """The first field that differs, in words; empty if none."""
    before, after = json.loads(to_json(old)), json.loads(to_json(new))
    for section, fields in after.items():
        for field, value in fields.items():
            if section == "run" and field != "seed":
                continue  # these do not change what is computed
            if before[section][field] != value:
                return f"{section}.{field} = {before[section][field]!r}, not {value!r}"
    return ""


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The summary that an earlier run left in a picture's `folder`, or None."""
    path = folder / "summary.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def report_picture(
    folder: Path,
    case: Case,
    result: Result,
    config: Config,
    like: Picture,
    *,
    digest: str = "",
    more: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes everything about one picture into `folder`.

    Args:
      folder: The picture's own folder.
      case: What was restored.
      result: What came of it.
      config: The settings.
      like: In what form the picture came, and so goes out.
      digest: A checksum of its files, by which a later run knows that they have not changed.
      more: Further fields of the summary.

    Returns:
      The summary, as written to `summary.json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").unlink(missing_ok=True)
    remove_parts(folder)
    for other in folder.glob("restored.*"):  # of an earlier input in another form
        other.unlink(missing_ok=True)
    write_picture(folder / f"restored{like.suffix}", result.image, like)
    write_text(folder / "config.json", to_json(config))
    write_text(folder / "metrics.jsonl", _metrics_lines(result))
    draw_curve(folder / "curve.png", case, result)
    draw_sheet(folder / "sheet.png", case, result)
    summary = {**summarise(case, result, config), **(more or {}), "digest": digest}
    write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    return summary


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


def summarise(case: Case, result: Result, config: Config) -> dict[str, Any]:
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
        "psnr_measurement": against(damaged(case)),
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
    return sum(len(curve["step"]) for curve in result.members) or result.num_steps


def _best(result: Result) -> dict[str, Any]:
    """The best that the answer passed through, which only a reference can know."""
    known = result.curve.get("psnr_mean", result.curve["psnr_average"])
    # Of several networks together no step but the last is known.
    if not np.isfinite(known).any() or len(result.members) > 1:
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
            "answer_step": step,
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


def _metrics_lines(result: Result) -> str:
    """One JSON line per logged step; fields without a value are left out. No times: same run, same bytes."""
    lines = []
    several = len(result.members) > 1
    for number, curve in enumerate(result.members or (result.curve,)):
        for i, step in enumerate(curve["step"]):
            if step % LOG_EVERY and i + 1 != len(curve["step"]):
                continue
            values = {name: float(curve[name][i]) for name in curve if name != "step"}
            kept = {name: round(v, 7) for name, v in values.items() if math.isfinite(v)}
            which = {"network": number + 1} if several else {}
            lines.append(json.dumps({"step": int(step), **which, **kept}))
    return "\n".join(lines) + "\n"
