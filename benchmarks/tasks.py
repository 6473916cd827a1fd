"""The quality of each task, next to classical methods on the same measurement.

    python -m benchmarks.tasks --task=super_resolve --reference=zebra.png --crop=128
    python -m benchmarks.tasks --preset=dejpeg --preset=dejpeg_2018 --picture=coffee
    python -m benchmarks.tasks --task=deblur --picture=astronaut --sheet=docs/images/deblur.png

The clean image is a crop of a file (`--reference`) or of an image of scikit-image (`--picture`).
The degradation is simulated. No setting depends on the clean image, except for the parameter of a
baseline, which has its best value. The PSNR of super-resolution is that of the
luma without the border, as in 2018; the PSNR of inpainting is that of the missing pixels.
"""

import json
import time
from pathlib import Path

import numpy as np
from absl import app, flags
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table
from skimage import data, restoration
from skimage.transform import iradon

from benchmarks import environment
from dip_jax.base import Case
from dip_jax.config import Config
from dip_jax.engine.restore import restore
from dip_jax.images.read import read_image, read_mask
from dip_jax.images.side_inputs import read_guide
from dip_jax.keys import image_key, simulation_key
from dip_jax.presets import build_config
from dip_jax.report.png import save_png
from dip_jax.report.sheet import degraded_image
from dip_jax.tasks.baselines import denoising_baselines
from dip_jax.tasks.simulate import simulate_case

FLAGS = flags.FLAGS
flags.DEFINE_string("task", None, "Task; it selects its default preset.")
flags.DEFINE_multi_string("preset", [], "Presets to compare; all of one task.")
flags.DEFINE_string("reference", None, "Path of a clean image.")
flags.DEFINE_string("picture", "astronaut", "Image of scikit-image, if there is no reference.")
flags.DEFINE_string("mask", None, "Path of a mask; white pixels are known.")
flags.DEFINE_string("text", None, "Text that covers the image, instead of a mask.")
flags.DEFINE_string("guide", None, "Path of the flash photo.")
flags.DEFINE_integer("crop", 128, "Height and width of the crop.")
flags.DEFINE_list("at", [], "Top and left of the crop; by default, the crop is centered.")
flags.DEFINE_integer(
    "halve", 0, "How many times an image of scikit-image is halved before it is cropped."
)
flags.DEFINE_bool("gray", False, "Use the luma of the image.")
flags.DEFINE_integer("seeds", 1, "Number of runs, with different degradation, code and weights.")
flags.DEFINE_string("sheet", None, "Output file of a figure of all results.")
flags.DEFINE_string("json", None, "Output file of the results.")
flags.DEFINE_multi_string("set", [], "Config overrides, FIELD=VALUE.")

LUMA = np.float32([0.299, 0.587, 0.114])


