import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax.config import TaskConfig
from dip_jax.errors import InputError
from dip_jax.operators.checks import check_operator
from dip_jax.operators.from_file import load_operator
from dip_jax.operators.pixelwise import is_pixelwise
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


def test_a_users_function_is_an_operator_and_its_linearity_is_detected(file):
    halve = load_operator(f"{file}:halve", SHAPE)
    assert halve.is_linear
    np.testing.assert_array_equal(halve(jnp.ones(SHAPE)), np.full((20, 36, 3), 0.5))
    assert not load_operator(f"{file}:squared", SHAPE).is_linear


def test_the_same_function_is_the_same_operator_so_images_share_a_program(file):
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
def test_an_operator_that_breaks_its_contract_is_refused(file, image, name, words):
    task = TaskConfig(name="custom", operator=f"{file}:{name}", image_shape=SHAPE)
    with pytest.raises(InputError, match=words):
        build_case(task, "x", image)


def test_a_measurement_of_another_shape_is_refused_with_both_shapes(file, image):
    task = TaskConfig(name="custom", operator=f"{file}:halve", image_shape=SHAPE)
    with pytest.raises(InputError, match=r"\(20, 36, 3\).*\(40, 36, 3\)"):
        build_case(task, "x", image)


@pytest.mark.parametrize(
    ("text", "words"),
    [("f", "path.py:function"), ("no.py:f", "no file"), ("here.txt:f", "Python file")],
)
def test_a_path_that_is_not_a_python_file_is_refused(tmp_path, monkeypatch, text, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.txt").write_text("")
    with pytest.raises(InputError, match=words):
        load_operator(text, SHAPE)


def test_a_file_that_raises_is_refused_with_its_error(tmp_path):
    (tmp_path / "bad.py").write_text("raise ValueError('mine')")
    with pytest.raises(InputError, match="ValueError: mine"):
        load_operator(f"{tmp_path / 'bad.py'}:f", SHAPE)


def test_a_function_that_declares_itself_pixelwise_passes_the_check(tmp_path):
    path = tmp_path / "curve.py"
    path.write_text("def curve(image):\n    return image**2\ncurve.is_pixelwise = True\n")
    operator = load_operator(f"{path}:curve", SHAPE)
    assert is_pixelwise(operator)
    check_operator(operator, (9, 7, 3))
    assert operator.pad(12, 9) == operator


def test_a_wrong_claim_to_be_pixelwise_is_refused(tmp_path, image):
    path = tmp_path / "shift.py"
    path.write_text("def shift(image):\n    return image[::-1]\nshift.is_pixelwise = True\n")
    with pytest.raises(InputError, match=r"other pixels change a measured value by \d"):
        build_case(TaskConfig(name="custom", operator=f"{path}:shift"), "x", image)


def test_the_message_names_the_function(tmp_path, image):
    (tmp_path / "mine.py").write_text(
        "import jax.numpy as jnp\n\ndef rough(x): return jnp.round(9 * x)\n"
    )
    operator = load_operator(f"{tmp_path / 'mine.py'}:rough", image.shape)
    with pytest.raises(InputError, match="The operator rough has a derivative that is 0"):
        check_operator(operator, image.shape)


def test_a_file_that_turns_float64_on_is_refused_and_it_is_off_again(tmp_path):
    text = "import jax\njax.config.update('jax_enable_x64', True)\ndef f(x): return x\n"
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(InputError, match="sets jax_enable_x64"):
        load_operator(f"{tmp_path / 'mine.py'}:f", (4, 4, 1))
    assert not jax.config.values["jax_enable_x64"]
