"""The lists of settings and presets."""

import dataclasses
import re

import pytest

from dip_jax.cli.listings import list_presets, list_settings
from dip_jax.config import SECTIONS, Config, field_names, parse_field
from dip_jax.presets import PRESETS


def test_every_setting_is_listed_with_a_default_that_parses():
    text = list_settings()
    defaults = dict(re.findall(r"^  (\w+\.\w+)=(.*)$", text, re.MULTILINE))
    assert tuple(defaults) == field_names()
    assert max(map(len, text.splitlines())) < 80
    for name, shown in defaults.items():
        section, field = name.split(".")
        default = getattr(getattr(Config(), section), field)
        parsed = parse_field(name, "" if shown == "''" else shown)
        if isinstance(default, float):
            assert parsed == pytest.approx(default, rel=1e-3)
        else:
            assert parsed == default


def test_a_setting_is_listed_with_its_type_its_bounds_and_its_meaning():
    text = list_settings("stop.patience")
    assert "(a number, more than 0)" in text
    assert "A minimum is confirmed after this fraction of its step" in " ".join(text.split())
    assert "stop.window" not in text


def test_a_section_is_listed_alone():
    text = list_settings("run")
    names = [f"run.{field.name}" for field in dataclasses.fields(SECTIONS["run"])]
    assert re.findall(r"^  (\w+\.\w+)=", text, re.MULTILINE) == names


def test_presets_are_listed_by_task_with_whole_names_within_80_columns(monkeypatch):
    monkeypatch.setattr("dip_jax.cli.listings._minutes", lambda config: "123 min")
    text = list_presets()
    names = re.findall(r"^  ([a-z_0-9]+)\*? .* min$", text, re.MULTILINE)
    assert sorted(names) == sorted(PRESETS)
    assert max(map(len, text.splitlines())) < 80
    assert "Ulyanov" in text
    assert re.findall(r"^  (\w+)\*", list_presets("ct"), re.MULTILINE) == ["ct"]


def test_the_time_of_a_preset_is_that_of_all_its_networks_and_steps(monkeypatch):
    monkeypatch.setattr("dip_jax.cli.cost.probe_machine", lambda: None)
    monkeypatch.setattr("dip_jax.cli.cost.forecast_seconds", lambda work, machine: 0.1)
    text = list_presets("denoise")
    minutes = dict(re.findall(r"^  (\w+)\*? .* (\d+) min$", text, re.MULTILINE))
    assert minutes["denoise"] == "3"  # 4 networks, 350 steps: 140 s
    assert minutes["best"] == "6"  # 8 networks, 400 steps: 320 s
