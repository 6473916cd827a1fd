"""The command as a person meets it: what it writes, what it says, how it ends."""

import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile
from PIL import Image

from dip_jax.presets import PRESETS
from tests.conftest import TINY

ROOT = Path(__file__).parents[1]
QUICK = [
    *(f"--set={value}" for value in TINY),
    "--set=run.chunk=5",
]


@pytest.fixture
def photo(tmp_path, picture) -> Path:
    path = tmp_path / "photo.png"
    iio.imwrite(path, np.rint(picture * 255).astype(np.uint8))
    return path


def write_mask(path: Path, values: np.ndarray) -> Path:
    iio.imwrite(path, values.astype(np.uint8))
    return path


def test_a_noisy_file_becomes_a_folder_with_everything_in_it(run, photo, tmp_path):
    out = tmp_path / "out"
    status, said, _ = run(f"--input={photo}", f"--output={out}", "--num_steps=6", *QUICK)
    assert status == 0
    names = {p.name for p in (out / "photo").iterdir()}
    assert names == {
        "restored.png",
        "config.json",
        "metrics.jsonl",
        "summary.json",
        "curve.png",
        "sheet.png",
    }
    summary = json.loads((out / "photo" / "summary.json").read_text())
    assert json.loads((out / "summary.json").read_text()) == [summary]
    wanted = (
        "name task method status num_steps stop_step psnr ssim psnr_measurement seconds "
        "seconds_per_step num_params seed device versions"
    )
    assert set(wanted.split()) <= set(summary)
    assert summary["psnr"] is None
    assert summary["status"] == "done"
    assert "photo" in said
    assert iio.imread(out / "photo" / "restored.png").shape == (40, 36, 3)
    lines = [json.loads(x) for x in (out / "photo" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 5]


def test_the_same_command_twice_gives_the_same_bytes(run, photo, tmp_path):
    for name in ("a", "b"):
        assert (
            run(f"--reference={photo}", f"--output={tmp_path / name}", "--num_steps=6", *QUICK)[0]
            == 0
        )
    for file in ("restored.png", "metrics.jsonl", "config.json", "curve.png", "sheet.png"):
        a, b = ((tmp_path / name / "photo" / file).read_bytes() for name in ("a", "b"))
        assert a == b, file


@pytest.mark.slow
def test_another_seed_gives_another_result(run, photo, tmp_path):
    for seed in (0, 1):
        run(
            f"--reference={photo}",
            f"--output={tmp_path / str(seed)}",
            f"--seed={seed}",
            "--num_steps=6",
            *QUICK,
        )
    a, b = ((tmp_path / str(s) / "photo" / "restored.png").read_bytes() for s in (0, 1))
    assert a != b


def test_a_reference_is_matched_by_stem_and_measured(run, photo, tmp_path):
    (tmp_path / "clean").mkdir()
    clean = tmp_path / "clean" / "photo.png"
    clean.write_bytes(photo.read_bytes())
    status, said, _ = run(
        f"--input={photo}",
        f"--reference={clean.parent}",
        f"--output={tmp_path / 'o'}",
        "--num_steps=6",
        *QUICK,
    )
    assert status == 0
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())[0]
    restored = iio.imread(tmp_path / "o" / "photo" / "restored.png") / 255
    expected = -10 * np.log10(np.mean((restored - iio.imread(clean) / 255) ** 2))
    assert summary["psnr"] == pytest.approx(expected, abs=0.05)  # the file is rounded to 8 bits
    assert f"{summary['psnr']:.2f}" in said


def test_inpainting_puts_known_pixels_back_and_reports_both_figures(run, photo, tmp_path):
    mask = np.full((40, 36), 255)
    mask[12:20, 12:20] = 0
    path = write_mask(tmp_path / "mask.png", mask)
    status, _, _ = run(
        "--task=inpaint",
        f"--reference={photo}",
        f"--mask={path}",
        f"--output={tmp_path / 'o'}",
        "--num_steps=6",
        *QUICK,
    )
    assert status == 0
    restored = iio.imread(tmp_path / "o" / "photo" / "restored.png")
    np.testing.assert_array_equal(restored[mask > 0], iio.imread(photo)[mask > 0])
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())[0]
    assert summary["psnr"] > summary["psnr_raw"]


