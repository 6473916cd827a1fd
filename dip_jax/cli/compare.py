"""Several settings on the same pictures, and the figure that shows them beside each other.

As the figures of the 2018 paper that compare networks and learning rates: the answers above, their curves
below.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from dip_jax.batch.folder import restore_files
from dip_jax.batch.inputs import list_inputs
from dip_jax.config import Config
from dip_jax.errors import InputError
from dip_jax.images.read import read_image
from dip_jax.report.figures import degraded_image, save_png

_FILES = ("inputs", "references", "masks", "guides", "kernels", "max_pixels")


def compare_files(configs: dict[str, Config], output: str | Path, **options: Any) -> list[dict]:
    """Restores picture files by several settings, each into a folder of its own, and draws a figure for each.

    Args:
      configs: The settings by label; all of one task and seed, so that all see the same damage.
      output: The folder: each setting gets a folder of its label in it, each picture a
        `comparison-NAME.png`.
      **options: See `folder.restore_files`.

    Returns:
      The summaries of all runs, with the field `variant`.

    Raises:
      InputError: For a mistake that shows before anything is started.
    """
    output = Path(output)
    if not options.get("inputs"):
        _require_same_damage(configs)
    summaries: list[dict[str, Any]] = []
    for label, config in configs.items():
        folder = output / label.replace(" ", "_")
        made = restore_files(config, folder, **options)
        summaries += [{**summary, "variant": label} for summary in made]
        if any(summary["status"] == "interrupted" for summary in made):
            return summaries
    files = {name: options[name] for name in _FILES if name in options}
    for entry in list_inputs(next(iter(configs.values())), **files):
        own = [s for s in summaries if s["name"] == entry.name and s["psnr"] is not None]
        made = own or [s for s in summaries if s["name"] == entry.name]
        made = [summary for summary in made if summary["status"] in ("done", "stopped", "diverged")]
        if made:
            case = entry.load().case
            figure = _draw(made, output, degraded_image(case), case.preview_name, case.reference)
            save_png(output / f"comparison-{entry.name.replace('/', '-')}.png", figure)
    return summaries


# Fields of the task that do not change what a simulation does to the picture.
_HARMLESS = ("paste_known", "jpeg", "filter")


def _require_same_damage(configs: dict[str, Config]) -> None:
    (first_label, first), *others = configs.items()
    for label, config in others:
        for name, value in dataclasses.asdict(config.task).items():
            if name not in _HARMLESS and value != getattr(first.task, name):
                raise InputError(
                    f"{first_label} and {label} would simulate different damage (task.{name}: "
                    f"{getattr(first.task, name)} and {value}); set it for all, as --set task.{name}=..."
                )


def _draw(
    summaries: Sequence[dict[str, Any]],
    output: Path,
    before: np.ndarray,
    before_name: str,
    reference: np.ndarray | None,
) -> Figure:
    panels: list[tuple[str, np.ndarray]] = [(before_name, before)]
    for summary in summaries:
        folder = output / summary["variant"].replace(" ", "_") / summary["name"]
        (path,) = folder.glob("restored.*")
        panels.append((summary["variant"], read_image(path).pixels))
    psnrs = [None, *(summary["psnr"] for summary in summaries)]
    if reference is not None:
        panels.append(("reference", reference))
        psnrs.append(None)
    layout = ConstrainedLayoutEngine(h_pad=0.1)
    figure = Figure(figsize=(2.2 * len(panels), 5.6), layout=layout)
    rows = figure.add_gridspec(2, 1)
    above, below = figure.add_subfigure(rows[0]), figure.add_subfigure(rows[1])
    for axis, (title, image), psnr in zip(
        above.subplots(1, len(panels)), panels, psnrs, strict=True
    ):
        gray = image.shape[-1] == 1
        axis.imshow(np.clip(image[..., 0] if gray else image, 0, 1), cmap="gray", vmin=0, vmax=1)
        axis.set_title(title + ("" if psnr is None else f"\n{psnr:.2f} dB"), fontsize=9)
        axis.axis("off")
    loss_axis, *more = below.subplots(1, 1 + (reference is not None), squeeze=False)[0]
    for summary in summaries:
        folder = output / summary["variant"].replace(" ", "_") / summary["name"]
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        lines = [line for line in lines if line.get("network", 1) == 1]
        steps = [line["step"] + 1 for line in lines]
        loss_axis.loglog(steps, [line["loss"] for line in lines], lw=0.9, label=summary["variant"])
        for axis in more:
            axis.semilogx(
                steps,
                [line.get("psnr_mean", line.get("psnr_average", np.nan)) for line in lines],
                lw=1.2,
                label=summary["variant"],
            )
            axis.set_ylabel("PSNR of the output (dB)")
    loss_axis.set_ylabel("loss")
    for axis in (loss_axis, *more):
        axis.set_xlabel("step")
        axis.legend(fontsize=8, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    return figure
