"""The files of a posterior."""

import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax.base import PosteriorKind
from dip_jax.clipping import Limits, std_before_clipping
from dip_jax.images.read import StoredImage, read_image
from dip_jax.operators import Bayer, Mask
from dip_jax.posterior.calibration import calibrate, calibrate_scaled
from dip_jax.posterior.convergence import diagnose, nested_rhat
from dip_jax.posterior.prediction import check_prediction
from dip_jax.report.manifest import Manifest
from dip_jax.report.posterior import _state, report_posterior
from dip_jax.tasks.cases import finish_image
from dip_jax.tasks.noise_level import estimate_noise_std, require_noise_std

INTERVAL = ("interval_low.png", "interval_high.png")


@pytest.fixture
def template(case) -> StoredImage:
    return StoredImage(case.reference)


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".dip_jax"}


def test_samples_have_files_of_deviation_interval_traces_and_calibration(
    tmp_path, case, sampled, template
):
    summary, notes = report_posterior(
        Manifest(tmp_path), case, sampled, template, likelihood="gaussian"
    )
    figures = {"std.png", "traces.png", "calibration.png", *INTERVAL}
    assert names(tmp_path) == figures | {"posterior.npz", "samples"}
    assert names(tmp_path / "samples") == {"0001.png", "0002.png", "0003.png"}
    posterior = np.load(tmp_path / "posterior.npz")
    std, low, high = posterior["std"], posterior["low"], posterior["high"]
    np.testing.assert_array_equal(std, sampled.posterior.std)
    np.testing.assert_allclose((low + high) / 2, sampled.posterior.mean, rtol=1e-5)
    np.testing.assert_allclose((high - low) / 2, 1.6449 * std, rtol=1e-3)
    shown = read_image(tmp_path / "interval_low.png").pixels
    np.testing.assert_allclose(shown, low.clip(0, 1), atol=0.5 / 255 + 1e-6)
    assert summary["num_samples"] == 20
    assert summary["num_held_out"] == sampled.held_out.sum()
    assert summary["psnr_point_best"] == 20.0
    assert len(notes) == 2  # not converged, and the check


def test_without_a_reference_samples_are_not_calibrated(tmp_path, case, sampled, template):
    unknown = sampled._replace(point_estimate=None, held_out=None)
    case = case._replace(reference=None)
    summary, notes = report_posterior(
        Manifest(tmp_path), case, unknown, template, likelihood="gaussian"
    )
    assert "calibration.png" not in names(tmp_path)
    assert summary["nll"] is summary["num_held_out"] is None
    assert "psnr_point" not in summary
    assert len(notes) == 1


@pytest.mark.parametrize("likelihood", ["laplace", "interval"])
def test_noise_of_another_distribution_is_not_checked_against_a_normal_prediction(
    tmp_path, case, sampled, template, likelihood
):
    files = Manifest(tmp_path)
    summary, _ = report_posterior(files, case, sampled, template, likelihood=likelihood)
    assert summary["num_held_out"] is None


def test_seeds_have_files_of_deviation_and_median(tmp_path, case, seeds, template):
    summary, notes = report_posterior(
        Manifest(tmp_path), case, seeds, template, likelihood="gaussian"
    )
    assert names(tmp_path) == {"posterior.npz", "std.png", "median.png"}
    median = np.median(seeds.posterior.chain_means, axis=0)
    stored = read_image(tmp_path / "median.png").pixels
    np.testing.assert_allclose(stored, np.clip(median, 0, 1), atol=0.5 / 255 + 1e-6)
    assert summary["num_seeds"] == 3
    assert notes == []


def test_a_chain_that_differs_from_the_others_is_named(tmp_path, case, sampled, template):
    means = 0.5 + 0.01 * np.random.default_rng(0).standard_normal((6, *case.shape))
    traces = np.random.default_rng(1).standard_normal((6, 10, 4))
    posterior = sampled.posterior._replace(chain_means=means, traces=traces)
    files = Manifest(tmp_path)
    result = sampled._replace(posterior=posterior)
    summary, notes = report_posterior(files, case, result, template, likelihood="gaussian")
    assert summary["leave_one_out"] == pytest.approx(0.9, abs=0.01)
    assert summary["outlier_chain"] is None
    assert not any("differs" in note for note in notes)
    means[4] += 0.1
    summary, notes = report_posterior(files, case, result, template, likelihood="gaussian")
    assert summary["outlier_chain"] == 5
    assert any(note.startswith("chain 5 of 6 differs from the others") for note in notes)


