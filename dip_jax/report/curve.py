"""The figure `curve.png`: loss, signals of the stopping rules and PSNR over the steps."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from dip_jax.base import Case, Result
from dip_jax.metrics import psnr_on_host
from dip_jax.report.png import save_png
from dip_jax.storage.paths import AnyPath

_START = 50  # steps whose PSNR, far below that of the others, does not set the limits of the axis
_OUTLIERS = (
    0.005  # fraction of the values beyond each end of an axis, such as the peaks of an unstable fit
)


def draw_curve(path: AnyPath, case: Case, result: Result) -> None:
    """Draws the curve of a restoration, with thin lines for the networks after the first.

    Args:
      path: The PNG to write.
      case: The case that was restored. With a reference the figure has a second panel, the PSNR.
      result: Its result. For a point estimate the returned step is marked, for samples the burn-in.
    """
    curves = result.network_curves or (result.curve,)
    has_psnr = bool(np.isfinite(result.curve["psnr_average"]).any())
    figure = Figure(figsize=(8.5, 3 + 2.6 * has_psnr))
    axes = figure.subplots(1 + has_psnr, 1, sharex=True, squeeze=False)[:, 0]
    _draw_loss(axes[-1], curves)
    if has_psnr:
        _draw_psnr(axes[0], case, result, curves)
    for axis in axes:
        if "sampled" in result.curve:
            _mark_burn_in(axis, result.curve)
        else:
            label = f"estimate: step {result.stop_step}"
            axis.axvline(result.stop_step, color="k", lw=1, ls="--", label=label)
        axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=8, frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.01)
        axis.tick_params(labelsize=8)
    figure.suptitle(
        f"{result.name}: {result.status} after {result.num_steps} steps",
        fontsize=10,
        parse_math=False,  # a file name may contain dollar signs
    )
    figure.tight_layout()
    save_png(path, figure)


def _draw_loss(axis: Axes, curves: Iterable[dict[str, np.ndarray]]) -> None:
    drawn = []
    for i, curve in enumerate(curves):
        style: dict[str, Any] = {"color": "0.35", "lw": 0.8, "alpha": 1 if i == 0 else 0.35}
        axis.semilogy(curve["step"], curve["loss"], label="loss" if i == 0 else None, **style)
        drawn.append(curve["loss"][_first_shown(curve) :])
        for name, signal in curve.items():
            if i == 0 and name.startswith("signal_") and np.isfinite(signal).any():
                rule = name.removeprefix("signal_")
                axis.semilogy(curve["step"], signal, lw=1, label=f"signal of {rule}")
                drawn.append(signal)
    limits = _limits(np.log10(np.maximum(np.concatenate(drawn), 1e-30)))
    if limits is not None:
        axis.set_ylim(10 ** limits[0], 10 ** limits[1])
        _label_decades(axis, limits[1] - limits[0])
    axis.set_xlabel("step", fontsize=9)
    axis.set_ylabel("loss", fontsize=9)


def _label_decades(axis: Axes, decades: float) -> None:
    """Labels also parts of a decade if there are few, as plain numbers."""
    if decades < 3:
        locator = (
            LogLocator(subs=(1.0, 2.0, 5.0)) if decades > 0.7 else MaxNLocator(5, min_n_ticks=3)
        )
        axis.yaxis.set_major_locator(locator)
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _draw_psnr(
    axis: Axes, case: Case, result: Result, curves: Iterable[dict[str, np.ndarray]]
) -> None:
    drawn = []

    def draw(
        curve: dict[str, np.ndarray], name: str, label: str | None, first: int = 0, **style: Any
    ) -> None:
        axis.plot(curve["step"][first:], curve[name][first:], label=label, **style)
        drawn.append(curve[name][max(first, _first_shown(curve)) :])

    for i, curve in enumerate(curves):
        is_first = i == 0
        draw(
            curve,
            "psnr",
            "output" if is_first else None,
            color="C0",
            lw=0.6,
            alpha=0.6 if is_first else 0.25,
        )
        label = "running average" if is_first else None
        draw(curve, "psnr_average", label, color="C3", lw=1.4, alpha=1 if is_first else 0.4)
    if result.point_estimate is not None:
        point = result.point_estimate.curve
        draw(point, "psnr_average", "running average of a fit", color="0.5", lw=1.2)
    for i, curve in enumerate(curves):
        if "psnr_mean" in curve:
            first = _burn_in(curve)  # there is no mean before the first sample
            label = "mean of the samples" if i == 0 else None
            draw(curve, "psnr_mean", label, first, color="C2", lw=1.6, alpha=1 if i == 0 else 0.5)
    if case.reference is not None and (
        "psnr_mean" in result.curve or len(result.network_curves) > 1
    ):
        is_chain = "psnr_mean" in result.curve
        several = (
            "mean of all chains"
            if is_chain
            else f"estimate of {len(result.network_curves)} networks"
        )
        psnr = psnr_on_host(result.raw, case.reference)
        label = several if len(result.network_curves) > 1 else "estimate"
        axis.axhline(psnr, color="k", lw=0.8, ls=":", label=label)
        drawn.append(np.array([psnr]))
    limits = _limits(np.concatenate(drawn))
    if limits is not None:
        axis.set_ylim(*limits)
    axis.set_ylabel("PSNR (dB)", fontsize=9)


def _mark_burn_in(axis: Axes, curve: dict[str, np.ndarray]) -> None:
    end = _burn_in(curve)
    if end:
        start, stop = float(curve["step"][0]), float(curve["step"][end - 1])
        axis.axvspan(start, stop, color="0.93", lw=0, zorder=0, label="burn-in")


def _first_shown(curve: dict[str, np.ndarray]) -> int:
    """The first step that sets the limits of the axis."""
    return max(min(_START, len(curve["step"]) // 4), _burn_in(curve) // 2)


def _burn_in(curve: dict[str, np.ndarray]) -> int:
    """The number of steps before the first sample; 0 if there is none."""
    return int(np.argmax(curve["sampled"] > 0)) if "sampled" in curve else 0


def _limits(values: np.ndarray) -> tuple[float, float] | None:
    """Limits that show all values but a few outliers; None if no value is finite."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return None
    low, high = np.quantile(finite, [_OUTLIERS, 1 - _OUTLIERS])
    margin = max(0.06 * (high - low), 0.02)
    return float(low - margin), float(high + margin)
