"""Diagnostics and figures of a posterior, against closed forms, scipy and loops."""

import json
import math

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from dip_jax.base import Posterior
from dip_jax.images.atomic import write_array
from dip_jax.posterior.calibration import STD_FLOOR, calibrate, calibrate_scaled, fit_scale
from dip_jax.posterior.convergence import ESS_PER_CHAIN, RHAT_LIMIT, diagnose
from dip_jax.posterior.prediction import check_prediction
from dip_jax.report.posterior_figures import draw_calibration, draw_std, draw_traces
from dip_jax.report.summary import posterior_summary

# One shape for all traces, so that they are compiled once.
CHAINS, SAMPLES, NUM = 4, 300, 12
NAMES = (*(f"x[{i},{i + 1},{i % 3}]" for i in range(NUM - 1)), "misfit")


def random(seed=0):
    return np.random.default_rng(seed)


def independent():
    return random().normal(0.5, 0.01, (CHAINS, SAMPLES, NUM))


def autoregressive(a, shape):
    """Chains x_t = a x_(t-1) + (1 - a^2)^(1/2) e_t, normal with variance 1."""
    noise = random(1).normal(size=shape)
    traces = noise.copy()
    for t in range(1, shape[1]):
        traces[:, t] = a * traces[:, t - 1] + math.sqrt(1 - a**2) * noise[:, t]
    return traces


def textbook_rhat(trace):
    """Vehtari et al. 2021, section 4, of one quantity `[M, S]`."""
    half = trace.shape[1] // 2
    halves = np.concatenate([trace[:, :half], trace[:, half : 2 * half]])

    def of(values):
        ranks = stats.rankdata(values.ravel()).reshape(values.shape)
        z = stats.norm.ppf((ranks - 3 / 8) / (values.size + 1 / 4))
        within = z.var(axis=1, ddof=1).mean()
        between = half * z.mean(axis=1).var(ddof=1)
        return math.sqrt(((half - 1) / half * within + between / half) / within)

    return max(of(halves), of(np.abs(halves - np.median(halves))))


def gaussian_problem(shape=(96, 96, 3)):
    """A true image drawn from N(mean, std^2), pixel by pixel."""
    draw = random(2)
    mean = draw.uniform(0, 1, shape)
    std = draw.gamma(4, 0.01, shape) + 0.005
    return mean, std, draw.normal(mean, std)


def posterior_of(traces, names=NAMES, shape=(24, 20, 3)):
    mean = random(3).uniform(size=shape).astype(np.float32)
    chains = np.stack([mean] * len(traces))
    num = traces.shape[0] * traces.shape[1]
    return Posterior(mean, 0.1 * mean, chains, num, traces, names, np.zeros((0, *shape)))


# Have the chains mixed?


def test_independent_samples_count_as_converged():
    found = diagnose(independent(), NAMES)
    assert found.converged
    # The worst of twelve; 1.01 is what one quantity may have.
    assert found.rhat_max < 1.02
    # An estimate of 1200 from 1200 samples has an error of about a tenth; k = 5 for twelve quantities' mean.
    assert found.ess_bulk.mean() == pytest.approx(CHAINS * SAMPLES, rel=0.15)
    assert found.ess_min == min(found.ess_bulk.min(), found.ess_tail.min())
    assert found.sentence.startswith("converged: R-hat is 1.0")


def test_r_hat_is_that_of_the_textbook_also_for_chains_that_disagree():
    traces = independent()
    traces[2, :, 3] += 0.03  # another mean
    traces[0, :, 5] = 0.5 + 4 * (traces[0, :, 5] - 0.5)  # another spread
    traces[:, :, 7] += np.linspace(0, 0.05, SAMPLES)  # a drift
    found = diagnose(traces, NAMES)
    expected = [textbook_rhat(traces[..., q]) for q in range(NUM)]
    # In float32 a few values tie once they are folded at the median.
    np.testing.assert_allclose(found.rhat, expected, rtol=2e-4)
    assert min(found.rhat[[3, 5, 7]]) > 1.1
    assert not found.converged
    worst = int(np.argmax(expected))
    assert (
        f"R-hat is {found.rhat_max:.2f} (row {worst}, column {worst + 1}, channel {worst % 3})"
        in found.sentence
    )
    assert f"{RHAT_LIMIT} at most is wanted" in found.sentence


