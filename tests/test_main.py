"""The command as a user runs it: the files it writes, its output, its exit status."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import NamedTuple

import imageio.v3 as iio
import jax
import numpy as np
import pytest
import tifffile
from PIL import Image

import dip_jax
from dip_jax.cli import command
from dip_jax.cli.flags import all_flags
from dip_jax.presets import build_config
from tests.conftest import TINY, smooth_image

# Several tests check the same runs. One worker runs all these tests, so that each run is made once.
pytestmark = pytest.mark.xdist_group("main")

ROOT = Path(__file__).parents[1]
QUICK = [*(f"--set={value}" for value in TINY), "--set=run.chunk=5", "--num_steps=6"]
FILES = {
    "restored.png",
    "config.json",
    "metrics.jsonl",
    "summary.json",
    "curve.png",
    "sheet.png",
    "degraded.png",
    "thumbnail.jpg",
}
ODD_NAME = "cost $5 [red] $6"


def in_8_bits(values: np.ndarray) -> np.ndarray:
    return np.rint(values * 255).astype(np.uint8)


class Run(NamedTuple):
    """A run of the command that has ended."""

    status: int
    output: str
    errors: str
    folder: Path

    def summaries(self) -> dict[str, dict]:
        """The summaries of the run by the names of the images."""
        return {s["name"]: s for s in json.loads((self.folder / "summary.json").read_text())}

    def contents(self, name: str) -> dict[str, bytes]:
        """The files of an image by their names."""
        return {path.name: path.read_bytes() for path in (self.folder / name).iterdir()}


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    iio.imwrite(path, in_8_bits(smooth_image()))
    return path


@pytest.fixture(scope="module")
def single(run, photo, tmp_path_factory) -> Run:
    """One image with a reference of the same stem in another folder."""
    clean, out = tmp_path_factory.mktemp("clean"), tmp_path_factory.mktemp("single") / "out"
    iio.imwrite(clean / "photo.png", in_8_bits(0.9 * smooth_image()))
    return Run(*run(f"--input={photo}", f"--reference={clean}", f"--output={out}", *QUICK), out)


class Simulated(NamedTuple):
    """Three commands with the same output folder."""

    first: Run
    contents: dict[str, bytes]
    """The files of the first run."""
    refused: Run
    contents_when_refused: dict[str, bytes]
    resumed: Run
    contents_when_resumed: dict[str, bytes]
    refused_seed: Run
    overwritten: Run


@pytest.fixture(scope="module")
def simulated(run, photo, tmp_path_factory) -> Simulated:
    """A simulated degradation, restored, repeated, resumed and overwritten."""
    out = tmp_path_factory.mktemp("simulated") / "out"
    args = [f"--reference={photo}", f"--output={out}", *QUICK]
    first = Run(*run(*args), out)
    contents = first.contents("photo")
    refused = Run(*run(*args), out)
    contents_when_refused = first.contents("photo")
    resumed = Run(*run(*args, "--resume"), out)
    contents_when_resumed = first.contents("photo")
    refused_seed = Run(*run(*args, "--resume", "--seed=5"), out)
    overwritten = Run(*run(*args, "--overwrite"), out)
    return Simulated(
        first,
        contents,
        refused,
        contents_when_refused,
        resumed,
        contents_when_resumed,
        refused_seed,
        overwritten,
    )


@pytest.fixture(scope="module")
def mixed(run, photo, tmp_path_factory) -> Run:
    """Folders with images of several formats, one of them broken, and two of the same name."""
    root = tmp_path_factory.mktemp("mixed")
    for folder in ("in", "x", "y"):
        (root / folder).mkdir()
    data, pixels = photo.read_bytes(), smooth_image()
    for name in ("in/good.png", f"in/{ODD_NAME}.png", "x/photo.png", "y/photo.png"):
        (root / name).write_bytes(data)
    (root / "in/bad.png").write_bytes(data[:300])
    frames = [Image.fromarray(in_8_bits(scale * pixels)) for scale in (1, 0.4)]
    frames[0].save(root / "in/moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    tifffile.imwrite(
        root / "in/deep.tif",
        np.concatenate([np.rint(pixels * 65535).astype(np.uint16), alpha_of_16_bits()], -1),
        photometric="rgb",
        extrasamples=["unassalpha"],
    )
    inputs = [f"--input={root / folder}" for folder in ("in", "x", "y")]
    return Run(*run(*inputs, f"--output={root / 'out'}", *QUICK), root / "out")


def alpha_of_16_bits() -> np.ndarray:
    return np.arange(40 * 36, dtype=np.uint16).reshape(40, 36, 1) * 40


# ---- one image ----


def test_a_run_writes_a_folder_with_all_files(single):
    assert single.status == 0, single.errors
    assert set(single.contents("photo")) == FILES | {"reference.png"}
    summary = json.loads((single.folder / "photo/summary.json").read_text())
    assert json.loads((single.folder / "summary.json").read_text()) == [summary]
    expected = (
        "name task method status num_steps stop_step psnr ssim psnr_measurement seconds "
        "seconds_per_step num_params seed device versions"
    )
    assert set(expected.split()) <= set(summary)
    assert summary["status"] == "done"
    assert "photo" in single.output
    assert iio.imread(single.folder / "photo/restored.png").shape == (40, 36, 3)
    metrics = (single.folder / "photo/metrics.jsonl").read_text()
    assert [json.loads(line)["step"] for line in metrics.splitlines()] == [0, 5]


def test_a_reference_is_matched_by_stem_and_measured(single):
    restored = iio.imread(single.folder / "photo/restored.png") / 255
    clean = in_8_bits(0.9 * smooth_image()) / 255
    expected = -10 * np.log10(np.mean((restored - clean) ** 2))
    psnr = single.summaries()["photo"]["psnr"]
    assert psnr == pytest.approx(expected, abs=0.05)  # the file is rounded to 8 bits
    assert f"{psnr:.2f}" in single.output


def test_the_same_command_writes_the_same_bytes(simulated):
    assert simulated.first.status == simulated.overwritten.status == 0
    again = simulated.first.contents("photo")
    assert set(again) == FILES | {"reference.png"}
    for file in set(again) - {"summary.json"}:
        assert simulated.contents[file] == again[file], file


def test_nothing_is_overwritten_without_the_flag(simulated):
    assert simulated.refused.status == 2
    assert "--overwrite" in simulated.refused.errors
    assert "--resume" in simulated.refused.errors
    assert simulated.contents_when_refused == simulated.contents
    again = simulated.first.contents("photo")  # the summary holds the measured seconds
    assert again["summary.json"] != simulated.contents["summary.json"]


def test_resume_keeps_finished_images_and_refuses_other_settings(simulated):
    assert simulated.resumed.status == 0
    assert "finished earlier" in simulated.resumed.errors
    assert simulated.contents_when_resumed == simulated.contents
    assert simulated.refused_seed.status == 2
    assert "run.seed" in simulated.refused_seed.errors


@pytest.mark.slow
def test_another_seed_gives_another_result(run, photo, tmp_path):
    for seed in (0, 1):
        args = [f"--reference={photo}", f"--output={tmp_path / str(seed)}", f"--seed={seed}"]
        run(*args, *QUICK)
    a, b = ((tmp_path / str(s) / "photo" / "restored.png").read_bytes() for s in (0, 1))
    assert a != b


def test_inpainting_keeps_known_pixels_and_reports_the_psnr_before_and_after(run, photo, tmp_path):
    mask = np.full((40, 36), 255)
    mask[12:20, 12:20] = 0
    path, out = write_mask(tmp_path / "mask.png", mask), tmp_path / "out"
    args = ["--task=inpaint", f"--reference={photo}", f"--mask={path}", f"--output={out}"]
    inpainted = Run(*run(*args, *QUICK), out)
    assert inpainted.status == 0, inpainted.errors
    restored = iio.imread(out / "photo" / "restored.png")
    np.testing.assert_array_equal(restored[mask > 0], iio.imread(photo)[mask > 0])
    summary = inpainted.summaries()["photo"]
    assert summary["psnr"] > summary["psnr_raw"]


@pytest.mark.slow
def test_a_jpeg_is_restored_to_a_png(run, tmp_path):
    path, out = tmp_path / "old.jpg", tmp_path / "out"
    Image.fromarray(in_8_bits(smooth_image())).save(path, quality=20)
    assert run("--task=dejpeg", f"--input={path}", f"--output={out}", *QUICK)[0] == 0
    assert (out / "old" / "restored.png").exists()


@pytest.mark.slow
def test_gray_pixels_of_a_mask_are_reported(run, photo, tmp_path):
    mask = np.full((40, 36), 255)
    mask[10:20, 10:20] = 0
    mask[9, 10:20] = 100
    path = write_mask(tmp_path / "mask.png", mask)
    args = ["--task=inpaint", f"--input={photo}", f"--mask={path}", f"--output={tmp_path / 'o'}"]
    status, _, errors = run(*args, *QUICK)
    assert status == 0
    assert "10 gray pixels" in errors


@pytest.mark.slow
def test_a_run_that_exceeds_the_memory_reports_the_need_and_a_remedy(run, photo, tmp_path):
    args = [f"--input={photo}", f"--output={tmp_path / 'o'}", "--set=run.max_memory=1e-5"]
    status, output, _ = run(*args, *QUICK)
    assert status == 1
    assert "would need about" in output
    assert "smaller image" in output


@pytest.mark.slow
def test_a_fit_that_diverges_ends_with_status_1_and_an_image(run, photo, tmp_path):
    args = [f"--input={photo}", f"--output={tmp_path / 'o'}", "--set=fit.learning_rate=1e30"]
    status, output, _ = run(*args, *QUICK, "--num_steps=100")
    assert status == 1
    assert "diverged" in output
    assert (tmp_path / "o" / "photo" / "restored.png").exists()


@pytest.mark.slow
def test_a_reference_of_floats_is_scaled_as_the_image_is(run, tmp_path):
    image, out = smooth_image(), tmp_path / "o"
    for name, values in (("noisy", 3 * image - 0.2), ("clean", 3 * image)):
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "x.tif", values[..., :1])
    args = [f"--input={tmp_path / 'noisy'}", f"--reference={tmp_path / 'clean'}"]
    restored = Run(*run(*args, f"--output={out}", *QUICK), out)
    assert restored.status == 0
    # an offset of 0.2 on an image whose range is mapped to 1
    summary = restored.summaries()["x"]
    low, high = summary["value_range"]
    assert low <= 3 * image[..., 0].min() - 0.2 < 3 * image[..., 0].max() <= high + 0.2
    expected = -20 * np.log10(0.2 / (high - low))
    assert summary["psnr_measurement"] == pytest.approx(expected, abs=0.01)


# ---- several images ----


def test_one_broken_image_does_not_keep_the_others_from_being_restored(mixed):
    assert mixed.status == 1
    assert "bad: failed" in mixed.output
    names = {"good", ODD_NAME, "x/photo", "y/photo", "moving", "deep"}
    statuses = {name: summary["status"] for name, summary in mixed.summaries().items()}
    assert statuses == {**dict.fromkeys(names, "done"), "bad": "failed"}
    for name in names:
        files = set(mixed.contents(name))
        of_deep = FILES - {"restored.png"} | {"restored.tif", "restored_8bit.png"}
        assert files == (FILES if name != "deep" else of_deep)
        assert mixed.summaries()[name]["psnr"] is None  # there is no reference


def test_two_images_of_one_name_do_not_collide(mixed):
    x, y = (mixed.contents(f"{folder}/photo") for folder in ("x", "y"))
    assert x["restored.png"] == y["restored.png"]  # their random numbers follow from the stem
    assert "photo" not in mixed.summaries()


def test_16_bits_and_alpha_are_kept(mixed):
    restored = tifffile.imread(mixed.folder / "deep" / "restored.tif")
    assert restored.dtype == np.uint16
    np.testing.assert_array_equal(restored[..., 3:], alpha_of_16_bits())
    assert len(np.unique(restored[..., :3])) > 256


def test_an_animation_is_restored_by_its_first_page_with_a_note(mixed):
    assert mixed.summaries()["moving"]["status"] == "done"
    assert "moving: first of 2 pages" in mixed.errors


def test_dollars_and_brackets_in_a_name_have_no_meaning(mixed):
    assert ODD_NAME in mixed.output
    assert (mixed.folder / ODD_NAME / "curve.png").exists()


# ---- mistakes ----


def write_broken(path: Path) -> None:
    """Writes an image that cannot be restored, of the kind that its name states."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 64, 3), np.uint8)
    match path.stem:
        case "text":
            path.write_text("no image")
        case "cut":
            Image.fromarray(noise).save(path)
            path.write_bytes(path.read_bytes()[:2000])
        case "cmyk":
            Image.fromarray(noise).convert("CMYK").save(path)
        case "small":
            iio.imwrite(path, noise[:20])
        case "nan":
            floats = rng.random((64, 64)).astype(np.float32)
            floats[:] = np.nan
            tifffile.imwrite(path, floats)
        case "huge":  # a header of a billion pixels with almost no data
            chunks = [(b"IHDR", struct.pack(">IIBBBBB", 40000, 25000, 8, 2, 0, 0, 0))]
            chunks += [(b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
            body = b"".join(
                struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d))
                for t, d in chunks
            )
            path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("text.png", "content is not an image, or is damaged"),
        ("cut.png", "cut short"),
        ("cut.jpg", "cut short"),
        ("cmyk.jpg", "CMYK"),
        ("small.png", "33"),
        ("nan.tif", "no value is a finite number"),
        ("huge.png", "--max_pixels"),
        ("missing.png", "no image matches"),
    ],
)
def test_an_image_that_cannot_be_read_is_refused_before_anything_starts(run, tmp_path, name, words):
    path, out = tmp_path / name, tmp_path / "out"
    write_broken(path)
    status, _, errors = run(f"--input={path}", f"--output={out}")
    assert status == 2
    assert words in errors
    assert name in errors
    assert errors.count("\n") == 1, "one sentence, no traceback"
    assert not out.exists()


