"""Files that register tasks."""

import hashlib

import jax
import pytest

from dip_jax.config import TaskConfig, task_names
from dip_jax.errors import InputError
from dip_jax.tasks.plugin import load_plugin

pytestmark = pytest.mark.usefixtures("registered")


REGISTER = "import dip_jax\ndip_jax.register_task(dip_jax.Task({}))\n"
TURN_ON_64_BITS = "import jax\njax.config.update('jax_enable_x64', True)\n"


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(REGISTER.format("'mine'"))
    return path


def test_a_plugin_registers_its_task_once_and_returns_its_path_and_checksum(plugin):
    checksum = hashlib.sha256(plugin.read_bytes()).hexdigest()
    assert load_plugin(str(plugin)) == f"{plugin}#sha256={checksum}"
    assert task_names()[-1] == TaskConfig(name="mine").name == "mine"
    assert load_plugin(str(plugin)) == f"{plugin}#sha256={checksum}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "registers no task"),
        ("raise ValueError('mine')", "mine.py cannot be run: ValueError: mine"),
        ("def f(:", "SyntaxError"),
        ("import sys\nsys.exit(3)", "cannot be run: SystemExit: 3"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
        (
            REGISTER.format("'denoise'"),
            "mine.py: There is already a task, preset or comparison 'den",
        ),
        (REGISTER.format("'mine', side_inputs=['x']"), "mine.py: Unknown side input 'x'"),
        (REGISTER.format("'mine', operators=1"), "unexpected keyword argument 'operators'"),
        (TURN_ON_64_BITS + REGISTER.format("'mine'"), "mine.py sets jax_enable_x64"),
    ],
)
def test_a_plugin_that_fails_is_refused_in_one_line(plugin, text, words):
    plugin.write_text(text)
    with pytest.raises(InputError, match=words) as raised:
        load_plugin(str(plugin))
    assert str(raised.value).startswith("--plugin")
    assert str(raised.value).isprintable()
    assert not jax.config.values["jax_enable_x64"]


def test_a_missing_file_or_one_that_is_not_python_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"--plugin: there is no file '.*no\.py'"):
        load_plugin(str(tmp_path / "no.py"))
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(InputError, match=r"--plugin expects a Python file \(\.py\)"):
        load_plugin(str(tmp_path / "mine.txt"))
