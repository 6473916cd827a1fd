"""What the lines of `benchmarks.seconds` say, as a table and as a figure.

All is relative to the setting that is the goal, for the same picture, seed, task and side: to what it hands out, and to the
best that its running average passed through, which only the clean picture can tell.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from dip_jax.base import InputError

Row = dict[str, Any]


class Entry(NamedTuple):
    """The fits of one setting, each beside that of the goal, and what a step takes."""

    label: str
    rows: list[Row]
    goals: list[Row]
    ms: float
    """Per step; NaN if it was not timed."""


def steps_to(row: Row, goal: float) -> float:
    """Steps until the running average reaches a PSNR; infinite if it never does."""
    reached = np.flatnonzero(_average(row) >= goal)
    return float(row["every"] * reached[0]) if len(reached) else np.inf


def best(row: Row) -> float:
    """The most that the running average reached, which only the clean picture can tell."""
    return float(np.nanmax(_average(row)))


def entries(fits: Sequence[Row], times: Sequence[Row], goal: str) -> Iterator[Entry]:
    """Each setting of one task and side, once for every library in which its step was timed.

    Args:
      fits: Lines of fits of that task and side.
      times: Lines of times of the same.
      goal: The label of the setting that is the goal.
    """
    goals = {(row["picture"], row["seed"]): row for row in fits if row["label"] == goal}
    for label in dict.fromkeys(row["label"] for row in fits):
        rows = [
            row for row in fits if row["label"] == label and (row["picture"], row["seed"]) in goals
        ]
        beside = [goals[row["picture"], row["seed"]] for row in rows]
        timed = {row["library"]: row["ms"] for row in times if row["label"] == label}
        for library, ms in (timed or {"ours": np.nan}).items() if rows else ():
            name = label if library == "ours" else f"{label}, {library}"
            yield Entry(name, rows, beside, ms)


def build_table(found: Sequence[Entry], title: str) -> Table:
    """A line for each entry."""
    columns = (
        *("setting", "fits", "dB", "to the goal", "worst", "to the goal's best", "worst", "steps"),
        *("steps to goal", "reached", "ms", "s", "s to goal", "worst"),
    )
    table = Table(*columns, box=None, title=title)
    for label, rows, goals, ms in found:
        answer = np.array([row["answer"] for row in rows])
        to_answer = answer - [row["answer"] for row in goals]
        to_best = answer - [best(row) for row in goals]
        steps = np.mean([row["num_steps"] for row in rows])
        to_goal = np.array([steps_to(row, g["answer"]) for row, g in zip(rows, goals, strict=True)])
        reached = np.isfinite(to_goal)
        mean_to_goal = to_goal[reached].mean() if reached.any() else np.nan
        table.add_row(
            label,
            str(len(rows)),
            f"{answer.mean():.2f}",
            *(f"{value:+.2f}" for v in (to_answer, to_best) for value in (v.mean(), v.min())),
            f"{steps:.0f}",
            f"{mean_to_goal:.0f}",
            f"{reached.mean():.0%}",
            f"{ms:.1f}",
            f"{ms * steps / 1e3:.1f}",
            f"{ms * mean_to_goal / 1e3:.1f}",
            f"{ms * to_goal.max() / 1e3:.1f}",
        )
    return table


def draw(panels: dict[str, Sequence[Entry]], path: Path) -> None:
    """The running average against seconds, relative to the goal's best; a panel for each title with times.

    A line is the mean over pictures and seeds, its band one standard deviation to each side; a fit that has ended counts
    with what it handed out. A dot is the mean of what a setting hands out, and when. Where a setting fits several networks to a picture the line is of one of them, and the dot
    of their mean.
    """
    timed = {
        title: [entry for entry in found if np.isfinite(entry.ms)]
        for title, found in panels.items()
    }
    timed = {title: found for title, found in timed.items() if found}
    if not timed:
        raise InputError("There is nothing to draw: no setting has both fits and times (--time).")
    figure = Figure(figsize=(6.5 * len(timed), 4), layout="constrained")
    axes = figure.subplots(1, len(timed), squeeze=False)[0]
    for axis, (title, found) in zip(axes, timed.items(), strict=True):
        for entry in found:
            _draw_entry(axis, entry)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set(title=title, xscale="log", xlabel="seconds per picture", ylim=(-6, 1))
        axis.grid(alpha=0.3)
        axis.legend(loc="lower left", fontsize="small")
    axes[0].set_ylabel("dB, running average less the goal's best")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _draw_entry(axis: Axes, entry: Entry) -> None:
    length = max(len(row["psnr_average"]) for row in entry.rows)
    curves = []
    for row, goal in zip(entry.rows, entry.goals, strict=True):
        average = _average(row)
        # What was handed out stays.
        held = np.full(length - len(average), row["answer"])
        curves.append(np.concatenate([average, held])[1:] - best(goal))
    mean, spread = np.mean(curves, axis=0), np.std(curves, axis=0)
    seconds = entry.ms / 1e3 * entry.rows[0]["every"] * np.arange(1, length)
    (line,) = axis.plot(seconds, mean, label=entry.label)
    axis.fill_between(seconds, mean - spread, mean + spread, alpha=0.2, linewidth=0)
    ends = entry.ms / 1e3 * np.mean([row["num_steps"] for row in entry.rows])
    answers = [
        row["answer"] - best(goal) for row, goal in zip(entry.rows, entry.goals, strict=True)
    ]
    axis.plot(ends, np.mean(answers), "o", color=line.get_color())


def _average(row: Row) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in row["psnr_average"]])
