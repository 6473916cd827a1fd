"""What networks say before any data: images at random weights, and the kernel of the process they tend to.

    python -m examples.prior_kernel --output=out

`gp_prior.png`: images that the hourglass network makes at random weights of random codes, with one, two, ...
scales (each row at its own contrast): the deeper, the smoother and the longer the correlations.

`gp_kernel.png`: cos t(d) = K(d) / K(0) of signals that networks of convolutions and rectifiers make at random
weights: from `--draws` networks of 256 channels, and by the recursion for infinitely many channels.

Takes about two minutes on two cores. On seed 0, estimates and recursion differ by at most 0.005.

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
from dip_jax.report.figures import save_png

FLAGS = flags.FLAGS
flags.DEFINE_string("output", "out", "The folder of the figures.")
flags.DEFINE_integer("seed", 0, "Of the codes and the weights.")
flags.DEFINE_integer("draws", 1000, "Networks for each estimated kernel.")
flags.DEFINE_integer("columns", 5, "Images for each number of scales.")

SETTINGS = (
    (2, 1),
    (2, 2),
    (2, 4),
    (10, 2),
    (0, 1),
    (0, 4),
)  # smoothing of the code, rectified layers
SCALES = (1, 2, 3, 4, 5)
SIDE = 96
MAX_LAG = 60


def estimate_cosine(key: jax.Array, *, depth: int, input_std: float, draws: int) -> np.ndarray:
    """K(d) / K(0) for d = 0..MAX_LAG, from `draws` networks of 256 channels with 32 outputs each."""
    net = gp.conv_relu_net(256, depth=depth, width=256, channels=32)
    signals = gp.prior_images(
        key, net, draws, code_fn=lambda key: gp.smooth_code(key, net.code_shape, input_std)
    )
    kernel = gp.estimate_kernel(np.asarray(signals), MAX_LAG)[0]
    return kernel / kernel[0]


def draw_kernels(path: Path, key: jax.Array, draws: int) -> None:
    """Estimated kernels as points, the recursion's as lines."""
    figure = Figure(figsize=(7, 4.2))
    axis = figure.subplots()
    lags = np.arange(MAX_LAG + 1)
    shown = np.unique(np.round(np.geomspace(1, MAX_LAG, 18)).astype(int))
    for i, (input_std, depth) in enumerate(SETTINGS):
        limit = gp.network_kernel(lags, depth, input_std)
        cosine = estimate_cosine(
            jax.random.fold_in(key, i), depth=depth, input_std=input_std, draws=draws
        )
        apart = np.abs(cosine - limit)
        print(
            f"code smoothed by {input_std}, {depth} rectified layers: estimate and recursion differ by "
            f"{apart.mean():.4f} on average, {apart.max():.4f} at most"
        )
        axis.plot(lags, limit, color=f"C{i}", lw=1.2, label=f"{input_std}, {depth}")
        axis.plot(shown, cosine[shown], ".", color=f"C{i}", ms=6)
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
    """A row of images for each number of scales."""
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
    # Noise does not compress: 16 grays are enough to see it.
    save_png(path, Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("L").quantize(16))


def main(argv: list[str]) -> None:
    """Draws both figures and prints how far the estimated kernels are from the recursion's."""
    del argv
    folder = Path(FLAGS.output)
    folder.mkdir(parents=True, exist_ok=True)
    key_images, key_kernels = jax.random.split(jax.random.key(FLAGS.seed))
    draw_images(folder / "gp_prior.png", key_images, FLAGS.columns)
    draw_kernels(folder / "gp_kernel.png", key_kernels, FLAGS.draws)


if __name__ == "__main__":
    app.run(main)