def test_a_spread_below_a_step_of_float32_is_still_told():
    traces = independent()
    traces[..., -1] = 1 + 1e-8 * (traces[..., -1] - 0.5) / 0.01
    traces[0, :, -1] += 2e-8
    found = diagnose(traces, NAMES)
    assert found.rhat[-1] == pytest.approx(textbook_rhat(traces[..., -1]), rel=2e-4)
    assert found.rhat[-1] > 1.1


@pytest.mark.parametrize("a", [0.5, -0.3])
def test_the_effective_size_of_an_autoregressive_chain_is_its_closed_form(a):
    traces = autoregressive(a, (CHAINS, SAMPLES, NUM))
    found = diagnose(traces, NAMES)
    # The estimate's relative error is about (4 lag / n)^(1/2) = 0.2 with 10 lags, a quarter of that for the mean
    # of twelve, and halves of 150 make it a few percent too small.
    expected = CHAINS * SAMPLES * (1 - a) / (1 + a)
    assert found.ess_bulk.mean() == pytest.approx(expected, rel=0.2)


def test_slow_chains_that_agree_are_called_too_short():
    traces = autoregressive(0.7, (CHAINS, SAMPLES, NUM))
    found = diagnose(traces, NAMES)
    assert found.rhat_max <= RHAT_LIMIT
    assert not found.converged
    assert found.sentence.startswith("too short: the effective sample size is")
    assert f"{CHAINS * ESS_PER_CHAIN} at least is wanted" in found.sentence


def test_a_frozen_chain_is_named():
    traces = independent()
    traces[1] = traces[1, :1]
    found = diagnose(traces, NAMES)
    assert not found.converged
    assert found.rhat_max == math.inf
    assert found.ess_min == 0
    assert found.sentence.startswith("not converged: chain 2 of 4 does not move;")
    traces[3] = traces[3, :1]
    assert "chains 2 and 4 of 4 do not move;" in diagnose(traces, NAMES).sentence


def test_a_quantity_that_stands_still_is_named_and_spoils_no_other():
    traces = independent()
    traces[0, :, 4] = 0.25
    found = diagnose(traces, NAMES)
    assert "chain 1 of 4 does not move at row 4, column 5, channel 1" in found.sentence
    assert np.isinf(found.rhat).tolist() == [q == 4 for q in range(NUM)]
    assert found.ess_bulk[4] == found.ess_tail[4] == 0
    others = np.delete(np.arange(NUM), 4)
    clean = diagnose(independent(), NAMES)
    np.testing.assert_array_equal(found.rhat[others], clean.rhat[others])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_no_number_is_named_and_spoils_no_other(value):
    traces = independent()
    traces[2, 100, NUM - 1] = value
    found = diagnose(traces, NAMES)
    assert not found.converged
    assert "chain 3 of 4 is not finite at misfit" in found.sentence
    assert np.isinf(found.rhat).tolist() == [q == NUM - 1 for q in range(NUM)]
    assert found.ess_min == 0


def test_one_chain_is_compared_with_itself_and_says_so():
    found = diagnose(independent()[:1], NAMES)
    assert found.converged
    assert found.sentence.endswith("what others would have found is unknown")
    # Steadily rising: its halves disagree.
    drifting = independent()[:1] + np.linspace(0, 0.1, SAMPLES)[:, np.newaxis]
    assert diagnose(drifting, NAMES).rhat_max > 1.5
    frozen = np.broadcast_to(independent()[:1, :1], (1, SAMPLES, NUM))
    assert "the only chain does not move" in diagnose(frozen, NAMES).sentence


def test_too_few_samples_are_not_judged():
    found = diagnose(independent()[:, :3], NAMES)
    assert not found.converged
    assert math.isnan(found.rhat_max)
    assert "too few samples to tell" in found.sentence
    found = diagnose(independent()[..., :0], ())
    assert not found.converged
    assert "nothing was traced" in found.sentence


def test_traces_without_their_names_are_refused():
    with pytest.raises(ValueError, match="names"):
        diagnose(independent(), NAMES[1:])


