"""Files with operators that are broken in any way are refused in one line, and leave the process as it was."""

import sys

import jax
import numpy as np
import pytest

from dip_jax.config import TaskConfig
from dip_jax.errors import InputError
from dip_jax.operators.from_file import load_operator
from dip_jax.tasks.cases import build_case

SHAPE = (40, 36, 3)
VALID = b"""import jax.numpy as jnp

SCALE = 0.5


def f(image):
    return SCALE * jnp.flip(image[::2], axis=1)


f.is_linear = True
"""
# Files whose code fails, and files whose function breaks its contract.
FAILING = {
    "syntax": "def f(x:",
    "zero": "\0",
    "not UTF-8": "\xff\xfe",
    "parentheses": "f = " + "(" * 10_000,
    "signs": "f = " + "-" * 100_000 + "1",
    "exit": "import sys\nsys.exit(0)",
    "quit": "quit()",
    "another exception": "class Stop(BaseException): pass\nraise Stop",
    "two lines": "raise ValueError('first\\nsecond')",
    "recursion": "def g(): return g()\ng()",
    "memory": "raise MemoryError",
    "missing": "import a_module_that_does_not_exist",
    "future": "from __future__ import nothing",
    "path": "import sys\nsys.path.clear()\nraise ValueError",
    "float64": "import jax\njax.config.update('jax_enable_x64', True)\ndef f(x): return x",
    "attribute of the module": "def __getattr__(name): raise SystemExit(name)",
    "object": "f = object()",
}
UNUSABLE = {
    "no argument": "def f(): return 1",
    "two arguments": "def f(x, y): return x",
    "recursive function": "def f(x): return f(x)",
    "function that exits": "import sys\ndef f(x): sys.exit(0)",
    "function that quits": "def f(x): raise SystemExit",
    "function that raises": "def f(x): raise ValueError('first\\nsecond')",
    "generator": "def f(x): yield x",
    "none": "def f(x): return None",
    "list": "def f(x): return [x]",
    "dictionary": "def f(x): return {'x': x}",
    "integers": "def f(x): return x.astype(int)",
    "nothing measured": "def f(x): return x[:0]",
    "scalar": "def f(x): return x.sum()",
    "not finite": "import jax.numpy as jnp\ndef f(x): return x * jnp.nan",
    "too large": "import jax.numpy as jnp\ndef f(x): return jnp.zeros((10**6, 10**6)) + x.sum()",
    "random": "import numpy as np\ndef f(x): return x * np.random.rand()",
    "numpy": "import numpy as np\ndef f(x): return np.asarray(x)",
    "in place": "def f(x):\n  x[0] = 1\n  return x",
    "class": "class f: pass",
    "linear by a word": "def f(x): return x\nf.is_linear = 'yes'",
    "linear by an array": "import numpy as np\ndef f(x): return x\nf.is_linear = np.ones((3, 3))",
    "pixelwise by a word": "def f(x): return x\nf.is_pixelwise = 'yes'",
    "attribute": (
        "class C:\n  def __call__(self, x): return x\n  def __getattr__(self, name): raise ValueError\n"
        "f = C()"
    ),
}


@pytest.fixture
def unchanged_process():
    """Checks that no import path and no setting is left behind."""
    before = list(sys.path)
    yield
    changed, sys.path[:] = list(sys.path), before
    assert changed in (before, [])  # one of the files empties it
    assert not jax.config.values["jax_enable_x64"]


@pytest.mark.usefixtures("unchanged_process")
@pytest.mark.parametrize("text", [*FAILING.values(), *UNUSABLE.values()], ids=[*FAILING, *UNUSABLE])
def test_a_broken_operator_is_refused_in_one_line(tmp_path, image, text):
    (tmp_path / "mine.py").write_text(text, encoding="latin-1")
    task = TaskConfig(name="custom", operator=f"{tmp_path / 'mine.py'}:f", image_shape=SHAPE)
    with pytest.raises(InputError) as raised:
        build_case(task, "x", image)
    message = str(raised.value)
    assert "operator" in message or "measurement" in message
    assert message.isprintable()


def test_ctrl_c_in_the_code_of_an_operator_ends_the_run(tmp_path):
    (tmp_path / "mine.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load_operator(f"{tmp_path / 'mine.py'}:f", SHAPE)


def test_a_file_may_add_a_folder_to_the_import_path(tmp_path):
    before = list(sys.path)
    (tmp_path / "library").mkdir()
    (tmp_path / "library/of_mine.py").write_text("factor = 0.5")
    (tmp_path / "mine.py").write_text(
        "import pathlib, sys\n"
        "sys.path.insert(0, str(pathlib.Path(__file__).parent / 'library'))\n"
        "def f(x):\n"
        "    import of_mine\n"
        "    return of_mine.factor * x\n"
    )
    try:
        operator = load_operator(f"{tmp_path / 'mine.py'}:f", SHAPE)
        assert operator.is_linear
        np.testing.assert_array_equal(operator(np.ones(3)), np.full(3, 0.5))
        assert [folder for folder in sys.path if folder not in before] == [
            str(tmp_path / "library")
        ]
    finally:
        sys.path[:] = before


def mutate(text: bytes, rng: np.random.Generator) -> bytes:
    """Replaces, removes or repeats a few characters."""
    values = bytearray(text)
    for _ in range(rng.integers(1, 4)):
        start = int(rng.integers(len(values) + 1))
        match rng.integers(4):
            case 0:
                values[start : start + 1] = bytes([rng.integers(256)])
            case 1:
                del values[start : start + int(rng.integers(1, 9))]
            case 2:
                values[start:start] = values[start : start + int(rng.integers(1, 9))]
            case 3:
                del values[start:]
    return bytes(values)


@pytest.mark.filterwarnings("ignore")  # of the compiler
@pytest.mark.usefixtures("unchanged_process")
@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_mutated_operator_is_loaded_or_refused_in_one_line(tmp_path, count):
    accepted, messages = 0, []
    for number in range(count):
        path = tmp_path / f"mine{number}.py"  # each file is loaded once
        path.write_bytes(mutate(VALID, np.random.default_rng(number)))
        try:
            load_operator(f"{path}:f", (6, 5, 1))
            accepted += 1
        except InputError as error:
            messages.append(str(error))
        path.unlink()
    assert [text for text in messages if not text.isprintable()] == []
    assert 0.1 * count < accepted < 0.9 * count
