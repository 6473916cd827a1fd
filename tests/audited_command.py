"""Runs the command several times in one process and prints the paths that each run writes, as JSON.

Usage: `python audited_command.py RUNS`, where `RUNS` is JSON: a list of lists of arguments. A run with the argument
`--interrupt` gets a request to stop after its first steps.
"""

import contextlib
import json
import os
import signal
import sys
from typing import Any
from unittest import mock

_WRITING_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Events by the positions of their paths, and of the descriptors of the folders that contain them.
_EVENTS = {
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.utime": ((0, 3),),
    "os.setxattr": ((0, None),),
    "os.removexattr": ((0, None),),
    "sqlite3.connect": ((0, None),),
    "shutil.copyfile": ((1, None),),
    "shutil.copymode": ((1, None),),
    "shutil.copystat": ((1, None),),
    "shutil.copytree": ((1, None),),
    "shutil.move": ((0, None), (1, None)),
    "shutil.rmtree": ((0, 1),),
    "shutil.make_archive": ((0, None),),
    "shutil.unpack_archive": ((1, None),),
}


class Auditor:
    """An audit hook that collects the paths that are created, changed or removed."""

    def __init__(self) -> None:
        self.paths: set[str] = set()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            is_writing = (
                any(letter in mode for letter in "wax+")
                if mode is not None
                else (flags or 0) & _WRITING_FLAGS
            )
            if is_writing:
                self._add(path, None)
        for path, folder in _EVENTS.get(event, ()):
            has_folder = folder is not None and folder < len(arguments)
            self._add(arguments[path], arguments[folder] if has_folder else None)

    def _add(self, path: Any, folder: Any) -> None:
        if isinstance(path, int):  # a file that is open already
            return
        path = os.fsdecode(path)
        if isinstance(folder, int) and folder >= 0:
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
        self.paths.add(os.path.abspath(path))


def interrupt(progress: Any) -> None:
    """Takes the place of the method that shows the progress."""
    if not progress.in_progress.phase:
        signal.raise_signal(signal.SIGTERM)


def main(runs: list[list[str]]) -> list[dict[str, Any]]:
    auditor = Auditor()
    sys.addaudithook(auditor)
    from dip_jax.cli import command

    results = []
    for arguments in runs:  # the first run also has the paths of the imports
        interrupted = contextlib.nullcontext()
        if "--interrupt" in arguments:
            interrupted = mock.patch(
                "dip_jax.cli.console.ProgressDisplay.show",
                side_effect=interrupt,
            )
        with interrupted:
            status = command.main([a for a in arguments if a != "--interrupt"])
        left = os.listdir(os.environ["TMPDIR"])
        results.append({"status": status, "paths": sorted(auditor.paths), "temporary": left})
        auditor.paths = set()
    return results


if __name__ == "__main__":
    answer = os.dup(1)
    os.dup2(2, 1)  # what the command prints is no JSON
    os.write(answer, json.dumps(main(json.loads(sys.argv[1]))).encode())
