"""Networks before any data: images of random weights, and the kernel of the limiting process.

    python -m examples.prior_kernel --output=out

`gp_prior.png` has images of the skip network with random weights and codes, for one to five scales
(with the contrast stretched in each image). The more scales, the smoother the images and the longer
their correlations.

`gp_kernel.png` has the correlation K(d) / K(0) of signals of networks of convolutions and
rectifiers with random weights: estimated from `--draws` networks of 256 channels, and by the
recursion for infinitely many channels.

It takes about two minutes on two cores. For seed 0, estimates and recursion differ by at most
0.005.

References:
  Cheng, Gadelha, Maji and Sheldon, A Bayesian Perspective on the Deep Image Prior, 2019.
"""

from pathlib import Path

import jax
import numpy as np
from absl import app, flags
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from dip_jax.config import NetConfig
from dip_jax.nets import build_net
from dip_jax.posterior import gaussian_process as gp
from dip_jax.report.png import save_png

FLAGS = flags.FLAGS
flags.DEFINE_string("output", "out", "Output folder of the figures.")
flags.DEFINE_integer("seed", 0, "Seed of codes and weights.")
flags.DEFINE_integer("draws", 1000, "Number of networks for each estimated kernel.")
flags.DEFINE_integer("columns", 5, "Number of images for each number of scales.")

# Smoothing of the code (standard deviation), rectified layers.
SETTINGS = ((2, 1), (2, 2), (2, 4), (10, 2), (0, 1), (0, 4))
SCALES = (1, 2, 3, 4, 5)
SIDE = 96
MAX_LAG = 60


def estimate_correlation(key: jax.Array, *, depth: int, input_std: float, draws: int) -> np.ndarray:
    """Estimates K(d) / K(0) for d = 0..MAX_LAG from networks of 256 channels, 32 outputs each."""
    net = gp.conv_relu_net(256, depth=depth, width=256, channels=32)
    signals = gp.prior_images(
        key, net, draws, code_fn=lambda key: gp.smooth_code(key, net.code_shape, input_std)
    )
    kernel = gp.estimate_kernel(np.asarray(signals), MAX_LAG)[0]
    return kernel / kernel[0]


def draw_kernels(path: Path, key: jax.Array, draws: int) -> None:
    """Draws estimated correlations as points, and those of the recursion as lines."""
    figure = Figure(figsize=(7, 4.2))
    axis = figure.subplots()
    lags = np.arange(MAX_LAG + 1)
    shown = np.unique(np.round(np.geomspace(1, MAX_LAG, 18)).astype(int))
    for i, (input_std, depth) in enumerate(SETTINGS):
        limit = gp.network_kernel(lags, depth, input_std)
        correlation = estimate_correlation(
            jax.random.fold_in(key, i), depth=depth, input_std=input_std, draws=draws
        )
        difference = np.abs(correlation - limit)
        print(
            f"code smoothed by {input_std}, {depth} rectified layers: estimate and recursion "
            f"differ by {difference.mean():.4f} on average and {difference.max():.4f} at most"
        )
        axis.plot(lags, limit, color=f"C{i}", lw=1.2, label=f"{input_std}, {depth}")
        axis.plot(shown, correlation[shown], ".", color=f"C{i}", ms=6)
    axis.set_xlabel("distance d (pixels)")
    axis.set_ylabel("K(d) / K(0)")
    axis.set_xscale("symlog", linthresh=1)
    axis.set_xticks([0, 1, 2, 5, 10, 20, 50], labels=["0", "1", "2", "5", "10", "20", "50"])
    axis.minorticks_off()
    axis.set_ylim(0, 1.03)
    title = "smoothing, layers\n(line: recursion,\npoints: networks)"
    axis.legend(
        title=title,
        fontsize=8,
        title_fontsize=8,
        frameon=False,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
    )
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    save_png(path, figure)


def draw_images(path: Path, key: jax.Array, columns: int) -> None:
    """Draws a row of images for each number of scales."""
    figure = Figure(figsize=(columns + 0.3, len(SCALES)), dpi=105)
    axes = figure.subplots(len(SCALES), columns, squeeze=False)
    for scales, row in zip(SCALES, axes, strict=True):
        config = NetConfig(
            channels_down=(64,) * scales,
            channels_up=(64,) * scales,
            channels_skip=(4,) * scales,
            sigmoid=False,
        )
        net = build_net(config, (SIDE, SIDE, 1))
        images = gp.prior_images(jax.random.fold_in(key, scales), net, columns)
        for axis, image in zip(row, np.asarray(images)[..., 0], strict=True):
            low, high = np.percentile(image, (1, 99))
            axis.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="none")
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_visible(False)
        row[0].set_ylabel(f"{scales} scale{'s' if scales > 1 else ''}", fontsize=9)
    figure.tight_layout(pad=0.3)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # Noise compresses badly, and 16 gray levels suffice to show it.
    save_png(path, Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("L").quantize(16))


def main(argv: list[str]) -> None:
    """Draws both figures, and prints how far the estimates are from the recursion."""
    del argv
    folder = Path(FLAGS.output)
    folder.mkdir(parents=True, exist_ok=True)
    key_images, key_kernels = jax.random.split(jax.random.key(FLAGS.seed))
    draw_images(folder / "gp_prior.png", key_images, FLAGS.columns)
    draw_kernels(folder / "gp_kernel.png", key_kernels, FLAGS.draws)


if __name__ == "__main__":
    app.run(main)
