"""The entries of the tasks, and tasks that a user registers."""

import dataclasses
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dip_jax
from dip_jax.config import TASKS, Config, TaskConfig, field_names, task_names
from dip_jax.errors import InputError
from dip_jax.presets import PRESETS, build_config
from dip_jax.tasks import registry
from dip_jax.tasks.cases import build_case, operator_class
from dip_jax.tasks.registry import register_task, task_of
from dip_jax.tasks.simulate import simulate_case
from dip_jax.tasks.task import SideInputs, Task
from tests.conftest import TINY

pytestmark = pytest.mark.usefixtures("registered", "shared_programs")


@dataclasses.dataclass(frozen=True)
class EvenRows:
    """A x = the even rows of an image."""

    is_linear = True

    def __call__(self, image):
        return image[::2]


jax.tree_util.register_static(EvenRows)
STRIPED = Task(
    "striped",
    operator=lambda config, shape, side_inputs: EvenRows(),
    shape=lambda config, measured, side_inputs: (2 * measured[0], *measured[1:]),
)


def test_the_names_in_the_config_are_those_of_the_entries_and_of_presets():
    built_in = [name for name in registry._tasks if name not in registry.registered_tasks()]
    assert built_in == list(TASKS)
    assert set(task_names()) == set(registry._tasks)
    assert set(task_names()) <= set(PRESETS)
    for name in TASKS:
        assert task_of(TaskConfig(name=name)).name == name


def test_the_documentation_of_a_field_names_the_tasks_that_use_it():
    source = inspect.getsource(TaskConfig)
    fields = [f.name for f in dataclasses.fields(TaskConfig)]
    for field in fields:
        (doc,) = re.findall(rf'^    {field}: .*?"""(.*?)"""', source, re.MULTILINE | re.DOTALL)
        named = re.match(r"\(([\w, ]+)\)", doc)
        tasks = set(named[1].split(", ")) & set(TASKS) if named else set()
        assert set(registry.tasks_with_setting(field)) & set(TASKS) == tasks, field


def test_a_registered_task_simulates_builds_and_restores(image):
    register_task(STRIPED)
    config = build_config("striped", overrides=[*TINY, "fit.num_steps=3"])
    case = simulate_case(jax.random.key(0), config.task, "x", image)
    np.testing.assert_array_equal(case.problem.measurement, image[::2])
    assert float(case.problem.noise_std) == 0
    built = build_case(config.task, "x", image[::2])
    assert built.shape == image.shape
    assert built.preview_name == "adjoint"
    np.testing.assert_array_equal(built.preview[1::2], 0)
    (result,) = dip_jax.restore([case], config)
    assert result.status == "done"
    assert result.image.shape == image.shape


def test_the_default_preset_of_a_registered_task_is_that_of_custom_or_its_own():
    register_task(STRIPED)
    custom = build_config("custom")
    assert build_config(task="striped") == dataclasses.replace(
        custom, task=dataclasses.replace(custom.task, name="striped")
    )
    register_task(STRIPED, preset={"fit.num_steps": 7}, about="every other row", overwrite=True)
    assert build_config("striped").fit.num_steps == 7
    assert PRESETS["striped"].about == "every other row"


def test_random_side_inputs_noise_and_photons_follow_the_entry(image):
    def draw(key, config, shape, side_inputs):
        return side_inputs._replace(mask=np.arange(shape[0])[:, None] % 2 * np.ones(shape[1]))

    register_task(
        Task(
            "rows",
            side_inputs=("mask",),
            required=("mask",),
            operator=lambda config, shape, side: dip_jax.operators.Mask(
                jnp.asarray(side.mask[..., None], jnp.float32)
            ),
            operator_class=lambda config: dip_jax.operators.Mask,
            draw=draw,
            noise_std=0.125,
            counts_photons=False,
        )
    )
    task = TaskConfig(name="rows")
    case = simulate_case(jax.random.key(0), task, "x", image)
    y = np.asarray(case.problem.measurement)
    assert (y[::2] == 0).all()
    assert 0.1 < np.std(y[1::2] - image[1::2]) < 0.13  # clipped
    assert float(case.problem.noise_std) == 0.125
    assert operator_class(task) is dip_jax.operators.Mask
    with pytest.raises(InputError, match=r"rows needs a mask .*or a clean image"):
        build_case(task, "x", image)
    with pytest.raises(InputError, match="A kernel belongs to deblur, got task rows"):
        build_case(task, "x", image, kernel=np.ones((3, 3)))
    config = build_config("rows", overrides=[*TINY, "task.noise=poisson"])
    with pytest.raises(InputError, match="rows does not count photons"):
        dip_jax.restore([case], config)


