"""Every task as a person meets it: files in, a picture out, or a sentence."""

import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image
from skimage.transform import radon

from dip_jax.batch.inputs import list_inputs
from dip_jax.presets import build_config
from tests.conftest import TINY

QUICK = [*(f"--set={value}" for value in TINY), "--num_steps=3", "--set=run.chunk=3"]
# Codes that have a depth of their own.
FLASH = [*QUICK, "--set=net.input_depth=3", "--set=net.upsample=nearest"]


@pytest.fixture
def files(tmp_path, picture, monkeypatch) -> Path:
    """This process's folder, with one file of each kind."""
    monkeypatch.chdir(tmp_path)
    stored = np.rint(picture * 255).astype(np.uint8)
    iio.imwrite(tmp_path / "photo.png", stored)
    iio.imwrite(tmp_path / "gray.png", stored[..., 0])
    iio.imwrite(tmp_path / "flash.png", stored[::-1])
    Image.fromarray(stored).save(tmp_path / "photo.jpg", quality=20)
    sinogram = radon(picture[:36, :, 0], 180 * np.arange(6) / 6, circle=False)
    np.save(tmp_path / "sinogram.npy", sinogram)
    spectrum = np.fft.fft2(picture[..., 0], norm="ortho")
    spectrum[np.random.default_rng(0).random(spectrum.shape) < 0.5] = 0
    np.save(tmp_path / "spectrum.npy", spectrum)
    np.save(tmp_path / "kernel.npy", np.full((3, 3), 1 / 9))
    (tmp_path / "mine.py").write_text(
        "def halve(image):\n    return 0.5 * image\n"
        "import numpy\ndef bad(image):\n    return numpy.asarray(image)\n"
    )
    return tmp_path


def of_file(*args, shape=(40, 36, 3), dtype="uint8", slow=False):
    """A command on files, and what its result must be; `slow` where others take the same way."""
    marks = [pytest.mark.slow] if slow else []
    return pytest.param(
        [args[0], *QUICK, *args[1:]], shape, dtype, marks=marks, id=args[0].partition("=")[2]
    )


@pytest.mark.parametrize(
    ("args", "shape", "dtype"),
    [
        of_file("--task=super_resolve", "--input=photo.png", "--factor=2", shape=(80, 72, 3)),
        of_file("--task=flash", "--input=photo.png", "--guide=flash.png", *FLASH, slow=True),
        of_file("--task=deblur", "--input=photo.png", "--kernel=kernel.npy", slow=True),
        of_file("--task=demosaic", "--input=gray.png", slow=True),
        of_file(
            "--task=ct",
            "--input=sinogram.npy",
            "--set=task.num_angles=6",
            shape=(36, 36),
            dtype="uint16",
            slow=True,
        ),
        of_file(
            "--task=compressed_sensing",
            "--input=spectrum.npy",
            shape=(40, 36),
            dtype="uint16",
            slow=True,
        ),
        of_file("--operator=mine.py:halve", "--input=photo.png", slow=True),
        of_file("--task=dejpeg", "--input=photo.jpg"),
    ],
)
def test_a_measurement_on_disk_becomes_a_picture(run, files, args, shape, dtype):
    status, _, told = run(*args, "--output=out")
    assert status == 0, told
    (folder,) = (path.parent for path in (files / "out").glob("*/summary.json"))
    restored = iio.imread(folder / "restored.png")
    assert restored.shape == shape
    assert restored.dtype == dtype
    assert (folder / "sheet.png").exists()
    if "dejpeg" in args[0]:
        assert "of its coefficients come" in told
        notes = json.loads((folder / "summary.json").read_text())["notes"]
        share = float(notes[-1].partition("tables, ")[2].partition("%")[0])
        assert share > 99


