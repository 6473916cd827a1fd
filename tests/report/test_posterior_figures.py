"""The figures of a standard deviation, of traces and of calibration."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from scipy import stats

from dip_jax.base import Posterior
from dip_jax.posterior.calibration import calibrate, calibrate_scaled
from dip_jax.posterior.convergence import diagnose
from dip_jax.report.posterior_figures import draw_calibration, draw_std, draw_traces
from tests.report.conftest import assert_texts_do_not_overlap, random, texts

NAMES = (*(f"x[{i},{i + 1},{i % 3}]" for i in range(11)), "misfit")


def independent() -> np.ndarray:
    return random().normal(0.5, 0.01, (4, 300, 12))


def posterior_of(traces, names) -> Posterior:
    mean = random(3).uniform(size=(24, 20, 3)).astype(np.float32)
    num_samples = traces.shape[0] * traces.shape[1]
    chains = np.stack([mean] * len(traces))
    return Posterior(mean, 0.1 * mean, chains, num_samples, traces, names, mean[:0][None][:0])


def gaussian_problem(shape=(30, 30, 3)):
    """A true image drawn from N(mean, std^2), pixel by pixel."""
    draw = random(2)
    mean, std = draw.uniform(0, 1, shape), draw.gamma(4, 0.01, shape) + 0.005
    return mean, std, draw.normal(mean, std)


def test_the_deviation_is_drawn_pixel_for_pixel(tmp_path):
    std = random().gamma(3, 0.01, (40, 50, 3))
    draw_std(tmp_path / "std.png", std)
    with Image.open(tmp_path / "std.png") as image:
        drawn = np.asarray(image.convert("RGB")).astype(int)
    zoom = 8  # 400 / 50
    panel = drawn[30 : 30 + 40 * zoom, 10 : 10 + 50 * zoom]
    middle = panel[zoom // 2 :: zoom, zoom // 2 :: zoom]
    np.testing.assert_array_equal(panel, middle.repeat(zoom, 0).repeat(zoom, 1))
    # A larger deviation is brighter, except for the few above the scale.
    level, light = np.sqrt(np.mean(std**2, axis=-1)), middle.sum(axis=-1)
    assert stats.spearmanr(level.ravel(), light.ravel()).statistic > 0.999


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_constant_or_unknown_deviation_is_drawn(tmp_path, value):
    draw_std(tmp_path / "std.png", np.full((7, 9, 1), value))
    with Image.open(tmp_path / "std.png") as drawn:
        panel = np.asarray(drawn.convert("RGB"))[40:300, 20:380]  # well inside 7 x 9 large pixels
    np.testing.assert_array_equal(panel, np.broadcast_to(panel[0, 0], panel.shape))


@pytest.mark.parametrize("shape", [(40, 50, 3), (400, 40, 1), (40, 400, 1)])
def test_the_deviation_has_its_root_mean_square_in_gray_levels(figure_of, shape):
    figure = figure_of(draw_std, np.full(shape, 10 / 255))
    assert {"standard deviation (RMS 10.0 gray levels)", "gray levels (of 255)"} <= set(
        texts(figure)
    )
    assert_texts_do_not_overlap(figure)


def test_the_deviation_states_that_the_chains_have_not_converged(figure_of):
    state = "the chains have not converged (R-hat 1.50): a lower bound"
    figure = figure_of(draw_std, np.full((40, 50, 3), 10 / 255), state=state)
    assert state in texts(figure)
    assert_texts_do_not_overlap(figure)


@pytest.mark.parametrize(
    "traces",
    [independent(), independent()[:1, :3], independent()[..., :0]],
    ids=["some", "few", "none"],
)
def test_traces_are_drawn(tmp_path, figure_of, traces):
    names = NAMES[: traces.shape[2]]
    posterior, diagnosis = posterior_of(traces, names), diagnose(traces, names)
    draw_traces(tmp_path / "traces.png", posterior, diagnosis)
    with Image.open(tmp_path / "traces.png") as image:
        assert image.width == 880
    assert len(list(tmp_path.iterdir())) == 1
    assert_texts_do_not_overlap(figure_of(draw_traces, posterior, diagnosis))


def test_the_traces_are_those_of_the_pixels_with_extreme_r_hat_and_of_the_summaries(figure_of):
    traces = independent()
    traces[2, :, 3] += 0.03
    diagnosis = diagnose(traces, NAMES)
    smallest = int(np.argmin(diagnosis.rhat[:11]))
    figure = figure_of(draw_traces, posterior_of(traces, NAMES), diagnosis)
    assert len(figure.axes) == 3
    for axis, index in zip(figure.axes, (3, smallest, 11), strict=True):
        for chain, line in enumerate(axis.lines):
            np.testing.assert_array_equal(line.get_ydata(), traces[chain, :, index])
    titles = [axis.get_title(loc="left") for axis in figure.axes]
    assert titles[0].startswith("row 3, column 4, channel 0 (largest R-hat): R-hat ")
    assert "(smallest R-hat)" in titles[1]
    assert titles[2].startswith("misfit: R-hat ")
    words = texts(figure)
    assert diagnosis.message in " ".join(word.replace("\n", " ") for word in words)
    assert [f"chain {i}" in words for i in range(1, 6)] == [True] * 4 + [False]


def test_calibration_is_drawn_before_and_after_scaling(tmp_path):
    mean, std, truth = gaussian_problem()
    before = calibrate(mean, 0.5 * std, truth)
    after = calibrate_scaled(mean, 0.5 * std, truth, seed=1)
    draw_calibration(tmp_path / "one.png", before, None)
    draw_calibration(tmp_path / "both.png", before, after)
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "both.png") as both:
        assert one.size == both.size
        assert np.any(np.asarray(one) != np.asarray(both))


def test_the_panels_of_the_calibration_have_their_numbers_and_units(figure_of):
    mean, std, truth = gaussian_problem()
    before = calibrate(mean, 0.5 * std, truth)
    after = calibrate_scaled(mean, 0.5 * std, truth, seed=1)
    figure = figure_of(draw_calibration, before, after)
    words = set(texts(figure))
    assert f"as predicted: {before.coverage_90:.3f} at 0.9" in words
    assert f"scaled by {after.applied_scale:.2f}: {after.coverage_90:.3f} at 0.9" in words
    assert f"Sparsification (AUSE {before.ause:.3f})" in words
    assert f"as predicted: UCE {255**2 * before.uce:.1f} squared gray levels" in words
    assert {"RMSE (gray levels)", "predicted standard deviation (gray levels)"} <= words
    assert_texts_do_not_overlap(figure)


def test_bins_of_few_values_are_not_joined(figure_of):
    mean, std, truth = gaussian_problem()
    std.flat[:4] = np.linspace(0.3, 0.6, 4)  # in bins of their own, of one value in 2700 each
    calibration = calibrate(mean, std, truth)
    figure = figure_of(draw_calibration, calibration, None)
    axis = figure.axes[2]
    joined = axis.lines[0]
    is_common = calibration.bin_fraction >= 0.005
    assert 1 <= is_common.sum() < (calibration.bin_fraction > 0).sum()
    expected = 255 * np.sqrt(calibration.bin_variance[is_common])
    np.testing.assert_allclose(joined.get_xdata(), expected)
    assert axis.get_xlim()[1] < 255 * 0.3


def test_the_titles_of_the_calibration_are_level(figure_of):
    mean, std, truth = gaussian_problem()
    figure = figure_of(draw_calibration, calibrate(mean, std, truth), None)
    FigureCanvasAgg(figure).draw()
    tops = [axis.title.get_window_extent().y0 for axis in figure.axes]
    assert np.ptp(tops) < 0.5
