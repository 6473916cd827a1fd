"""Images in a bucket, restored into a bucket."""

import json
import shutil
import signal

import numpy as np
import pytest
import tifffile

from dip_jax.batch.folder import restore_files
from dip_jax.batch.inputs import InputFiles, list_inputs
from dip_jax.batch.output_folder import checkpoint_folder
from dip_jax.batch.processes import Heartbeats, Partition
from dip_jax.config import replace_fields
from dip_jax.errors import InputError
from dip_jax.storage.paths import to_path
from tests.batch.command import run, start, wait_for
from tests.batch.image_folders import assert_same_files, draw_images
from tests.batch.test_output_folder import finish_at_once
from tests.storage.bucket import install

pytestmark = [pytest.mark.xdist_group("worker"), pytest.mark.usefixtures("shared_programs")]


@pytest.fixture
def buckets(tmp_path, monkeypatch):
    """A folder `buckets` whose folders are buckets behind `gs://`, in this process and in those it starts."""
    monkeypatch.setenv("EPATH_USE_TF", "false")
    monkeypatch.setenv("TEST_BUCKETS", str(tmp_path / "buckets"))
    install(tmp_path / "buckets")
    return tmp_path / "buckets"


@pytest.fixture
def without_fit(monkeypatch):
    monkeypatch.setattr("dip_jax.batch.worker.restore_many", finish_at_once)


def names_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.usefixtures("without_fit")
@pytest.mark.parametrize("pattern", ["in", "i*/image-*.png"])
def test_a_bucket_gets_the_files_that_a_local_folder_gets(config, buckets, tmp_path, pattern):
    names = draw_images(buckets / "photos/in", 3)
    local, remote = tmp_path / "out", buckets / "results/out"
    restore_files(config, local, InputFiles([buckets / "photos/in"]))
    restore_files(config, "gs://results/out", InputFiles([f"gs://photos/{pattern}"]))
    assert names_in(remote) == names_in(local)
    assert_same_files(local, remote, names)


@pytest.mark.usefixtures("without_fit")
def test_an_image_in_a_bucket_takes_few_requests(config, buckets):
    bucket = install(buckets)
    draw_images(buckets / "photos/in", 6)
    restore_files(config, "gs://photos/out", InputFiles(["gs://photos/in"]))
    assert len(bucket.requests) < 40 * 6
    written = [path.name for path in (buckets / "photos/out/image-00").iterdir()]
    assert "summary.json" in written


@pytest.mark.usefixtures("without_fit")
def test_all_files_of_an_image_may_be_remote(config, buckets, tmp_path):
    (name,) = draw_images(buckets / "photos/in", 1)
    draw_images(buckets / "photos/clean", 1)
    mask = np.ones((40, 36), np.uint8)
    mask[10:20] = 0
    tifffile.imwrite(buckets / "photos/mask.tif", 255 * mask)
    inpaint = replace_fields(config, {"task.name": "inpaint"})
    files = InputFiles(
        inputs=[f"gs://photos/in/{name}.png"],
        references=["gs://photos/clean"],
        masks=["gs://photos/mask.tif"],
    )
    (summary,) = restore_files(inpaint, tmp_path / "out", files)
    assert summary["psnr"] is not None
    assert any("25.0% of the pixels are missing" in note for note in summary["notes"])


@pytest.mark.usefixtures("without_fit")
def test_a_stack_in_a_bucket_is_a_stack_again(config, buckets):
    pages = np.random.default_rng(0).integers(0, 255, (3, 40, 36), np.uint8)
    (buckets / "cells").mkdir(parents=True)
    tifffile.imwrite(buckets / "cells/stack.tif", pages, photometric="minisblack")
    restore_files(config, "gs://cells/out", InputFiles(["gs://cells/stack.tif"]))
    assert tifffile.imread(buckets / "cells/out/stack/restored.tif").shape == (3, 40, 36)


@pytest.mark.usefixtures("without_fit")
def test_a_file_in_a_bucket_that_no_run_wrote_is_kept(config, buckets):
    draw_images(buckets / "photos/in", 1)
    mine = buckets / "photos/out/image-00/restored.psd"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(InputError, match=r"restored\.psd is not recorded as a file of dip_jax"):
        restore_files(config, "gs://photos/out", InputFiles(["gs://photos/in"]), overwrite=True)
    assert names_in(buckets / "photos/out") == ["image-00/restored.psd"]