def test_chains_that_share_a_start_are_judged_by_the_nested_r_hat(
    tmp_path, case, sampled, template
):
    traces = np.random.default_rng(1).standard_normal((4, 10, 4))
    traces[:2] += 2
    posterior = sampled.posterior._replace(traces=traces, chains_per_start=2)
    result = sampled._replace(posterior=posterior)
    summary, notes = report_posterior(Manifest(tmp_path), case, result, template, likelihood=None)
    assert summary["rhat_max"] == nested_rhat(traces, 2).max()
    assert any("expected a nested R-hat of at most" in note for note in notes)


@pytest.mark.parametrize("word", ["samples", "estimates"])
def test_one_sample_has_no_deviation(tmp_path, case, sampled, template, word):
    kind = PosteriorKind.SAMPLES if word == "samples" else PosteriorKind.SEEDS
    posterior = sampled.posterior._replace(num_samples=1, kind=kind)
    result = sampled._replace(posterior=posterior)
    summary, (note,) = report_posterior(Manifest(tmp_path), case, result, template, likelihood=None)
    assert summary == {}
    assert note == f"too few {word} for a standard deviation"
    assert names(tmp_path) == set()


@pytest.mark.parametrize("kind", [PosteriorKind.BOOTSTRAP, PosteriorKind.LINEARIZED])
def test_intervals_without_chains_have_no_traces_and_state_their_origin(
    tmp_path, case, sampled, template, kind
):
    posterior = sampled.posterior._replace(kind=kind, trace_names=(), num_samples=8)
    result = sampled._replace(posterior=posterior, held_out=None)
    summary, notes = report_posterior(
        Manifest(tmp_path), case, result, template, likelihood="gaussian"
    )
    assert names(tmp_path) == {"posterior.npz", "std.png", "calibration.png", *INTERVAL}
    interval = np.load(tmp_path / "posterior.npz")
    np.testing.assert_allclose(
        interval["high"] - interval["low"], 2 * 1.6448536 * posterior.std, rtol=1e-4
    )
    assert str(interval["state"]).startswith("from 8 ")
    assert summary["intervals"] == kind
    assert (
        summary["coverage_90"]
        == calibrate(posterior.mean, posterior.std, case.reference).coverage_90
    )
    assert "rhat_max" not in summary
    assert notes == []


def test_the_state_of_the_chains_is_a_line_unless_they_have_converged():
    draw = np.random.default_rng(0)
    traces = draw.normal(size=(4, 400, 2))
    assert _state(diagnose(traces, ["x[0,0,0]", "misfit"])) == ""
    assert "single chain" in _state(diagnose(traces[:1], ["x[0,0,0]", "misfit"]))
    apart = traces + 5 * np.arange(4)[:, None, None]
    assert "(R-hat 2." in _state(diagnose(apart, ["x[0,0,0]", "misfit"]))
    assert "too few samples" in _state(diagnose(traces[:, :3], ["x[0,0,0]", "misfit"]))
    assert "too short" in _state(diagnose(traces[:, :60], ["x[0,0,0]", "misfit"]))


def with_monitors(result, **values):
    """The result, with quantities that the sampler states in each step."""
    curves = tuple(
        {**curve, **{name: np.full(len(curve["step"]), value) for name, value in values.items()}}
        for curve in result.network_curves
    )
    return result._replace(curve=curves[0], network_curves=curves)


def test_samples_that_are_too_hot_are_reported(tmp_path, case, sampled, template):
    files = Manifest(tmp_path)
    for temperature, num in ((1.04, 2), (1.1, 3)):
        hot = with_monitors(sampled, temperature=temperature)
        summary, notes = report_posterior(files, case, hot, template, likelihood="gaussian")
        assert summary["temperature"] == pytest.approx(temperature)
        assert len(notes) == num
    assert "too hot: expected a kinetic temperature of 1, got 1.10" in notes[1]


def test_held_out_measurements_are_checked_with_the_sampled_noise_level(
    tmp_path, case, sampled, template
):
    files = Manifest(tmp_path)
    stated, _ = report_posterior(files, case, sampled, template, likelihood="gaussian")
    level = 3 * float(case.problem.noise_std) + 0.1
    told = with_monitors(sampled, noise_std=level)
    summary, _ = report_posterior(files, case, told, template, likelihood="gaussian")
    assert summary["sampled_noise_std"] == pytest.approx(level)
    assert summary["held_out_z_rms"] < stated["held_out_z_rms"]