@pytest.mark.slow
def test_a_jpeg_is_restored_to_a_png(run, tmp_path, picture):
    path = tmp_path / "old.jpg"
    Image.fromarray(np.rint(picture * 255).astype(np.uint8)).save(path, quality=20)
    status, _, _ = run(
        "--task=dejpeg",
        f"--input={path}",
        f"--output={tmp_path / 'o'}",
        "--num_steps=6",
        *QUICK,
    )
    assert status == 0
    assert (tmp_path / "o" / "old" / "restored.png").exists()


def test_sixteen_bits_and_alpha_come_out_as_they_went_in(run, tmp_path, picture):
    values = np.rint(picture * 65535).astype(np.uint16)
    alpha = np.arange(40 * 36, dtype=np.uint16).reshape(40, 36, 1) * 40
    path = tmp_path / "deep.tif"
    tifffile.imwrite(
        path, np.concatenate([values, alpha], -1), photometric="rgb", extrasamples=["unassalpha"]
    )
    assert run(f"--input={path}", f"--output={tmp_path / 'o'}", "--num_steps=6", *QUICK)[0] == 0
    restored = tifffile.imread(tmp_path / "o" / "deep" / "restored.tif")
    assert restored.dtype == np.uint16
    np.testing.assert_array_equal(restored[..., 3:], alpha)
    assert len(np.unique(restored[..., :3])) > 256


