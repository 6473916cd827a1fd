"""What a run leaves for a person: pictures, a curve, a sheet, numbers.

A picture's folder appears file by file, each whole or not at all (written under a temporary name,
then renamed); `summary.json` comes last, so a folder that has it is complete.
"""

import json
import math
from pathlib import Path
from typing import Any

from dip_jax.base import Case, Result
from dip_jax.config import Config, to_json
from dip_jax.images.atomic import remove_parts, write_text
from dip_jax.images.read import StoredImage
from dip_jax.images.write import write_image
from dip_jax.report.figures import draw_curve, draw_sheet
from dip_jax.report.summary import summarize

LOG_EVERY = 10  # steps between the lines of metrics.jsonl


def report_picture(
    folder: Path,
    case: Case,
    result: Result,
    config: Config,
    like: StoredImage,
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
    write_image(folder / f"restored{like.suffix}", result.image, like)
    write_text(folder / "config.json", to_json(config))
    write_text(folder / "metrics.jsonl", _metrics_lines(result))
    draw_curve(folder / "curve.png", case, result)
    draw_sheet(folder / "sheet.png", case, result)
    summary = {**summarize(case, result, config), **(more or {}), "digest": digest}
    write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
    return summary


def _metrics_lines(result: Result) -> str:
    """One JSON line per logged step; fields without a value are left out. No times: same run, same bytes."""
    lines = []
    several = len(result.network_curves) > 1
    for number, curve in enumerate(result.network_curves or (result.curve,)):
        for i, step in enumerate(curve["step"]):
            if step % LOG_EVERY and i + 1 != len(curve["step"]):
                continue
            values = {name: float(curve[name][i]) for name in curve if name != "step"}
            kept = {name: round(v, 7) for name, v in values.items() if math.isfinite(v)}
            which = {"network": number + 1} if several else {}
            lines.append(json.dumps({"step": int(step), **which, **kept}))
    return "\n".join(lines) + "\n"
