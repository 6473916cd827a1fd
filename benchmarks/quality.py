"""The quality of a preset: the returned image against the peak of the fit and classical baselines.

    python -m benchmarks.quality --preset=denoise_small
    python -m benchmarks.quality --reference=F16.png --crop=128 --seeds=3 --set fit.num_steps=800

Without `--reference`, the images are crops of four images of scikit-image, halved to 128 x 128. The
noise is 25/255.
"""

import datetime
import platform

import jax
import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table
from skimage import data

from benchmarks.records import psnr
from dip_jax.engine.restore import restore
from dip_jax.images.read import read_image
from dip_jax.keys import image_key, simulation_key
from dip_jax.presets import build_config
from dip_jax.tasks.baselines import denoising_baselines
from dip_jax.tasks.simulate import simulate_case

FLAGS = flags.FLAGS
flags.DEFINE_string("preset", "denoise", "The preset.")
flags.DEFINE_multi_string("reference", [], "Paths of clean images.")
flags.DEFINE_integer("crop", 128, "Height and width of the center crop of a reference.")
flags.DEFINE_integer("seeds", 1, "Number of runs, with different noise, code and weights.")
flags.DEFINE_multi_string("set", [], "Config overrides, FIELD=VALUE.")


def clean_images() -> dict[str, np.ndarray]:
    """Clean images `[H, W, 3]` by name."""
    if FLAGS.reference:
        images = {}
        for path in FLAGS.reference:
            pixels = read_image(path).pixels
            top, left = ((n - FLAGS.crop) // 2 for n in pixels.shape[:2])
            images[path] = pixels[top : top + FLAGS.crop, left : left + FLAGS.crop]
        return images
    crops = {
        "astronaut": data.astronaut()[0:256, 96:352],
        "chelsea": data.chelsea()[10:266, 90:346],
        "coffee": data.coffee()[60:316, 150:406],
        "rocket": data.rocket()[60:316, 190:446],
    }
    return {
        name: crop.reshape(128, 2, 128, 2, 3).mean(axis=(1, 3)).astype(np.float32) / 255
        for name, crop in crops.items()
    }


def main(argv: list[str]) -> None:
    """Restores the images and prints a table."""
    del argv
    when = datetime.datetime.now(datetime.UTC).date().isoformat()
    title = f"{FLAGS.preset} {' '.join(FLAGS.set)}, {jax.devices()[0].device_kind}, jax "
    title += f"{jax.__version__}, python {platform.python_version()}, {when}"
    columns = "image seed noisy TV NLM returned step peak step gap status seconds"
    table = Table(*columns.split(), title=title, box=None)
    for name, reference in clean_images().items():
        for seed in range(FLAGS.seeds):
            config = build_config(FLAGS.preset, overrides=[f"run.seed={seed}", *FLAGS.set])
            key = simulation_key(image_key(seed, name))
            case = simulate_case(key, config.task, name, reference)
            (result,) = restore([case], config)
            noisy = np.asarray(case.problem.measurement)
            curve = result.curve["psnr_average"]
            returned, peak = psnr(result.image, reference), float(curve.max())
            values = [psnr(noisy, reference)]
            values += [psnr(image, reference) for image in denoising_baselines(noisy).values()]
            table.add_row(
                name.rpartition("/")[2],
                str(seed),
                *(f"{value:.2f}" for value in values),
                f"{returned:.2f}",
                str(result.stop_step),
                f"{peak:.2f}",
                str(int(curve.argmax())),
                f"{peak - returned:.2f}",
                result.status,
                f"{result.seconds:.0f}",
            )
    Console(width=130).print(table)


if __name__ == "__main__":
    app.run(main)