def test_a_task_may_take_its_code_from_the_guide(image):
    register_task(
        Task("guided", side_inputs=("guide",), required=("guide",), code_from_guide=True),
        preset={"fit.code": "image", "net.input_depth": 3},
    )
    config = build_config("guided")
    case = build_case(config.task, "x", image, guide=image[::-1])
    np.testing.assert_array_equal(case.problem.code_image, image[::-1])
    with pytest.raises(InputError, match="--compare=networks sets the code"):
        dip_jax.presets.build_comparison("networks", task="guided")
    uniform = build_config("guided", overrides=[*TINY, "fit.code=uniform"])
    with pytest.raises(InputError, match="belongs to task flash or guided, whose guide"):
        dip_jax.restore([case], uniform)


def test_the_operator_of_a_registered_task_is_checked_before_a_fit(image):
    def squared(config, shape, side_inputs):
        return dip_jax.operators.CustomOperator(lambda x: x**2, is_linear=True)

    register_task(Task("squared", operator=squared))
    with pytest.raises(InputError, match=r"linear.*differs .* by \d"):
        build_case(TaskConfig(name="squared"), "x", image)


def test_an_image_of_a_scaled_task_takes_the_size_of_its_reference(image):
    register_task(
        Task(
            "halved",
            operator=lambda config, shape, side: dip_jax.operators.Downsample(2),
            scale=lambda config: 2,
        )
    )
    case = build_case(TaskConfig(name="halved"), "x", image)
    assert case.shape == (80, 72, 3)
    assert operator_class(TaskConfig(name="halved")) is dip_jax.Operator


@pytest.mark.parametrize("name", ["denoise", "fast", "networks"])
def test_a_name_that_is_in_use_is_refused(name):
    with pytest.raises(InputError, match=f"already a task, preset or comparison '{name}'"):
        register_task(Task(name), overwrite=True)


def test_a_second_task_of_a_name_needs_overwrite():
    register_task(Task("mine"))
    with pytest.raises(InputError, match="already a task, preset or comparison 'mine'"):
        register_task(Task("mine"))
    register_task(Task("mine", noise_std=0.5), overwrite=True)
    assert task_of(TaskConfig(name="mine")).noise_std == 0.5
    assert task_names().count("mine") == 1


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Task("my task"), "letters, digits and underscores, got 'my task'"),
        (lambda: Task("mine", side_inputs=("masks",)), "Did you mean 'mask'"),
        (lambda: Task("mine", required=("mask",)), "side input of this task 'mask'"),
        (lambda: Task("mine", settings=("facter",)), "Did you mean 'factor'"),
        (lambda: Task("mine", measurement="images"), "Did you mean 'image'"),
        (lambda: register_task(Task("mine"), preset={"fit.steps": 1}), "Did you mean 'fit.num_st"),
        (lambda: register_task(Task("mine"), preset={"fit.num_steps": 0}), "at least 1"),
    ],
)
def test_a_wrong_entry_is_refused_and_not_registered(build, words):
    with pytest.raises(InputError, match=words):
        build()
    assert "mine" not in (*task_names(), *PRESETS)


def test_an_unknown_task_is_refused_with_a_hint_also_after_a_registration():
    register_task(STRIPED)
    with pytest.raises(InputError, match=r"'stripd'\. Did you mean 'striped'"):
        TaskConfig(name="stripd")
    assert "task.plugins" in field_names()
    assert Config().task.plugins == ()
    assert SideInputs() == (None,) * 5
