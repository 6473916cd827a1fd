"""The demonstration compares the restored image with classical methods on the same noisy image."""

import sys
import types

import numpy as np
import pytest

from dip_jax.cli import demo
from dip_jax.presets import build_config

pytestmark = pytest.mark.usefixtures("shared_programs")


@pytest.mark.parametrize("is_installed", [True, False])
def test_bm3d_is_in_the_table_if_it_is_installed(monkeypatch, tmp_path, tiny, is_installed):
    calls = []

    def bm3d_rgb(noisy, noise_std):
        calls.append(noise_std)
        return np.full_like(noisy, 0.5)

    module = types.SimpleNamespace(bm3d_rgb=bm3d_rgb) if is_installed else None
    monkeypatch.setitem(sys.modules, "bm3d", module)
    baselines = {"non-local means": np.zeros((128, 128, 3), np.float32)}
    monkeypatch.setattr(demo, "denoising_baselines", lambda noisy: baselines)
    config = build_config(overrides=[*tiny, "fit.num_steps=1"])
    _, psnrs = demo.run_demo(config, tmp_path / "demo")
    names = ["noisy", "non-local means", *["BM3D"] * is_installed, "dip_jax"]
    assert list(psnrs) == names
    if is_installed:
        assert calls == [pytest.approx(25 / 255)]
        clean = demo.demo_image().pixels
        assert psnrs["BM3D"] == pytest.approx(-10 * np.log10(np.mean((clean - 0.5) ** 2)), abs=1e-3)
