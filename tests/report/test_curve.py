"""The figure of loss and PSNR over the steps."""

import numpy as np
from PIL import Image

from dip_jax.report.curve import draw_curve
from tests.report.conftest import assert_texts_do_not_overlap, texts


def lines(figure) -> dict[str, np.ndarray]:
    """The drawn values by label."""
    found = [line for axis in figure.axes for line in axis.lines]
    return {line.get_label(): np.asarray(line.get_ydata()) for line in found}


def test_the_curve_of_a_fit_has_its_loss_psnr_signals_and_estimate(figure_of, case, result):
    figure = figure_of(draw_curve, case, result)
    drawn = lines(figure)
    np.testing.assert_array_equal(drawn["loss"], result.curve["loss"])
    np.testing.assert_array_equal(drawn["output"], result.curve["psnr"])
    np.testing.assert_array_equal(drawn["running average"], result.curve["psnr_average"])
    np.testing.assert_array_equal(drawn["signal of wmv"], result.curve["signal_wmv"])
    assert "estimate: step 12" in drawn
    assert "photo: stopped after 25 steps" in texts(figure)
    assert_texts_do_not_overlap(figure)


def test_without_a_reference_there_is_no_panel_of_psnr(figure_of, case, result):
    nan = np.full_like(result.curve["psnr"], np.nan)
    curve = {**result.curve, "psnr": nan, "psnr_average": nan}
    figure = figure_of(draw_curve, case._replace(reference=None), result._replace(curve=curve))
    assert len(figure.axes) == 1
    assert "PSNR (dB)" not in texts(figure)
    assert_texts_do_not_overlap(figure)


def test_the_curve_of_samples_has_their_mean_and_the_fit_to_compare_with(figure_of, case, sampled):
    figure = figure_of(draw_curve, case, sampled)
    drawn = lines(figure)
    np.testing.assert_array_equal(drawn["mean of the samples"], sampled.curve["psnr_mean"][15:])
    assert {"running average of a fit", "mean of all chains"} <= set(drawn)
    assert not any(label.startswith("estimate: step") for label in drawn)
    one = sampled._replace(network_curves=sampled.network_curves[:1], point_estimate=None)
    drawn = lines(figure_of(draw_curve, case, one))
    assert "estimate" in drawn
    assert "running average of a fit" not in drawn
    assert_texts_do_not_overlap(figure)


def test_all_chains_are_drawn_and_the_burn_in_is_marked(figure_of, case, sampled):
    figure = figure_of(draw_curve, case, sampled)
    for axis in figure.axes:
        (burn_in,) = axis.patches
        assert burn_in.get_label() == "burn-in"
        assert (burn_in.get_x(), burn_in.get_x() + burn_in.get_width()) == (0, 14)
    second = {**sampled.network_curves[1], "psnr": sampled.curve["psnr"] - 3}
    figure = figure_of(draw_curve, case, sampled._replace(network_curves=(sampled.curve, second)))
    ends = [line.get_ydata()[-1] for line in figure.axes[0].lines]
    assert second["psnr"][-1] in ends
    assert len(figure.axes[1].lines) == 2


def test_the_start_of_a_fit_does_not_set_the_limits_of_the_psnr(figure_of, case, result):
    steps = np.arange(1000)
    psnr = np.where(steps < 50, 5 + 0.2 * steps, 27 + steps / 1000)
    curve = {"step": steps, "loss": 1 / (steps + 1), "psnr": psnr - 0.5, "psnr_average": psnr}
    figure = figure_of(draw_curve, case, result._replace(curve=curve, stop_step=900))
    low, high = figure.axes[0].get_ylim()
    assert 26 < low < 26.6
    assert 28 < high < 28.2


def test_a_loss_within_a_decade_has_several_readable_ticks(figure_of, case, result):
    loss = np.linspace(0.011, 0.0095, len(result.curve["step"]))
    curve = {name: values for name, values in result.curve.items() if name != "signal_wmv"}
    figure = figure_of(draw_curve, case, result._replace(curve={**curve, "loss": loss}))
    assert sum(text.startswith("0.0") for text in texts(figure)) >= 3
    assert_texts_do_not_overlap(figure)


def test_a_rule_without_a_signal_yet_is_not_drawn(figure_of, case, result):
    nan = np.full_like(result.curve["signal_wmv"], np.nan)
    curve = {**result.curve, "signal_wmv": nan}
    assert "signal of wmv" not in lines(figure_of(draw_curve, case, result._replace(curve=curve)))


def test_dollars_in_a_name_have_no_meaning(tmp_path, case, result):
    draw_curve(tmp_path / "curve.png", case, result._replace(name="cost $5 \\frac $6"))
    with Image.open(tmp_path / "curve.png") as drawn:
        assert drawn.size == (935, 616)
