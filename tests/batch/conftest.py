"""Runs that several tests check; each is made once."""

import pytest

from dip_jax.batch.folder import restore_files
from dip_jax.batch.inputs import InputFiles
from dip_jax.presets import build_config
from tests.batch import command
from tests.batch.image_folders import Run, draw_images, draw_mixed_images
from tests.conftest import TINY, sharing_programs


@pytest.fixture(scope="session")
def config():
    """The settings of the runs in this process."""
    return build_config(overrides=[*TINY, "fit.num_steps=6", "run.slots=2"])


@pytest.fixture(scope="session")
def finished_run(config, tmp_path_factory) -> Run:
    """Three images restored in this process. Tests that change files copy them first."""
    root = tmp_path_factory.mktemp("finished")
    names = draw_images(root / "in", 3)
    progress = []
    with sharing_programs():
        summaries = restore_files(
            config, root / "out", InputFiles([root / "in"]), on_progress=progress.append
        )
    return Run(root / "in", root / "out", names, summaries, progress)


@pytest.fixture(scope="session", params=[8, pytest.param(24, marks=pytest.mark.slow)])
def many(request, tmp_path_factory):
    """A folder restored on four devices by a process: `source, output, names, process`."""
    root = tmp_path_factory.mktemp("many")
    names = draw_mixed_images(root / "in", request.param)
    process = command.run([root / "in"], root / "out", "--cpu_devices=4", steps=150)
    return root / "in", root / "out", names, process
