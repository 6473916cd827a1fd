"""The output folder of a run, and files in it that no run wrote."""

import contextlib
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dip_jax.base import Result, Status
from dip_jax.batch.folder import restore_files
from dip_jax.batch.inputs import InputFiles, list_inputs
from dip_jax.batch.output_folder import prepare_folder
from dip_jax.config import replace_fields
from dip_jax.errors import InputError
from dip_jax.report.summary import read_summary
from tests.batch.image_folders import draw_images

pytestmark = [pytest.mark.xdist_group("worker"), pytest.mark.usefixtures("shared_programs")]


@pytest.mark.parametrize(
    "name", ["index.html", "contact-1.png", ".dip_jax", "{image}/restored.psd"]
)
@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_a_file_that_no_run_wrote_is_never_overwritten(
    config, finished_run, tmp_path, name, options
):
    path = tmp_path / name.format(image=finished_run.names[0])
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    with pytest.raises(InputError, match=f"{path.name} is not recorded as a file of dip_jax"):
        restore_files(config, tmp_path, InputFiles([finished_run.source]), **options)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]


def test_another_run_is_not_overwritten_by_default(config, finished_run):
    with pytest.raises(InputError, match="nothing is overwritten by default"):
        restore_files(config, finished_run.output, InputFiles([finished_run.source]))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def finish_at_once(cases, config, **options):
    """Returns each measurement as its restoration."""
    for case in cases:
        image = np.asarray(case.problem.measurement)
        curve = {"step": np.arange(1), "loss": np.ones(1), "psnr": np.full(1, np.nan)}
        curve |= {"psnr_average": np.full(1, np.nan)}
        yield Result(case.name, Status.DONE, image, image, 1, 0, 0, 1, curve, 0.1, 0.1, stops={})


IMAGES = ("photo", "Photo", "index.html", "contact-2", "restored", "a/photo", "a/samples")
FILES = ("notes.txt", "restored.psd", "Summary.json", "contact-1.png", ".x.part", "samples/1.png")


@pytest.mark.parametrize("num_examples", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_every_file_keeps_its_bytes_whatever_a_run_finds(config, monkeypatch, num_examples):
    monkeypatch.setattr("dip_jax.batch.worker.restore_many", finish_at_once)

    @settings(max_examples=num_examples, deadline=None, database=None)
    @given(
        images=st.sets(st.sampled_from(IMAGES), min_size=1),
        files=st.sets(st.tuples(st.sampled_from(("", *IMAGES)), st.sampled_from(FILES))),
        options=st.lists(
            st.sampled_from(({}, {"resume": True}, {"overwrite": True})), min_size=1, max_size=3
        ),
        into_inputs=st.booleans(),
    )
    def check(images, files, options, into_inputs):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "in")
            output = source if into_inputs else Path(folder, "out")
            for i, name in enumerate(sorted(images)):
                path = source / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (33, 33), 10 * i).save(path)
            for parent, name in sorted(files):
                path = output / parent / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{path}")
            before = contents(Path(folder))
            for option in options:
                with contextlib.suppress(InputError):
                    pattern = str(source / "**/*.png")
                    summaries = restore_files(config, output, InputFiles([pattern]), **option)
                    for summary in summaries:  # text in a file named .png is an input that fails
                        is_image = Path(summary["name"]).name not in ("1", "contact-1")
                        assert (summary["status"] == Status.DONE) == is_image
                        path = output / summary["name"] / "restored.png"
                        assert path.is_file() == is_image
                after = contents(Path(folder))
                assert {path: after.get(path) for path in before} == before

    check()


def test_the_output_of_a_run_is_not_its_input(config, tmp_path, monkeypatch):
    monkeypatch.setattr("dip_jax.batch.worker.restore_many", finish_at_once)
    (name,) = draw_images(tmp_path, 1)
    for options in ({}, {"resume": True}, {"overwrite": True}):
        for pattern in (tmp_path, tmp_path / "**/*.png"):
            summaries = restore_files(config, tmp_path, InputFiles([pattern]), **options)
            assert [summary["name"] for summary in summaries] == [name]
            options = {"resume": True}
    with pytest.raises(InputError, match="images are output of dip_jax"):
        list_inputs(config, InputFiles([tmp_path / name]))
    assert len(list_inputs(config, InputFiles([tmp_path / name / "restored.png"]))) == 1


def test_images_named_like_files_of_a_run_survive_a_run_into_their_own_folder(config, tmp_path):
    (name,) = draw_images(tmp_path, 1)
    image = (tmp_path / f"{name}.png").read_bytes()
    names = ["contact-2", "checkpoints", "processes"]
    for name in names:
        (tmp_path / f"{name}.png").write_bytes(image)
    restore_files(config, tmp_path, InputFiles([tmp_path / f"{name}.png" for name in names]))
    for name in names:
        assert (tmp_path / f"{name}.png").read_bytes() == image
        assert (tmp_path / name / "restored.png").exists()


def test_a_resumed_run_needs_the_same_settings(config, finished_run):
    other = replace_fields(config, {"fit.num_steps": 5})
    with pytest.raises(InputError, match=r"fit.num_steps = 6, not 5"):
        restore_files(other, finished_run.output, InputFiles([finished_run.source]), resume=True)


def test_overwritten_results_do_not_count_as_results_of_the_new_run(config, finished_run, tmp_path):
    out, names = tmp_path / "out", finished_run.names
    shutil.copytree(finished_run.output, out)
    other = replace_fields(config, {"fit.num_steps": 5})
    prepare_folder(out, names, other, overwrite=True)
    assert [read_summary(out / name) for name in names] == [None] * len(names)
    assert (out / names[0] / "restored.png").exists()
