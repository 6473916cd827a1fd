"""The notebooks run from beginning to end; `python -m notebooks.render` renders them for the documentation."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMES = sorted(
    p.stem for p in (ROOT / "notebooks").glob("*.py") if p.stem not in ("__init__", "render")
)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_within_four_minutes(name):
    clock = time.perf_counter()
    environment = {**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", str(ROOT / "notebooks" / f"{name}.py")]
    found = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert found.returncode == 0, found.stderr[-2000:]
    assert time.perf_counter() - clock < 240


def test_each_notebook_has_a_page_in_the_documentation():
    pages = {path.stem for path in (ROOT / "docs" / "python" / "notebooks").glob("*.md")}
    assert pages == set(NAMES)
