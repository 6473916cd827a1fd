"""Restores the same images with several settings, and shows the results on one page and in a figure for each image.

The figure follows those of the 2018 paper that compare networks and learning rates: the restored images above,
their curves below.
"""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from dip_jax.base import Case, Status
from dip_jax.batch.folder import restore_files
from dip_jax.batch.inputs import InputFiles, LazyInput, list_inputs
from dip_jax.batch.processes import SINGLE_PROCESS, ProcessOptions
from dip_jax.batch.progress import FolderProgress
from dip_jax.config import Config
from dip_jax.errors import InputError
from dip_jax.images.read import read_image
from dip_jax.report.manifest import Manifest
from dip_jax.report.png import save_png
from dip_jax.report.run_page import PAGE, write_page
from dip_jax.report.sheet import degraded_image, displayed
from dip_jax.report.summary import Summary
from dip_jax.storage.paths import AnyPath, local_copy, read_bytes, to_path

# Fields of the task that do not change the simulated degradation.
_SAME_DEGRADATION = ("paste_known", "jpeg", "filter", "clipping")


class _Panel(NamedTuple):
    title: str
    image: np.ndarray
    """`[H, W, C]`."""


def compare_files(
    configs: dict[str, Config],
    output: str | AnyPath,
    files: InputFiles,
    *,
    overwrite: bool = False,
    resume: bool = False,
    processes: ProcessOptions = SINGLE_PROCESS,
    on_progress: Callable[[FolderProgress], None] | None = None,
    on_message: Callable[[str], None] = lambda text: None,
) -> list[Summary]:
    """Restores image files with several settings, and writes a page of all results and a figure for each image.

    Args:
      configs: The settings by label. To restore the same degraded images, they need the same task and seed.
      output: The output folder. Each setting gets a folder of its label in it, each image a
        `comparison-NAME.png`; `index.html` shows all of them.
      files: The image files.
      overwrite: As in `restore_files`, which also describes the other arguments.
      resume: Continue an earlier run.
      processes: How several processes divide the images.
      on_progress: Called between chunks of steps.
      on_message: Called with sentences for the user.

    Returns:
      The summaries of all runs, each with the label of its settings as `variant`.

    Raises:
      InputError: If the settings simulate different degradations, or the call has another error that shows
        before anything is started.
      OSError: If the disk is full.
    """
    output = to_path(output)
    if not files.inputs:
        _require_same_degradation(configs)
    inputs = list_inputs(next(iter(configs.values())), files)
    _require_free_names(output, inputs)
    summaries: list[Summary] = []
    for label, config in configs.items():
        run_summaries = restore_files(
            config,
            _run_folder(output, label),
            files,
            overwrite=overwrite,
            resume=resume,
            processes=processes,
            on_progress=on_progress,
            on_message=on_message,
        )
        summaries += [{**summary, "variant": label} for summary in run_summaries]
        if any(summary["status"] == Status.INTERRUPTED for summary in run_summaries):
            return summaries
    for lazy in inputs:
        restored = [s for s in summaries if s["name"] == lazy.name and s["status"].is_finished]
        # A fit that diverged has no PSNR, and is shown only if no other fit has one.
        drawn = [s for s in restored if s["psnr"] is not None] or restored
        if drawn:
            figure = _draw_comparison(drawn, output, lazy.load().case)
            save_png(Manifest(output).path(_figure_name(lazy)), figure)
    folders = {label: _run_folder(output, label).name for label in configs}
    write_page(output, summaries, folders=folders)
    return summaries


def _run_folder(output: AnyPath, label: str) -> AnyPath:
    return output / label.replace(" ", "_")


def _figure_name(lazy: LazyInput) -> str:
    return f"comparison-{lazy.name.replace('/', '-')}.png"


def _require_free_names(output: AnyPath, inputs: Sequence[LazyInput]) -> None:
    names = {PAGE, *(_figure_name(lazy).casefold() for lazy in inputs)}
    for path in Manifest(output).unrecorded(lambda name: name.casefold() in names):
        raise InputError(
            f"{path} is not recorded as a file of dip_jax, and the comparison needs its name: move it, or choose another "
            "--output."
        )


def _require_same_degradation(configs: dict[str, Config]) -> None:
    (first_label, first), *others = configs.items()
    for label, config in others:
        for name, value in dataclasses.asdict(config.task).items():
            if name not in _SAME_DEGRADATION and value != getattr(first.task, name):
                raise InputError(
                    f"{first_label} and {label} would simulate different degradations (task.{name}: "
                    f"{getattr(first.task, name)} and {value}); set it for all, as --set task.{name}=..."
                )


def _draw_comparison(summaries: Sequence[Summary], output: AnyPath, case: Case) -> Figure:
    """The images in a row above, the curves of the loss and of the PSNR below."""
    panels = [_Panel(case.preview_name, degraded_image(case))]
    for summary in summaries:
        label, psnr = summary["variant"], summary["psnr"]
        run = _run_folder(output, label)
        (name,) = (n for n in Manifest(run, summary["name"]) if PurePath(n).stem == "restored")
        title = label if psnr is None else f"{label}\n{psnr:.2f} dB"
        with local_copy(run / name) as file:
            panels.append(_Panel(title, read_image(file).pixels))
    if case.reference is not None:
        panels.append(_Panel("reference", case.reference))
    layout = ConstrainedLayoutEngine(h_pad=0.1)
    figure = Figure(figsize=(2.2 * len(panels), 5.6), layout=layout)
    rows = figure.add_gridspec(2, 1)
    _draw_images(figure.add_subfigure(rows[0]), panels)
    curves = {
        s["variant"]: _read_curve(_run_folder(output, s["variant"]) / s["name"]) for s in summaries
    }
    _draw_curves(figure.add_subfigure(rows[1]), curves, has_psnr=case.reference is not None)
    return figure


def _draw_images(figure: SubFigure, panels: Sequence[_Panel]) -> None:
    for axis, panel in zip(figure.subplots(1, len(panels)), panels, strict=True):
        axis.imshow(displayed(panel.image), cmap="gray", vmin=0, vmax=1)
        axis.set_title(panel.title, fontsize=9)
        axis.axis("off")


def _read_curve(folder: AnyPath) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`; for several networks, those of the first."""
    lines = [json.loads(line) for line in read_bytes(folder / "metrics.jsonl").splitlines()]
    return [line for line in lines if line.get("network", 1) == 1]


def _draw_curves(
    figure: SubFigure, curves: dict[str, list[dict[str, Any]]], *, has_psnr: bool
) -> None:
    axes: list[Axes] = list(figure.subplots(1, 1 + has_psnr, squeeze=False)[0])
    for label, lines in curves.items():
        steps = [line["step"] + 1 for line in lines]
        axes[0].loglog(steps, [line.get("loss", np.nan) for line in lines], lw=0.9, label=label)
        if has_psnr:
            psnrs = [line.get("psnr_mean", line.get("psnr_average", np.nan)) for line in lines]
            axes[1].semilogx(steps, psnrs, lw=1.2, label=label)
    for axis, title in zip(axes, ("loss", "PSNR of the estimate (dB)"), strict=False):
        axis.set_xlabel("step")
        axis.set_ylabel(title)
        axis.legend(fontsize=8, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
