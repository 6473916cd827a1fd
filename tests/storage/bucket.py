"""An object store for tests, behind `gs://`: objects are files of a local folder, so that it outlives a process.

As in a real store, there are no folders but those that objects are in, no links, no renaming, and an object appears
whole when its file is closed. It fails on request, as a network does.
"""

import io
import os
from pathlib import Path

import fsspec
from etils.epath import backend
from fsspec.spec import AbstractFileSystem


class _Upload(io.BytesIO):
    def __init__(self, path: Path):
        super().__init__()
        self._path = path

    def close(self):
        if not self.closed:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part = self._path.with_name(f"{self._path.name}.{os.getpid()}.upload")
            part.write_bytes(self.getvalue())
            part.replace(self._path)
        super().close()


class Bucket(AbstractFileSystem):
    protocol = ("gs", "gcs")
    cachable = False
    root: Path
    requests: list[str]
    fault: Exception | None = None

    def _file(self, path: str) -> Path:
        return self.root / self._strip_protocol(path)

    def _request(self, kind: str) -> None:
        self.requests.append(kind)
        if self.fault is not None:
            raise self.fault

    def _open(self, path, mode="rb", **options):
        self._request(mode)
        if mode == "wb":
            return _Upload(self._file(path))
        if not self._file(path).is_file():
            raise FileNotFoundError(path)
        return io.BytesIO(self._file(path).read_bytes())

    def ls(self, path, detail=True, **options):
        self._request("ls")
        path = self._strip_protocol(path)
        file = self._file(path)
        found = [file] if file.is_file() else list(file.iterdir()) if file.is_dir() else []
        found = [f for f in found if f.suffix != ".upload" and (f.is_file() or _objects(f))]
        if not found:
            raise FileNotFoundError(path)
        infos = [
            {
                "name": f.relative_to(self.root).as_posix(),
                "type": "directory" if f.is_dir() else "file",
                "size": 0 if f.is_dir() else f.stat().st_size,
            }
            for f in found
        ]
        return infos if detail else [info["name"] for info in infos]

    def makedirs(self, path, exist_ok=False):
        raise AssertionError("an object store needs no folders")

    def cp_file(self, path1, path2, **options):
        raise AssertionError("an object store has no renaming")

    def _rm(self, path):
        self._request("rm")
        if not self._file(path).is_file():
            raise FileNotFoundError(path)
        self._file(path).unlink()

    def rm_file(self, path):
        self._rm(path)

    def rm(self, path, recursive=False, maxdepth=None):
        file = self._file(path)
        if recursive:
            if not _objects(file):
                raise FileNotFoundError(path)
            for found in _objects(file):
                self._rm(found.relative_to(self.root).as_posix())
        else:
            self._rm(path)


def _objects(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".upload"]


def install(root: Path) -> type[Bucket]:
    """Puts the buckets of `root` behind `gs://` in this process."""
    Bucket.root, Bucket.requests, Bucket.fault = root, [], None
    for name in ("gs", "gcs"):
        fsspec.register_implementation(name, Bucket, clobber=True)
    backend.fsspec_backend._get_filesystem.cache_clear()
    return Bucket
