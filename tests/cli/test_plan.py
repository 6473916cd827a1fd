import imageio.v3 as iio
import jax
import numpy as np
import pytest

from dip_jax.batch.inputs import list_inputs
from dip_jax.cli.plan import plan_inputs
from dip_jax.engine.slots import Slots
from dip_jax.errors import InputError
from dip_jax.presets import build_config


def write(folder, picture, number):
    folder.mkdir()
    for i in range(number):
        iio.imwrite(folder / f"{i}.png", (picture * 255).astype(np.uint8))
    return folder


def test_a_plan_has_a_line_for_each_canvas_and_writes_nothing(tmp_path, picture, tiny):
    config = build_config(overrides=[*tiny, "fit.num_steps=7", "run.slots=2"])
    one = write(tmp_path / "a", picture, 3)
    other = write(tmp_path / "b", picture[:, :, :1].repeat(2, 1)[..., 0], 1)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    before = sorted(tmp_path.rglob("*"))
    inputs = [one, other, tmp_path / "broken.png"]
    plans = plan_inputs(list_inputs(config, inputs=inputs), config)
    assert sorted(tmp_path.rglob("*")) == before
    assert [(p.shape, p.num_images) for p in plans] == [((40, 36, 3), 3), ((40, 72, 1), 1)]
    first = plans[0]
    assert first.num_slots == 2
    # Three pictures in two slots take two rounds.
    expected = first.compile_seconds + 2 * 7 * first.seconds_per_step
    assert first.seconds == pytest.approx(expected)


@pytest.mark.slow
def test_the_memory_is_that_of_the_compiled_program(tmp_path, picture, tiny):
    config = build_config(overrides=[*tiny, "run.slots=2"])
    entries = list_inputs(config, inputs=[write(tmp_path / "a", picture, 1)])
    (plan,) = plan_inputs(entries, config)
    slots = Slots(entries[0].load().case._replace(reference=None), config)
    assert plan.bytes_per_image == pytest.approx(slots.bytes_per_device / 2, rel=0.05)
    weights = sum(leaf.size * 4 for leaf in jax.tree.leaves(slots.slot_shapes))
    assert plan.bytes_per_image > weights


def test_a_plan_for_nothing_readable_is_a_mistake(tmp_path):
    (tmp_path / "x.png").write_bytes(b"no picture")
    config = build_config()
    with pytest.raises(InputError, match=r"x\.png|can be read"):
        plan_inputs(list_inputs(config, inputs=[tmp_path / "x.png"]), config)
