"""Images of the prior of the weights, before any data.

    python -m examples.prior_predictive --output=out/prior_predictive.png

Each row has images of the skip network of 2018 with random weights: initial weights, as a fit starts; draws from the
default prior of the sampler, which is as wide as the initial weights in each array; and draws from N(0, 1), the prior
with `sgld.prior_precision=1`. The last one prefers black and white images. It takes about a minute on two cores.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from matplotlib.figure import Figure

from dip_jax import codes, nets
from dip_jax.base import Array, Net, Params, Problem
from dip_jax.langevin import prior_precisions
from dip_jax.operators import Identity
from dip_jax.preconditioners import normal_like
from dip_jax.report.png import save_png

FLAGS = flags.FLAGS
flags.DEFINE_string("output", "out/prior_predictive.png", "The figure.")
flags.DEFINE_integer("seed", 0, "Seed of codes and weights.")
flags.DEFINE_integer("draws", 24, "Number of images for each figure in the printed table.")
flags.DEFINE_integer("columns", 6, "Number of images that are drawn.")
flags.DEFINE_integer("side", 96, "Height and width.")

ROWS = ("initial weights", "default prior", "N(0, 1)")


def draw_params(key: Array, net: Net, row: str) -> Params:
    """Draws the weights of a row."""
    init_key, normal_key = jax.random.split(key)
    initial = net.init(init_key)
    if row == "initial weights":
        return initial
    precisions = prior_precisions(initial, 1.0 if row == "N(0, 1)" else None)
    normal = normal_like(normal_key, initial)
    return jax.tree.map(lambda n, p: n / jnp.sqrt(p), normal, precisions)


def draw_images(key: Array, row: str, number: int, side: int) -> np.ndarray:
    """Draws images `[number, side, side, 3]` of a row."""
    shape = (side, side, 3)
    net = nets.skip()(shape)
    problem = Problem(Identity(), jnp.zeros(shape), 0.1)

    @jax.jit
    def draw(key: Array) -> Array:
        code_key, params_key = jax.random.split(key)
        code = codes.uniform(0.1)(code_key, net.code_shape, problem)
        return net.apply(draw_params(params_key, net, row), code)

    return np.stack([np.asarray(draw(one)) for one in jax.random.split(key, number)])


def main(argv: list[str]) -> None:
    """Draws the figure and prints the table."""
    del argv
    columns = FLAGS.columns
    figure = Figure(figsize=(1.3 * columns, 1.45 * len(ROWS)), layout="constrained")
    axes = figure.subplots(len(ROWS), columns, squeeze=False)
    key = jax.random.key(FLAGS.seed)
    for of_row, row in zip(axes, ROWS, strict=True):
        images = draw_images(key, row, max(FLAGS.draws, columns), FLAGS.side)
        saturated = np.mean((images < 0.01) | (images > 0.99))
        spread = images.mean(axis=(1, 2, 3)).std()
        print(f"{row}: {saturated:.1%} saturated, standard deviation of the means {spread:.3f}")
        for axis, image in zip(of_row, images, strict=False):
            axis.imshow(image, vmin=0, vmax=1)
            axis.set_axis_off()
        of_row[0].set_title(row, fontsize=9, loc="left")
    Path(FLAGS.output).parent.mkdir(parents=True, exist_ok=True)
    save_png(Path(FLAGS.output), figure)


if __name__ == "__main__":
    app.run(main)
