"""Folders of images as the command restores them: on many devices, and killed and resumed.

The output files must not depend on the layout of the run, so these tests compare bytes.
"""

import random
import re
import time
from urllib.parse import unquote

import imageio.v3 as iio
import pytest

from dip_jax.report.summary import read_summary
from tests.batch.command import run, run_python, start, wait_for
from tests.batch.image_folders import (
    assert_files_are_complete,
    assert_same_files,
    draw_images,
    statuses,
)

# Several tests check the same runs. One worker runs all these tests, so that each run is made once.
pytestmark = pytest.mark.xdist_group("folder")


def test_a_folder_with_a_corrupt_and_a_diverging_image_is_restored_except_for_these(many):
    _, output, names, process = many
    assert process.returncode == 1, process.stderr
    expected = dict.fromkeys(names, "done") | {"corrupt": "failed", "diverging": "diverged"}
    assert statuses(output) == expected
    assert f"{len(names) + 2} images: {len(names)} done" in process.stdout
    assert "corrupt: failed: " in process.stdout
    assert "cut short" in read_summary(output / "corrupt")["error"]
    assert read_summary(output / "diverging")["num_rollbacks"] >= 10
    assert [path.name for path in (output / ".dip_jax").iterdir()] == ["manifest"]


def test_the_page_and_the_table_of_the_run_have_every_image(many):
    _, output, names, _ = many
    lines = (output / "summary.csv").read_text().splitlines()
    assert lines[0].startswith("name,task,method,status,psnr,ssim,")
    assert len(lines) == 1 + len(names) + 2
    page = (output / "index.html").read_text()
    for name in (*names, "corrupt", "diverging"):
        assert name in page
    links = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert links
    assert all((output / unquote(link)).exists() for link in links)
    assert iio.imread(output / "contact-1.png").shape[0] > 100


# Arguments: the folder of the images, names of images, and an output folder, which only the first script needs.
SETTINGS = """
import sys, jax
jax.config.update("jax_num_cpu_devices", 4)
from pathlib import Path
from dip_jax.batch.folder import restore_files
from dip_jax.batch.inputs import InputFiles, list_inputs
from dip_jax.config import from_json
from dip_jax.engine.canvas import pad_case
from dip_jax.engine.from_config import estimator_from_config
from dip_jax.engine.slots import Slots
source, names = Path(sys.argv[1]), sys.argv[2].split(",")
def settings(name):
    return from_json((source.parent / "out" / name / "config.json").read_text())
def files(name):
    return InputFiles([source / f"{name}.png"])
"""
RESTORE_ALONE = f"""{SETTINGS}
for name in names:
    restore_files(settings(name), Path(sys.argv[3]) / name, files(name))
"""
PRINT_PROGRAM = f"""{SETTINGS}
config = settings(names[0])
(lazy,) = list_inputs(config, files(names[0]))
case = pad_case(lazy.load().case, 16)
print(Slots(case, estimator_from_config(config), config.run, max_cases=1).text())
"""


@pytest.mark.slow
def test_each_image_has_the_files_that_it_has_alone(many, tmp_path):
    source, output, names, _ = many
    alone = [names[1], names[3]] if len(names) < 10 else names  # one is padded, one is gray
    process = run_python(["-c", RESTORE_ALONE, str(source), ",".join(alone), str(tmp_path)])
    assert process.returncode == 0, process.stderr
    for name in alone:
        assert_same_files(output, tmp_path / name, [name])


def test_the_step_on_four_devices_has_no_collective(many):
    source, _, names, _ = many
    process = run_python(["-c", PRINT_PROGRAM, str(source), names[3]])
    assert process.returncode == 0, process.stderr
    assert "num_partitions=4" in process.stdout
    collectives = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-(permute|broadcast)"
    assert not re.search(collectives, process.stdout)


@pytest.mark.slow
def test_a_run_that_is_killed_ten_times_ends_with_the_same_bytes(many, tmp_path):
    source, output, names, _ = many
    out, names = tmp_path / "out", names[:4]
    inputs = [source / f"{name}.png" for name in names]
    # Another layout of the run must not matter.
    args = (inputs, out, "--cpu_devices=2", "--checkpoint_every=0", "--set=run.chunk=3")
    chance = random.Random(0)
    written: dict[str, int] = {}
    for i in range(10):
        process = start(*args, *(["--resume"] if i else []), steps=150)
        # A process takes seconds to start: wait for it, so that most kills hit the fits.
        wait_for(lambda: (out / "config.json").exists(), process)
        time.sleep(chance.uniform(0, 9))
        process.kill()
        process.communicate()
        assert_files_are_complete(out)
        for name in names:
            summary = out / name / "summary.json"
            if name in written:  # finished images are not touched again
                assert summary.stat().st_mtime_ns == written[name]
            elif summary.exists():
                written[name] = summary.stat().st_mtime_ns
    resumed = run(*args, "--resume", steps=150)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_files(output, out, names)
    assert not list(out.rglob("*.part"))


@pytest.mark.slow
def test_reading_finishing_and_writing_compute_on_the_host_and_the_fit_on_the_devices(tmp_path):
    draw_images(tmp_path / "in", 1)
    script = f"""
import jax

jax.config.update("jax_num_cpu_devices", 2)
from dip_jax.batch import load, reader, writer
from dip_jax.batch.folder import restore_files
from dip_jax.batch.inputs import InputFiles
from dip_jax.engine import active_network, case_queue, devices, merge, slots
from dip_jax.presets import build_config
from tests.conftest import TINY

fitting, host = jax.devices()
devices.host_device = lambda: host
places = {{}}


def watch(module, name):
    function = getattr(module, name)

    def watched(*arguments, **options):
        result = function(*arguments, **options)
        leaves = [x for x in jax.tree.leaves(result) if isinstance(x, jax.Array)]
        for array in (jax.numpy.ones(3), *leaves):
            places.setdefault(name, set()).update(array.devices())
        return result

    setattr(module, name, watched)


watch(load, "build_case")
watch(reader, "resolve_noise")
watch(case_queue, "pad_case")
watch(slots, "image_key")
watch(active_network, "finish_image")
watch(writer, "report_image")
advance = slots.Slots.advance


def watched_advance(self, count):
    status = advance(self, count)
    places.setdefault("advance", set()).update(jax.tree.leaves(self._slots)[0].devices())
    return status


slots.Slots.advance = watched_advance
jax.local_devices = lambda *arguments, **options: [fitting]
config = build_config(overrides=[*TINY, "fit.num_steps=2"], preset="denoise_single")
restore_files(config, {str(tmp_path / "out")!r}, InputFiles([{str(tmp_path / "in")!r}]))
assert places.pop("advance") == {{fitting}}, places
assert len(places) == 6, places
assert all(place == {{host}} for place in places.values()), places
"""
    done = run_python(["-c", script])
    assert done.returncode == 0, done.stderr
