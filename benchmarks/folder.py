"""Folders of images: the gain of refilling slots, the accuracy of `--plan`, and the memory.

    python -m benchmarks.folder --part=refill --part=plan --part=memory --json=folder.json

`refill` restores images that stop at different steps in four slots, with and without refilling a
free slot at once. It reports the ratio of images per hour, and whether the results are equal.
`plan` compares the forecast of `--plan` with the run, for a few folders, each in a separate
process. `memory` reports the peak of the process after 100 and after 2,000 small images.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import imageio.v3 as iio
import jax
import numpy as np
from absl import app, flags
from rich.console import Console
from rich.table import Table
from skimage import data

from benchmarks import environment
from dip_jax.base import Case
from dip_jax.batch.folder import restore_files
from dip_jax.batch.inputs import InputFiles
from dip_jax.config import Config, TaskConfig
from dip_jax.engine.memory import peak_bytes
from dip_jax.engine.restore import restore_many
from dip_jax.keys import image_key, simulation_key
from dip_jax.presets import build_config
from dip_jax.tasks.simulate import simulate_case

FLAGS = flags.FLAGS
flags.DEFINE_multi_enum("part", ["refill"], ["refill", "plan", "memory"], "Parts to measure.")
flags.DEFINE_integer("pictures", 12, "refill: number of images.")
flags.DEFINE_integer("many", 2000, "memory: number of images.")
flags.DEFINE_integer("cpu_devices", 1, "Number of devices into which JAX divides the CPU.")
flags.DEFINE_multi_string("set", [], "Config overrides, FIELD=VALUE.")
flags.DEFINE_string("json", None, "Output file.")

_TINY = (
    "net.channels_down=8,8",
    "net.channels_up=8,8",
    "net.channels_skip=4,4",
    "net.input_depth=4",
)


def _noisy_cases(number: int, side: int, config: Config) -> list[Case]:
    """Crops of images of scikit-image with different noise levels."""
    sources = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    cases = []
    for i in range(number):
        source = sources[i % len(sources)]
        top, left = 37 * i % (source.shape[0] - side), 53 * i % (source.shape[1] - side)
        crop = (source[top : top + side, left : left + side, :3] / 255).astype(np.float32)
        level = (5, 75, 15, 50, 25, 100)[i % 6] / 255
        task = TaskConfig(name="denoise", noise_std=level)
        key = simulation_key(image_key(0, str(i)))
        cases.append(simulate_case(key, task, str(i), crop))
    return cases


def measure_refill() -> dict:
    """Measures images per hour with and without refilling, and compares the results."""
    base = [
        "net.channels_down=16,16,16",
        "net.channels_up=16,16,16",
        "net.channels_skip=4,4,4",
        "net.input_depth=16",
        "fit.num_steps=1200",
        "fit.average_decay=0.95",
        "stop.window=25",
        "run.chunk=20",
        *([] if FLAGS.cpu_devices > 1 else ["run.slots=4", "run.slot_mode=vmap"]),
        *FLAGS.set,
    ]
    cases = _noisy_cases(FLAGS.pictures, 64, build_config("denoise_single", overrides=base))
    seconds, results = {}, {}
    for refill in (True, False):
        config = build_config("denoise_single", overrides=[*base, f"run.refill={refill}"])
        run = restore_many(cases, config)
        clock = time.perf_counter()
        by_name = {result.name: result for result in run}
        compiling = next(iter(by_name.values())).compile_seconds
        seconds[refill], results[refill] = time.perf_counter() - clock - compiling, by_name
    steps = [results[True][case.name].num_steps for case in cases]
    same = all(
        np.array_equal(results[True][name].image, results[False][name].image)
        for name in results[True]
    )
    per_hour = {refill: 3600 * len(cases) / seconds[refill] for refill in seconds}
    return {
        "devices": len(jax.devices()),
        "steps": steps,
        "per_hour_refilled": per_hour[True],
        "per_hour_waiting": per_hour[False],
        "ratio": per_hour[True] / per_hour[False],
        "same_bits": same,
    }


# For each name: heights and widths, number of images, steps, flags.
_PLANS = {
    "one 128 x 128, standard network": ([(128, 128)], 1, 150, ()),
    "one 256 x 256, standard network": ([(256, 256)], 1, 60, ()),
    "12 of three shapes, small network": (
        [(96, 96), (96, 128), (128, 96)],
        12,
        60,
        ("--preset=denoise_small",),
    ),
    "8 of 96 x 96, 2 devices": ([(96, 96)], 8, 60, ("--preset=denoise_small", "--cpu_devices=2")),
}


def measure_plan() -> list[dict]:
    """Compares the forecast of `--plan` with a run of the same command."""
    rows = []
    for name, (shapes, number, steps, extra_flags) in _PLANS.items():
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "in"
            source.mkdir()
            for i in range(number):
                height, width = shapes[i % len(shapes)]
                crop = data.astronaut()[10 * i : 10 * i + height, 100 : 100 + width]
                iio.imwrite(source / f"{i:02d}.png", crop)
            command = [
                *(sys.executable, "main.py", f"--input={source}", f"--output={folder}/out"),
                *("--stop=fixed", f"--num_steps={steps}", *extra_flags),
            ]
            forecast = subprocess.run(
                [*command, "--plan"], capture_output=True, text=True, check=True
            ).stdout.splitlines()[-1]
            clock = time.perf_counter()
            subprocess.run(command, capture_output=True, text=True, check=True)
            seconds = time.perf_counter() - clock
            summaries = json.loads((Path(folder) / "out/summary.json").read_text())
        found = re.search(r"at most ([\d:]+), ([\d.]+) GB at the peak", forecast)
        assert found, forecast
        clock_parts = [int(part) for part in found[1].split(":")]
        planned = sum(part * 60**i for i, part in enumerate(reversed(clock_parts)))
        rows.append(
            {
                "what": name,
                "planned_seconds": planned,
                "seconds": seconds,
                "planned_gigabytes": float(found[2]),
                "gigabytes": max(summary["peak_gigabytes"] for summary in summaries),
            }
        )
    return rows


def measure_memory() -> dict:
    """Measures the peak of the process after 100 and after many small images."""
    peaks: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in"
        source.mkdir()
        rng = np.random.default_rng(0)
        for i in range(FLAGS.many):
            iio.imwrite(source / f"{i:05d}.png", rng.integers(0, 255, (40, 40, 3), np.uint8))

        def record_peak(progress):
            peaks[progress.num_done] = peak_bytes() / 1e6

        config = build_config(overrides=[*_TINY, "fit.num_steps=3", "run.slots=4"])
        clock = time.perf_counter()
        summaries = restore_files(
            config, Path(folder) / "out", InputFiles([source]), on_progress=record_peak
        )
        seconds = time.perf_counter() - clock
        assert {summary["status"] for summary in summaries} == {"done"}
    first = peaks[min(done for done in peaks if done >= 100)]
    last = peak_bytes() / 1e6
    return {
        "pictures": FLAGS.many,
        "megabytes_after_100": first,
        "megabytes_at_the_end": last,
        "growth": last - first,
        "seconds": seconds,
    }


def main(argv: list[str]) -> None:
    """Measures, prints the tables and writes the file."""
    del argv
    jax.config.update("jax_num_cpu_devices", FLAGS.cpu_devices)
    facts = environment()
    measures = {"refill": measure_refill, "plan": measure_plan, "memory": measure_memory}
    results = {part: measures[part]() for part in FLAGS.part}
    console = Console(width=140)
    console.print(", ".join(f"{k} {v}" for k, v in facts.items()))
    for part, result in results.items():
        rows = result if isinstance(result, list) else [result]
        table = Table(*rows[0], title=part, box=None)
        for row in rows:
            table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
        console.print(table)
    if FLAGS.json:
        Path(FLAGS.json).write_text(json.dumps({**facts, **results}, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
