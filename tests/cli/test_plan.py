import imageio.v3 as iio
import jax
import numpy as np
import pytest

from dip_jax.batch.inputs import InputFiles, list_inputs
from dip_jax.cli import plan as plan_module
from dip_jax.cli.plan import plan_inputs
from dip_jax.errors import InputError
from dip_jax.presets import build_config
from tests.engine.cases import build_slots


@pytest.fixture(autouse=True)
def short_probe(monkeypatch):
    monkeypatch.setattr(plan_module, "_PROBE_SECONDS", 0.05)


def write(folder, image, number):
    folder.mkdir()
    for i in range(number):
        iio.imwrite(folder / f"{i}.png", (image * 255).astype(np.uint8))
    return folder


def plan_files(config, *inputs):
    return plan_inputs(list_inputs(config, InputFiles(inputs=inputs)), config)


def test_a_plan_has_a_line_for_each_canvas_and_writes_nothing(tmp_path, image, tiny):
    config = build_config(overrides=[*tiny, "fit.num_steps=7", "run.slots=2", "fit.num_seeds=2"])
    color = write(tmp_path / "a", image, 3)
    gray = write(tmp_path / "b", image[:, :, :1].repeat(2, 1)[..., 0], 1)
    (tmp_path / "broken.png").write_bytes(b"no image")
    before = sorted(tmp_path.rglob("*"))
    plans = plan_files(config, color, gray, tmp_path / "broken.png")
    assert sorted(tmp_path.rglob("*")) == before
    found = [(p.shape, p.num_images, p.num_networks) for p in plans]
    assert found == [((40, 36, 3), 3, 6), ((40, 72, 1), 1, 2)]
    first = plans[0]
    assert first.num_slots == 2
    # Six networks in two slots take three rounds.
    expected = first.compile_seconds + 3 * 7 * first.seconds_per_step
    assert first.seconds == pytest.approx(expected)


def test_the_filters_of_an_ensemble_are_a_part_of_the_time(tmp_path, image):
    small = ("net.channels_down=4", "net.channels_up=4", "net.channels_skip=2")
    config = build_config("denoise", overrides=[*small, "fit.num_steps=25", "run.slots=4"])
    (plan,) = plan_files(config, write(tmp_path / "a", image, 2))
    assert plan.num_networks == 8
    assert plan.seconds_on_host > 0.01
    fits = plan.compile_seconds + 2 * 25 * plan.seconds_per_step
    assert plan.seconds == pytest.approx(fits + 2 * plan.seconds_on_host)


@pytest.mark.slow
def test_the_memory_is_that_of_the_compiled_program(tmp_path, image, tiny):
    config = build_config(overrides=[*tiny, "run.slots=2"])
    inputs = list_inputs(config, InputFiles(inputs=[write(tmp_path / "a", image, 1)]))
    (plan,) = plan_inputs(inputs, config)
    slots = build_slots(inputs[0].load().case._replace(reference=None), config)
    assert plan.bytes_per_slot == pytest.approx(slots.bytes_per_device / 2, rel=0.05)
    weights = sum(leaf.size * 4 for leaf in jax.tree.leaves(slots.slot_shapes))
    assert plan.bytes_per_slot > weights


def test_a_plan_without_a_readable_image_is_refused(tmp_path):
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"x\.png|can be read"):
        plan_files(build_config(), tmp_path / "x.png")
