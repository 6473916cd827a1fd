import io
import re

import pytest
from rich.console import Console

from dip_jax.base import Status
from dip_jax.batch.progress import FolderProgress
from dip_jax.cli.console import (
    ProgressDisplay,
    describe,
    print_comparison,
    print_plan,
    print_results,
)
from dip_jax.cli.plan import Plan
from dip_jax.engine.scheduler import Progress

SUMMARY = {
    "status": Status.DONE,
    "stop_step": 6,
    "psnr": 27.254,
    "psnr_measurement": 21.0,
    "psnr_best": 27.5,
    "best_step": 5,
    "seconds": 1.25,
    "error": None,
    "stops": {},
}


def progress(num_images: int, *, psnr: float | None = None, num_failed: int = 0) -> FolderProgress:
    in_progress = Progress(
        names=("photo",) if num_images == 1 else ("a", "b"),
        steps=(40,) if num_images == 1 else (40, 7),
        num_steps=100,
        steps_per_second=12.5,
        loss=0.0123,
        psnr=psnr,
    )
    return FolderProgress(
        in_progress,
        num_images=num_images,
        num_done=3,
        num_failed=num_failed,
        per_hour=120.0,
        seconds_left=3725.0,
    )


def test_the_progress_of_one_image_has_speed_time_loss_and_psnr():
    line = describe(progress(1, psnr=27.254))
    assert line == "12.5/s  at most 1:02:05  27.25 dB"


def test_the_progress_of_a_folder_counts_images():
    line = describe(progress(10, num_failed=1))
    assert line == "2 in progress  1 failed  120/hour  at most 1:02:05"


def test_a_pipe_gets_a_line_at_the_start_and_no_other_within_seconds():
    file = io.StringIO()
    with ProgressDisplay(Console(file=file, width=200)) as display:
        for _ in range(3):
            display.show(progress(10))
    assert file.getvalue().count("images: 3/10  2 in progress") == 1


def test_a_heading_precedes_the_first_progress():
    file = io.StringIO()
    with ProgressDisplay(Console(file=file, width=80), lambda: "Device: 1 x cpu") as display:
        display.show(progress(1))
        display._last_line = float("-inf")
        display.show(progress(1))
    lines = file.getvalue().splitlines()
    assert lines[0] == "Device: 1 x cpu"
    assert [line[:6] for line in lines[1:]] == ["photo:", "photo:"]


def test_a_terminal_gets_a_bar_with_the_name_and_messages_above_it():
    file = io.StringIO()
    with ProgressDisplay(Console(file=file, width=200, force_terminal=True)) as display:
        display.show(progress(1))
        display.announce("photo: a note")
        display.show(progress(1))
    text = file.getvalue()
    assert "photo: a note" in text
    assert "step 40/100  12.5/s  at most 1:02:05  loss 0.0123" in text


def results(capsys, tmp_path, summaries: list[dict]) -> str:
    print_results(summaries, tmp_path)
    return capsys.readouterr().out


def test_results_have_a_row_for_each_image(capsys, tmp_path):
    failed = {**dict.fromkeys(SUMMARY), "name": "bad", "status": Status.FAILED, "error": "cut"}
    text = results(capsys, tmp_path, [{**SUMMARY, "name": "[a]"}, failed])
    header, first, second, *rest = text.splitlines()
    columns = ["image", "status", "estimate at step", "degraded dB", "restored dB", "seconds"]
    assert re.split(r" {2,}", header) == columns
    assert first.split() == ["[a]", "done", "6", "21.00", "27.25", "1.2"]
    assert second.split() == ["bad", "failed", "-", "-", "-", "-"]
    assert rest[:2] == ["bad: failed: cut", "2 images: 1 done, 1 failed"]


def test_a_comparison_has_columns_of_the_best_step(capsys, tmp_path):
    variants = [{**SUMMARY, "name": "a", "variant": variant} for variant in ("fast", "slow")]
    header, first, *_ = results(capsys, tmp_path, variants).splitlines()
    assert re.split(r" {2,}", header)[-4:] == ["restored dB", "best dB", "at step", "seconds"]
    assert first.split() == ["a:", "fast", "done", "6", "21.00", "27.25", "27.50", "5", "1.2"]


def test_without_a_reference_there_are_no_columns_of_decibels(capsys, tmp_path):
    summary = {**SUMMARY, "name": "a", "psnr": None, "psnr_measurement": None}
    header = results(capsys, tmp_path, [summary]).splitlines()[0]
    assert re.split(r" {2,}", header) == ["image", "status", "estimate at step", "seconds"]


