"""Settings in a few words."""

import dataclasses
import shlex

import pytest

from dip_jax.cli.flags import parse_flags
from dip_jax.cli.request import resolve_flags
from dip_jax.config import Config
from dip_jax.presets import PRESETS, build_config
from dip_jax.report.run_settings import describe_settings


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_found_by_its_name_or_by_that_of_an_equal_one(preset):
    config = build_config(preset)
    found = describe_settings(config)
    assert found.changes == ()
    assert build_config(found.preset.removeprefix("preset ")) == config


def test_fields_that_differ_are_written_as_the_command_takes_them():
    overrides = ["fit.learning_rate=0.03333333", "task.kernel_center=8,16", "run.slots=3"]
    config = build_config("inpaint_hole", overrides=overrides)
    found = describe_settings(config)
    assert found.preset == "preset inpaint_hole"
    assert dict(found.changes) == {
        "fit.learning_rate": "0.03333333",
        "task.kernel_center": "8,16",
    }  # the number of slots changes no result


def test_a_task_without_a_preset_is_compared_with_the_defaults(monkeypatch):
    monkeypatch.setattr("dip_jax.report.run_settings.PRESETS", {})
    config = dataclasses.replace(Config(), fit=dataclasses.replace(Config().fit, num_steps=7))
    assert str(describe_settings(config)) == "task denoise, fit.num_steps=7"


def test_the_command_of_a_run_gives_its_settings_again():
    overrides = ["task.noise_std=0.09803921568627451", "fit.learning_rate=0.05", "net.padding=zero"]
    config = build_config("fast", overrides=overrides)
    _, image, *arguments = shlex.split(describe_settings(config).command)
    flags, images = parse_flags([image, *arguments])
    assert images == ["IMAGE"]
    assert resolve_flags(flags, images).config == config
