"""Flat output: the restored images side by side."""

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from dip_jax.batch.folder import restore_files
from dip_jax.batch.inputs import InputFiles
from dip_jax.errors import InputError
from tests.batch.image_folders import draw_images
from tests.batch.test_output_folder import contents, finish_at_once

pytestmark = pytest.mark.xdist_group("worker")


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr("dip_jax.batch.worker.restore_many", finish_at_once)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    Image.new("L", (33, 33), 20).save(folder / "a.png")
    iio.imwrite(folder / "b.tif", np.full((33, 34), 3000, np.uint16))
    Image.new("L", (35, 33), 90).save(folder / "sub" / "a.png")
    return folder


def restore(config, source, output, **options):
    files = InputFiles([source], recursive=True)
    return restore_files(config, output, files, flat=True, **options)


def test_each_restored_image_lies_beside_the_details(config, source, tmp_path):
    out = tmp_path / "out"
    summaries = restore(config, source, out)
    assert [s["name"] for s in summaries] == ["a", "b", "sub/a"]
    visible = {p.relative_to(out).as_posix() for p in out.rglob("*") if ".dip_jax" not in p.parts}
    assert {name for name in visible if not name.startswith("details")} == {
        *("a.png", "b.tif", "sub", "sub/a.png")
    }
    for name in ("a.png", "b.tif", "sub/a.png"):
        stem, suffix = name.rsplit(".", 1)
        restored = out / "details" / stem / f"restored.{suffix}"
        assert (out / name).read_bytes() == restored.read_bytes()
    assert (out / "details" / "index.html").exists()


def test_a_file_of_the_user_with_the_name_of_a_restored_image_is_kept(config, source):
    before = contents(source)
    with pytest.raises(InputError, match=r"a\.png is not recorded .* --flat needs its name"):
        restore(config, source, source)
    assert contents(source) == before


def test_flat_images_are_overwritten_only_if_asked_and_never_restored_themselves(
    config, source, tmp_path
):
    out = source / "out"
    restore(config, source, out)
    with pytest.raises(InputError, match="already has a and 2 more"):
        restore(config, source, out)
    Image.new("L", (33, 33), 200).save(source / "a.png")
    assert len(restore(config, source, out, overwrite=True)) == 3
    assert iio.imread(out / "a.png").max() == 200


def test_pages_of_a_stack_are_joined_in_one_file(config, tmp_path):
    stack = np.stack([np.full((33, 33), 100 * i + 100, np.uint16) for i in range(2)])
    iio.imwrite(tmp_path / "cells.tif", stack)
    restore_files(config, tmp_path / "out", InputFiles([tmp_path / "cells.tif"]), flat=True)
    assert iio.imread(tmp_path / "out" / "cells.tif").shape == (2, 33, 33)


def test_a_second_image_is_restored_into_the_same_folder(config, tmp_path):
    first, second, third = (f"{name}.png" for name in sorted(draw_images(tmp_path, 3)))
    out = tmp_path / "out"
    restore_files(config, out, InputFiles([tmp_path / first]))
    kept = contents(out / first.removesuffix(".png"))
    (summary,) = restore_files(config, out, InputFiles([tmp_path / second]))
    assert summary["name"] == second.removesuffix(".png")
    assert contents(out / first.removesuffix(".png")) == kept
    page = (out / "index.html").read_text()
    assert first.removesuffix(".png") in page
    assert second.removesuffix(".png") in page
    with pytest.raises(InputError, match="already has"):
        restore_files(config, out, InputFiles([tmp_path / second, tmp_path / third]))
