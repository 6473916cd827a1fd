"""A run writes into its output folder and the cache folder only, and leaves every other file as it was."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from tests.conftest import TINY, smooth_image

pytestmark = [
    pytest.mark.xdist_group("written files"),
    pytest.mark.skipif(sys.platform != "linux", reason="finds the paths of descriptors in /proc"),
]

ROOT = Path(__file__).parents[1]
QUICK = [*(f"--set={value}" for value in TINY), "--set=run.chunk=3", "--num_steps=6"]
FOLDERS = ("in", "home", "temporary", "cache", "current", "results")


class Watched(NamedTuple):
    """Runs of the command in one process."""

    root: Path
    before: dict[str, tuple]
    """Each file and folder in `root` before the runs; see `snapshot`."""
    after: dict[str, tuple]
    runs: dict[str, dict]
    """The status of each run, the paths that it wrote, and its temporary files that are left."""


def commands(folder: Path) -> dict[str, list[str]]:
    """The arguments of each run by its name, which starts with the name of its output folder."""
    photo, jpeg, quick = f"--input={folder}/photo.png", f"--input={folder}/old.jpg", QUICK
    return {
        "plain": [photo, f"--reference={folder}", *quick],
        "stopped": [photo, *quick, "--checkpoint_every=0", "--interrupt"],
        "stopped, resumed": [photo, *quick, "--checkpoint_every=0", "--resume"],
        "plain, resumed": [photo, f"--reference={folder}", *quick, "--resume"],
        "plain, overwritten": [photo, *quick, "--seed=1", "--overwrite"],
        "compared": [photo, *quick, "--compare=denoise,denoise_2018"],
        "sampled": [
            *(photo, *quick, "--method=sgld", "--num_chains=2", "--num_steps=20"),
            *("--set=sgld.thin=2", "--set=sgld.keep_samples=2"),
        ],
        "dejpeg": [jpeg, "--task=dejpeg", *quick],
        "planned": [photo, *quick, "--plan"],
        "refused": [photo, *quick, "--task=inpaint"],
    }


SLOW = ("plain, resumed", "plain, overwritten", "compared", "sampled", "planned")


def output_of(name: str, root: Path) -> Path:
    return root / "results" / name.partition(",")[0]


def snapshot(root: Path) -> dict[str, tuple]:
    """Type, permissions, time of change and content of everything in a folder."""
    found = {}
    for path in sorted(root.rglob("*")):
        stat = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = (stat.st_mode, stat.st_mtime_ns, content)
    return found


@pytest.fixture(scope="module", params=["quick", pytest.param("all", marks=pytest.mark.slow)])
def watched(request, tmp_path_factory) -> Watched:
    root = tmp_path_factory.mktemp("watched")
    for name in FOLDERS:
        (root / name).mkdir()
    image = Image.fromarray(np.rint(255 * smooth_image()).astype(np.uint8))
    image.save(root / "in/photo.png")
    image.save(root / "in/old.jpg", quality=20)
    iio.imwrite(root / "current/notes.png", np.zeros((40, 36), np.uint8))
    (root / "home/notes.txt").write_text("mine")
    runs = {
        name: [*arguments, f"--output={output_of(name, root)}"]
        for name, arguments in commands(root / "in").items()
        if request.param == "all" or name not in SLOW
    }
    before = snapshot(root)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "HOME": str(root / "home"),
        "TMPDIR": str(root / "temporary"),
        "XDG_CACHE_HOME": str(root / "cache"),
    }
    process = subprocess.run(
        [sys.executable, str(ROOT / "tests/audited_command.py"), json.dumps([*runs.values()])],
        cwd=root / "current",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    results = dict(zip(runs, json.loads(process.stdout), strict=True))
    return Watched(root, before, snapshot(root), results)


def test_a_run_writes_into_the_output_cache_and_temporary_folder_only(watched):
    for name, run in watched.runs.items():
        expected = {"stopped": 75, "refused": 2}.get(name, 0)
        assert run["status"] == expected, name
        allowed = [output_of(name, watched.root)]
        allowed += [watched.root / folder for folder in ("cache", "temporary")]
        paths = set(run["paths"]) - {os.devnull}
        outside = [p for p in paths if not any(Path(p).is_relative_to(f) for f in allowed)]
        assert outside == [], name
        assert run["temporary"] == [], name


def test_the_runs_write_what_they_should(watched):
    """So that the other tests compare something."""
    for name, run in watched.runs.items():
        output = output_of(name, watched.root)
        is_without_output = name in ("planned", "refused")
        assert output.exists() != is_without_output, name
        if not is_without_output:
            assert any(Path(path).is_relative_to(output) for path in run["paths"]), name
    temporary = watched.root / "temporary"
    assert any(Path(p).is_relative_to(temporary) for p in watched.runs["dejpeg"]["paths"])
    if "sampled" in watched.runs:
        assert list((watched.root / "results/sampled/photo/samples").iterdir()) != []


def test_every_other_file_and_folder_keeps_its_bytes_and_its_time(watched):
    # Temporary files change the time of their folder.
    changed = [watched.root / name for name in ("results", "cache", "temporary")]

    def others(found: dict[str, tuple]) -> dict[str, tuple]:
        top = {str(folder) for folder in changed}
        written = (f"{changed[0]}/", f"{changed[1]}/")
        return {
            path: value
            for path, value in found.items()
            if path not in top and not path.startswith(written)
        }

    assert others(watched.after) == others(watched.before)
    names = {Path(path).name for path in others(watched.before)}
    assert names == {"in", "photo.png", "old.jpg", "current", "notes.png", "home", "notes.txt"}
