import subprocess
import sys
from pathlib import Path

import jax
import pytest

from dip_jax.engine import program_cache

PROGRAM = """
import jax, jax.numpy as jnp
from dip_jax.engine.program_cache import keep_compiled
keep_compiled()
print(jax.config.jax_compilation_cache_dir)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8)))
"""


def start(home: Path, **more: str) -> str:
    """Where a fresh process keeps what it compiles."""
    environment = {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), **more}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parents[2],
        env={"PATH": "", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the folder is not in XDG_CACHE_HOME")
def test_programs_are_kept_in_a_folder_of_the_users(tmp_path):
    folder = Path(start(tmp_path))
    assert folder == tmp_path / "cache" / "dip_jax" / "compiled"
    assert any(folder.iterdir())


def test_a_folder_that_jax_was_told_stays(tmp_path):
    mine = tmp_path / "mine"
    assert start(tmp_path, JAX_COMPILATION_CACHE_DIR=str(mine)) == str(mine)
    assert not (tmp_path / "cache").exists()


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path):
    (tmp_path / "file").write_text("in the way")
    before = dict(jax.config.values)
    program_cache.keep_compiled(tmp_path / "file" / "folder")
    assert dict(jax.config.values) == before
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