# Have the errors the size that is predicted?


def test_the_intervals_of_a_gaussian_problem_cover_what_they_say():
    mean, std, truth = gaussian_problem()
    found = calibrate(mean, std, truth)
    # 27648 independent values: k = 5 standard errors of at most 0.5 / 166.
    np.testing.assert_allclose(found.coverage, found.levels, atol=0.016)
    assert found.coverage_90 == pytest.approx(0.9, abs=0.01)
    assert found.coverage_90 == found.coverage[np.argmin(abs(found.levels - 0.9))]
    assert found.width_90 == pytest.approx(2 * 1.6448536 * std.mean(), rel=1e-6)
    assert found.scale == pytest.approx(1, abs=0.022)


@pytest.mark.parametrize("factor", [0.5, 2])
def test_scaling_mends_a_deviation_that_is_wrong_by_a_factor(factor):
    mean, std, truth = gaussian_problem()
    wrong = calibrate(mean, factor * std, truth)
    expected = 2 * stats.norm.cdf(factor * stats.norm.ppf(0.95)) - 1
    assert wrong.coverage_90 == pytest.approx(expected, abs=0.016)
    mended = calibrate_scaled(mean, factor * std, truth)
    assert mended.coverage_90 == pytest.approx(0.9, abs=0.02)
    assert mended.applied_scale == pytest.approx(1 / factor, rel=0.03)
    assert mended.scale == pytest.approx(1, abs=0.03)
    assert mended.nll < wrong.nll
    assert mended.uce < wrong.uce


def test_the_scale_makes_the_likelihood_largest():
    mean, std, truth = gaussian_problem((20, 20, 1))
    best = fit_scale(mean, std, truth)
    assert best == calibrate(mean, std, truth).scale

    def likelihood(s):
        return stats.norm.logpdf(truth, mean, s * std).mean()

    assert likelihood(best) > max(likelihood(0.99 * best), likelihood(1.01 * best))


def test_the_scale_is_fitted_to_one_half_and_judged_on_the_other():
    mean, std, truth = gaussian_problem((10, 11, 3))
    found = calibrate_scaled(mean, std, truth)
    order = random(0).permutation(110)
    fitted, judged = (
        [array.reshape(110, 3)[half] for array in (mean, std, truth)]
        for half in (order[:55], order[55:])
    )
    assert found.applied_scale == fit_scale(*fitted)
    assert found.nll == calibrate(judged[0], found.applied_scale * judged[1], judged[2]).nll


def test_the_negative_log_likelihood_is_that_of_scipy_with_small_deviations_raised():
    mean, std, truth = gaussian_problem((20, 20, 3))
    std[:3] = 0
    floored = np.maximum(std, STD_FLOOR)
    expected = -stats.norm.logpdf(truth, mean, floored).mean()
    assert calibrate(mean, std, truth).nll == pytest.approx(expected, rel=1e-9)


def test_the_uncertainty_calibration_error_is_that_of_a_loop():
    mean, std, truth = gaussian_problem((30, 30, 3))
    variance, squared = (0.7 * std.ravel()) ** 2, (truth - mean).ravel() ** 2
    edges = np.linspace(variance.min(), variance.max(), 16)
    expected, shares = 0.0, []
    for i in range(15):
        inside = (variance >= edges[i]) & (variance < edges[i + 1])
        if i == 14:
            inside |= variance == edges[15]
        shares.append(inside.mean())
        if inside.any():
            expected += inside.mean() * abs(variance[inside].mean() - squared[inside].mean())
    found = calibrate(mean, 0.7 * std, truth)
    assert found.uce == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(found.bin_fraction, shares, atol=1e-12)


def test_the_sparsification_area_is_0_for_the_right_order_and_grows_with_disorder():
    mean, std, truth = gaussian_problem((40, 40, 3))
    error = np.abs(truth - mean)
    assert calibrate(mean, 3 * error, truth).ause == 0
    informed = calibrate(mean, std, truth)
    shuffled = calibrate(mean, random(4).permutation(std.ravel()).reshape(std.shape), truth)
    assert 0 < informed.ause < 0.8 * shuffled.ause
    # Leaving out a third by hand.
    place = int(np.argmin(abs(informed.removed - 0.33)))
    left = np.sort(error.ravel())[: round(0.67 * error.size)]
    expected = np.sqrt(np.mean(left**2) / np.mean(error**2))
    assert informed.rmse_by_error[place] == pytest.approx(expected, rel=1e-9)
    assert informed.rmse_by_std[0] == pytest.approx(1) == informed.rmse_by_error[0]