@pytest.mark.slow
def test_a_jpeg_that_became_a_png_is_fitted_as_it_is_and_that_is_said(run, files):
    status, _, told = run("--task=dejpeg", "--input=photo.png", "--output=out", *QUICK)
    assert status == 0
    assert "its pixels are fitted instead" in " ".join(told.split())


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--guide=flash.png", "--input=photo.png"], "--task=flash"),
        (["--factor=3", "--input=photo.png"], "--task=super_resolve"),
        (["--kernel=kernel.npy", "--input=photo.png"], "--task=deblur"),
        (["--task=custom", "--input=photo.png"], "--operator="),
        (["--operator=mine.py:none", "--input=photo.png"], "no function 'none'"),
        (["--operator=mine.py:halve", "--task=denoise", "--input=photo.png"], "belongs to custom"),
        (["--task=denoise", "--input=photo.png", "--set=fit.code=meshgrid"], "input_depth=2"),
        (["--task=denoise", "--input=photo.png", "--set=net.kind=identity"], "optimize=code"),
        (
            [
                "--task=denoise",
                "--input=photo.png",
                "--set=fit.code=image",
                "--set=net.input_depth=3",
            ],
            "flash",
        ),
        (["--task=super_resolve", "--factor=99", "--input=photo.png"], "task.factor"),
        (["--task=ct", "--input=sinogram.npy"], "32 angles"),
        (["--task=denoise", "--input=sinogram.npy"], "takes a picture"),
        (["--task=denoise", "--factor=2", "--input=photo.png"], "belongs to super_resolve"),
        (["--task=ct", "--input=photo.png"], ".npy"),
        (["--task=ct", "--reference=gray.png", "--set=task.saturation=1"], "of pictures"),
        (["--task=custom", "--operator=mine.py:bad", "--reference=photo.png"], "cannot be traced"),
        (["--compare=networks"], "Nothing to restore"),
        (["--operator=mine.py:halve"], "Nothing to restore"),
        (["--compare=networks", "--plan", "--input=photo.png"], "one setting"),
        (["--compare=networks", "--task=flash", "--input=photo.png"], "guide"),
        (["--compare=denoise,demo", "--preset=demo", "--input=photo.png"], "--preset"),
        (["--compare=denoise,denoise_poisson", "--reference=photo.png"], "task.noise"),
        (["--compare=networks,denoise", "--input=photo.png"], "at least two presets"),
        (["--compare=denois,demo", "--input=photo.png"], "'denoise'"),
        (["--compare=denoise,inpaint", "--input=photo.png"], "one task"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_answered_by_a_sentence_and_nothing_is_written(run, files, args, words):
    status, _, errors = run(*args, "--output=out")
    assert status == 2
    assert words in errors
    assert not (files / "out").exists()


@pytest.mark.slow
def test_presets_are_compared_by_one_command_and_a_figure(run, files):
    mask = np.full((40, 36), 255, np.uint8)
    mask[10:20, 10:14] = 0
    iio.imwrite(files / "mask.png", mask)
    status, said, _ = run(
        "--compare=inpaint_depth2,inpaint_resnet",
        "--reference=photo.png",
        "--mask=mask.png",
        "--num_steps=2",
        "--set=net.depth=1",
        "--set=net.width=4",
        "--output=out",
    )
    assert status == 0
    assert "photo: inpaint_depth2" in said
    height, width, _ = iio.imread(files / "out" / "comparison-photo.png").shape
    assert width > height > 300
    assert (files / "out" / "inpaint_resnet" / "photo" / "restored.png").exists()


@pytest.mark.slow
def test_a_picture_too_small_for_other_tasks_can_be_made_larger(run, files, picture):
    iio.imwrite(files / "tiny.png", np.rint(picture[:12, :14] * 255).astype(np.uint8))
    assert run("--input=tiny.png", "--output=out")[0] == 2
    args = ["--task=super_resolve", "--factor=4", "--input=tiny.png", "--output=large"]
    assert run(*args, *QUICK, "--plan")[0] == 0


def test_a_changed_operator_is_another_run(files):
    config = build_config("custom", overrides=[f"task.operator={files / 'mine.py'}:halve"])
    (entry,) = list_inputs(config, inputs=[files / "photo.png"])
    before = entry.digest()
    (files / "mine.py").write_text("def halve(image):\n    return 0.1 * image\n")
    assert entry.digest() != before
