"""Parts of restored images side by side, enlarged three times, from the arrays that `benchmarks.quality` stored.

python -m benchmarks.quality --pictures=coffee --noise_std=50 --method=bm3d --method=denoise --images=restored
python -m benchmarks.quality_sheet --images=restored --part=coffee,32,40 --noise_std=50 --method=bm3d --method=denoise --sheet=sheet.png
"""

from pathlib import Path

import numpy as np
from absl import app, flags
from matplotlib.figure import Figure

from benchmarks.pictures import HALVES, clean_crop, noisy_image
from benchmarks.quality import image_label
from benchmarks.records import psnr

FLAGS = flags.FLAGS  # the flags of benchmarks.quality are shared
flags.DEFINE_multi_string("part", [], "PICTURE,TOP,LEFT of a part.")
flags.DEFINE_integer("part_side", 64, "Height and width of a part.")
flags.DEFINE_string("sheet", "sheet.png", "Output file.")

_LABELS = {"bm3d": "BM3D", "bm3d_corrected": "BM3D corrected"}


def draw_sheet(path: Path) -> None:
    """Draws a row for each part: the clean image, the noisy one, and that of each method."""
    noise_std, (side, titles) = FLAGS.noise_std[0], (FLAGS.part_side, FLAGS.method)
    columns = len(titles) + 2
    figure = Figure(figsize=(2.2 * columns, 2.5 * len(FLAGS.part)), layout="constrained")
    axes = figure.subplots(len(FLAGS.part), columns, squeeze=False)
    pictures = {name: picture for half in HALVES.values() for name, picture in half.items()}
    for row, part in zip(axes, FLAGS.part, strict=True):
        name, top, left = part.split(",")
        clean = clean_crop(pictures[name], FLAGS.side)
        images = {"clean": clean}
        images["noisy"] = noisy_image(
            clean, name, noise_std, seed=0, clip=FLAGS.clip, noise=FLAGS.noise
        )
        for method in titles:
            file = Path(FLAGS.images) / f"{image_label(method, name, noise_std, 0)}.npy"
            images[_LABELS.get(method, method)] = np.load(file)
        for axis, (title, image) in zip(row, images.items(), strict=True):
            crop = np.s_[int(top) : int(top) + side, int(left) : int(left) + side]
            axis.imshow(np.clip(image[crop], 0, 1), interpolation="nearest")
            quality = "" if title == "clean" else f"\n{psnr(image, clean):.2f} dB"
            axis.set_title(title + quality, fontsize=9)
            axis.axis("off")
    figure.savefig(path, dpi=87)


def main(argv: list[str]) -> None:
    """Draws the sheet."""
    del argv
    draw_sheet(Path(FLAGS.sheet))


if __name__ == "__main__":
    app.run(main)