def test_equal_deviations_leave_in_no_order_of_rows():
    truth = np.zeros((40, 40, 1))
    mean = np.concatenate([np.full((20, 40, 1), 0.2), np.full((20, 40, 1), 0.01)])
    found = calibrate(mean, np.full((40, 40, 1), 0.1), truth)
    # Random removal leaves the error as it is; 16 values are left at the end.
    np.testing.assert_allclose(found.rmse_by_std[:80], 1, atol=0.15)


def test_what_is_not_finite_gives_no_figures():
    mean, std, truth = gaussian_problem((8, 8, 1))
    std[3, 3] = np.nan
    found = calibrate(mean, std, truth)
    assert np.isnan([found.nll, found.uce, found.ause, found.scale, found.coverage_90]).all()
    assert (
        calibrate(truth, np.zeros_like(truth), truth).ause == 0
    )  # nothing is wrong, nothing predicted
    with pytest.raises(ValueError, match="one shape"):
        calibrate(mean[:4], std, truth)


# Held-out measurements.


def held_out_problem(dtype=float):
    draw = random(5)
    shape = (80, 80, 3)
    std = draw.uniform(0.01, 0.05, shape)
    noise_std = 0.1
    total = np.sqrt(std**2 + noise_std**2)
    mean = draw.uniform(0, 1, shape).astype(dtype)
    noise = draw.normal(size=shape)
    if dtype is complex:
        noise = (noise + 1j * draw.normal(size=shape)) / math.sqrt(2)
    return mean, std, mean + total * noise, noise_std, draw.random(shape) < 0.3


@pytest.mark.parametrize("dtype", [float, complex])
def test_held_out_measurements_confirm_a_right_prediction(dtype):
    mean, std, measurement, noise_std, held = held_out_problem(dtype)
    measurement[~held] = 1e6  # what was fitted does not count
    found = check_prediction(mean, std, measurement, noise_std, held)
    assert found.num_held == held.sum()
    # About 5800 values: k = 5 standard errors of (2 n)^(-1/2), and of 0.3 n^(-1/2).
    assert found.z_rms == pytest.approx(1, abs=0.047)
    assert found.coverage_90 == pytest.approx(0.9, abs=0.02)
    assert f"at {held.sum()} held-out measurements are as large as predicted;" in found.sentence


@pytest.mark.parametrize(("factor", "words"), [(3.0, "too large"), (0.3, "too small")])
def test_held_out_measurements_show_a_wrong_prediction(factor, words):
    mean, std, measurement, noise_std, held = held_out_problem()
    found = check_prediction(mean, factor * std, measurement, factor * noise_std, held)
    assert found.z_rms == pytest.approx(1 / factor, rel=0.05)
    assert words in found.sentence
    total = factor * np.sqrt(std**2 + noise_std**2)
    expected = -stats.norm.logpdf(measurement, mean, total)[held].mean()
    assert found.nll == pytest.approx(expected, rel=1e-9)


def test_without_held_out_measurements_or_a_noise_level_nothing_is_checked():
    mean, std, measurement, noise_std, held = held_out_problem()
    none = check_prediction(mean, std, measurement, noise_std, np.zeros_like(held))
    assert none.num_held == 0
    assert math.isnan(none.z_rms)
    assert "no measurement was held out" in none.sentence
    unknown = check_prediction(mean, std, measurement, math.nan, held[..., :1])
    assert "noise level is unknown" in unknown.sentence


# What is left on disk.


