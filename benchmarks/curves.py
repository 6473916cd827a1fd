"""What the lines of `benchmarks.seconds` say, as a table and as a figure.

All is relative to the setting that is the goal, for the same picture and seed: to what it hands out, and to the
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


class LazyInput(NamedTuple):
    """The fits of one setting, each beside that of the goal, and what a step takes."""

    label: str
    rows: list[Row]
    goals: list[Row]
    is_whole: bool
    """Whether there is a fit for each of the goal's."""
    ms: float
    """Per step of one network; NaN if it was not timed."""

    def seconds(self) -> float:
        """Of a picture, on average, its networks one after the other."""
        return self.ms / 1e3 * float(np.mean([row["network_steps"] for row in self.rows]))


def steps_to(row: Row, goal: float) -> float:
    """Steps until the running average reaches a PSNR; infinite if it never does."""
    reached = np.flatnonzero(_average(row) >= goal)
    return float(row["every"] * reached[0] + 1) if len(reached) else np.inf


def best(row: Row) -> float:
    """The most that the running average reached, which only the clean picture can tell."""
    return float(np.nanmax(_average(row)))


def entries(fits: Sequence[Row], times: Sequence[Row], goal: str) -> Iterator[LazyInput]:
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
        is_whole = len(rows) == len(goals)
        timed = {
            row["library"]: row["ms"] / row["num_networks"]
            for row in times
            if row["label"] == label
        }
        for library, ms in (timed or {"ours": np.nan}).items() if rows else ():
            name = label if library == "ours" else f"{label}, {library}"
            name += "" if is_whole else f" ({len(rows)} of {len(goals)})"
            yield LazyInput(name, rows, beside, is_whole, ms)


def build_table(found: Sequence[LazyInput], title: str) -> Table:
    """A line for each entry; of settings with several networks no curve of their mean is known."""
    columns = (
        *("setting", "fits", "dB", "to the goal", "worst", "to the goal's best", "worst"),
        *("steps", "s", "steps to goal", "s to goal", "worst"),
    )
    table = Table(*columns, box=None, title=title)
    for entry in found:
        pairs = list(zip(entry.rows, entry.goals, strict=True))
        to_answer = np.array([row["answer"] - goal["answer"] for row, goal in pairs])
        to_best = np.array([row["answer"] - best(goal) for row, goal in pairs])
        to_goal = np.array([steps_to(row, goal["answer"]) for row, goal in pairs])
        is_known = np.isfinite(to_goal).all() and entry.rows[0]["num_networks"] == 1
        reached = (to_goal.mean(), *(entry.ms / 1e3 * np.array([to_goal.mean(), to_goal.max()])))
        table.add_row(
            entry.label,
            str(len(pairs)),
            f"{np.mean([row['answer'] for row in entry.rows]):.2f}",
            *(f"{value:+.2f}" for v in (to_answer, to_best) for value in (v.mean(), v.min())),
            f"{np.mean([row['network_steps'] for row in entry.rows]):.0f}",
            _number(entry.seconds()),
            *(_number(value) if is_known else "-" for value in reached),
        )
    return table


def draw(panels: Sequence[tuple[str, Sequence[LazyInput]]], path: Path) -> None:
    """The running average against seconds, relative to the goal's best; a panel for each title with times.

    A line is the mean over pictures and seeds, its band one standard deviation to each side; a fit that has
    ended counts with what it handed out. A dot is the mean of what a setting hands out, and when. Where
    a setting fits several networks to a picture there is only the dot. Fits are ours; another library's
    line is of the same fits at that library's time per step.

    Raises:
      InputError: If no two settings have both a fit for each of the goal's and a time.
    """
    timed = [
        (title, [entry for entry in found if np.isfinite(entry.ms) and entry.is_whole])
        for title, found in panels
    ]
    timed = [(title, found) for title, found in timed if len(found) > 1]
    if not timed:
        raise InputError(
            "There is nothing to draw: no two settings have both all fits and times (--time)."
        )
    figure = Figure(figsize=(6.5 * len(timed), 4), layout="constrained")
    axes = figure.subplots(1, len(timed), squeeze=False)[0]
    labels = list(dict.fromkeys(entry.label for _, found in timed for entry in found))
    for axis, (title, found) in zip(axes, timed, strict=True):
        for entry in found:  # one color in all panels
            _draw_entry(axis, entry, f"C{labels.index(entry.label)}")
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set(title=title, xscale="log", xlabel="seconds per picture", ylim=(-10, 1))
        axis.grid(alpha=0.3)
        axis.legend(loc="lower left", fontsize="small")
    axes[0].set_ylabel("dB, running average less the goal's best")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _draw_entry(axis: Axes, entry: LazyInput, color: str) -> None:
    pairs = list(zip(entry.rows, entry.goals, strict=True))
    estimate = np.mean([row["answer"] - best(goal) for row, goal in pairs])
    number = f"{len(pairs)} fit{'s' if len(pairs) > 1 else ''}"
    axis.plot(entry.seconds(), estimate, "o", color=color, label=f"{entry.label} ({number})")
    if entry.rows[0]["num_networks"] > 1:
        return
    length = max(len(row["psnr_average"]) for row in entry.rows)
    curves = []
    for row, goal in pairs:
        average = _average(row)
        # What was handed out stays.
        held = np.full(length - len(average), row["answer"])
        curves.append(np.concatenate([average, held])[1:] - best(goal))
    mean, spread = np.mean(curves, axis=0), np.std(curves, axis=0)
    seconds = entry.ms / 1e3 * (entry.rows[0]["every"] * np.arange(1, length) + 1)
    axis.plot(seconds, mean, color=color)
    axis.fill_between(seconds, mean - spread, mean + spread, alpha=0.2, linewidth=0, color=color)


def _average(row: Row) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in row["psnr_average"]])


def _number(value: float) -> str:
    return f"{value:.{1 if value < 100 else 0}f}" if np.isfinite(value) else "-"