def test_the_file_of_a_single_image_is_named(capsys, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "restored.tif").touch()
    text = results(capsys, tmp_path, [{**SUMMARY, "name": "a"}])
    assert text.splitlines()[-1] == f"Restored image: {tmp_path}/a/restored.tif"


def test_a_phase_has_its_own_line_also_in_a_pipe():
    file = io.StringIO()
    compiling = progress(1)
    compiling = compiling._replace(in_progress=compiling.in_progress._replace(phase="compiling"))
    with ProgressDisplay(Console(file=file, width=200)) as display:
        for shown in (compiling, progress(1), compiling):
            display.show(shown)
    lines = file.getvalue().splitlines()
    assert [line.partition("  ")[0] for line in lines] == [
        *("photo: compiling ...", "photo: step 40/100", "photo: compiling ...")
    ]


@pytest.mark.parametrize("name", ["photo", "an extremely long name of an image.from.somewhere"])
def test_the_bar_fits_into_80_columns(name):
    file = io.StringIO()
    shown = progress(1, psnr=27.25)
    shown = shown._replace(in_progress=shown.in_progress._replace(names=(f"{name}, network 12",)))
    with ProgressDisplay(Console(file=file, width=80, force_terminal=True)) as display:
        display.show(shown)
    assert "network 12" in file.getvalue()
    assert "27.25 dB" in file.getvalue()


def test_several_rules_have_a_table(capsys, tmp_path):
    stop = {"fired": True, "estimate_step": 4, "psnr": 26.0, "gap": 1.5}
    silent = {"fired": False, "estimate_step": 6, "psnr": None, "gap": None}
    summary = {**SUMMARY, "name": "a", "stops": {"wmv": stop, "sure": silent}}
    text = results(capsys, tmp_path, [summary])
    assert "a: where each rule stops" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["wmv", "yes", "4", "26.00", "1.50"] in rows
    assert ["sure", "no", "6", "-", "-"] in rows


def test_images_with_errors_are_listed_first(capsys, tmp_path):
    summaries = [{**SUMMARY, "name": str(i)} for i in range(98)]
    summaries += [{**SUMMARY, "name": "stopped early", "status": Status.INTERRUPTED}]
    summaries += [{**SUMMARY, "name": "broken", "status": Status.DIVERGED}]
    text = results(capsys, tmp_path, summaries)
    names = [re.split(r" {2,}", line)[0] for line in text.splitlines()[1:]]
    assert names[:3] == ["broken", "stopped early", "0"]
    assert "broken: the fit diverged" in text
    assert "... and 40 more" in text
    assert "--resume" in text


def test_the_page_of_a_run_is_named_if_it_exists(capsys, tmp_path):
    summaries = [{**SUMMARY, "name": name} for name in "ab"]
    assert "index.html" not in results(capsys, tmp_path, summaries)
    (tmp_path / "index.html").touch()
    assert f"{tmp_path}/index.html" in results(capsys, tmp_path, summaries)


@pytest.mark.parametrize(("num_images", "words"), [(1, "1 image: "), (3, "3 images: ")])
def test_a_plan_has_the_sum_and_the_start_of_the_process(capsys, num_images, words):
    plan = Plan((40, 36, 3), num_images, 2 * num_images, 4, 10**7, 10**9, 2.0, 0.5, 100)
    print_plan([plan], start_seconds=8.0)
    header, row, total = capsys.readouterr().out.splitlines()
    assert "networks" in header
    cells = row.split()
    assert cells[:5] == ["36", "x", "40", "x", "3"]
    assert cells[5:8] == [str(num_images), str(2 * num_images), str(min(4, 2 * num_images))]
    rounds = -(-2 * num_images // 4)
    minutes, seconds = divmod(8 + 2 + rounds * 100 * 0.5, 60)
    assert total.startswith(f"{words}at most {minutes:.0f}:{seconds:02.0f}, 1.00 GB at the peak")


def test_the_demo_prints_gains_over_the_noisy_image(capsys, tmp_path):
    print_comparison({"noisy": 21.0, "median": 25.5, "dip_jax": None}, tmp_path)
    _, noisy, median, ours, *files = capsys.readouterr().out.splitlines()
    assert noisy.split() == ["noisy", "21.00"]
    assert median.split() == ["median", "25.50", "+4.50"]
    assert ours.split() == ["dip_jax", "-", "-"]
    assert "sheet.png" in files[0]
