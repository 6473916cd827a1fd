"""The figure `curve.png`: loss, signals of the stopping rules and PSNR over the steps."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dip_jax.base import Case, Result
from dip_jax.metrics import psnr_on_host
from dip_jax.report.png import save_png
from dip_jax.storage.paths import AnyPath


def draw_curve(path: AnyPath, case: Case, result: Result) -> None:
    """Draws the curve of a restoration.

    Args:
      path: The PNG to write.
      case: The case that was restored. With a reference the figure has a second panel, the PSNR.
      result: Its result. For a point estimate the returned step is marked.
    """
    curve = result.curve
    has_psnr = bool(np.isfinite(curve["psnr_average"]).any())
    figure = Figure(figsize=(8.5, 3 + 2.6 * has_psnr))
    axes = figure.subplots(1 + has_psnr, 1, sharex=True, squeeze=False)[:, 0]
    _draw_loss(axes[-1], curve)
    if has_psnr:
        _draw_psnr(axes[0], case, result)
    for axis in axes:
        if "psnr_mean" not in curve:
            label = f"estimate: step {result.stop_step}"
            axis.axvline(result.stop_step, color="k", lw=1, ls="--", label=label)
        axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{result.name}: {result.status} after {result.num_steps} steps",
        fontsize=10,
        parse_math=False,  # a file name may contain dollar signs
    )
    figure.tight_layout()
    save_png(path, figure)


def _draw_loss(axis: Axes, curve: dict[str, np.ndarray]) -> None:
    axis.semilogy(curve["step"], curve["loss"], color="0.35", lw=0.8, label="loss")
    for name, signal in curve.items():
        if name.startswith("signal_") and np.isfinite(signal).any():
            rule = name.removeprefix("signal_")
            axis.semilogy(curve["step"], signal, lw=1, label=f"signal of {rule}")
    axis.set_xlabel("step")
    axis.set_ylabel("loss")


def _draw_psnr(axis: Axes, case: Case, result: Result) -> None:
    curve = result.curve
    axis.plot(curve["step"], curve["psnr"], color="C0", lw=0.6, alpha=0.6, label="output")
    axis.plot(curve["step"], curve["psnr_average"], color="C3", lw=1.4, label="running average")
    if result.point_estimate is not None:
        point = result.point_estimate.curve
        label = "running average of a fit"
        axis.plot(point["step"], point["psnr_average"], color="0.5", lw=1.2, label=label)
    if "psnr_mean" in curve:
        _draw_sample_means(axis, case, result)
    axis.set_ylabel("PSNR (dB)")


def _draw_sample_means(axis: Axes, case: Case, result: Result) -> None:
    for i, chain in enumerate(result.network_curves):
        first = int(np.argmax(chain["sampled"]))  # there is no mean before the first sample
        axis.plot(
            chain["step"][first:],
            chain["psnr_mean"][first:],
            color="C2",
            lw=1.6,
            alpha=1 if i == 0 else 0.5,
            label="mean of the samples" if i == 0 else None,
        )
    if case.reference is not None:
        label = "mean of all chains" if len(result.network_curves) > 1 else "estimate"
        psnr = psnr_on_host(result.raw, case.reference)
        axis.axhline(psnr, color="k", lw=0.8, ls=":", label=label)
