import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax.config import TaskConfig
from dip_jax.errors import InputError
from dip_jax.operators.from_file import load_operator
from dip_jax.tasks.cases import build_case

SHAPE = (40, 36, 3)
FILE = """
import jax.numpy as jnp

def halve(image):
    return 0.5 * image[::2]

def squared(image):
    return image**2

def not_linear(image):
    return image**2
not_linear.is_linear = True

def nan(image):
    return jnp.log(image - 2)

def text(image):
    return "y"

def breaks(image):
    return image @ jnp.ones((7, 7))

number = 3
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def test_a_function_of_the_users_is_an_operator_and_its_linearity_is_found_out(file):
    halve = load_operator(f"{file}:halve", SHAPE)
    assert halve.is_linear
    np.testing.assert_array_equal(halve(jnp.ones(SHAPE)), np.full((20, 36, 3), 0.5))
    assert not load_operator(f"{file}:squared", SHAPE).is_linear


def test_the_same_function_is_the_same_operator_so_that_pictures_share_a_program(file):
    assert load_operator(f"{file}:halve", SHAPE) == load_operator(f"{file}:halve", SHAPE)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("not_linear", r"linear.*differs .* by \d"),
        ("nan", "not finite"),
        ("text", "array of floats"),
        ("breaks", "TypeError|dot_general"),
        ("number", "no function 'number'"),
        ("missing", "no function 'missing'"),
        ("two words", "path.py:function"),
    ],
)
def test_an_operator_that_is_not_what_it_claims_is_refused(file, picture, name, words):
    task = TaskConfig(name="custom", operator=f"{file}:{name}", image_shape=SHAPE)
    with pytest.raises(InputError, match=words):
        build_case(task, "x", picture)


def test_a_measurement_that_the_operator_does_not_make_is_refused_with_both_shapes(file, picture):
    task = TaskConfig(name="custom", operator=f"{file}:halve", image_shape=SHAPE)
    with pytest.raises(InputError, match=r"\(20, 36, 3\).*\(40, 36, 3\)"):
        build_case(task, "x", picture)


@pytest.mark.parametrize(
    ("text", "words"),
    [("f", "path.py:function"), ("no.py:f", "no file"), ("here.txt:f", "Python file")],
)
def test_a_file_that_is_none_is_refused(tmp_path, monkeypatch, text, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.txt").write_text("")
    with pytest.raises(InputError, match=words):
        load_operator(text, SHAPE)


def test_a_file_that_breaks_is_refused_with_what_it_says(tmp_path):
    (tmp_path / "bad.py").write_text("raise ValueError('mine')")
    with pytest.raises(InputError, match="ValueError: mine"):
        load_operator(f"{tmp_path / 'bad.py'}:f", SHAPE)