def test_an_array_comes_back_as_it_was_and_a_failure_leaves_nothing(tmp_path):
    std = random().normal(size=(5, 6, 3)).astype(np.float32)
    write_array(tmp_path / "std.npy", std)
    loaded = np.load(tmp_path / "std.npy")
    assert loaded.dtype == std.dtype
    np.testing.assert_array_equal(loaded, std)
    (tmp_path / "taken.npy").mkdir()
    with pytest.raises(OSError):  # noqa: PT011  which one is the system's affair
        write_array(tmp_path / "taken.npy", std)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["std.npy", "taken.npy"]


def test_the_deviation_is_drawn_pixel_for_pixel(tmp_path):
    std = random().gamma(3, 0.01, (40, 50, 3))
    draw_std(tmp_path / "std.png", std)
    with Image.open(tmp_path / "std.png") as picture:
        drawn = np.asarray(picture.convert("RGB")).astype(int)
    zoom = 8  # 400 / 50
    panel = drawn[30 : 30 + 40 * zoom, 10 : 10 + 50 * zoom]
    middle = panel[zoom // 2 :: zoom, zoom // 2 :: zoom]
    np.testing.assert_array_equal(panel, middle.repeat(zoom, 0).repeat(zoom, 1))
    # A larger deviation is brighter, but for the few beyond the scale.
    level, light = np.sqrt(np.mean(std**2, axis=-1)), middle.sum(axis=-1)
    assert stats.spearmanr(level.ravel(), light.ravel()).statistic > 0.999


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_deviation_of_nothing_is_drawn_too(tmp_path, value):
    draw_std(tmp_path / "std.png", np.full((7, 9, 1), value))
    with Image.open(tmp_path / "std.png") as drawn:
        panel = np.asarray(drawn.convert("RGB"))[40:300, 20:380]  # well inside 7 x 9 large pixels
    np.testing.assert_array_equal(panel, np.broadcast_to(panel[0, 0], panel.shape))


@pytest.mark.parametrize(
    "traces",
    [independent(), independent()[:1, :3], independent()[..., :0]],
    ids=["some", "few", "none"],
)
def test_traces_are_drawn(tmp_path, traces):
    names = NAMES[: traces.shape[2]]
    posterior = posterior_of(traces, names)
    draw_traces(tmp_path / "traces.png", posterior, diagnose(traces, names))
    with Image.open(tmp_path / "traces.png") as picture:
        assert picture.width == 880
    assert len(list(tmp_path.iterdir())) == 1


def test_calibration_is_drawn_before_and_after_scaling(tmp_path):
    mean, std, truth = gaussian_problem((30, 30, 3))
    before = calibrate(mean, 0.5 * std, truth)
    draw_calibration(tmp_path / "one.png", before, None)
    draw_calibration(
        tmp_path / "both.png", before, calibrate_scaled(mean, 0.5 * std, truth, seed=1)
    )
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "both.png") as both:
        assert one.size == both.size
        assert np.any(np.asarray(one) != np.asarray(both))


def test_the_summary_is_json_and_has_the_figures_of_each_part():
    mean, std, truth = gaussian_problem((30, 30, 3))
    traces = independent()
    posterior, diagnosis = posterior_of(traces), diagnose(traces, NAMES)
    plain, scaled = calibrate(mean, 0.5 * std, truth), calibrate_scaled(mean, 0.5 * std, truth)
    check = check_prediction(mean, std, truth, 0.0, np.ones(mean.shape, bool))
    summary = posterior_summary(posterior, diagnosis, plain, scaled, check)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["num_samples"] == CHAINS * SAMPLES
    assert summary["num_chains"] == CHAINS
    assert summary["rhat_max"] == diagnosis.rhat_max
    assert summary["converged"] is True
    assert summary["nll_scaled"] == scaled.nll
    assert summary["std_scale"] == scaled.applied_scale
    assert summary["coverage_90"] == plain.coverage_90
    assert summary["held_out_z_rms"] == check.z_rms


def test_a_summary_of_little_has_the_same_fields_without_values():
    traces = independent()
    traces[0] = traces[0, :1]
    diagnosis = diagnose(traces, NAMES)
    summary = posterior_summary(posterior_of(traces), diagnosis, None, None, None)
    json.dumps(summary, allow_nan=False)
    assert summary["rhat_max"] is None
    assert summary["converged"] is False
    assert summary["nll"] is summary["coverage_90_scaled"] is summary["num_held"] is None
