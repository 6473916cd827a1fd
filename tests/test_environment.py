"""The command in environments that lack what a desktop has."""

import os
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from tests.conftest import TINY, smooth_image

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")

ROOT = Path(__file__).parents[1]
# Runs the command as a user without an entry in the database of users.
AS_STRANGER = """
import pwd, runpy, sys

def getpwuid(uid):
    raise KeyError(uid)

pwd.getpwuid = getpwuid
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_isolated(
    *args, variables: dict[str, str], shell: str = 'exec "$@"', **options
) -> subprocess.CompletedProcess:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
    }
    return subprocess.run(
        ["sh", "-c", shell, "sh", sys.executable, "-c", AS_STRANGER, str(ROOT / "main.py"), *args],
        env={**environment, "JAX_PLATFORMS": "cpu", **variables},
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        **options,
    )


@pytest.mark.slow
def test_a_stranger_without_a_home_in_a_notebook_with_a_narrow_encoding_restores_an_image(tmp_path):
    iio.imwrite(tmp_path / "雪.png", np.rint(255 * smooth_image()).astype(np.uint8))
    with (tmp_path / "output.txt").open("wb") as output:
        process = run_isolated(
            f"--input={tmp_path / '雪.png'}",
            f"--output={tmp_path / 'out'}",
            "--num_steps=2",
            *(f"--set={value}" for value in TINY),
            variables={
                "MPLBACKEND": "module://matplotlib_inline.backend_inline",
                "PYTHONIOENCODING": "cp1252",
            },
            stdout=output,
        )
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr
    assert (tmp_path / "out" / "雪" / "restored.png").is_file()
    assert r"\u96ea" in (tmp_path / "output.txt").read_text(encoding="cp1252")


def test_an_absent_platform_and_a_closed_output_give_one_sentence(tmp_path):
    process = run_isolated(
        f"--output={tmp_path}",
        variables={"JAX_PLATFORMS": "cuda"},
        shell='exec "$@" >&-',
    )
    assert process.returncode == 2
    # Matplotlib may say before it that there is no home folder.
    *_, sentence = process.stderr.splitlines()
    assert sentence.startswith("dip-jax: JAX cannot use the platform of JAX_PLATFORMS=cuda")
    assert "Traceback" not in process.stderr
