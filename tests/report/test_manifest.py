"""The record of written files."""

import pytest

from dip_jax.report.manifest import STATE_FOLDER, Manifest


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
    assert [path.name for path in (tmp_path / STATE_FOLDER).iterdir()] == ["manifest.json"]


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
    (tmp_path / STATE_FOLDER).mkdir()
    (tmp_path / STATE_FOLDER / "manifest.json").write_text(content)
    manifest = Manifest(tmp_path)
    assert list(manifest) == []
    manifest.add(["a.png"])
    assert list(Manifest(tmp_path)) == ["a.png"]
