"""The table and the figure of the measurements of `benchmarks.seconds`.

Each setting is compared with one setting, the goal, for the same image and seed: with the PSNR that
the goal returns, and with the best PSNR of the goal's running average, which requires the clean
reference.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from dip_jax.errors import InputError

Row = dict[str, Any]


class Comparison(NamedTuple):
    """The fits of one setting, each with that of the goal, and the time per step."""

    label: str
    """Label of the setting, and the library if it is not ours."""
    rows: list[Row]
    """Fits of the setting."""
    goals: list[Row]
    """For each of them, the fit of the goal to the same image with the same seed."""
    is_complete: bool
    """Whether the setting was fitted to all images and seeds of the goal."""
    ms: float
    """Milliseconds per step of one network; NaN if it was not timed."""

    def seconds(self) -> float:
        """Mean seconds per image, with its networks one after the other."""
        return self.ms / 1e3 * float(np.mean([row["network_steps"] for row in self.rows]))


def steps_to(row: Row, goal: float) -> float:
    """Steps until the running average reaches the PSNR `goal`; infinite if it never does."""
    reached = np.flatnonzero(_average(row) >= goal)
    return float(row["every"] * reached[0] + 1) if len(reached) else np.inf


def best(row: Row) -> float:
    """The best PSNR of the running average, which requires the clean reference."""
    return float(np.nanmax(_average(row)))


def comparisons(fits: Sequence[Row], times: Sequence[Row], goal: str) -> Iterator[Comparison]:
    """Yields each setting of one task and size, once per library in which its step was timed.

    Args:
      fits: Rows of fits of that task and size.
      times: Rows of times of that task and size.
      goal: Label of the goal.
    """
    goals = {(row["picture"], row["seed"]): row for row in fits if row["label"] == goal}
    for label in dict.fromkeys(row["label"] for row in fits):
        rows = [
            row for row in fits if row["label"] == label and (row["picture"], row["seed"]) in goals
        ]
        paired = [goals[row["picture"], row["seed"]] for row in rows]
        is_complete = len(rows) == len(goals)
        timed = {
            row["library"]: row["ms"] / row["num_networks"]
            for row in times
            if row["label"] == label
        }
        for library, ms in (timed or {"ours": np.nan}).items() if rows else ():
            name = label if library == "ours" else f"{label}, {library}"
            name += "" if is_complete else f" ({len(rows)} of {len(goals)})"
            yield Comparison(name, rows, paired, is_complete, ms)


def build_table(settings: Sequence[Comparison], title: str) -> Table:
    """Builds a table with a row per setting.

    The steps to the goal are unknown for a setting with several networks, as their mean has no
    curve.
    """
    columns = (
        *("setting", "fits", "dB", "vs goal", "worst", "vs best of goal", "worst"),
        *("steps", "s", "steps to goal", "s to goal", "worst"),
    )
    table = Table(*columns, box=None, title=title)
    for setting in settings:
        pairs = list(zip(setting.rows, setting.goals, strict=True))
        against_goal = np.array([row["answer"] - goal["answer"] for row, goal in pairs])
        against_best = np.array([row["answer"] - best(goal) for row, goal in pairs])
        to_goal = np.array([steps_to(row, goal["answer"]) for row, goal in pairs])
        is_known = np.isfinite(to_goal).all() and setting.rows[0]["num_networks"] == 1
        reached = (to_goal.mean(), *(setting.ms / 1e3 * np.array([to_goal.mean(), to_goal.max()])))
        table.add_row(
            setting.label,
            str(len(pairs)),
            f"{np.mean([row['answer'] for row in setting.rows]):.2f}",
            *(
                f"{value:+.2f}"
                for v in (against_goal, against_best)
                for value in (v.mean(), v.min())
            ),
            f"{np.mean([row['network_steps'] for row in setting.rows]):.0f}",
            _number(setting.seconds()),
            *(_number(value) if is_known else "-" for value in reached),
        )
    return table


def draw(panels: Sequence[tuple[str, Sequence[Comparison]]], path: Path) -> None:
    """Draws the running average against seconds, relative to the best of the goal.

    A line is the mean over images and seeds, and its band is one standard deviation to each side.
    After the end of a fit, its returned image counts. A dot is the mean PSNR of the returned images
    at their mean time. A setting with several networks per image has only the dot. All fits are
    ours; the line of another library has the same fits at the time per step of that library.

    Args:
      panels: Title and settings of each panel.
      path: Output file.

    Raises:
      InputError: If no panel has two settings that are complete and timed.
    """
    timed = []
    for title, settings in panels:
        complete = [s for s in settings if np.isfinite(s.ms) and s.is_complete]
        if len(complete) > 1:
            timed.append((title, complete))
    if not timed:
        raise InputError(
            "There is nothing to draw: expected two settings with all fits and times (--time)."
        )
    figure = Figure(figsize=(6.5 * len(timed), 4), layout="constrained")
    axes = figure.subplots(1, len(timed), squeeze=False)[0]
    labels = list(dict.fromkeys(setting.label for _, settings in timed for setting in settings))
    for axis, (title, settings) in zip(axes, timed, strict=True):
        for setting in settings:  # in the same color in all panels
            _draw_setting(axis, setting, f"C{labels.index(setting.label)}")
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set(title=title, xscale="log", xlabel="seconds per image", ylim=(-10, 1))
        axis.grid(alpha=0.3)
        axis.legend(loc="lower left", fontsize="small")
    axes[0].set_ylabel("PSNR of the running average - best of the goal (dB)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _draw_setting(axis: Axes, setting: Comparison, color: str) -> None:
    pairs = list(zip(setting.rows, setting.goals, strict=True))
    returned = np.mean([row["answer"] - best(goal) for row, goal in pairs])
    number = f"{len(pairs)} fit{'s' if len(pairs) > 1 else ''}"
    axis.plot(setting.seconds(), returned, "o", color=color, label=f"{setting.label} ({number})")
    if setting.rows[0]["num_networks"] > 1:
        return
    length = max(len(row["psnr_average"]) for row in setting.rows)
    curves = []
    for row, goal in pairs:
        average = _average(row)
        # After its end, a fit counts with its returned image.
        rest = np.full(length - len(average), row["answer"])
        curves.append(np.concatenate([average, rest])[1:] - best(goal))
    mean, spread = np.mean(curves, axis=0), np.std(curves, axis=0)
    seconds = setting.ms / 1e3 * (setting.rows[0]["every"] * np.arange(1, length) + 1)
    axis.plot(seconds, mean, color=color)
    axis.fill_between(seconds, mean - spread, mean + spread, alpha=0.2, linewidth=0, color=color)


def _average(row: Row) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in row["psnr_average"]])


def _number(value: float) -> str:
    return f"{value:.{1 if value < 100 else 0}f}" if np.isfinite(value) else "-"
