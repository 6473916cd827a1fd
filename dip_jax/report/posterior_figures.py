"""What sampling leaves on disk for a picture: the deviation as numbers and as a picture, traces, calibration.

Each file appears whole or not at all.
"""

import math
import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dip_jax.base import Posterior
from dip_jax.posterior.calibration import Calibration
from dip_jax.posterior.convergence import Diagnosis, describe_quantity
from dip_jax.report.figures import save_png

_DPI = 110  # that of `save_png`
_MAX_SUMMARIES = 4  # traces drawn beside those of two pixels
_MAX_LEGEND, _PER_ROW = 12, 6  # chains named in the figure, and beside each other


def draw_std(path: Path, std: np.ndarray) -> None:
    """Draws a standard deviation, its root mean square over the channels, pixel for pixel.

    Args:
      path: The PNG to write.
      std: `[H, W, C]`, in [0, 1] units; the figure has gray levels of 255.
    """
    levels = 255 * np.sqrt(np.mean(np.square(std, dtype=np.float64), axis=-1))
    known = levels[np.isfinite(levels)]
    # A few pixels must not darken all others; the color bar's arrow says that there are some.
    top = float(np.quantile(known, 0.998)) if known.size else 0.0
    beyond = bool(known.size) and float(known.max()) > top > 0
    height, width = levels.shape
    # Small pictures are shown in whole multiples of their pixels, so that none is blurred.
    zoom = max(1, round(400 / max(height, width)))
    shown = (width * zoom, height * zoom)
    bar, band, edge, gap, labels = 14, 30, 10, 12, 64
    # A color bar lower than that has no room for its label.
    inner = max(shown[1], 200)
    size = (edge + max(shown[0] + gap + bar + labels, 360), band + inner + edge)
    figure = Figure(figsize=(size[0] / _DPI, size[1] / _DPI))

    def place(left: int, bottom: int, wide: int, high: int) -> tuple[float, float, float, float]:
        return left / size[0], bottom / size[1], wide / size[0], high / size[1]

    axis = figure.add_axes(place(edge, edge + (inner - shown[1]) // 2, *shown))
    drawn = axis.imshow(levels, cmap="magma", vmin=0, vmax=top or 1.0, interpolation="none")
    axis.axis("off")
    bar_axis = figure.add_axes(place(edge + shown[0] + gap, edge, bar, inner))
    colors = figure.colorbar(drawn, cax=bar_axis, extend="max" if beyond else "neither")
    colors.set_label("gray levels of 255", fontsize=9)
    colors.ax.tick_params(labelsize=8)
    mean = f"{np.sqrt(np.mean(known**2)):.1f} gray levels" if known.size else "unknown"
    figure.text(
        edge / size[0],
        1 - 20 / size[1],
        f"standard deviation, {mean} on average",
        fontsize=9,
    )
    save_png(path, figure)


def draw_traces(path: Path, posterior: Posterior, diagnosis: Diagnosis) -> None:
    """Draws how a few quantities move in each chain: the worst and the best pixel, and the summaries.

    Args:
      path: The PNG to write.
      posterior: What was sampled.
      diagnosis: What `diagnose` says of its traces.
    """
    traces, names = posterior.traces, posterior.trace_names
    num_chains, num_samples = traces.shape[:2]
    chosen = _chosen(names, diagnosis)
    figure = Figure(figsize=(8, 1.1 + 1.5 * max(len(chosen), 1)))
    axes = figure.subplots(max(len(chosen), 1), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (place, title) in zip(axes, chosen, strict=False):
        for chain in range(num_chains):
            label = f"chain {chain + 1}" if num_chains > 1 else "the only chain"
            dots = {"marker": ".", "ms": 3} if num_samples < 50 else {}
            steps = np.arange(1, num_samples + 1)
            color = f"C{chain % 10}"
            axis.plot(
                steps, traces[chain, :, place], lw=0.8, color=color, label=label, alpha=0.8, **dots
            )
        if not np.isnan(diagnosis.rhat[place]):  # else too few samples to tell
            title += (
                f": R-hat {diagnosis.rhat[place]:.3f}, effective samples "
                f"{diagnosis.ess_bulk[place]:.0f} (bulk), {diagnosis.ess_tail[place]:.0f} (tail)"
            )
        axis.set_title(title, fontsize=9, loc="left")
        axis.tick_params(labelsize=8)
        axis.ticklabel_format(axis="y", useOffset=False)
        axis.spines[["top", "right"]].set_visible(False)
    if chosen and num_samples:
        axes[-1].set_xlabel("sample", fontsize=9)
        axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        handles = axes[0].get_legend_handles_labels()[0][:_MAX_LEGEND]
        figure.legend(handles=handles, loc="lower right", ncols=_PER_ROW, fontsize=8, frameon=False)
    else:
        axes[0].axis("off")
    sentence = "\n".join(textwrap.wrap(diagnosis.sentence, 105))
    figure.suptitle(sentence, fontsize=10, x=0.02, ha="left", parse_math=False)
    legend = 0.22 * math.ceil(min(num_chains, _MAX_LEGEND) / _PER_ROW)  # inches
    figure.tight_layout(rect=(0, legend / figure.get_figheight(), 1, 1))
    save_png(path, figure)


def _chosen(names: tuple[str, ...], diagnosis: Diagnosis) -> list[tuple[int, str]]:
    """Places in the traces, and what to call them."""
    pixels = [i for i, name in enumerate(names) if name.startswith("x[")]
    summaries = [i for i in range(len(names)) if i not in pixels]
    # NaN is too few samples to tell, and then of all.
    rhat = np.nan_to_num(diagnosis.rhat, nan=0.0, posinf=np.inf)
    order = sorted(pixels, key=lambda i: -rhat[i])
    chosen = [(i, describe_quantity(names[i])) for i in order[:1] + order[1:][-1:]]
    if len(chosen) == 2 and np.isfinite(diagnosis.rhat).any():
        chosen = [
            (i, f"{t}, {w} pixel") for (i, t), w in zip(chosen, ("worst", "best"), strict=True)
        ]
    return chosen + [(i, names[i]) for i in summaries[:_MAX_SUMMARIES]]


def draw_calibration(path: Path, before: Calibration, after: Calibration | None) -> None:
    """Draws how errors compare with their predicted deviation, three ways.

    The share of true values in each central interval; the error that is left when the least certain values
    are left out; and the error in bins of predicted deviation.

    Args:
      path: The PNG to write.
      before: What `calibrate` says.
      after: What `calibrate_scaled` says, or None.
    """
    figure = Figure(figsize=(11, 3.9))
    axes = figure.subplots(1, 3)
    drawn = [(before, "C3", "o", "as predicted")]
    if after is not None:
        drawn.append((after, "C0", "s", f"predicted x {after.applied_scale:.2f}"))
    _draw_coverage(axes[0], drawn)
    _draw_sparsification(axes[1], before)
    _draw_bins(axes[2], drawn)
    for axis in axes:
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(loc="best", fontsize=8, frameon=False)
    figure.tight_layout(w_pad=2)
    save_png(path, figure)


_Drawn = list[tuple[Calibration, str, str, str]]


def _draw_coverage(axis: Axes, drawn: _Drawn) -> None:
    axis.plot([0, 1], [0, 1], color="0.6", lw=0.8, ls="--", label="calibrated")
    for figures, color, marker, label in drawn:
        text = f"{label}: {figures.coverage_90:.3f} at 0.9"
        axis.plot(
            figures.levels, figures.coverage, color=color, marker=marker, ms=3, lw=1.2, label=text
        )
    axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axis.set_xlabel("probability of the central interval", fontsize=9)
    axis.set_ylabel("share of true values inside", fontsize=9)
    axis.set_title("Coverage", fontsize=10)


def _draw_sparsification(axis: Axes, before: Calibration) -> None:
    axis.plot(before.removed, before.rmse_by_std, color="C3", lw=1.4, label="least certain first")
    axis.plot(before.removed, before.rmse_by_error, color="0.3", lw=1, label="largest error first")
    axis.fill_between(
        before.removed, before.rmse_by_error, before.rmse_by_std, color="C3", alpha=0.12, lw=0
    )
    axis.set(xlim=(0, 1), ylim=(0, None))
    axis.set_xlabel("share of values left out", fontsize=9)
    axis.set_ylabel("RMSE of the rest / of all", fontsize=9)
    axis.set_title(f"Sparsification, area between {before.ause:.3f}", fontsize=10)


def _draw_bins(axis: Axes, drawn: _Drawn) -> None:
    """Root mean squares, in gray levels: their diagonal is that of the squares, and easier to read."""
    largest = 1e-3
    for figures, color, marker, label in drawn:
        filled = np.isfinite(figures.bin_variance)
        std = 255 * np.sqrt(figures.bin_variance[filled])
        error = 255 * np.sqrt(figures.bin_error[filled])
        largest = max(largest, *std, *error) if filled.any() else largest
        # Bins are equally wide, so the last hold few values: the area of a mark says how many.
        area = 8 + 160 * figures.bin_fraction[filled]
        axis.plot(std, error, color=color, lw=0.7, alpha=0.6)
        text = f"{label}: UCE {figures.uce:.1e}"
        axis.scatter(std, error, s=area, color=color, marker=marker, alpha=0.7, lw=0, label=text)
    end = 1.08 * largest
    axis.plot([0, end], [0, end], color="0.6", lw=0.8, ls="--", label="calibrated")
    axis.set(xlim=(0, end), ylim=(0, end), aspect="equal")
    axis.set_xlabel("predicted deviation (gray levels)", fontsize=9)
    axis.set_ylabel("root mean squared error (gray levels)", fontsize=9)
    axis.set_title("Error in bins of predicted variance", fontsize=10)
