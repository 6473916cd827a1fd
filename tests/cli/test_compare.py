"""Settings are compared only on the same degraded images."""

import pytest

from dip_jax.cli.compare import _require_same_degradation
from dip_jax.errors import InputError
from dip_jax.presets import PRESETS, build_config


def test_all_presets_of_denoising_with_gaussian_noise_can_be_compared():
    configs = {
        name: config
        for name, preset in PRESETS.items()
        if preset.task == "denoise" and (config := build_config(name)).task.noise == "gaussian"
    }
    assert {"denoise", "denoise_2018", "denoise_single"} <= set(configs)
    _require_same_degradation(configs)


def test_another_noise_is_refused():
    configs = {std: build_config(overrides=[f"task.noise_std={std}"]) for std in ("0.1", "0.2")}
    with pytest.raises(
        InputError, match=r"different degradations \(task\.noise_std: 0\.1 and 0\.2\)"
    ):
        _require_same_degradation(configs)
