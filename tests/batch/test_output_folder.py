"""The output folder of a run, and files in it that no run wrote."""

import shutil

import pytest

from dip_jax.batch.folder import restore_files
from dip_jax.batch.inputs import InputFiles
from dip_jax.batch.output_folder import prepare_folder
from dip_jax.config import replace_fields
from dip_jax.errors import InputError
from dip_jax.report.summary import read_summary
from tests.batch.image_folders import draw_images

pytestmark = pytest.mark.xdist_group("worker")


@pytest.mark.parametrize("name", ["index.html", "summary.csv"])
def test_foreign_files_are_not_overwritten_by_default(config, finished_run, tmp_path, name):
    (tmp_path / name).write_text("mine")
    for resume in (False, True):
        with pytest.raises(InputError, match="nothing is overwritten by default"):
            restore_files(config, tmp_path, InputFiles([finished_run.source]), resume=resume)
    assert (tmp_path / name).read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_contact_sheet_never_overwrites_a_file_that_no_run_wrote(config, finished_run, tmp_path):
    (tmp_path / "contact-1.png").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"contact-1.png was not written by dip_jax"):
            restore_files(config, tmp_path, InputFiles([finished_run.source]), overwrite=overwrite)
    assert (tmp_path / "contact-1.png").read_text() == "mine"


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
