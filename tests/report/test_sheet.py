"""The figure of the degraded, the restored and the reference image."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dip_jax.metrics import psnr_on_host
from dip_jax.report.png import DPI
from dip_jax.report.sheet import degraded_image, draw_sheet
from tests.report.conftest import assert_texts_do_not_overlap, texts


def test_the_degraded_image_is_the_measurement_or_its_preview(case):
    np.testing.assert_array_equal(degraded_image(case), case.problem.measurement)
    preview = np.zeros(case.shape, np.float32)
    assert degraded_image(case._replace(preview=preview)) is preview


def test_images_are_drawn_pixel_for_pixel_and_enlarged_by_a_whole_factor(tmp_path, case, result):
    draw_sheet(tmp_path / "sheet.png", case, result)
    with Image.open(tmp_path / "sheet.png") as sheet:
        drawn = np.asarray(sheet.convert("RGB")).astype(int)
    zoom, (height, width) = 8, case.shape[:2]  # 300 / 40
    panels = (degraded_image(case), result.image, case.reference)
    for i, image in enumerate(panels):
        left = 4 + i * (width * zoom + 8)
        panel = drawn[24 : 24 + height * zoom, left : left + width * zoom]
        expected = (255 * np.clip(image, 0, 1)).repeat(zoom, 0).repeat(zoom, 1)
        assert np.abs(panel - expected).max() <= 1


def test_titles_have_the_words_of_the_report_and_the_psnr(figure_of, case, result):
    found = texts(figure_of(draw_sheet, case._replace(preview_name="bicubic"), result))
    before, after = (
        psnr_on_host(image, case.reference) for image in (degraded_image(case), result.image)
    )
    assert found == [f"bicubic, {before:.2f} dB", f"restored, {after:.2f} dB", "reference"]


def test_without_a_reference_there_are_two_images_and_no_psnr(figure_of, case, result):
    figure = figure_of(draw_sheet, case._replace(reference=None, preview_name="degraded"), result)
    assert texts(figure) == ["degraded", "restored"]


@pytest.mark.parametrize("shape", [(400, 40, 1), (40, 400, 1), (40, 36, 1), (33, 33, 3)])
def test_titles_do_not_overlap_on_images_of_any_shape(figure_of, case, result, shape):
    image = np.full(shape, 0.5, np.float32)
    problem = case.problem._replace(measurement=jnp.asarray(image), code_image=jnp.asarray(image))
    case = case._replace(
        problem=problem, shape=shape, reference=image + 0.1, preview_name="filtered back-projection"
    )
    figure = figure_of(draw_sheet, case, result._replace(image=image))
    assert texts(figure)[0] == "guide"
    assert len(figure.axes) == 4
    assert_texts_do_not_overlap(figure)


def large(case, result):
    """A case of 160 x 192 pixels that varies in its lower right corner only, and a result with an error there."""
    reference = np.full((160, 192, 3), 0.5, np.float32)
    reference[120:, 152:] = np.random.default_rng(0).uniform(0, 0.8, (40, 40, 3))
    restored = reference.copy()
    restored[130, 170] += 0.2
    problem = case.problem._replace(measurement=jnp.asarray(reference))
    case = case._replace(problem=problem, shape=reference.shape, reference=reference)
    return case, result._replace(image=restored)


def test_a_large_image_has_an_enlarged_detail_where_it_varies_and_an_error_map(
    figure_of, case, result
):
    case, result = large(case, result)
    figure = figure_of(draw_sheet, case, result)
    assert len(figure.axes) == 8
    detail, error = figure.axes[3].images[0].get_array(), figure.axes[6].images[0].get_array()
    np.testing.assert_array_equal(detail, result.image[120:, 140:180])
    box = figure.axes[3].get_window_extent()
    scale = DPI / figure.dpi
    assert (round(scale * box.width), round(scale * box.height)) == (160, 160)  # 4 x 40
    assert np.flatnonzero(error).tolist() == [130 * 192 + 170]
    assert error.max() == pytest.approx(255 * 0.2, rel=1e-5)
    assert any(text.startswith("error, up to ") for text in texts(figure))
    assert_texts_do_not_overlap(figure)


def test_a_large_image_without_a_reference_has_a_detail_and_no_error_map(figure_of, case, result):
    case, result = large(case, result)
    figure = figure_of(draw_sheet, case._replace(reference=None), result)
    assert len(figure.axes) == 4
