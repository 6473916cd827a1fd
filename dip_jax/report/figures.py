"""A picture's curve and sheet, drawn for a person."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from dip_jax.base import Case, Result
from dip_jax.images import atomic
from dip_jax.metrics import psnr_on_host


def save_png(path: Path, picture: Figure | Image.Image) -> None:
    """Writes a figure or a Pillow image as PNG, whole or not at all."""
    if isinstance(picture, Figure):
        metadata = {"Software": None}
        atomic.write(
            path, lambda file: picture.savefig(file, format="png", dpi=110, metadata=metadata)
        )
    else:
        atomic.write(path, lambda file: picture.save(file, format="png"))


def draw_curve(path: Path, case: Case, result: Result) -> None:
    """Draws loss, and PSNR where known, against steps, with the stop marked."""
    curve = result.curve
    known = bool(np.isfinite(curve["psnr_average"]).any())
    figure = Figure(figsize=(7, 3 + 2.6 * known))
    axes = figure.subplots(1 + known, 1, sharex=True, squeeze=False)
    loss_axis = axes[-1, 0]
    loss_axis.semilogy(curve["step"], curve["loss"], color="0.35", lw=0.8, label="loss")
    for name, signal in curve.items():
        if name.startswith("signal_") and np.isfinite(signal).any():
            loss_axis.semilogy(curve["step"], signal, lw=1, label=f"what {name[7:]} watches")
    loss_axis.set_xlabel("step")
    loss_axis.set_ylabel("loss")
    if known:
        axis = axes[0, 0]
        axis.plot(curve["step"], curve["psnr"], color="C0", lw=0.6, alpha=0.6, label="each output")
        axis.plot(curve["step"], curve["psnr_average"], color="C3", lw=1.4, label="running average")
        if result.point_estimate is not None:
            point = result.point_estimate.curve
            label = "running average of a fit"
            axis.plot(point["step"], point["psnr_average"], color="0.5", lw=1.2, label=label)
        for i, member in enumerate(result.network_curves if "psnr_mean" in curve else ()):
            first = int(np.argmax(member["sampled"]))  # before it there is nothing to average
            axis.plot(
                member["step"][first:],
                member["psnr_mean"][first:],
                color="C2",
                lw=1.6,
                alpha=1 if i == 0 else 0.5,
                label="mean of the samples" if i == 0 else None,
            )
        if "psnr_mean" in curve and case.reference is not None:
            label = "mean of all chains" if len(result.network_curves) > 1 else "the answer"
            axis.axhline(
                psnr_on_host(result.raw, case.reference), color="k", lw=0.8, ls=":", label=label
            )
        axis.set_ylabel("PSNR (dB)")
    for axis in axes[:, 0]:
        if "psnr_mean" not in curve:
            axis.axvline(
                result.stop_step, color="k", lw=1, ls="--", label=f"answer: step {result.stop_step}"
            )
        axis.legend(loc="best", fontsize=8, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{result.name}: {result.status} after {result.num_steps} steps",
        fontsize=10,
        parse_math=False,  # a file name may hold dollar signs
    )
    figure.tight_layout()
    save_png(path, figure)


def draw_sheet(path: Path, case: Case, result: Result) -> None:
    """Draws the damaged picture, the restored one and, where known, the reference, pixel for pixel."""
    panels = [(case.preview_name, degraded_image(case)), ("restored", result.image)]
    if case.reference is not None:
        panels = [(f"{t}, {psnr_on_host(x, case.reference):.2f} dB", x) for t, x in panels]
        panels.append(("reference", case.reference))
    if case.problem.code_image is not None:
        panels.insert(0, ("guide", np.asarray(case.problem.code_image)))
    height, width = case.shape[:2]
    dpi, band = 110, 24
    # Small pictures are shown in whole multiples of their pixels, so that none is blurred.
    zoom = max(1, round(300 / max(height, width)))
    size = (len(panels) * (width * zoom + 8) / dpi, (height * zoom + band) / dpi)
    figure = Figure(figsize=size)
    for i, (title, image) in enumerate(panels):
        left = (i * (width * zoom + 8) + 4) / (size[0] * dpi)
        axis = figure.add_axes(
            (left, 0, width * zoom / (size[0] * dpi), height * zoom / (size[1] * dpi))
        )
        gray = image.shape[-1] == 1
        shown = image[..., 0] if gray else image
        axis.imshow(
            np.clip(shown, 0, 1),
            cmap="gray" if gray else None,
            vmin=0,
            vmax=1,
            interpolation="none",
        )
        axis.axis("off")
        axis.set_title(title, fontsize=9, pad=4)
    save_png(path, figure)


def degraded_image(case: Case) -> np.ndarray:
    """The damaged picture, or what stands for it, `[H, W, C]`."""
    return np.asarray(case.problem.measurement) if case.preview is None else case.preview
