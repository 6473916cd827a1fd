"""The record of written files."""

import pytest

from dip_jax.report.manifest import STATE_FOLDER, Manifest, RecordedFiles, is_image_file


def test_a_folder_without_a_record_has_no_recorded_files(tmp_path):
    manifest = Manifest(tmp_path)
    assert list(manifest) == []
    assert "a.png" not in manifest
    assert list(tmp_path.iterdir()) == []  # asking writes nothing


def test_recorded_names_are_read_again_in_order(tmp_path):
    Manifest(tmp_path).add(["b.png", "a.png"])
    Manifest(tmp_path).add(["c.png", "a.png"])
    manifest = Manifest(tmp_path)
    assert list(manifest) == ["a.png", "b.png", "c.png"]
    assert "b.png" in manifest
    assert [path.name for path in (tmp_path / STATE_FOLDER / "manifest").iterdir()] == ["run.json"]


def test_only_recorded_files_are_removed(tmp_path):
    for name in ("mine.png", "written.png"):
        (tmp_path / name).write_text(name)
    manifest = Manifest(tmp_path)
    manifest.add(["written.png", "never_written.png"])
    for name in ("mine.png", "written.png", "never_written.png"):
        manifest.remove(name)
    assert (tmp_path / "mine.png").exists()
    assert not (tmp_path / "written.png").exists()
    assert list(Manifest(tmp_path)) == []


@pytest.mark.parametrize("content", ["", "{", "3"])
def test_a_damaged_record_is_empty(tmp_path, content):
    (tmp_path / STATE_FOLDER / "manifest").mkdir(parents=True)
    (tmp_path / STATE_FOLDER / "manifest/run.json").write_text(content)
    manifest = Manifest(tmp_path)
    assert list(manifest) == []
    manifest.add(["a.png"])
    assert list(Manifest(tmp_path)) == ["a.png"]


def test_each_image_has_a_record_of_its_own(tmp_path):
    Manifest(tmp_path, "a/x").path("restored.png").write_text("1")
    assert list(Manifest(tmp_path, "a/x")) == ["a/x/restored.png"]
    assert list(Manifest(tmp_path, "a")) == list(Manifest(tmp_path)) == []


def test_a_file_that_no_run_wrote_is_never_given_out_for_writing(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("posterior.npz", "broken_link"):
        (tmp_path / "a" / name).symlink_to("nowhere") if "link" in name else (
            tmp_path / "a" / name
        ).write_text("mine")
        with pytest.raises(FileExistsError, match=f"{name} is not recorded as a file of dip_jax"):
            Manifest(tmp_path, "a").path(name)


def test_none_of_several_files_is_given_out_if_no_run_wrote_one_of_them(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/sheet.png").write_text("mine")
    files = Manifest(tmp_path, "a")
    with pytest.raises(FileExistsError, match=r"sheet\.png is not recorded"):
        files.reserve(["curve.png", "samples/0001.png", "sheet.png"])
    assert list(files) == []
    files.reserve(["curve.png", "samples/0001.png"])
    assert list(files) == ["a/curve.png", "a/samples/0001.png"]


def test_files_of_an_earlier_run_are_removed_and_others_kept(tmp_path):
    earlier = Manifest(tmp_path, "a")
    for name in ("restored.tif", "curve.png", "samples/0001.png"):
        earlier.path(name).write_text(name)
    (tmp_path / "a/restored.psd").write_text("mine")
    files = Manifest(tmp_path, "a")
    files.path("curve.png").write_text("new")
    files.remove_others()
    assert {path.name for path in (tmp_path / "a").rglob("*.*")} == {"curve.png", "restored.psd"}


def test_unrecorded_files_with_names_of_a_run_are_found_also_behind_links(tmp_path):
    files = Manifest(tmp_path, "a/x")
    assert files.unrecorded(is_image_file) == []
    files.path("sheet.png").write_text("ours")
    (tmp_path / "a/x/notes.txt").write_text("mine")
    assert files.unrecorded(is_image_file) == []
    (tmp_path / "a/x/Restored.psd").write_text("mine")
    assert files.unrecorded(is_image_file) == [tmp_path / "a/x/Restored.psd"]
    (tmp_path / "elsewhere/y").mkdir(parents=True)
    (tmp_path / "b").symlink_to(tmp_path / "elsewhere")
    assert Manifest(tmp_path, "b/y").unrecorded(is_image_file) == [tmp_path / "b"]


def test_a_recorded_file_is_known_from_any_folder_and_through_links(tmp_path):
    Manifest(tmp_path / "out", "a").path("restored.png").write_text("ours")
    (tmp_path / "out/a/mine.png").write_text("mine")
    (tmp_path / "link.png").symlink_to(tmp_path / "out/a/restored.png")
    recorded = RecordedFiles()
    assert tmp_path / "out/a/restored.png" in recorded
    assert tmp_path / "link.png" in recorded
    assert tmp_path / "out/a/mine.png" not in recorded