def test_the_limit_of_pixels_is_a_flag(run, photo, tmp_path):
    status, _, errors = run(f"--input={photo}", "--max_pixels=1000", f"--output={tmp_path / 'o'}")
    assert status == 2
    assert "--max_pixels" in errors


def write_mask(path: Path, values: np.ndarray) -> Path:
    iio.imwrite(path, values.astype(np.uint8))
    return path


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((20, 20), 255), "size"),
        (np.zeros((40, 36)), "all black"),
        (np.full((40, 36), 255), "all white"),
        (np.tile(np.linspace(0, 255, 36), (40, 1)), "is this a mask"),
    ],
    ids=["other size", "black", "white", "gray"],
)
def test_an_image_that_is_not_a_mask_is_refused(run, photo, tmp_path, values, words):
    path = write_mask(tmp_path / "mask.png", values)
    args = ["--task=inpaint", f"--input={photo}", f"--mask={path}", f"--output={tmp_path / 'o'}"]
    status, _, errors = run(*args)
    assert status == 2
    assert words in errors


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--tsk=denoise"], "did you mean --task"),
        (["--task=denois"], "Did you mean 'denoise'"),
        (["--preset=denoyse"], "Did you mean 'denoise"),
        (["--set=fit.lerning_rate=1"], "Did you mean 'fit.learning_rate'"),
        (["--set=fit.optimizer=adm"], "Did you mean 'adam"),
        (["--noise_std=-3"], "from 0 to 255"),
        (["--noise_std=nan"], "from 0 to 255"),
        (["--num_steps=0"], "at least 1"),
        (["--num_steps=ten"], "--num_steps expects an integer, got 'ten'."),
        (["--checkpoint_every=often"], "--checkpoint_every expects a number, got 'often'."),
        (["--resume=maybe"], "--resume expects true or false, got 'maybe'."),
        (["--set=fit.lr=1"], "Did you mean 'fit.learning_rate'"),
        (["--set=fit.optimizer=admaw"], "Did you mean 'adamw'"),
        (["--noise_std=0.1"], "write --noise_std=25.5"),
        (["--cpu_devices=0", "--input=a.png"], "--cpu_devices expects at least 1"),
        (["--resume"], "pass degraded images"),
        (["--flat"], "pass degraded images"),
        (["--compare=networks", "--flat", "a.png"], "leave out --flat"),
        (["--list_settings=fitt"], "Did you mean 'fit'"),
        (["--list_settings", "net.kid"], "Did you mean 'kind'"),
        (["--list_presets=denois"], "Did you mean 'denoise'"),
        (["--stop=now"], "fixed"),
        (["--task=denoise", "--preset=inpaint"], "is for inpaint"),
        (["no-such-image.png"], "no-such-image.png"),
        (["--task=inpaint"], "pass degraded images"),
        (["--plan"], "Nothing to restore"),
        (["--compare=networks"], "Nothing to restore"),
        (["--mask=mask.png"], "use --task=inpaint"),
        (["--num_chains=2"], "add --method=sgld"),
        (["--method=sgld", "--num_seeds=2"], "--num_chains"),
        (["--method=sgld", "--stop=wmv"], "leave out --stop"),
        (["--compare=networks", "--method=fit", "--input=a.png"], "leave out --method"),
        (["--num_processes=2", "--input=a.png"], "belong together"),
        (["--process_id=0", "--input=a.png"], "belong together"),
        (["--coordinator=host:1", "--input=a.png"], "needs both"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_flag_is_reported_with_the_remedy(run, tmp_path, args, words):
    status, _, errors = run(*args, f"--output={tmp_path / 'o'}")
    assert status == 2
    assert words in errors
    assert errors.count("\n") == 1, "one sentence, no traceback"
    assert not (tmp_path / "o").exists()


def test_inpainting_without_a_mask_asks_for_one(run, photo, tmp_path):
    status, _, errors = run("--task=inpaint", f"--input={photo}", f"--output={tmp_path / 'o'}")
    assert status == 2
    assert "mask" in errors


def test_an_output_that_cannot_be_written_is_refused(run, photo, tmp_path):
    (tmp_path / "file").write_text("in the way")
    status, _, errors = run(f"--input={photo}", f"--output={tmp_path / 'file' / 'out'}")
    assert status == 2
    assert "cannot be written" in errors


def test_masks_of_the_same_stem_are_refused(run, photo, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_mask(tmp_path / folder / "mask.png", np.eye(40, 36) * 255)
    masks = [f"--mask={tmp_path / folder / 'mask.png'}" for folder in ("a", "b")]
    args = ["--task=inpaint", f"--input={photo}", *masks, f"--output={tmp_path / 'o'}"]
    status, _, errors = run(*args)
    assert status == 2
    assert "same stem" in errors


def test_a_mistake_that_affects_every_image_starts_nothing(run, photo, tmp_path):
    for name in ("first.png", "second.png"):
        (tmp_path / name).write_bytes(photo.read_bytes())
    status, _, errors = run("--task=inpaint", f"--input={tmp_path}", f"--output={tmp_path / 'o'}")
    assert status == 2
    assert "mask" in errors
    assert not (tmp_path / "o").exists()


# ---- modes and exit statuses ----


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_has_every_flag_within_80_columns(run, flag):
    status, output, errors = run(flag, "--task=denoise")
    assert (status, errors) == (0, "")
    usages = re.findall(r"^  (?:-\w, )?--(\w+)", output, re.MULTILINE)
    assert sorted(usages) == sorted(f.name for f in all_flags())
    assert max(map(len, output.splitlines())) < 80


def test_the_version_is_shown_with_those_of_jax_and_python(run):
    status, output, _ = run("--version")
    assert status == 0
    assert output.startswith(f"dip-jax {dip_jax.__version__} (jax {jax.__version__} flax ")


@pytest.mark.parametrize(
    ("statuses", "can_resume", "expected"),
    [
        ([], True, 0),
        (["done", "stopped"], True, 0),
        (["done", "failed"], True, 1),
        (["diverged", "done"], True, 1),
        (["failed", "interrupted"], True, 75),
        (["interrupted"], False, 130),
    ],
)
def test_the_exit_status_follows_from_the_statuses_of_the_images(statuses, can_resume, expected):
    assert command.exit_code(statuses, can_resume=can_resume) == expected


@pytest.mark.parametrize(
    ("status", "exit_status"),
    [("stopped", 0), ("failed", 1), ("diverged", 1), ("interrupted", 130)],
)
def test_without_images_the_demo_runs(run, tmp_path, monkeypatch, status, exit_status):
    from dip_jax.cli import demo
    from dip_jax.report.summarize import failure_summary

    calls = []

    def run_demo(config, output, **hooks):
        calls.append((config, output))
        summary = failure_summary("coffee", config, "no memory", status=status)
        return [summary], {"noisy": 21.0, "dip_jax": 29.5}

    monkeypatch.setattr(demo, "run_demo", run_demo)
    found, output, errors = run(f"--output={tmp_path}", "--keep_compiled=false")
    assert found == exit_status
    assert calls == [(build_config(), tmp_path / "demo")]
    assert ("+8.50" in output) == (status in ("stopped", "diverged"))
    assert ("no memory" in output) == (status == "failed")
    assert ("interrupted" in errors) == (status == "interrupted")
    assert "--resume" not in output


@pytest.mark.slow
def test_ctrl_c_keeps_the_estimate_and_the_command_states_how_to_continue(photo, tmp_path):
    out = tmp_path / "o"
    args = [f"--input={photo}", f"--output={out}", *QUICK, "--num_steps=1000000", "--stop=fixed"]
    process = subprocess.Popen(
        [sys.executable, "main.py", *args],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr.readline() == "Device: 1 x cpu\n"
        assert process.stderr.readline() == "photo: compiling ...\n"
        line = process.stderr.readline()
        assert "step" in line, line
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75
    assert "being saved" in errors
    assert "interrupted" in output
    assert "--resume" in output
    summary = json.loads((out / "photo" / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert (out / "photo" / "restored.png").exists()
