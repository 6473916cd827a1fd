"""Settings are compared only on the same degraded images, and their results replace no file of the user."""

import imageio.v3 as iio
import numpy as np
import pytest

from dip_jax.batch.inputs import InputFiles
from dip_jax.cli.compare import _require_same_degradation, compare_files
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


@pytest.mark.parametrize("name", ["index.html", "comparison-photo.png"])
def test_a_file_of_the_user_with_the_name_of_a_result_is_refused(tmp_path, name):
    iio.imwrite(tmp_path / "photo.png", np.zeros((40, 36, 3), np.uint8))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    configs = {preset: build_config(preset) for preset in ("denoise", "denoise_single")}
    with pytest.raises(InputError, match=f"{name} is not recorded as a file of dip_jax"):
        compare_files(configs, tmp_path / "out", InputFiles(inputs=[tmp_path / "photo.png"]))
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
