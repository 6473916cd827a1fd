"""Every task as a user runs it: measurement files in, an image or an error message out."""

import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image
from skimage.transform import radon

from dip_jax.batch.inputs import InputFiles, list_inputs
from dip_jax.presets import build_config
from tests.conftest import TINY, smooth_image

QUICK = [*(f"--set={value}" for value in TINY), "--num_steps=3", "--set=run.chunk=3"]
# The code is the flash image, which has three channels.
# The guide is a code of the size of the image, which a decoder cannot take.
FLASH = [
    *QUICK,
    "--set=net.kind=skip",
    *(f"--set=net.channels_{name}=4" for name in ("down", "up", "skip")),
    "--set=net.input_depth=3",
    "--set=net.upsample=nearest",
]


@pytest.fixture(scope="module")
def stored_files(tmp_path_factory) -> Path:
    """A folder with one file of each kind, which tests only read."""
    folder, image = tmp_path_factory.mktemp("files"), smooth_image()
    stored = np.rint(image * 255).astype(np.uint8)
    iio.imwrite(folder / "photo.png", stored)
    iio.imwrite(folder / "gray.png", stored[..., 0])
    iio.imwrite(folder / "flash.png", stored[::-1])
    iio.imwrite(folder / "tiny.png", stored[:12, :14])
    mask = np.full((40, 36), 255, np.uint8)
    mask[10:20, 10:14] = 0
    iio.imwrite(folder / "mask.png", mask)
    Image.fromarray(stored).save(folder / "photo.jpg", quality=20)
    sinogram = radon(image[:36, :, 0], 180 * np.arange(6) / 6, circle=False)
    np.save(folder / "sinogram.npy", sinogram)
    spectrum = np.fft.fft2(image[..., 0], norm="ortho")
    spectrum[np.random.default_rng(0).random(spectrum.shape) < 0.5] = 0
    np.save(folder / "spectrum.npy", spectrum)
    np.save(folder / "kernel.npy", np.full((3, 3), 1 / 9))
    (folder / "mine.py").write_text(
        "def halve(image):\n    return 0.5 * image\n"
        "import numpy\ndef bad(image):\n    return numpy.asarray(image)\n"
    )
    return folder


@pytest.fixture
def out(stored_files, tmp_path, monkeypatch) -> Path:
    """An output folder that does not exist yet; the current folder is that of the files."""
    monkeypatch.chdir(stored_files)
    return tmp_path / "out"


def of_file(*args, shape=(40, 36, 3), dtype="uint8", slow=False):
    """A command, and the shape and type of its result; `slow` if another task runs the same code."""
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
            dtype="float32",
            slow=True,
        ),
        of_file(
            "--task=compressed_sensing",
            "--input=spectrum.npy",
            shape=(40, 36),
            dtype="float32",
            slow=True,
        ),
        of_file("--operator=mine.py:halve", "--input=photo.png", slow=True),
        of_file("--task=dejpeg", "--input=photo.jpg"),
    ],
)
def test_a_measurement_on_disk_becomes_an_image(run, out, args, shape, dtype):
    status, _, messages = run(*args, f"--output={out}")
    assert status == 0, messages
    (folder,) = (path.parent for path in out.glob("*/summary.json"))
    is_array = dtype == "float32"
    restored = np.load(folder / "restored.npy") if is_array else iio.imread(folder / "restored.png")
    assert restored.shape == shape
    assert restored.dtype == dtype
    assert (folder / "sheet.png").exists()
    if "dejpeg" in args[0]:
        assert "of its coefficients match" in messages
        notes = json.loads((folder / "summary.json").read_text())["notes"]
        percent = float(notes[-1].partition("tables, ")[2].partition("%")[0])
        assert percent > 99


@pytest.mark.slow
def test_a_jpeg_that_became_a_png_is_fitted_by_its_pixels_with_a_note(run, out):
    status, _, messages = run("--task=dejpeg", "--input=photo.png", f"--output={out}", *QUICK)
    assert status == 0
    assert "its pixels are fitted instead" in " ".join(messages.split())


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
        (["--task=denoise", "--input=sinogram.npy"], "at least 33 pixels"),
        (["--task=denoise", "--input=photo.png", "--page=2"], "a page from 1 to 1"),
        (["--task=denoise", "--factor=2", "--input=photo.png"], "belongs to super_resolve"),
        (["--task=ct", "--input=photo.png"], ".npy"),
        (["--task=ct", "--reference=gray.png", "--set=task.saturation=1"], "of pixels"),
        (["--task=custom", "--operator=mine.py:bad", "--reference=photo.png"], "cannot be traced"),
        (["--compare=networks"], "Nothing to restore"),
        (["--operator=mine.py:halve"], "Nothing to restore"),
        (["--compare=networks", "--plan", "--input=photo.png"], "one setting"),
        (["--compare=networks", "--task=flash", "--input=photo.png"], "guide"),
        (["--compare=denoise,fast", "--preset=fast", "--input=photo.png"], "--preset"),
        (["--compare=denoise,denoise_poisson", "--reference=photo.png"], "task.noise"),
        (["--compare=networks,denoise", "--input=photo.png"], "at least two presets"),
        (["--compare=denois,fast", "--input=photo.png"], "'denoise'"),
        (["--compare=denoise,inpaint", "--input=photo.png"], "one task"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_reported_in_a_sentence_and_nothing_is_written(run, out, args, words):
    status, _, errors = run(*args, f"--output={out}")
    assert status == 2
    assert words in errors
    assert not out.exists()


@pytest.mark.slow
def test_one_command_compares_presets_and_draws_a_figure(run, out):
    status, output, _ = run(
        "--compare=inpaint_depth2,inpaint_resnet",
        "--reference=photo.png",
        "--mask=mask.png",
        "--num_steps=2",
        "--set=net.depth=1",
        "--set=net.width=4",
        f"--output={out}",
    )
    assert status == 0
    assert "photo: inpaint_depth2" in output
    height, width, _ = iio.imread(out / "comparison-photo.png").shape
    assert width > height > 300
    assert (out / "inpaint_resnet" / "photo" / "restored.png").exists()
    page = (out / "index.html").read_text()
    assert '"inpaint_depth2/photo"' in page
    assert '"inpaint_resnet/photo"' in page
    assert f"open {out}/index.html" in output


@pytest.mark.slow
def test_an_image_too_small_for_other_tasks_can_be_enlarged(run, out):
    assert run("--input=tiny.png", f"--output={out}")[0] == 2
    args = ["--task=super_resolve", "--factor=4", "--input=tiny.png", f"--output={out}"]
    assert run(*args, *QUICK, "--plan")[0] == 0


def test_a_changed_operator_changes_the_checksum_of_an_input(tmp_path):
    iio.imwrite(tmp_path / "photo.png", np.zeros((40, 36, 3), np.uint8))
    (tmp_path / "mine.py").write_text("def halve(image):\n    return 0.5 * image\n")
    config = build_config("custom", overrides=[f"task.operator={tmp_path / 'mine.py'}:halve"])
    (lazy,) = list_inputs(config, InputFiles(inputs=[tmp_path / "photo.png"]))
    before = lazy.digest()
    (tmp_path / "mine.py").write_text("def halve(image):\n    return 0.1 * image\n")
    assert lazy.digest() != before
