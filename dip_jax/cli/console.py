"""What a person sees in the terminal: a live line while a run goes on, and tables at its end.

Progress goes to standard error, results to standard output. Where there is no terminal, the live line
becomes a plain one now and then.
"""

import collections
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import rich.progress
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dip_jax.batch.worker import FolderProgress
from dip_jax.cli.cost import forecast_seconds, network_work, probe_machine
from dip_jax.cli.plan import Plan
from dip_jax.engine.restore import num_networks
from dip_jax.presets import DEFAULT_PRESETS, PRESETS, build_config

_PLAIN_SECONDS = 20.0
_MOST_ROWS = 60


class ProgressDisplay:
    """A context in which `show(progress)` keeps a person informed.

    In a terminal: a bar with step, steps/s, time left, loss and, with a reference, PSNR; for a folder
    with pictures done, in work, failed and per hour. Where the output is a file or a pipe:
    one line at the start and then every twenty seconds.
    """

    def __init__(self, console: Console | None = None):
        """Uses `console`, by default standard error, so that standard output stays clean."""
        self._console = console or Console(file=sys.stderr)
        self._live: rich.progress.Progress | None = None
        self._task: rich.progress.TaskID | None = None
        self._last_line = float("-inf")

    def __enter__(self) -> "ProgressDisplay":
        """Starts the live display where there is a terminal."""
        if self._console.is_terminal:
            self._live = rich.progress.Progress(
                rich.progress.TextColumn("{task.description}"),
                rich.progress.BarColumn(bar_width=24),
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
        """Says a sentence, above the bar where there is one."""
        (self._live.console if self._live else self._console).print(
            text, highlight=False, markup=False
        )

    def show(self, progress: FolderProgress) -> None:
        """Shows where the run stands: the steps of a single picture, or the pictures of a folder."""
        pictures = progress.pictures
        if progress.num_images == 1:
            label, total, done = pictures.names[0], pictures.num_steps, pictures.steps[0]
            where = f"step {done}/{total}"
        else:
            label, total = "pictures", progress.num_images
            done = progress.num_done + progress.num_failed
            where = f"{done}/{total}"
        if self._live is None:
            now = time.monotonic()
            if now - self._last_line >= _PLAIN_SECONDS:
                self._last_line = now
                self.announce(f"{label}: {where}  {describe(progress)}")
            return
        if self._task is None:
            self._task = self._live.add_task(escape(label), total=total, text="")
        self._live.update(self._task, completed=done, text=f"{where}  {describe(progress)}")


def describe(progress: FolderProgress) -> str:
    """Speed, time left and quality in one line."""
    pictures = progress.pictures
    left = f"at most {_duration(progress.seconds_left)}"
    if progress.num_images == 1:
        parts = [f"{pictures.steps_per_second:.3g} steps/s", left, f"loss {pictures.loss:.5f}"]
    else:
        parts = [f"{len(pictures.names)} in work"]
        if progress.num_failed:
            parts.append(f"{progress.num_failed} failed")
        if progress.per_hour:
            parts.append(f"{progress.per_hour:.3g}/hour")
        parts.append(left)
    if pictures.psnr is not None:
        parts.append(f"{pictures.psnr:.2f} dB")
    return "  ".join(parts)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def print_presets() -> None:
    """Prints every preset with its task, network, cost on this machine and source."""
    machine = probe_machine()
    table = Table(box=None, pad_edge=False)
    for column in ("preset", "task", "network"):
        table.add_column(column, no_wrap=True)
    for column in ("parameters", "steps", "s/step"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("about, and source")
    for name, preset in PRESETS.items():
        config = build_config(name)
        work = network_work(config.net, (256, 256, 3))
        pixels = 256 * 256 * 3 if config.net.kind == "identity" else 0
        marked = name + ("*" if DEFAULT_PRESETS[preset.task] == name else "")
        table.add_row(
            marked,
            preset.task,
            config.net.kind,
            f"{work.num_params + pixels:,}",
            f"{config.fit.num_steps:,}",
            f"{num_networks(config) * forecast_seconds(work, machine):.2g}",
            f"{preset.about} ({preset.source})",
        )
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    console.print(table)
    console.print("* the default of its task")
    console.print(
        f"s/step: coarse forecast for a picture of 256 x 256 and all its networks on this machine "
        f"({jax.devices()[0].device_kind}); --plan measures"
    )


def print_plan(plans: Sequence[Plan], *, start_seconds: float) -> None:
    """Prints what a run would cost: a line per shape, and the sum, the start of the process included."""
    table = Table(box=None, pad_edge=False)
    columns = (
        "canvas",
        "pictures",
        "at once",
        "GB each",
        "GB/Mpx",
        "peak GB",
        "compile s",
        "s/step",
    )
    for column in (*columns, "steps, at most", "time, at most"):
        table.add_column(column, justify="right", no_wrap=True)
    for plan in plans:
        height, width, channels = plan.shape
        table.add_row(
            f"{width} x {height} x {channels}",
            str(plan.num_images),
            str(min(plan.num_slots, plan.num_images)),
            f"{plan.bytes_per_image / 1e9:.2f}",
            f"{plan.gigabytes_per_megapixel:.1f}",
            f"{plan.peak_bytes / 1e9:.2f}",
            f"{plan.compile_seconds:.0f}",
            f"{plan.seconds_per_step:.3g}",
            str(plan.num_steps),
            _duration(plan.seconds),
        )
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    console.print(table)
    number = sum(plan.num_images for plan in plans)
    seconds = start_seconds + sum(plan.seconds for plan in plans)
    console.print(
        f"{number} picture{'s' * (number != 1)}: at most {_duration(seconds)}, "
        f"{max(plan.peak_bytes for plan in plans) / 1e9:.2f} GB at the peak. Nothing was written."
    )


def print_results(summaries: Sequence[dict[str, Any]], output: Path) -> None:
    """Prints one line per picture, and a sentence for each that failed."""
    table = Table(box=None, pad_edge=False)
    table.add_column("picture", no_wrap=True)
    compares = any("variant" in summary for summary in summaries)
    columns = ["status", "answer at step", "damaged dB", "restored dB", "seconds"]
    if compares:
        columns[4:4] = ["best dB", "at step"]
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    shown = summaries if len(summaries) <= _MOST_ROWS else _worth_showing(summaries)
    for summary in shown:
        name = summary["name"]
        cells = [
            summary["status"],
            _number(summary["stop_step"], "d"),
            _number(summary["psnr_measurement"], ".2f"),
            _number(summary["psnr"], ".2f"),
            _number(summary["seconds"], ".1f"),
        ]
        if compares:
            cells[4:4] = [
                _number(summary["psnr_best"], ".2f"),
                _number(summary["best_step"], "d"),
            ]
        table.add_row(
            escape(f"{name}: {summary['variant']}" if "variant" in summary else name), *cells
        )
    # A pipe has no width to keep to.
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    console.print(table)
    for summary in summaries:
        if summary["status"] == "diverged":
            text = "the fit diverged; lower --set fit.learning_rate=... or try another --seed"
            console.print(f"{summary['name']}: {text}", markup=False)
        if summary["error"] and summary["status"] == "failed":
            console.print(
                f"{summary['name']}: {summary['status']}: {summary['error']}",
                markup=False,
                soft_wrap=True,
            )
    for summary in summaries:
        if len(summary.get("stops") or {}) > 1:
            console.print(_stops_table(summary))
    if len(shown) < len(summaries):
        console.print(f"... and {len(summaries) - len(shown)} more")
    if len(summaries) > 1:
        counts = collections.Counter(summary["status"] for summary in summaries)
        told = ", ".join(f"{number} {status}" for status, number in counts.most_common())
        console.print(f"{len(summaries)} pictures: {told}", markup=False)
    if any(summary["status"] == "interrupted" for summary in summaries):
        console.print("Interrupted: the same command with --resume goes on where it was.")
    has_page = len(summaries) > 1 and (output / "index.html").exists()
    page = f", to look through: {output}/index.html" if has_page else ""
    console.print(f"Results in {output}/{page}", markup=False, soft_wrap=True)


def _stops_table(summary: dict[str, Any]) -> Table:
    """Where each stopping rule would have stopped, on the same fit."""
    title = f"{escape(summary['name'])}: where each rule stops"
    table = Table(box=None, pad_edge=False, title=title, title_justify="left")
    for column in ("rule", "fired", "answer at step", "dB", "below the best step"):
        table.add_column(column, justify="left" if column == "rule" else "right", no_wrap=True)
    for rule, stop in summary["stops"].items():
        table.add_row(
            rule,
            "yes" if stop["fired"] else "no",
            str(stop["estimate_step"]),
            _number(stop["psnr"], ".2f"),
            _number(stop["gap"], ".2f"),
        )
    return table


def _worth_showing(summaries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of very many: those that went wrong, then the first."""
    rank = {"failed": 0, "diverged": 0, "interrupted": 1}
    return sorted(summaries, key=lambda s: rank.get(s["status"], 2))[:_MOST_ROWS]


def print_comparison(rows: dict[str, float], folder: Path) -> None:
    """Prints the demonstration's table: PSNR in dB, the gain over the first row, where to look."""
    table = Table("", box=None, pad_edge=False)
    table.add_column("PSNR (dB)", justify="right")
    table.add_column("gain", justify="right")
    first = next(iter(rows.values()))
    for name, value in rows.items():
        table.add_row(name, f"{value:.2f}", "" if value == first else f"{value - first:+.2f}")
    console = Console(highlight=False)
    console.print(table)
    console.print(f"Before and after: {folder / 'sheet.png'}", markup=False, soft_wrap=True)
    console.print(f"Restored picture: {folder / 'restored.png'}", markup=False, soft_wrap=True)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
