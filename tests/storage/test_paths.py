"""Local and remote paths."""

import os
from pathlib import Path

import pytest

from dip_jax.errors import InputError
from dip_jax.storage import atomic, paths
from dip_jax.storage.paths import to_path
from tests.storage.bucket import install


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    monkeypatch.setenv("EPATH_USE_TF", "false")
    return install(tmp_path)


def test_text_without_a_scheme_is_a_local_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert to_path("~/a.png") == Path("/home/ada/a.png")
    assert to_path(Path("a:b/c")) == Path("a:b/c")
    assert not paths.is_remote(to_path("gs/a.png"))


def test_a_url_is_a_remote_path_with_the_same_text(bucket):
    path = to_path("gs://photos/in/cup.png")
    assert paths.is_remote(path)
    assert (str(path), str(path.parent), path.stem) == (
        "gs://photos/in/cup.png",
        "gs://photos/in",
        "cup",
    )
    assert to_path(path) is path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "got an empty text"),
        ("http://host/a.png", "URL of gs://, s3://, az://, got http://"),
        ("file:///tmp/a.png", "expected a local path"),
        ("gs://", "expected a bucket and a folder"),
        ("gs:///", "expected a bucket and a folder"),
        (Path("gs://photos/cup.png"), "expected gs://photos/cup.png; pass a URL as text"),
        ("gs:/photos", "expected gs://photos"),
    ],
)
def test_text_that_would_make_a_wrong_local_folder_is_refused(text, words):
    with pytest.raises(InputError, match=words):
        to_path(text)


def test_a_scheme_without_its_library_is_refused_with_the_command_that_installs_it(monkeypatch):
    def missing(scheme):
        raise ImportError("Please install s3fs to access S3")

    monkeypatch.setattr("fsspec.get_filesystem_class", missing)
    with pytest.raises(InputError, match=r"s3:// needs the library s3fs.* `pip install s3fs`"):
        to_path("s3://photos/cup.png")


def test_the_same_calls_have_the_same_effect_on_a_disk_and_in_a_bucket(bucket, tmp_path):
    (tmp_path / "disk").mkdir()
    for root in (tmp_path / "disk", to_path("gs://bucket/folder")):
        file = root / "a" / "b.txt"
        assert not paths.exists(file)
        assert paths.list_folder(root / "a") == []
        with pytest.raises(FileNotFoundError):
            paths.read_bytes(file)
        paths.make_folder(file.parent)
        atomic.write_text(file, "grün")
        atomic.write_text(root / "a" / "c.txt", "")
        assert paths.read_bytes(file) == "grün".encode()
        assert paths.exists(file)
        assert paths.is_folder(root / "a")
        assert not paths.is_folder(file)
        assert not paths.is_folder(root / "gone")
        assert paths.list_folder(root / "a") == [file, root / "a" / "c.txt"]
        assert paths.file_version(file)[1] == 5
        with paths.local_copy(file) as copy:
            assert isinstance(copy, Path)
            assert copy.name == "b.txt"
            assert copy.read_bytes() == "grün".encode()
        paths.remove_file(file)
        paths.remove_file(file)
        assert paths.list_folder(root / "a") == [root / "a" / "c.txt"]
        paths.remove_folder(root / "a")
        paths.remove_folder(root / "a")
        assert not paths.exists(root / "a")


def test_every_error_of_a_network_is_an_os_error_that_names_the_path(bucket):
    bucket.fault = RuntimeError("quota exceeded\nmore")
    path = to_path("gs://bucket/a.txt")
    for call in (
        paths.read_bytes,
        paths.exists,
        paths.is_folder,
        paths.list_folder,
        paths.remove_file,
    ):
        with pytest.raises(
            OSError, match=r"gs://bucket/a.txt cannot be accessed \(quota exceeded\)"
        ):
            call(path)
    with pytest.raises(OSError, match="quota exceeded"):
        atomic.write_text(path, "text")


def test_a_writer_that_raises_leaves_the_old_object(bucket):
    path = to_path("gs://bucket/a.txt")
    atomic.write_text(path, "old")

    def fail(file):
        file.write(b"half of")
        raise ValueError("the writer failed")

    with pytest.raises(ValueError, match="the writer failed"):
        atomic.write(path, fail)
    assert paths.read_bytes(path) == b"old"


def test_absolute_text_tells_local_files_by_their_folders_without_following_links(
    tmp_path, monkeypatch
):
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert paths.absolute(Path("link/a.png")) == f"{tmp_path}/link/a.png"
    assert paths.absolute(Path()) == str(tmp_path)
    assert paths.identity(Path("link/a.png")) == os.path.realpath(tmp_path / "a.png")
