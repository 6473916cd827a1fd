"""The numbers of a summary, against the result that they describe."""

import json
import types
import typing

import numpy as np
import pytest

from dip_jax.base import Status
from dip_jax.metrics import psnr_on_host
from dip_jax.posterior.calibration import calibrate, calibrate_scaled
from dip_jax.posterior.convergence import diagnose
from dip_jax.posterior.law import law_of
from dip_jax.posterior.leave_one_out import leave_one_out
from dip_jax.posterior.prediction import check_prediction
from dip_jax.presets import build_config
from dip_jax.report.summarize import (
    error_summary,
    failure_summary,
    point_summary,
    posterior_summary,
    seeds_summary,
    summarize,
)
from dip_jax.report.summary import PosteriorSummary, Summary

FIT = build_config("denoise_single")
SGLD = build_config(overrides=["fit.method=sgld"])


def has_type(value, hint) -> bool:
    """Whether a JSON value has the type that the schema states."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(has_type(value, arg) for arg in args)
    if origin is typing.NotRequired:
        return has_type(value, args[0])
    if origin is list:
        return isinstance(value, list) and all(has_type(item, args[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(has_type(v, args[1]) for v in value.values())
    if typing.is_typeddict(hint):
        hints = typing.get_type_hints(hint)
        return set(value) == set(hints) and all(has_type(value[k], hints[k]) for k in hints)
    return type(value) is hint


def assert_fits_the_schema(summary):
    hints = typing.get_type_hints(Summary)
    assert summary.keys() >= Summary.__required_keys__
    for key, value in summary.items():
        assert has_type(value, hints[key]), f"{key}: {value!r} is not {hints[key]}"
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_a_failed_image_has_exactly_the_keys_of_a_finished_one(case, result):
    finished = summarize(case, result, FIT)
    failed = failure_summary("photo", FIT, "out of memory")
    assert list(failed) == list(finished)
    assert set(failed) == Summary.__required_keys__
    assert_fits_the_schema(failed)
    assert_fits_the_schema(finished)
    assert failed["status"] is Status.FAILED
    assert failed["error"] == "out of memory"
    assert failed["stops"] == {}
    assert failed["num_steps"] is failed["psnr"] is failed["seconds"] is None
    same = ("name", "task", "method", "seed", "device", "versions")
    assert {key: failed[key] for key in same} == {key: finished[key] for key in same}
    interrupted = failure_summary("photo", FIT, "again", status=Status.INTERRUPTED)
    assert interrupted["status"] is Status.INTERRUPTED


def test_each_psnr_is_that_of_its_image(case, result):
    summary = summarize(case, result, FIT, digest="abc", notes=["of the posterior"])
    measurement = np.asarray(case.problem.measurement)
    assert summary["psnr"] == psnr_on_host(result.image, case.reference)
    assert summary["psnr_raw"] == psnr_on_host(result.raw, case.reference)
    assert summary["psnr_measurement"] == psnr_on_host(measurement, case.reference)
    assert 0.5 < summary["ssim"] < 1
    assert summary["psnr_best"] == 20.0
    assert summary["best_step"] == 15
    assert summary["loss"] == result.curve["loss"][-1]
    assert summary["seconds_per_step"] == 5.0 / 25
    assert summary["digest"] == "abc"
    assert summary["notes"] == ["of the case", "of the result", "of the posterior"]


def test_each_stopping_rule_has_its_step_and_its_gap_to_the_best(case, result):
    stops = summarize(case, result, FIT)["stops"]
    assert list(stops) == ["wmv", "emv"]
    assert stops["wmv"]["fired"]
    assert not stops["emv"]["fired"]
    for rule, step in (("wmv", 12), ("emv", 24)):
        assert stops[rule]["estimate_step"] == step
        assert stops[rule]["psnr"] == result.curve["psnr_average"][step]
        assert stops[rule]["gap"] == pytest.approx(0.01 * (step - 15) ** 2, abs=1e-5)


def test_without_a_reference_nothing_is_measured(case, result):
    nan = np.full_like(result.curve["psnr"], np.nan)
    curve = {**result.curve, "psnr": nan, "psnr_average": nan}
    summary = summarize(case._replace(reference=None), result._replace(curve=curve), FIT)
    assert_fits_the_schema(summary)
    measured = ("psnr", "ssim", "psnr_raw", "psnr_measurement", "psnr_best", "best_step")
    assert all(summary[key] is None for key in measured)
    assert summary["stops"]["wmv"]["psnr"] is summary["stops"]["wmv"]["gap"] is None


def test_a_perfect_image_and_one_of_nans_are_json_too(case, result):
    for image in (case.reference, np.full_like(case.reference, np.nan)):
        losses = np.full_like(result.curve["loss"], np.nan)
        ended = result._replace(image=image, raw=image, curve={**result.curve, "loss": losses})
        summary = summarize(case, ended, FIT)
        assert_fits_the_schema(summary)
        assert summary["psnr"] is summary["loss"] is None


def test_a_run_that_was_interrupted_before_its_first_step_has_a_summary(case, result):
    curve = {name: values[:0] for name, values in result.curve.items()}
    summary = summarize(case, result._replace(curve=curve, num_steps=0, stops={}), FIT)
    assert_fits_the_schema(summary)
    assert summary["loss"] is summary["psnr_best"] is None


def test_the_best_step_of_one_chain_is_that_of_the_mean_of_its_samples(case, sampled):
    one = sampled._replace(network_curves=(sampled.curve,))
    summary = summarize(case, one, SGLD)
    assert (summary["psnr_best"], summary["best_step"]) == (24.0, 15)
    assert summary["stops"] == {}
    several = summarize(case, sampled, SGLD)
    assert several["psnr_best"] is several["best_step"] is None
    assert several["seconds_per_step"] == 5.0 / 50


def parts_of(case, result):
    posterior, reference = result.posterior, case.reference
    return (
        posterior,
        diagnose(posterior.traces, posterior.trace_names),
        calibrate(posterior.mean, 0.5 * posterior.std, reference),
        calibrate_scaled(posterior.mean, 0.5 * posterior.std, reference),
        check_prediction(posterior.mean, posterior.std, reference, 0.0, result.held_out),
        law_of(result.network_curves),
    )


def keys_of(posterior, diagnosis, plain, scaled, *others):
    """The keys of samples and of their errors."""
    of_samples = posterior_summary(posterior, diagnosis, *others)
    return {**of_samples, **error_summary(posterior, plain, scaled)}


def test_the_keys_of_samples_and_of_seeds_are_those_of_the_schema(case, sampled, seeds):
    parts = keys_of(*parts_of(case, sampled)), point_summary(sampled)
    median = np.median(seeds.posterior.chain_means, axis=0)
    of_seeds = seeds_summary(seeds.posterior, median, case.reference)
    found = [key for part in (*parts, of_seeds) for key in part]
    assert set(found) == set(PosteriorSummary.__annotations__)
    shared = {"std_mean", "intervals"}
    assert sorted(set(found) - shared) == sorted(key for key in found if key not in shared)
    for result, config, keys in ((sampled, SGLD, parts[0] | parts[1]), (seeds, FIT, of_seeds)):
        summary = summarize(case, result, config, posterior=keys)
        assert_fits_the_schema(summary)
        assert set(summary) == Summary.__required_keys__ | set(keys)


def test_the_summary_of_samples_has_the_numbers_of_each_part(case, sampled):
    posterior, diagnosis, plain, scaled, check, law = parts_of(case, sampled)
    summary = keys_of(posterior, diagnosis, plain, scaled, check, law)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["num_samples"] == 20
    assert summary["num_chains"] == 2
    assert summary["rhat_max"] == diagnosis.rhat_max
    assert summary["ess_min"] == diagnosis.ess_min
    assert summary["converged"] is diagnosis.converged is False
    assert summary["std_mean"] == pytest.approx(0.05, rel=0.05)
    traces = np.random.default_rng(0).normal(0.5, 0.01, (4, 300, 12))
    mixed = diagnose(traces, [str(i) for i in range(12)])
    assert keys_of(posterior, mixed, None, None, None, law)["converged"] is True
    assert summary["nll_scaled"] == scaled.nll
    assert summary["std_scale"] == scaled.applied_scale
    assert summary["coverage_90"] == plain.coverage_90
    assert summary["num_held_out"] == sampled.held_out.sum()
    assert summary["held_out_z_rms"] == check.z_rms
    assert summary["temperature"] is summary["sampled_noise_std"] is None
    stated = law._replace(temperature=1.5, virial=0.9, step_size=0.1, noise_std=0.2)
    summary = keys_of(posterior, diagnosis, plain, scaled, check, stated)
    assert [summary[key] for key in ("temperature", "virial", "step_size")] == [1.5, 0.9, 0.1]
    assert summary["sampled_noise_std"] == 0.2


def test_leave_one_out_is_unknown_for_two_chains_and_names_an_outlier_of_three(case, sampled):
    posterior, diagnosis, *others = parts_of(case, sampled)
    summary = keys_of(posterior, diagnosis, *others, leave_one_out(posterior))
    assert summary["leave_one_out"] is summary["outlier_chain"] is None
    means = np.concatenate([posterior.chain_means, posterior.chain_means[:1] + 9])
    found = leave_one_out(posterior._replace(chain_means=means))
    summary = keys_of(posterior, diagnosis, *others, found)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["outlier_chain"] == 3
    assert summary["leave_one_out"] == pytest.approx(found.fractions.mean())


def test_a_posterior_without_a_reference_has_the_same_keys_without_values(case, sampled):
    posterior, diagnosis, *others = parts_of(case, sampled)
    whole = keys_of(posterior, diagnosis, *others)
    traces = posterior.traces.copy()
    traces[0] = traces[0, :1]
    still = diagnose(traces, posterior.trace_names)
    unknown = (None, None, None, law_of([]))
    summary = keys_of(posterior._replace(traces=traces), still, *unknown)
    json.dumps(summary, allow_nan=False)
    assert list(summary) == list(whole)
    assert summary["rhat_max"] is None
    assert summary["converged"] is False
    assert summary["nll"] is summary["coverage_90_scaled"] is summary["num_held_out"] is None


def test_the_fit_to_compare_with_is_measured_at_its_end_and_at_its_best(sampled, result):
    found = point_summary(sampled)
    assert found["psnr_point"] == result.curve["psnr_average"][-1]
    assert found["psnr_point_best"] == 20.0
    assert found["point_best_step"] == 15
    assert found["psnr_sample"] == sampled.curve["psnr"][-1]
    assert point_summary(result) == {}


def test_seeds_are_measured_one_by_one_and_by_their_median(case, seeds):
    estimates = seeds.posterior.chain_means
    median = np.median(estimates, axis=0)
    found = seeds_summary(seeds.posterior, median, case.reference)
    assert (found["num_seeds"], found["num_averaged"]) == (3, 2)
    expected = [psnr_on_host(image, case.reference) for image in (median, *estimates)]
    np.testing.assert_allclose([found["psnr_median"], *found["psnr_seeds"]], expected, rtol=1e-5)
    assert set(seeds_summary(seeds.posterior, median, None)) == {
        "num_seeds",
        "num_averaged",
        "std_mean",
        "intervals",
    }