@pytest.mark.usefixtures("without_fit")
def test_a_finished_run_in_a_bucket_is_kept_and_its_output_is_no_input(config, buckets):
    draw_images(buckets / "photos", 2)
    restore_files(config, "gs://photos", InputFiles(["gs://photos"]))
    with pytest.raises(InputError, match="nothing is overwritten by default"):
        restore_files(config, "gs://photos", InputFiles(["gs://photos"]))
    messages = []
    summaries = restore_files(
        config, "gs://photos", InputFiles(["gs://photos"]), resume=True, on_message=messages.append
    )
    assert [s["name"] for s in summaries] == ["image-00", "image-01"]
    assert "image-00: finished earlier, kept" in messages


@pytest.mark.parametrize("path", ["gs://photos/none", "gs://photos/*.tif"])
def test_a_url_that_matches_no_image_is_refused_by_name(config, buckets, path):
    draw_images(buckets / "photos", 1)
    with pytest.raises(InputError, match="but no image matches") as caught:
        list_inputs(config, InputFiles([path]))
    assert str(caught.value).startswith(path)


def test_a_damaged_remote_file_is_refused_by_its_url(config, buckets):
    (buckets / "photos").mkdir(parents=True)
    (buckets / "photos/a.png").write_bytes(b"no image")
    (lazy,) = list_inputs(config, InputFiles(["gs://photos/a.png"]))
    with pytest.raises(InputError, match=r"^gs://photos/a\.png: expected an image"):
        lazy.load()


def test_a_remote_operator_is_refused_before_anything_runs(config, buckets):
    draw_images(buckets / "photos", 1)
    custom = replace_fields(
        config, {"task.name": "custom", "task.operator": "gs://photos/mine.py:blur"}
    )
    with pytest.raises(InputError, match="expected a local file of the operator"):
        list_inputs(custom, InputFiles(["gs://photos"]))


def test_an_output_that_cannot_be_reached_is_refused_before_anything_runs(config, buckets):
    draw_images(buckets / "photos", 1)
    bucket = install(buckets)
    bucket.fault = ConnectionError("no route to host")
    with pytest.raises(InputError, match=r"gs://results/out cannot be written .*no route"):
        restore_files(config, "gs://results/out", InputFiles([buckets / "photos"]))


def test_heartbeats_in_a_bucket_are_seen(buckets):
    folder = to_path("gs://results/processes")
    with Heartbeats(folder, Partition(1, 2)).beating():
        pass
    assert (buckets / "results/processes/1").read_text() == "done"
    messages, questions = [], []
    Heartbeats(folder, Partition(0, 2)).wait_for_others(
        questions.append, should_stop=lambda: bool(questions), on_message=messages.append
    )
    assert messages == questions == []  # the process was seen to be done


@pytest.mark.slow
def test_a_run_in_a_bucket_that_is_killed_and_resumed_ends_with_the_bytes_of_a_local_run(
    buckets, tmp_path
):
    names = draw_images(buckets / "photos/in", 2)
    args = ("--set=run.chunk=3", "--checkpoint_every=0")
    local = run([buckets / "photos/in"], tmp_path / "out", *args, steps=60)
    assert local.returncode == 0, local.stderr
    remote = buckets / "results/out"
    process = start(["gs://photos/in"], "gs://results/out", *args, steps=60)
    saved = checkpoint_folder(remote)
    wait_for(lambda: len(list(saved.glob("*/*.zip"))) >= 2, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (remote / names[0] / "summary.json").exists()
    resumed = run(["gs://photos/in"], "gs://results/out", *args, "--resume", steps=60)
    assert resumed.returncode == 0, resumed.stderr
    assert "resumed from step" in resumed.stdout + resumed.stderr
    assert_same_files(tmp_path / "out", remote, names)
    assert not saved.exists() or not list(saved.rglob("*.zip"))
    assert json.loads((remote / "summary.json").read_text())[0]["status"] == "done"
    shutil.rmtree(buckets)
