"""A file appears whole or not at all."""

import os
import stat

import numpy as np
import pytest

from dip_jax.storage import atomic


def fail_in_the_middle(file):
    file.write(b"half of")
    raise ValueError("the writer failed")


def test_a_file_is_written_and_replaces_the_old_one(tmp_path):
    path = tmp_path / "file.bin"
    for content in (b"old", b"new"):
        atomic.write(path, lambda file, content=content: file.write(content), durable=True)
        assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["file.bin"]


def test_a_writer_that_raises_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="the writer failed"):
        atomic.write(tmp_path / "file.bin", fail_in_the_middle)
    assert os.listdir(tmp_path) == []


def test_a_writer_that_raises_keeps_the_old_file(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="the writer failed"):
        atomic.write(path, fail_in_the_middle)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_the_old_file_is_visible_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "file.txt"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"half")
        file.flush()
        assert path.read_bytes() == b"old"
        file.write(b" and half")

    atomic.write(path, write)
    assert path.read_bytes() == b"half and half"


def test_a_name_that_a_folder_has_raises_and_leaves_no_file(tmp_path):
    (tmp_path / "taken.npy").mkdir()
    with pytest.raises(OSError):  # noqa: PT011  the kind of error depends on the system
        atomic.write_array(tmp_path / "taken.npy", np.zeros(3))
    assert os.listdir(tmp_path) == ["taken.npy"]


def test_text_and_arrays_can_be_read_again(tmp_path):
    atomic.write_text(tmp_path / "a.txt", "grün\n")
    assert (tmp_path / "a.txt").read_bytes() == "grün\n".encode()
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    atomic.write_array(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)


def test_parts_of_a_killed_process_are_removed_and_other_files_kept(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("kept")
    (tmp_path / ".hidden").write_text("kept")
    with monkeypatch.context() as patch:  # as if killed: nothing cleans up
        patch.setattr(atomic.Path, "unlink", lambda *args, **kwargs: None)
        with pytest.raises(ValueError, match="the writer failed"):
            atomic.write(tmp_path / "a.txt", fail_in_the_middle)
    assert len(os.listdir(tmp_path)) == 3
    atomic.remove_parts(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden", "a.txt"]


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path):
    atomic.write_text(tmp_path / "written", "")
    (tmp_path / "other").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("written", "other")]
    assert modes[0] == modes[1]
