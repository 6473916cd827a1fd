"""Memory that is available to the process."""

from types import SimpleNamespace

import numpy as np
import pytest

from dip_jax.config import RunConfig
from dip_jax.engine import memory


@pytest.mark.parametrize(
    ("folder", "names", "cache"),
    [
        (".", ("memory.max", "memory.current"), "inactive_file"),
        ("memory", ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file"),
    ],
)
def test_the_limit_of_a_container_counts_without_its_cached_files(tmp_path, folder, names, cache):
    (tmp_path / folder).mkdir(exist_ok=True)
    for name, text in (
        *zip(names, ("1000\n", "700\n"), strict=True),
        ("memory.stat", f"{cache} 50\n"),
    ):
        (tmp_path / folder / name).write_text(text)
    assert memory.container_bytes(tmp_path) == 350


def test_a_container_without_a_limit_has_no_bound(tmp_path):
    assert memory.container_bytes(tmp_path) == np.inf
    for name, text in (("memory.max", "max\n"), ("memory.current", "7\n"), ("memory.stat", "")):
        (tmp_path / name).write_text(text)
    assert memory.container_bytes(tmp_path) == np.inf


def test_the_smaller_of_host_and_container_is_available(monkeypatch):
    monkeypatch.setattr(memory, "container_bytes", lambda: 123)
    assert memory.available_bytes(RunConfig()) == 123
    monkeypatch.setattr(memory, "container_bytes", lambda: np.inf)
    assert 123 < memory.available_bytes(RunConfig()) < np.inf
    assert memory.available_bytes(RunConfig(max_memory=2.0)) == 2e9


@pytest.mark.parametrize(("platform", "available"), [("gpu", 900), ("tpu", 1000)])
def test_a_tenth_of_the_memory_of_a_gpu_is_left_to_its_allocator(monkeypatch, platform, available):
    device = SimpleNamespace(memory_stats=lambda: {"bytes_limit": 1000})
    monkeypatch.setattr("jax.default_backend", lambda: platform)
    monkeypatch.setattr("jax.local_devices", lambda: [device])
    assert memory.available_bytes(RunConfig()) == available
