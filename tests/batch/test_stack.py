"""TIFF files of several pages, restored page by page."""

import numpy as np
import pytest
import tifffile

from dip_jax.batch.folder import restore_files
from dip_jax.batch.inputs import InputFiles, list_inputs
from dip_jax.errors import InputError
from dip_jax.presets import build_config
from tests.batch.test_output_folder import finish_at_once
from tests.images.image_files import noise

pytestmark = pytest.mark.usefixtures("shared_programs")

PAGES = np.stack([noise(1, np.uint16, seed) >> 4 for seed in range(5)])  # 12 bits in 16
CONFIG = build_config(overrides=["fit.num_steps=1"])


@pytest.fixture
def stack(tmp_path, monkeypatch):
    monkeypatch.setattr("dip_jax.batch.worker.restore_many", finish_at_once)
    (tmp_path / "in").mkdir()
    path = tmp_path / "in/cells.tif"
    tifffile.imwrite(path, PAGES, imagej=True, resolution=(5, 5), metadata={"unit": "um"})
    return path


def test_each_page_is_an_image_and_the_result_a_stack_with_the_same_text(stack, tmp_path):
    summaries = restore_files(CONFIG, tmp_path / "out", InputFiles([stack]))
    assert [s["name"] for s in summaries] == [f"cells/page-{n:04d}" for n in range(1, 6)]
    path = tmp_path / "out/cells/restored.tif"
    np.testing.assert_array_equal(tifffile.imread(path), PAGES)
    with tifffile.TiffFile(path) as written:
        assert len(written.pages) == 5
        assert written.imagej_metadata["unit"] == "um"
        assert written.imagej_metadata["images"] == 5
        assert all(p.tags.valueof("XResolution") == (5, 1) for p in written.pages)
    before = path.read_bytes()
    summaries = restore_files(CONFIG, tmp_path / "out", InputFiles([stack]), resume=True)
    assert len(summaries) == 5
    assert path.read_bytes() == before


def test_a_page_is_matched_with_the_page_of_its_reference(stack, tmp_path):
    (tmp_path / "clean").mkdir()
    tifffile.imwrite(tmp_path / "clean/cells.tif", PAGES[::-1], photometric="minisblack")
    inputs = list_inputs(CONFIG, InputFiles([stack], references=[tmp_path / "clean"]))
    for page, lazy in enumerate(inputs):
        case = lazy.load().case
        low, high = case.value_range
        reference = low + case.reference[..., 0] * (high - low)
        np.testing.assert_allclose(reference, PAGES[::-1][page], atol=1e-2)


def test_pages_of_several_shapes_are_no_stack(tmp_path):
    with tifffile.TiffWriter(tmp_path / "x.tif") as writer:
        writer.write(PAGES[0], photometric="minisblack")
        writer.write(PAGES[0, ::2], photometric="minisblack")
    (lazy,) = list_inputs(CONFIG, InputFiles([tmp_path / "x.tif"]))
    assert lazy.name == "x"
    assert "first of 2 pages taken" in lazy.load().case.notes[0]


def test_a_foreign_file_in_the_place_of_the_stack_refuses_the_run(stack, tmp_path):
    (tmp_path / "out/cells").mkdir(parents=True)
    (tmp_path / "out/cells/restored.tif").write_text("mine")
    with pytest.raises(InputError, match="is not recorded as a file of dip_jax"):
        restore_files(CONFIG, tmp_path / "out", InputFiles([stack]), overwrite=True)


def test_an_unfinished_page_leaves_out_the_stack(stack, tmp_path, monkeypatch):
    def finish_all_but_one(cases, config, **options):
        results = list(finish_at_once(cases, config))
        return iter([*results[:-1], results[-1]._replace(error=ValueError("no"))])

    monkeypatch.setattr("dip_jax.batch.worker.restore_many", finish_all_but_one)
    summaries = restore_files(CONFIG, tmp_path / "out", InputFiles([stack]))
    assert [s["status"] for s in summaries] == ["done"] * 4 + ["failed"]
    assert not (tmp_path / "out/cells/restored.tif").exists()