def crop_of(image: np.ndarray) -> np.ndarray:
    """Returns the crop that the flags select."""
    side = min(FLAGS.crop, *image.shape[:2])
    top, left = map(int, FLAGS.at or ((n - side) // 2 for n in image.shape[:2]))
    return image[top : top + side, left : left + side]


def clean_image() -> tuple[str, np.ndarray]:
    """Returns name and pixels `[H, W, C]` of the image that the flags select."""
    if FLAGS.reference:
        name, image = Path(FLAGS.reference).stem, read_image(FLAGS.reference).pixels
    else:
        name = FLAGS.picture
        image = np.float32(getattr(data, name)()) / 255
        image = image.reshape(*image.shape[:2], -1)
        for _ in range(FLAGS.halve):
            height, width = image.shape[0] // 2, image.shape[1] // 2
            blocks = image[: 2 * height, : 2 * width].reshape(height, 2, width, 2, -1)
            image = blocks.mean(axis=(1, 3))
    image = crop_of(image)
    if FLAGS.gray and image.shape[-1] == 3:
        image = image @ LUMA[:, None]
    return name, image.astype(np.float32)


def simulated_flash(reference: np.ndarray) -> np.ndarray:
    """Simulates a flash photo: a cold light from the top left of the scene."""
    height, width, _ = reference.shape
    y, x = np.mgrid[0:height, 0:width]
    distance = ((x / width - 0.3) ** 2 + (y / height - 0.3) ** 2)[..., None]
    light = np.float32([0.75, 0.9, 1.0]) * np.exp(-1.5 * distance)
    return np.clip(1.3 * light * reference**0.7, 0, 1).astype(np.float32)


def text_mask(height: int, width: int) -> np.ndarray:
    """Returns a mask `[H, W]` that is 0 under lines of the text."""
    image = Image.new("L", (width, height), 255)
    lines = "\n".join([FLAGS.text] * (height // 16))
    ImageDraw.Draw(image).text((2, 2), lines, fill=0, font=ImageFont.load_default(12), spacing=4)
    return (np.asarray(image) > 127).astype(np.float32)


def psnr(image: np.ndarray, case: Case) -> float:
    """Returns the PSNR in dB by the convention of the task."""
    reference = case.reference
    assert reference is not None
    error = np.square(np.clip(image, 0, 1) - reference)
    if case.preview_name == "bicubic":
        # 219 / 255 is the range of the luma in video.
        difference = (np.clip(image, 0, 1) - reference) @ (
            LUMA if reference.shape[-1] == 3 else np.ones(1, np.float32)
        )
        error = np.square(219 / 255 * difference)[4:-5, 4:-5]
    elif hasattr(case.problem.operator, "mask") and not np.iscomplexobj(case.problem.measurement):
        missing = np.asarray(case.problem.operator.mask)[..., 0] == 0
        error = error[missing]
    return float(-10 * np.log10(error.mean()))


def best(case: Case, images: list[np.ndarray]) -> np.ndarray:
    """Returns the image with the highest PSNR: a baseline with its best parameter."""
    return max(images, key=lambda image: psnr(image, case))


def baselines(task: str, case: Case) -> dict[str, np.ndarray]:
    """Returns the results of classical methods by name."""
    y = np.asarray(case.problem.measurement)
    results = {case.preview_name: degraded_image(case)}
    if task == "denoise":
        results.update(denoising_baselines(y))
    if task == "inpaint":
        missing = np.asarray(case.problem.operator.mask)[..., 0] == 0
        results["biharmonic"] = restoration.inpaint_biharmonic(y, missing, channel_axis=-1)
    if task == "deblur":
        kernel = np.asarray(case.problem.operator.kernel)
        margin = max(kernel.shape)
        padded = np.pad(y, [(margin, margin), (margin, margin), (0, 0)], mode="reflect")

        def wiener(balance: float) -> np.ndarray:
            channels = [
                restoration.wiener(padded[..., c], kernel, balance, clip=False)
                for c in range(y.shape[-1])
            ]
            return np.stack(channels, axis=-1)[margin:-margin, margin:-margin]

        results["Wiener"] = best(case, [wiener(10.0**power) for power in np.arange(-6, 0.5, 0.25)])
    if task == "ct":
        side, angles = case.shape[0], 180 * np.arange(y.shape[1]) / y.shape[1]
        projections = [
            iradon(y[..., 0], angles, output_size=side, filter_name=name, circle=False)[..., None]
            for name in ("ramp", "shepp-logan", "cosine", "hamming", "hann")
        ]
        results["filtered back-projection"] = best(case, projections)
    return results


def draw(path: str, panels: dict[str, np.ndarray], case: Case) -> None:
    """Draws the images in a row, with their PSNR."""
    shown = [(f"{name}\n{psnr(image, case):.2f} dB", image) for name, image in panels.items()]
    shown.append(("reference\n", case.reference))
    if case.problem.code_image is not None:
        shown.insert(0, ("guide\n", np.asarray(case.problem.code_image)))
    figure = Figure(figsize=(2.4 * len(shown), 2.9), layout="constrained")
    for axis, (title, image) in zip(figure.subplots(1, len(shown)), shown, strict=True):
        gray = image.shape[-1] == 1
        axis.imshow(np.clip(image[..., 0] if gray else image, 0, 1), cmap="gray", vmin=0, vmax=1)
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_png(Path(path), figure)


def read_side_inputs(config: Config, reference: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the mask and the guide that the flags select, cropped as the image."""
    side_inputs = {}
    if FLAGS.mask:
        shape = read_image(FLAGS.reference).pixels.shape[:2]
        side_inputs["mask"] = crop_of(read_mask(FLAGS.mask, shape)[0][..., None])[..., 0]
    if FLAGS.text:
        side_inputs["mask"] = text_mask(*reference.shape[:2])
    if config.task.name == "flash" and not FLAGS.guide:
        side_inputs["guide"] = simulated_flash(reference)
    if FLAGS.guide:
        shape = read_image(FLAGS.reference).pixels.shape[:2]
        side_inputs["guide"] = crop_of(read_guide(FLAGS.guide, shape)[0])
    return side_inputs


def main(argv: list[str]) -> None:
    """Restores the image, prints the results and writes the files."""
    del argv
    name, reference = clean_image()
    rows: list[dict] = []
    for seed in range(FLAGS.seeds):
        panels: dict[str, np.ndarray] = {}
        for preset in FLAGS.preset or [None]:
            config = build_config(
                preset, task=FLAGS.task, overrides=[f"run.seed={seed}", *FLAGS.set]
            )
            key = simulation_key(image_key(seed, name))
            side_inputs = read_side_inputs(config, reference)
            case = simulate_case(key, config.task, name, reference, **side_inputs)
            if not panels:
                panels = baselines(config.task.name, case)
            clock = time.perf_counter()
            (result,) = restore([case], config)
            wall_seconds = time.perf_counter() - clock - result.compile_seconds
            label = preset or "dip_jax"
            panels[label] = result.image
            rows.append(
                {
                    "seed": seed,
                    "method": label,
                    "psnr": psnr(result.image, case),
                    "raw": psnr(result.raw, case),
                    "peak": float(np.nanmax(result.curve["psnr_average"])),
                    "steps": result.num_steps,
                    "seconds": round(wall_seconds, 1),  # with guides and filters
                    "status": result.status,
                    "notes": list(result.notes),
                    "every_100": [
                        [round(float(v), 3) for v in result.curve[name][99::100]]
                        for name in ("psnr", "psnr_average")
                    ],
                }
            )
        rows += [
            {"seed": seed, "method": method, "psnr": psnr(image, case)}
            for method, image in panels.items()
            if all(row["method"] != method for row in rows if row["seed"] == seed)
        ]
        if FLAGS.sheet and seed == 0:
            draw(FLAGS.sheet, panels, case)
    facts = environment()
    title = f"{name} {reference.shape}, {config.task.name} {' '.join(FLAGS.set)}; " + ", ".join(
        f"{key} {value}" for key, value in facts.items()
    )
    columns = ["seed", "method", "psnr", "raw", "peak", "steps", "seconds", "status"]
    table = Table(*columns, title=title, box=None)
    for row in rows:
        values = [row.get(column, "") for column in columns]
        table.add_row(*(f"{v:.2f}" if isinstance(v, float) else str(v) for v in values))
    console = Console(width=150)
    console.print(table)
    for note in {note for row in rows for note in row.get("notes", ())}:
        console.print(note)
    if FLAGS.json:
        Path(FLAGS.json).write_text(json.dumps({"about": facts, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
