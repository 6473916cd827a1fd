"""The files of a posterior."""

import numpy as np
import pytest

from dip_jax.images.read import StoredImage, read_image
from dip_jax.posterior.convergence import diagnose, nested_rhat
from dip_jax.report.manifest import Manifest
from dip_jax.report.posterior import _state, report_posterior


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
    figures = {"std.png", "traces.png", "calibration.png"}
    assert names(tmp_path) == figures | {"std.npy", "interval.npy", "samples"}
    assert names(tmp_path / "samples") == {"0001.png", "0002.png", "0003.png"}
    std, (low, high) = np.load(tmp_path / "std.npy"), np.load(tmp_path / "interval.npy")
    np.testing.assert_array_equal(std, sampled.posterior.std)
    np.testing.assert_allclose((low + high) / 2, sampled.posterior.mean, rtol=1e-5)
    np.testing.assert_allclose((high - low) / 2, 1.6449 * std, rtol=1e-3)
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


@pytest.mark.parametrize("likelihood", ["laplace", "tobit"])
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
    assert names(tmp_path) == {"std.npy", "std.png", "median.png"}
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
    names_of_traces = sampled.posterior.trace_names if word == "samples" else ()
    posterior = sampled.posterior._replace(num_samples=1, trace_names=names_of_traces)
    result = sampled._replace(posterior=posterior)
    summary, (note,) = report_posterior(Manifest(tmp_path), case, result, template, likelihood=None)
    assert summary == {}
    assert note == f"too few {word} for a standard deviation"
    assert names(tmp_path) == set()


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
