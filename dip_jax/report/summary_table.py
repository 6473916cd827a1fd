"""The table `summary.csv`: every figure of `summary.json`, a row for each image."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from dip_jax.report.summary import PosteriorSummary, Summary

_FIRST = (
    "name",
    "variant",
    "task",
    "method",
    "status",
    "psnr",
    "ssim",
    "psnr_measurement",
    "num_steps",
    "stop_step",
    "seconds",
)
_LAST = ("notes", "error", "digest")
_FLATTENED = ("stops", "versions")  # these hold values by name


def summary_keys() -> list[str]:
    """All keys of a summary: the most wanted first, then the other keys of each image, those of a posterior, and texts.

    Example:
      >>> summary_keys()[:3], summary_keys()[-1]
      (['name', 'variant', 'task'], 'digest')
    """
    of_posterior = set(PosteriorSummary.__annotations__)
    keys = sorted(Summary.__annotations__, key=lambda key: key in of_posterior)
    return [*_FIRST, *(key for key in keys if key not in (*_FIRST, *_LAST)), *_LAST]


def to_csv(summaries: Sequence[Summary]) -> str:
    """The summaries as CSV.

    A value that does not exist is empty. The items of a list are joined by `; `. A value by name, such as the version of
    a library, has a column `versions.NAME`. The column `variant` exists only for a comparison.

    Args:
      summaries: The summary of each image.
    """
    rows = [_flatten(summary) for summary in summaries]
    columns: list[str] = []
    for key in summary_keys():
        if key in _FLATTENED:
            found = [c for row in rows for c in row if c.startswith(f"{key}.")]
            columns += dict.fromkeys(found)
        elif key != "variant" or any(key in row for row in rows):
            columns.append(key)
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return table.getvalue()


def _flatten(values: Any, prefix: str = "") -> dict[str, Any]:
    row: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            row |= _flatten(value, f"{name}.")
        elif isinstance(value, list):
            row[name] = "; ".join("" if item is None else str(item) for item in value)
        else:
            row[name] = value
    return row
