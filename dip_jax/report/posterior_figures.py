"""The figures of a posterior: `std.png`, `traces.png` and `calibration.png`."""

import math
import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dip_jax.base import Posterior
from dip_jax.posterior.calibration import Calibration
from dip_jax.posterior.convergence import Diagnosis, describe_quantity
from dip_jax.report.png import DPI, save_png
from dip_jax.storage.paths import AnyPath

_MIN_SIDE = 400  # pixels; smaller images are enlarged to about that
_MAX_SUMMARIES = 4  # traced summaries that are drawn in addition to two pixels
_RARE_BIN = 0.005  # fraction of the values below which a bin is not joined to others
_MAX_LEGEND, _LEGEND_COLUMNS = 12, 6  # chains in the legend


def draw_std(path: AnyPath, std: np.ndarray, *, state: str = "") -> None:
    """Draws a standard deviation, its root mean square over the channels, pixel for pixel.

    Args:
      path: The PNG to write.
      std: `[H, W, C]`, in [0, 1] units; the figure has gray levels of 255.
      state: A line below the title, such as that the chains have not converged; empty for none.
    """
    levels = 255 * np.sqrt(np.mean(np.square(std, dtype=np.float64), axis=-1))
    finite = levels[np.isfinite(levels)]
    # The upper limit is a quantile, so that a few large values do not darken all others. If there are larger
    # values, the color bar has an arrow.
    top = float(np.quantile(finite, 0.998)) if finite.size else 0.0
    is_clipped = bool(finite.size) and float(finite.max()) > top > 0
    zoom = max(1, round(_MIN_SIDE / max(levels.shape)))
    height, width = (zoom * side for side in levels.shape)
    edge, gap, bar_width, bar_label_width = 10, 12, 14, 64  # pixels
    title_height = 46 if state else 30
    inner_height = max(height, 200)  # a lower color bar has no room for its label
    total_width = edge + max(width + gap + bar_width + bar_label_width, 360)
    total_height = title_height + inner_height + edge
    figure = Figure(figsize=(total_width / DPI, total_height / DPI))

    def add_axes(left: int, bottom: int, width: int, height: int) -> Axes:
        scale = np.array([total_width, total_height, total_width, total_height])
        return figure.add_axes(tuple(np.array([left, bottom, width, height]) / scale))

    axis = add_axes(edge, edge + (inner_height - height) // 2, width, height)
    image = axis.imshow(levels, cmap="magma", vmin=0, vmax=top or 1.0, interpolation="none")
    axis.axis("off")
    bar_axis = add_axes(edge + width + gap, edge, bar_width, inner_height)
    bar = figure.colorbar(image, cax=bar_axis, extend="max" if is_clipped else "neither")
    bar.set_label("gray levels (of 255)", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    rms = f"{np.sqrt(np.mean(finite**2)):.1f} gray levels" if finite.size else "unknown"
    title = f"standard deviation (RMS {rms})"
    figure.text(edge / total_width, 1 - 20 / total_height, title, fontsize=9)
    if state:
        figure.text(edge / total_width, 1 - 37 / total_height, state, fontsize=8, color="firebrick")
    save_png(path, figure)


def draw_traces(path: AnyPath, posterior: Posterior, diagnosis: Diagnosis) -> None:
    """Draws traces of each chain: the pixels of largest and smallest R-hat, and the summaries.

    Args:
      path: The PNG to write.
      posterior: The posterior with its traces.
      diagnosis: The convergence of these traces, from `diagnose`.
    """
    traces = posterior.traces
    num_chains, num_samples = traces.shape[:2]
    selected = _select_quantities(posterior.trace_names, diagnosis)
    figure = Figure(figsize=(8, 1.1 + 1.5 * max(len(selected), 1)))
    axes = figure.subplots(max(len(selected), 1), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (index, title) in zip(axes, selected, strict=False):
        _draw_trace(axis, traces[..., index])
        if not np.isnan(diagnosis.rhat[index]):  # NaN: too few samples
            title += (
                f": R-hat {diagnosis.rhat[index]:.3f}, effective sample size "
                f"{diagnosis.ess_bulk[index]:.0f} (bulk), {diagnosis.ess_tail[index]:.0f} (tail)"
            )
        axis.set_title(title, fontsize=9, loc="left")
    if selected and num_samples:
        axes[-1].set_xlabel("sample", fontsize=9)
        axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        handles = axes[0].get_legend_handles_labels()[0][:_MAX_LEGEND]
        figure.legend(
            handles=handles, loc="lower right", ncols=_LEGEND_COLUMNS, fontsize=8, frameon=False
        )
    else:
        axes[0].axis("off")
    message = "\n".join(textwrap.wrap(diagnosis.message, 105))
    figure.suptitle(message, fontsize=10, x=0.02, ha="left", parse_math=False)
    legend_height = 0.22 * math.ceil(min(num_chains, _MAX_LEGEND) / _LEGEND_COLUMNS)  # inches
    figure.tight_layout(rect=(0, legend_height / figure.get_figheight(), 1, 1))
    save_png(path, figure)


def _select_quantities(names: tuple[str, ...], diagnosis: Diagnosis) -> list[tuple[int, str]]:
    """The quantities to draw: their index in the traces and their title."""
    pixels = [i for i, name in enumerate(names) if name.startswith("x[")]
    summaries = [i for i in range(len(names)) if i not in pixels]
    # R-hat is NaN if there are too few samples, and then for all quantities.
    rhat = np.nan_to_num(diagnosis.rhat, nan=0.0, posinf=np.inf)
    order = sorted(pixels, key=lambda i: -rhat[i])
    selected = [(i, describe_quantity(names[i])) for i in order[:1] + order[1:][-1:]]
    if len(selected) == 2 and np.isfinite(diagnosis.rhat).any():
        ranks = ("largest R-hat", "smallest R-hat")
        selected = [
            (i, f"{title} ({rank})") for (i, title), rank in zip(selected, ranks, strict=True)
        ]
    return selected + [(i, names[i]) for i in summaries[:_MAX_SUMMARIES]]


def _draw_trace(axis: Axes, trace: np.ndarray) -> None:
    """Draws one quantity `[M, S]`, a line per chain."""
    num_chains, num_samples = trace.shape
    marker = "." if num_samples < 50 else "none"
    for chain, values in enumerate(trace):
        label = f"chain {chain + 1}" if num_chains > 1 else "the only chain"
        samples = np.arange(1, num_samples + 1)
        axis.plot(
            samples,
            values,
            color=f"C{chain % 10}",
            marker=marker,
            ms=3,
            lw=0.8,
            alpha=0.8,
            label=label,
        )
    axis.tick_params(labelsize=8)
    axis.ticklabel_format(axis="y", useOffset=False)
    axis.spines[["top", "right"]].set_visible(False)


def draw_calibration(path: AnyPath, calibration: Calibration, scaled: Calibration | None) -> None:
    """Draws three comparisons of the errors with their predicted standard deviation.

    The panels are the coverage of central intervals, the sparsification curve, and the error in bins of the
    predicted standard deviation.

    Args:
      path: The PNG to write.
      calibration: The result of `calibrate`.
      scaled: The result of `calibrate_scaled`, or None.
    """
    figure = Figure(figsize=(11, 4.6))
    # Fixed positions: the titles align, however many lines the legends have.
    axes = figure.subplots(
        1,
        3,
        gridspec_kw={"left": 0.06, "right": 0.985, "bottom": 0.31, "top": 0.94, "wspace": 0.25},
    )
    curves = [(calibration, "C3", "o", "as predicted")]
    if scaled is not None:
        curves.append((scaled, "C0", "s", f"scaled by {scaled.applied_scale:.2f}"))
    _draw_coverage(axes[0], curves)
    _draw_sparsification(axes[1], calibration)
    _draw_bins(axes[2], curves)
    for axis in axes:
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_box_aspect(1)
        axis.set_anchor("N")
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), fontsize=8, frameon=False)
    save_png(path, figure)


_Curves = list[tuple[Calibration, str, str, str]]  # each with its color, marker and label


def _draw_coverage(axis: Axes, curves: _Curves) -> None:
    axis.plot([0, 1], [0, 1], color="0.6", lw=0.8, ls="--", label="calibrated")
    for calibration, color, marker, label in curves:
        axis.plot(
            calibration.levels,
            calibration.coverage,
            color=color,
            marker=marker,
            ms=3,
            lw=1.2,
            label=f"{label}: {calibration.coverage_90:.3f} at 0.9",
        )
    axis.set(xlim=(0, 1), ylim=(0, 1))
    axis.set_xlabel("probability of the central interval", fontsize=9)
    axis.set_ylabel("fraction of true values inside", fontsize=9)
    axis.set_title("Coverage", fontsize=10)


def _draw_sparsification(axis: Axes, calibration: Calibration) -> None:
    removed, by_error = calibration.removed, calibration.rmse_by_error
    by_std = calibration.rmse_by_std
    axis.plot(removed, by_std, color="C3", lw=1.4, label="largest predicted deviation first")
    axis.plot(removed, by_error, color="0.3", lw=1, label="largest error first")
    axis.fill_between(removed, by_error, by_std, color="C3", alpha=0.12, lw=0)
    axis.set(xlim=(0, 1), ylim=(0, None))
    axis.set_xlabel("fraction of values removed", fontsize=9)
    axis.set_ylabel("RMSE of the rest / RMSE of all", fontsize=9)
    axis.set_title(f"Sparsification (AUSE {calibration.ause:.3f})", fontsize=10)


def _draw_bins(axis: Axes, curves: _Curves) -> None:
    """Draws roots of variances, which have the same diagonal and a readable unit."""
    largest = 1e-3
    for calibration, color, marker, label in curves:
        fraction = np.nan_to_num(calibration.bin_fraction)
        std = 255 * np.sqrt(calibration.bin_variance)
        rmse = 255 * np.sqrt(calibration.bin_error)
        # Bins have equal width, so the last ones have few values, whose error says little.
        is_joined, is_rare = fraction >= _RARE_BIN, (fraction > 0) & (fraction < _RARE_BIN)
        if is_joined.any():
            largest = max(largest, float(std[is_joined].max()), float(rmse[is_joined].max()))
        axis.plot(std[is_joined], rmse[is_joined], color=color, lw=0.9, alpha=0.7)
        area = 8 + 160 * fraction[is_joined]  # shows how many values the bin has
        uce = f"{label}: UCE {255**2 * calibration.uce:.1f} squared gray levels"
        style: dict[str, Any] = {"color": color, "marker": marker, "lw": 0}
        axis.scatter(std[is_joined], rmse[is_joined], s=area, alpha=0.7, label=uce, **style)
        axis.scatter(std[is_rare], rmse[is_rare], s=6, alpha=0.3, **style)
    rare = f"bins of less than {100 * _RARE_BIN:g} % of the values"
    axis.scatter([], [], s=6, alpha=0.3, color="k", lw=0, label=rare)
    end = 1.25 * largest  # a bin of few values may lie outside
    axis.plot([0, end], [0, end], color="0.6", lw=0.8, ls="--", label="calibrated")
    axis.set(xlim=(0, end), ylim=(0, end))
    axis.set_xlabel("predicted standard deviation (gray levels)", fontsize=9)
    axis.set_ylabel("RMSE (gray levels)", fontsize=9)
    axis.set_title("Error in bins of predicted variance", fontsize=10)