def clipped(case, sampled, *, noise_std=0.1):
    """A case of 96 x 96 pixels whose noise of 0.1 was clipped at white, and samples of it."""
    draw = np.random.default_rng(0)
    shape = (96, 96, 3)
    reference = np.linspace(0.4, 1, 96 * 96 * 3).reshape(shape).astype(np.float32)
    y = np.clip(reference + 0.1 * draw.standard_normal(shape), 0, 1).astype(np.float32)
    problem = case.problem._replace(measurement=jnp.asarray(y), noise_std=jnp.float32(noise_std))
    mean = (reference - draw.normal(0, 0.03, shape)).astype(np.float32)
    posterior = sampled.posterior._replace(mean=mean, std=np.full(shape, 0.03, np.float32))
    result = sampled._replace(posterior=posterior, held_out=np.ones(shape, bool))
    return case._replace(problem=problem, shape=shape, reference=reference), result


@pytest.mark.parametrize("likelihood", ["gaussian", "tobit"])
def test_the_check_of_clipped_noise_finds_the_error_of_the_mean(
    tmp_path, case, sampled, template, likelihood
):
    case, result = clipped(case, sampled)
    summary, _ = report_posterior(Manifest(tmp_path), case, result, template, likelihood=likelihood)
    y, posterior = np.asarray(case.problem.measurement), result.posterior
    expected = check_prediction(
        posterior.mean, posterior.std, y, np.float32(0.1), result.held_out, Limits(white=True)
    )
    assert summary["held_out_error"] == pytest.approx(expected.error, rel=1e-6)
    assert summary["held_out_error_low"] < 0.03 < summary["held_out_error_high"]


@pytest.mark.parametrize("source", ["stored", "before", "sampled"])
def test_the_check_of_clipped_noise_takes_the_level_before_clipping(
    tmp_path, case, sampled, template, source
):
    case, result = clipped(case, sampled, noise_std=np.nan)
    level = estimate_noise_std(case, before_clipping=True)
    case = require_noise_std(case, before_clipping=source == "before")
    posterior, y = result.posterior, np.asarray(case.problem.measurement)
    if source == "sampled":
        curve = result.curve | {"noise_std": np.full(len(result.curve["step"]), 0.09)}
        result = result._replace(curve=curve, network_curves=(curve,))
        level = std_before_clipping(0.09, posterior.mean, Limits(white=True))
        assert level > 0.095
    summary, _ = report_posterior(Manifest(tmp_path), case, result, template, likelihood="gaussian")
    expected = check_prediction(
        posterior.mean, posterior.std, y, level, result.held_out, Limits(white=True)
    )
    assert summary["held_out_error"] == pytest.approx(expected.error, rel=1e-4)


def with_known_values(case, sampled, operator):
    """A case whose known values are exact, and its result with these values in the image."""
    y = operator(jnp.asarray(case.reference))
    case = case._replace(
        problem=case.problem._replace(operator=operator, measurement=y, noise_std=0)
    )
    raw = sampled.posterior.mean
    return case, sampled._replace(image=finish_image(case, raw)[0], raw=raw, held_out=None)


def mask_of_pixels():
    return Mask(jnp.asarray(np.random.default_rng(5).random((40, 36, 1)) < 0.4, jnp.float32))


@pytest.mark.parametrize("operator", [mask_of_pixels(), Bayer()])
def test_known_values_have_no_interval_and_are_not_calibrated(
    tmp_path, case, sampled, template, operator
):
    case, result = with_known_values(case, sampled, operator)
    summary, _ = report_posterior(Manifest(tmp_path), case, result, template, likelihood="gaussian")
    is_known = result.image != result.raw
    assert 0.3 < is_known.mean() < 0.5
    posterior = np.load(tmp_path / "posterior.npz")
    std, low, high = posterior["std"], posterior["low"], posterior["high"]
    assert (low <= result.image).all()
    assert (result.image <= high).all()
    np.testing.assert_array_equal(low[is_known], case.reference[is_known])
    np.testing.assert_array_equal(std, np.where(is_known, 0, sampled.posterior.std))
    posterior = sampled.posterior
    rows = ~is_known[..., 0] if isinstance(operator, Mask) else ~is_known
    parts = [x[rows] for x in (posterior.mean, posterior.std, case.reference)]
    expected = calibrate(*parts)
    assert summary["coverage_90"] == expected.coverage_90
    assert summary["nll"] == expected.nll
    if isinstance(operator, Mask):
        assert summary["nll_scaled"] == calibrate_scaled(*parts).nll


def test_an_image_whose_values_are_all_known_is_not_calibrated(tmp_path, case, sampled, template):
    case, result = with_known_values(case, sampled, Mask(jnp.ones((40, 36, 1))))
    summary, _ = report_posterior(Manifest(tmp_path), case, result, template, likelihood="gaussian")
    assert summary["nll"] is summary["coverage_90_scaled"] is None
    assert not np.load(tmp_path / "posterior.npz")["std"].any()
    assert "calibration.png" not in names(tmp_path)
