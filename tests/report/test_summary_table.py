"""The table `summary.csv`, against the summaries that it is made of."""

import csv
import io

from dip_jax.base import Status
from dip_jax.config import Config
from dip_jax.report.summarize import failure_summary, summarize
from dip_jax.report.summary import PosteriorSummary, Summary
from dip_jax.report.summary_table import summary_keys, to_csv


def rows_of(summaries) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(summaries))))


def test_no_key_of_a_summary_can_be_forgotten():
    keys = summary_keys()
    assert len(keys) == len(set(keys))
    assert set(keys) == set(Summary.__annotations__) | set(PosteriorSummary.__annotations__)
    columns = rows_of([failure_summary("a", Config(), "")])[0].keys()
    missing = {key for key in keys if not any(c == key or c.startswith(f"{key}.") for c in columns)}
    assert missing == {"variant", "stops"}  # a comparison has the first; no rule was run


def test_each_figure_of_a_fit_has_a_column(case, result):
    summary = summarize(case, result, Config(), notes=["a; b", 'with "quotes",\nand lines'])
    summary |= {"variant": "rate 0.1", "psnr_seeds": [20.5, None, 21.0], "converged": False}
    first, second = rows_of([summary, {**failure_summary("b", Config(), "why"), "variant": "x"}])
    for key, value in summary.items():
        if value is None:
            assert first[key] == ""
        elif isinstance(value, str | int | float):
            assert first[key] == str(value), key
    assert first["value_range"] == "0.0; 255.0"
    assert first["psnr_seeds"] == "20.5; ; 21.0"
    assert first["notes"] == 'of the case; of the result; a; b; with "quotes",\nand lines'
    assert first["stops.wmv.fired"] == "True"
    assert float(first["stops.emv.psnr"]) == summary["stops"]["emv"]["psnr"]
    assert first["versions.jax"] == summary["versions"]["jax"]
    assert (second["variant"], second["status"], second["error"]) == ("x", Status.FAILED, "why")
    assert second["stops.wmv.fired"] == second["rhat_max"] == ""
