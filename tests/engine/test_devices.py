"""What a run says about its devices."""

from types import SimpleNamespace

import jax
import pytest

from dip_jax.engine.devices import describe_devices


@pytest.fixture
def choose():
    """Sets the platforms that the user wants."""
    platforms = jax.config.values["jax_platforms"]
    yield lambda wanted: jax.config.update("jax_platforms", wanted)
    jax.config.update("jax_platforms", platforms)


def test_devices_of_a_kind_are_counted(monkeypatch):
    devices = [SimpleNamespace(device_kind=kind) for kind in ("H200", "H200", "L4")]
    monkeypatch.setattr("jax.local_devices", lambda: devices)
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert describe_devices() == "Device: 2 x H200, 1 x L4"


def test_a_gpu_that_jax_does_not_use_is_named(tmp_path, choose):
    choose(None)
    file = tmp_path / "nvidia0"
    assert describe_devices(file) == "Device: 1 x cpu"
    file.touch()
    line = describe_devices(file)
    assert line.startswith("Device: 1 x cpu; this computer has an NVIDIA GPU")
    assert "nvidia-smi" in line


def test_a_gpu_is_not_named_if_the_cpu_was_chosen(tmp_path, choose):
    (tmp_path / "nvidia0").touch()
    choose("cpu")
    assert describe_devices(tmp_path / "nvidia0") == "Device: 1 x cpu"
