"""A progress bar for notebooks and terminals."""

import sys
from types import TracebackType

import rich.progress
from rich.console import Console
from rich.markup import escape

from dip_jax.engine.scheduler import Progress


class ProgressBar:
    """A context whose value is called with the progress of a run: the `on_progress` of `restore`.

    It shows the network that has made the fewest steps, or how many networks are in progress, with the speed, the
    loss and, with a reference, the PSNR. A notebook needs the package ipywidgets to draw the bar in place. Without a
    terminal or notebook nothing is shown.

    Example:
      >>> from dip_jax.engine.scheduler import Progress
      >>> with ProgressBar() as bar:
      ...     bar(Progress(("photo",), (10,), 100, 5.0, 0.01, None))
    """

    def __init__(self, console: Console | None = None):
        """Draws on a console; by default standard error, or the output of the cell in a notebook."""
        console = console or Console(file=None if Console().is_jupyter else sys.stderr)
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(bar_width=24),
            rich.progress.TextColumn("{task.fields[text]}"),
            rich.progress.TimeRemainingColumn(),
            console=console,
            disable=not (console.is_terminal or console.is_jupyter),
        )
        self._task: rich.progress.TaskID | None = None

    def __enter__(self) -> "ProgressBar":
        """Starts the display."""
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leaves the last state on the screen."""
        self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Shows the progress of a run."""
        if progress.phase:
            self._update(progress, 0, progress.names[0], progress.phase)
            return
        step = min(progress.steps)
        number = len(progress.names)
        label = progress.names[0] if number == 1 else f"{number} networks"
        parts = [f"step {step}/{progress.num_steps}", f"loss {progress.loss:.5f}"]
        if progress.psnr is not None:
            parts.append(f"{progress.psnr:.2f} dB")
        self._update(progress, step, label, "  ".join(parts))

    def _update(self, progress: Progress, step: int, label: str, text: str) -> None:
        if self._task is None:
            self._task = self._bar.add_task("", total=progress.num_steps, text="")
        self._bar.update(
            self._task,
            description=escape(label),
            completed=step,
            total=progress.num_steps,
            text=text,
        )
