"""The pages with the thumbnails of all images."""

import numpy as np
from PIL import Image, ImageFont

from dip_jax.presets import build_config
from dip_jax.report.contact_sheets import (
    contact_sheet_names,
    draw_contact_sheet,
    write_contact_sheets,
)
from dip_jax.report.manifest import Manifest
from dip_jax.report.summarize import failure_summary


def summaries_of(*names):
    summary = failure_summary("", build_config("denoise"), "")
    return [{**summary, "name": name, "error": None} for name in names]


def test_a_page_holds_three_columns_of_twelve():
    assert contact_sheet_names(0) == []
    assert contact_sheet_names(36) == ["contact-1.png"]
    assert contact_sheet_names(37) == ["contact-1.png", "contact-2.png"]


def save_thumbnail(folder, color, size=(324, 160)):
    folder.mkdir(parents=True)
    Image.new("RGB", size, color).save(folder / "thumbnail.jpg", quality=95)


def test_each_thumbnail_is_shown_in_its_cell_with_its_caption_directly_below(tmp_path):
    colors = {"a": (200, 0, 0), "x/b": (0, 200, 0), "c": (0, 0, 200), "d": (200, 200, 0)}
    for name, color in colors.items():
        save_thumbnail(tmp_path / name, color)
    page = np.asarray(draw_contact_sheet(tmp_path, summaries_of(*colors))).astype(int)
    assert page.shape == (2 * (160 + 18 + 12) + 12, 3 * 336 + 12, 3)
    for i, color in enumerate(colors.values()):
        top, left = 12 + i // 3 * 190, 12 + i % 3 * 336
        cell = page[top : top + 160, left : left + 324]
        assert abs(cell - np.array(color)).max() <= 3  # JPEG
        caption = page[top + 160 : top + 178, left : left + 324]
        assert caption.min() < 100


def test_a_row_is_as_high_as_its_highest_thumbnail(tmp_path):
    for name, size in {"flat": (324, 40), "small": (20, 10), "flatter": (324, 30)}.items():
        save_thumbnail(tmp_path / name, (200, 0, 0), size)
    page = np.asarray(draw_contact_sheet(tmp_path, summaries_of("flat", "flatter"))).astype(int)
    assert page.shape[0] == 12 + 40 + 18 + 12
    row = page[12:52, 12 + 336 : 12 + 336 + 324]
    assert (abs(row[10:] - [200, 0, 0]) <= 3).all()  # at the caption
    assert (row[:10] == 255).all()
    page = np.asarray(draw_contact_sheet(tmp_path, summaries_of("small")))
    assert page.shape[0] == 12 + 160 + 18 + 12  # enlarged by 16


def test_a_thumbnail_that_cannot_be_read_does_not_prevent_the_page(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "thumbnail.jpg").write_text("not an image")
    page = np.asarray(draw_contact_sheet(tmp_path, summaries_of("missing", "broken")))
    assert page.shape == (12 + 20 + 18 + 12, 2 * 336 + 12, 3)
    assert page.min() < 255  # its captions


def test_a_long_name_is_shortened_to_the_width_of_its_cell(tmp_path):
    (summary,) = summaries_of("W" * 200)
    page = np.asarray(draw_contact_sheet(tmp_path, [{**summary, "psnr": 27.125}, summary]))
    caption = page[12 + 20 : 12 + 20 + 18]
    ink = np.flatnonzero((caption < 255).any(axis=(0, 2)))
    assert not ((ink >= 337) & (ink < 347)).any()  # the gap between the cells
    # The PSNR is not shortened: it ends the caption as it does after a short name.
    short = np.asarray(draw_contact_sheet(tmp_path, [{**summary, "name": "W", "psnr": 27.125}]))
    width = round(ImageFont.load_default(12).getlength("27.12 dB"))
    tails = []
    for image in (caption[:, :342], short[12 + 20 : 12 + 20 + 18]):
        end = np.flatnonzero((image < 128).any(axis=(0, 2)))[-1] + 1
        tails.append(image[:, end - width + 4 : end])
    assert np.abs(tails[0].astype(int) - tails[1]).mean() < 40


def test_surplus_pages_of_an_earlier_run_are_removed_by_its_record(tmp_path):
    summaries = summaries_of(*map(str, range(40)))
    write_contact_sheets(tmp_path, summaries)
    (tmp_path / "contact-7.png").write_text("mine")
    assert (tmp_path / "contact-2.png").exists()
    write_contact_sheets(tmp_path, summaries[:1])
    assert not (tmp_path / "contact-2.png").exists()
    assert (tmp_path / "contact-7.png").read_text() == "mine"
    write_contact_sheets(tmp_path, summaries[:1])  # a run may overwrite its own sheet
    assert list(Manifest(tmp_path)) == ["contact-1.png"]
