"""The terminal output of the command: a live progress line, and tables at the end.

Progress goes to standard error, results to standard output. Without a terminal the live line becomes a plain line
every 20 seconds.
"""

import collections
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Literal, NamedTuple

import rich.progress
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dip_jax.base import Status
from dip_jax.batch.flat import DETAILS
from dip_jax.batch.progress import FolderProgress
from dip_jax.cli.plan import Plan
from dip_jax.report.summary import Summary
from dip_jax.storage.paths import AnyPath, list_folder

_PLAIN_SECONDS = 20.0
_MAX_ROWS = 60
_MAX_LABEL = 20


class ProgressDisplay:
    """A context in which `show(progress)` prints the progress of a run.

    A terminal shows a bar: for one image its step, steps per second, time left, and its PSNR or loss; for
    a folder the number of images done, in progress, failed and per hour. A file or pipe gets one line at the
    start and then one every 20 seconds.
    """

    def __init__(self, console: Console | None = None, heading: Callable[[], str] | None = None):
        """Shows nothing yet.

        Args:
          console: Where to print; by default standard error, which keeps standard output for results.
          heading: Returns a line that precedes the first progress.
        """
        self._heading = heading
        self._console = console or Console(file=sys.stderr)
        self._live: rich.progress.Progress | None = None
        self._task: rich.progress.TaskID | None = None
        self._last_line = float("-inf")

    def __enter__(self) -> "ProgressDisplay":
        """Starts the live display if there is a terminal."""
        if self._console.is_terminal:
            self._live = rich.progress.Progress(
                rich.progress.TextColumn("{task.description}"),
                rich.progress.BarColumn(bar_width=8),
                rich.progress.TextColumn("{task.fields[text]}"),
                console=self._console,
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leaves the last state on the screen."""
        if self._live is not None:
            self._live.stop()

    def announce(self, text: str) -> None:
        """Prints a sentence, above the bar if there is one."""
        console = self._live.console if self._live else self._console
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, progress: FolderProgress) -> None:
        """Shows the progress of a run: the steps of a single image, or the images of a folder."""
        if self._heading is not None:
            self.announce(self._heading())
            self._heading = None
        images = progress.in_progress
        if progress.num_images == 1:
            label, total, done = images.names[0], images.num_steps, images.steps[0]
            position = "" if images.phase else f"step {done}/{total}  "
        else:
            label, total = "images", progress.num_images
            done = progress.num_done + progress.num_failed
            position = f"{done}/{total}  "
        text = position + describe(progress)
        if self._live is None:
            now = time.monotonic()
            if images.phase or now - self._last_line >= _PLAIN_SECONDS:
                self._last_line = float("-inf") if images.phase else now
                self.announce(f"{label}: {text}")
            return
        if self._task is None:
            self._task = self._live.add_task("", total=total, text="")
        self._live.update(self._task, description=escape(_fit(label)), completed=done, text=text)


def _fit(label: str) -> str:
    """A label that leaves room for the numbers in a terminal of 80 columns: the middle of a long one is left out."""
    return label if len(label) <= _MAX_LABEL else f"{label[:6]}...{label[-_MAX_LABEL + 9 :]}"


def describe(progress: FolderProgress) -> str:
    """Speed, time left and quality in one line."""
    images = progress.in_progress
    if images.phase:
        label = "" if progress.num_images == 1 else f"{images.names[0]}: "
        return f"{label}{images.phase} ..."
    time_left = "measuring the speed"
    if not math.isnan(progress.seconds_left):
        time_left = f"at most {_duration(progress.seconds_left)}"
    if progress.num_images == 1:
        speed = images.steps_per_second
        parts = [] if math.isnan(speed) else [f"{speed:.3g}/s"]
        parts += [time_left, *([f"loss {images.loss:.4f}"] if images.psnr is None else [])]
    else:
        parts = [f"{len(images.names)} in progress"]
        if progress.num_failed:
            parts.append(f"{progress.num_failed} failed")
        if progress.per_hour:
            parts.append(f"{progress.per_hour:.3g}/hour")
        parts.append(time_left)
    if images.psnr is not None:
        parts.append(f"{images.psnr:.2f} dB")
    return "  ".join(parts)


class _Column(NamedTuple):
    """A column of a table."""

    title: str
    cell: Callable[[Any], str]
    """The text of a row in this column."""
    justify: Literal["left", "right"] = "right"
    wraps: bool = False


def _table(columns: Sequence[_Column], rows: Iterable[Any], *, title: str | None = None) -> Table:
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for column in columns:
        table.add_column(column.title, justify=column.justify, no_wrap=not column.wraps)
    for row in rows:
        table.add_row(*(escape(column.cell(row)) for column in columns))
    return table


def _stdout() -> Console:
    """Standard output; tables in a pipe are not limited to a terminal's 80 columns."""
    return Console(width=None if sys.stdout.isatty() else 200, highlight=False)


def print_plan(plans: Sequence[Plan], *, start_seconds: float) -> None:
    """Prints the forecast of a run: a line for each canvas, and the sum.

    Args:
      plans: The forecasts, see `plan_inputs`.
      start_seconds: Seconds that the process takes before the first image; they are part of the sum.
    """
    console = _stdout()
    console.print(_table(_PLAN_COLUMNS, plans))
    num_images = sum(plan.num_images for plan in plans)
    seconds = start_seconds + sum(plan.seconds for plan in plans)
    console.print(
        f"{num_images} image{'s' * (num_images != 1)}: at most {_duration(seconds)}, "
        f"{max(plan.peak_bytes for plan in plans) / 1e9:.2f} GB at the peak. Nothing was written."
    )


def _canvas(plan: Plan) -> str:
    height, width, channels = plan.shape
    return f"{width} x {height} x {channels}"


_PLAN_COLUMNS = (
    _Column("canvas", _canvas),
    _Column("images", lambda plan: str(plan.num_images)),
    _Column("networks", lambda plan: str(plan.num_networks)),
    _Column("at once", lambda plan: str(min(plan.num_slots, plan.num_networks))),
    _Column("GB each", lambda plan: f"{plan.bytes_per_slot / 1e9:.2f}"),
    _Column("GB/Mpx", lambda plan: f"{plan.gigabytes_per_megapixel:.1f}"),
    _Column("peak GB", lambda plan: f"{plan.peak_bytes / 1e9:.2f}"),
    _Column("compile s", lambda plan: f"{plan.compile_seconds:.0f}"),
    _Column("s/step", lambda plan: f"{plan.seconds_per_step:.3g}"),
    _Column("steps, at most", lambda plan: str(plan.num_steps)),
    _Column("time, at most", lambda plan: _duration(plan.seconds)),
)


def print_results(summaries: Sequence[Summary], output: AnyPath) -> None:
    """Prints a line for each image, and a sentence for each that failed.

    Args:
      summaries: The summaries of a run, or of all runs of a comparison.
      output: The output folder.
    """
    console = _stdout()
    is_comparison = any("variant" in summary for summary in summaries)
    has_psnr = any(s["psnr"] is not None or s["psnr_measurement"] is not None for s in summaries)
    columns = (
        *_RESULT_COLUMNS,
        *(_PSNR_COLUMNS if has_psnr else ()),
        *(_BEST_COLUMNS if is_comparison else ()),
        _SECONDS_COLUMN,
    )
    shown = summaries if len(summaries) <= _MAX_ROWS else _failures_first(summaries)[:_MAX_ROWS]
    console.print(_table(columns, shown))
    for summary in summaries:
        if reason := _failure_reason(summary):
            console.print(f"{summary['name']}: {reason}", markup=False, soft_wrap=True)
    for summary in summaries:
        if len(summary.get("stops") or {}) > 1:
            title = f"{escape(summary['name'])}: where each rule stops"
            console.print(_table(_STOP_COLUMNS, summary["stops"].items(), title=title))
    if len(shown) < len(summaries):
        console.print(f"... and {len(summaries) - len(shown)} more")
    counts = collections.Counter(summary["status"] for summary in summaries)
    if len(summaries) > 1:
        listed = ", ".join(f"{number} {status}" for status, number in counts.most_common())
        console.print(f"{len(summaries)} images: {listed}", markup=False)
    if Status.INTERRUPTED in counts:
        console.print("Interrupted: repeat the command with --resume to continue.")
    details = output / DETAILS if (output / DETAILS / "index.html").exists() else output
    place = f"Results in {output}/"
    if len(summaries) == 1 and (restored := _restored_files(details / summaries[0]["name"])):
        place = f"Restored image: {restored[0]}"
    page = f"; open {details}/index.html" if (details / "index.html").exists() else ""
    console.print(place + page, markup=False, soft_wrap=True)


def _restored_files(folder: AnyPath) -> list[AnyPath]:
    return [path for path in list_folder(folder) if path.stem == "restored"]


def _label(summary: Summary) -> str:
    """The name of the image, and in a comparison that of the setting."""
    name = summary["name"]
    return f"{name}: {summary['variant']}" if "variant" in summary else name


def _failure_reason(summary: Summary) -> str:
    if summary["status"] == Status.DIVERGED:
        return "the fit diverged; lower --set fit.learning_rate=... or try another --seed"
    if summary["status"] == Status.FAILED and summary["error"]:
        return f"{Status.FAILED}: {summary['error']}"
    return ""


def _failures_first(summaries: Sequence[Summary]) -> list[Summary]:
    """The summaries: failed and diverged images, then interrupted ones, then the others."""
    rank = {Status.FAILED: 0, Status.DIVERGED: 0, Status.INTERRUPTED: 1}
    return sorted(summaries, key=lambda summary: rank.get(summary["status"], 2))


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


_RESULT_COLUMNS = (
    _Column("image", _label, "left"),
    _Column("status", lambda summary: summary["status"]),
    _Column("estimate at step", lambda summary: _number(summary["stop_step"], "d")),
)
_PSNR_COLUMNS = (
    _Column("degraded dB", lambda summary: _number(summary["psnr_measurement"], ".2f")),
    _Column("restored dB", lambda summary: _number(summary["psnr"], ".2f")),
)
_BEST_COLUMNS = (
    _Column("best dB", lambda summary: _number(summary["psnr_best"], ".2f")),
    _Column("at step", lambda summary: _number(summary["best_step"], "d")),
)
_SECONDS_COLUMN = _Column("seconds", lambda summary: _number(summary["seconds"], ".1f"))


# A row is a rule and its `StopSummary`.
_STOP_COLUMNS = (
    _Column("rule", lambda row: row[0], "left"),
    _Column("fired", lambda row: "yes" if row[1]["fired"] else "no"),
    _Column("estimate at step", lambda row: str(row[1]["estimate_step"])),
    _Column("dB", lambda row: _number(row[1]["psnr"], ".2f")),
    _Column("below the best step", lambda row: _number(row[1]["gap"], ".2f")),
)


def print_comparison(psnrs: dict[str, float | None], folder: AnyPath) -> None:
    """Prints the results of the demo: PSNR and gain over the noisy image, and the files.

    Args:
      psnrs: PSNR in dB by method, None if unknown; the first is that of the noisy image.
      folder: The folder of the image.
    """
    noisy = next(iter(psnrs.values()))

    def gain(psnr: float | None) -> float | None:
        return None if psnr is None or noisy is None else psnr - noisy

    columns = (
        _Column("", lambda row: row[0], "left"),
        _Column("PSNR (dB)", lambda row: _number(row[1], ".2f")),
        _Column("gain", lambda row: "" if row[1] == noisy else _number(gain(row[1]), "+.2f")),
    )
    console = Console(highlight=False)
    console.print(_table(columns, psnrs.items()))
    console.print(f"Before and after: {folder / 'sheet.png'}", markup=False, soft_wrap=True)
    console.print(f"Restored image: {folder / 'restored.png'}", markup=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    """A duration as `h:mm:ss`, or `m:ss` below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
