"""The folder of one image: restored image, config, metrics, figures, posterior, summary.

Each file is written whole or not at all. `summary.json` is written last, so a folder that has it is complete.
"""

import json
import math

from dip_jax.base import Case, Result
from dip_jax.config import Config, to_json
from dip_jax.images.read import StoredImage
from dip_jax.images.write import write_image
from dip_jax.report.curve import draw_curve
from dip_jax.report.manifest import Manifest
from dip_jax.report.posterior import report_posterior
from dip_jax.report.sheet import draw_sheet
from dip_jax.report.summarize import summarize
from dip_jax.report.summary import Summary, remove_summary, write_summary
from dip_jax.report.views import view_names, write_views
from dip_jax.storage.atomic import remove_parts, write_text
from dip_jax.storage.paths import AnyPath
from dip_jax.tasks.geometry import misfit_notes

_FILES = ("metrics.jsonl", "curve.png", "sheet.png")
_LOG_EVERY = 10  # steps between the lines of metrics.jsonl


def report_image(
    output: AnyPath,
    case: Case,
    result: Result,
    config: Config | None,
    template: StoredImage,
    *,
    digest: str = "",
) -> Summary:
    """Writes all files of one restored image.

    Args:
      output: The output folder of the run. The folder of the image in it has the name of the case; files of an
        earlier run in it are replaced, and all other files are kept.
      case: The case that was restored.
      result: Its result; the status is not `failed`.
      config: The settings; None for an estimator of objects, which then leaves no `config.json`.
      template: The stored image whose file type, depth and range the restored image takes.
      digest: Checksum of the input files, by which a resumed run recognizes them.

    Returns:
      The summary, as written to `summary.json`. Its notes are those of the case, of the result and of the
      posterior, in this order.

    Raises:
      OSError: If a file cannot be written, or a file that no run wrote has its name.
    """
    remove_summary(output, case.name)
    remove_parts(output / case.name)
    files = Manifest(output, case.name)
    names = _FILES if config is None else ("config.json", *_FILES)
    files.reserve([f"restored{template.suffix}", *names, *view_names(case, template)])
    write_image(files.path(f"restored{template.suffix}"), result.image, template)
    if config is not None:
        write_text(files.path("config.json"), to_json(config))
    write_text(files.path("metrics.jsonl"), _metrics_lines(result))
    write_views(files, case, result, template)
    draw_curve(files.path("curve.png"), case, result)
    draw_sheet(files.path("sheet.png"), case, result)
    likelihood = None if config is None else config.fit.likelihood
    posterior, notes = report_posterior(files, case, result, template, likelihood=likelihood)
    notes += misfit_notes(case.problem, result.image)
    files.remove_others()
    summary = summarize(case, result, config, digest=digest, posterior=posterior, notes=notes)
    write_summary(files, summary)
    return summary


def _metrics_lines(result: Result) -> str:
    """One JSON line per logged step, without non-finite values. It has no times: equal runs give equal bytes."""
    lines = []
    is_ensemble = len(result.network_curves) > 1
    for number, curve in enumerate(result.network_curves or (result.curve,), start=1):
        for i, step in enumerate(curve["step"]):
            is_last = i + 1 == len(curve["step"])
            if step % _LOG_EVERY and not is_last:
                continue
            values = {name: float(curve[name][i]) for name in curve if name != "step"}
            finite = {name: round(v, 7) for name, v in values.items() if math.isfinite(v)}
            network = {"network": number} if is_ensemble else {}
            lines.append(json.dumps({"step": int(step), **network, **finite}))
    return "\n".join(lines) + "\n"