def write_broken(path: Path) -> None:
    """A picture that cannot be restored, of the kind that its name says."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 64, 3), np.uint8)
    match path.stem:
        case "text":
            path.write_text("no picture")
        case "cut":
            Image.fromarray(noise).save(path)
            path.write_bytes(path.read_bytes()[:2000])
        case "cmyk":
            Image.fromarray(noise).convert("CMYK").save(path)
        case "small":
            iio.imwrite(path, noise[:20])
        case "nan":
            floats = rng.random((64, 64)).astype(np.float32)
            floats[3, 4] = np.nan
            tifffile.imwrite(path, floats)
        case "huge":  # a header of a billion pixels and next to nothing behind it
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
        ("text.png", "content is none, or damaged"),
        ("cut.png", "cut short"),
        ("cut.jpg", "cut short"),
        ("cmyk.jpg", "CMYK"),
        ("small.png", "33"),
        ("nan.tif", "NaN"),
        ("huge.png", "--max_pixels"),
        ("missing.png", "no picture matches"),
    ],
)
def test_a_picture_that_cannot_be_read_is_refused_before_anything_starts(
    run, tmp_path, name, words
):
    path = tmp_path / name
    write_broken(path)
    out = tmp_path / "out"
    status, _, err = run(f"--input={path}", f"--output={out}")
    assert status == 2
    assert words in err
    assert name in err
    assert err.count("\n") == 1, "one sentence, no traceback"
    assert not out.exists()


def test_the_limit_of_pixels_is_a_flag(run, photo, tmp_path):
    status, _, err = run(f"--input={photo}", "--max_pixels=1000", f"--output={tmp_path / 'o'}")
    assert status == 2
    assert "--max_pixels" in err


def test_an_animation_gives_its_first_page_and_says_so(run, tmp_path, picture):
    frames = [Image.fromarray(np.rint(picture * s).astype(np.uint8)) for s in (255, 100)]
    path = tmp_path / "moving.webp"
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    status, _, err = run(f"--input={path}", f"--output={tmp_path / 'o'}", "--num_steps=6", *QUICK)
    assert status == 0
    assert "first of 2 pages" in err


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((20, 20), 255), "size"),
        (np.zeros((40, 36)), "all black"),
        (np.full((40, 36), 255), "all white"),
        (np.tile(np.linspace(0, 255, 36), (40, 1)), "is this a mask"),
    ],
)
def test_a_mask_that_is_none_is_refused(run, photo, tmp_path, values, words):
    path = write_mask(tmp_path / "mask.png", values)
    status, _, err = run(
        "--task=inpaint", f"--input={photo}", f"--mask={path}", f"--output={tmp_path / 'o'}"
    )
    assert status == 2
    assert words in err


@pytest.mark.slow
def test_gray_pixels_at_the_edge_of_a_mask_are_told(run, photo, tmp_path):
    mask = np.full((40, 36), 255)
    mask[10:20, 10:20] = 0
    mask[9, 10:20] = 100
    path = write_mask(tmp_path / "mask.png", mask)
    status, _, err = run(
        "--task=inpaint",
        f"--input={photo}",
        f"--mask={path}",
        f"--output={tmp_path / 'o'}",
        "--num_steps=6",
        *QUICK,
    )
    assert status == 0
    assert "10 gray pixels" in err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--tsk=denoise"], "did you mean --task"),
        (["--task=denois"], "Did you mean 'denoise'"),
        (["--preset=denoyse"], "Did you mean 'denoise"),
        (["--set=fit.lerning_rate=1"], "Did you mean 'fit.learning_rate'"),
        (["--set=fit.optimizer=adm"], "Did you mean 'adam"),
        (["--noise_std=-3"], "from 0 to 255"),
        (["--num_steps=0"], "at least 1"),
        (["--num_steps=ten"], "num_steps"),
        (["--stop=now"], "fixed"),
        (["--task=denoise", "--preset=inpaint"], "is for inpaint"),
        (["picture.png"], "--input=picture.png"),
        (["--task=inpaint"], "give a picture"),
        (["--mask=mask.png"], "inpaint"),
    ],
)
def test_a_wrong_flag_is_answered_with_what_is_right(run, tmp_path, args, words):
    status, _, err = run(*args, f"--output={tmp_path / 'o'}")
    assert status == 2
    assert words in err
    assert "Traceback" not in err
    assert not (tmp_path / "o").exists()


def test_an_inpainting_without_a_mask_asks_for_one(run, photo, tmp_path):
    status, _, err = run("--task=inpaint", f"--input={photo}", f"--output={tmp_path / 'o'}")
    assert status == 2
    assert "mask" in err


def test_nothing_is_overwritten_unasked(run, photo, tmp_path):
    args = [f"--input={photo}", f"--output={tmp_path / 'o'}", "--num_steps=6", *QUICK]
    assert run(*args)[0] == 0
    before = (tmp_path / "o" / "photo" / "summary.json").read_bytes()
    status, _, err = run(*args)
    assert status == 2
    assert "--overwrite" in err
    assert "--resume" in err
    assert (tmp_path / "o" / "photo" / "summary.json").read_bytes() == before
    assert run(*args, "--overwrite")[0] == 0
    assert (tmp_path / "o" / "photo" / "summary.json").read_bytes() != before


def test_resume_keeps_what_is_finished_and_refuses_other_settings(run, photo, tmp_path):
    args = [f"--input={photo}", f"--output={tmp_path / 'o'}", "--num_steps=6", *QUICK]
    assert run(*args)[0] == 0
    before = (tmp_path / "o" / "photo" / "summary.json").read_bytes()
    status, _, err = run(*args, "--resume")
    assert status == 0
    assert "finished earlier" in err
    assert (tmp_path / "o" / "photo" / "summary.json").read_bytes() == before
    status, _, err = run(*args, "--resume", "--seed=5")
    assert status == 2
    assert "run.seed" in err


def test_an_output_that_cannot_be_written_is_refused(run, photo, tmp_path):
    (tmp_path / "file").write_text("in the way")
    status, _, err = run(f"--input={photo}", f"--output={tmp_path / 'file' / 'out'}")
    assert status == 2
    assert "cannot be written" in err


@pytest.mark.slow
def test_not_enough_memory_says_how_much_and_what_to_lower(run, photo, tmp_path):
    status, said, _ = run(
        f"--input={photo}", f"--output={tmp_path / 'o'}", "--set=run.max_memory=0.001", *QUICK
    )
    assert status == 1
    assert "would need about 0." in said
    assert "smaller picture" in said


@pytest.mark.slow
def test_a_fit_that_diverges_ends_with_status_1_and_a_picture(run, photo, tmp_path):
    status, said, _ = run(
        f"--input={photo}",
        f"--output={tmp_path / 'o'}",
        "--num_steps=100",
        "--set=fit.learning_rate=1e30",
        *QUICK,
    )
    assert status == 1
    assert "diverged" in said
    assert (tmp_path / "o" / "photo" / "restored.png").exists()


def test_one_bad_picture_does_not_keep_the_others_from_being_restored(run, photo, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "good.png").write_bytes(photo.read_bytes())
    (folder / "bad.png").write_bytes(photo.read_bytes()[:300])
    status, said, _ = run(
        f"--input={folder}", f"--output={tmp_path / 'o'}", "--num_steps=6", *QUICK
    )
    assert status == 1
    assert "bad: failed" in said
    statuses = {
        s["name"]: s["status"] for s in json.loads((tmp_path / "o" / "summary.json").read_text())
    }
    assert statuses == {"good": "done", "bad": "failed"}
    assert (tmp_path / "o" / "good" / "restored.png").exists()


def test_two_pictures_of_one_name_do_not_collide(run, photo, tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "photo.png").write_bytes(photo.read_bytes())
    status, said, _ = run(
        f"--input={tmp_path / 'x'}",
        f"--input={tmp_path / 'y'}",
        f"--output={tmp_path / 'o'}",
        "--num_steps=6",
        *QUICK,
    )
    assert status == 0, said
    for name in ("x/photo", "y/photo"):
        assert (tmp_path / "o" / name / "restored.png").exists()


def test_a_name_with_dollars_and_brackets_is_only_a_name(run, photo, tmp_path):
    name = "cost $5 [red] $6"
    odd = tmp_path / f"{name}.png"
    odd.write_bytes(photo.read_bytes())
    status, said, _ = run(f"--input={odd}", f"--output={tmp_path / 'o'}", "--num_steps=6", *QUICK)
    assert status == 0
    assert name in said
    assert (tmp_path / "o" / name / "curve.png").exists()


def test_masks_that_cannot_be_told_apart_are_refused(run, photo, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_mask(tmp_path / folder / "mask.png", np.eye(40, 36) * 255)
    masks = [f"--mask={tmp_path / folder / 'mask.png'}" for folder in ("a", "b")]
    status, _, err = run("--task=inpaint", f"--input={photo}", *masks, f"--output={tmp_path / 'o'}")
    assert status == 2
    assert "same stem" in err


def test_a_mistake_that_spoils_every_picture_starts_nothing(run, photo, tmp_path):
    (tmp_path / "second.png").write_bytes(photo.read_bytes())
    status, _, err = run("--task=inpaint", f"--input={tmp_path}", f"--output={tmp_path / 'o'}")
    assert status == 2
    assert "mask" in err
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_a_reference_of_floats_is_brought_to_the_pictures_range(run, tmp_path, picture):
    for name, values in (("noisy", 3 * picture - 0.2), ("clean", 3 * picture)):
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "x.tif", values[..., :1])
    args = [f"--input={tmp_path / 'noisy'}", f"--reference={tmp_path / 'clean'}", "--num_steps=6"]
    assert run(*args, f"--output={tmp_path / 'o'}", *QUICK)[0] == 0
    summary = json.loads((tmp_path / "o" / "summary.json").read_text())[0]
    # an offset of 0.2 on a picture whose range is mapped to 1
    expected = -20 * np.log10(0.2 / (3 * np.ptp(picture[..., 0])))
    assert summary["psnr_measurement"] == pytest.approx(expected, abs=0.01)


def test_help_lists_the_flags(run):
    status, said, _ = run("--help")
    assert status == 0
    assert "--input" in said
    assert "--reference" in said


@pytest.mark.slow
def test_presets_are_listed_with_network_size_cost_and_source(run):
    status, said, _ = run("--list_presets")
    assert status == 0
    assert set(PRESETS) <= {line.split(" ")[0].rstrip("*") for line in said.splitlines()}
    for words in ("2,217,831", "Ulyanov", "deep_decoder", "s/step"):
        assert words in said


def test_ctrl_c_leaves_the_best_answer_so_far_and_says_how_to_go_on(photo, tmp_path):
    out = tmp_path / "o"
    process = subprocess.Popen(
        [
            sys.executable,
            "main.py",
            f"--input={photo}",
            f"--output={out}",
            "--num_steps=1000000",
            "--stop=fixed",
            *QUICK,
        ],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stderr.readline()
        assert "step" in line, line
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        said, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 75
    assert "being saved" in err
    assert "interrupted" in said
    assert "--resume" in said
    summary = json.loads((out / "photo" / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert (out / "photo" / "restored.png").exists()
