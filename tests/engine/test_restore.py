"""Several networks for one picture: chains and seeds."""

import json

import imageio.v3 as iio
import numpy as np
import pytest

from dip_jax.engine.checkpoint import CheckpointStore
from dip_jax.engine.restore import merge, restore, restore_many, with_noise
from dip_jax.engine.scheduler import restore_each
from dip_jax.errors import InputError
from dip_jax.keys import image_key, simulation_key
from dip_jax.posterior.pooling import outliers
from dip_jax.presets import build_config
from dip_jax.tasks.simulate import simulate_case
from tests.conftest import TINY

# One worker has them all: the chains that several tests look at are sampled once.
pytestmark = pytest.mark.xdist_group("ensemble")

SAMPLES = (
    "fit.method=sgld",
    "fit.num_steps=30",
    "run.chunk=10",
    "sgld.burn_in=10",
    "sgld.thin=1",
    "sgld.point_estimate=False",
)


def make(picture, config, name="a"):
    key = simulation_key(image_key(0, name))
    return simulate_case(key, config.task, name, picture)


@pytest.fixture(scope="module")
def chains():
    """A picture, its settings, its result by two chains, and each chain's own."""
    rows, columns = np.mgrid[0:40, 0:36] / 40
    picture = np.stack([rows, columns, 1 - rows], axis=-1).astype(np.float32)
    config = build_config(overrides=[*TINY, *SAMPLES, "sgld.keep_samples=3"])
    case = make(picture, config)
    alone = list(restore_each((case._replace(network_index=m) for m in range(2)), config))
    return case, config, merge(case, alone, config), alone


def test_chains_differ_and_the_first_is_the_one_alone(chains):
    case, _, merged, (first, second) = chains
    assert np.abs(first.raw - second.raw).max() > 1e-3
    config = build_config(overrides=[*TINY, *SAMPLES, "sgld.keep_samples=3", "sgld.num_chains=1"])
    (single,) = restore([case], config)
    np.testing.assert_array_equal(single.raw, first.raw)
    np.testing.assert_array_equal(single.posterior.std, first.posterior.std)
    assert merged.posterior.chain_means.shape == (2, *case.shape)


def test_chains_together_have_the_moments_of_all_their_samples(chains):
    case, _, merged, alone = chains
    posterior = merged.posterior
    # the traces hold every sample of some pixels: numpy's moments of them are those of the image
    assert posterior.traces.shape[:2] == (2, 19)
    assert posterior.num_samples == 38
    for name, values in zip(
        posterior.trace_names[:-3], posterior.traces.transpose(2, 0, 1), strict=False
    ):
        row, column, channel = (int(part) for part in name[2:-1].split(","))
        np.testing.assert_allclose(
            posterior.mean[row, column, channel], values.mean(), rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(
            posterior.std[row, column, channel], values.std(ddof=1), rtol=1e-3, atol=1e-6
        )
    np.testing.assert_array_equal(merged.image, posterior.mean)
    assert posterior.samples.shape == (6, *case.shape)
    assert np.isfinite(merged.curve["psnr_mean"]).all()
    assert len(merged.network_curves) == 2
    assert [result.network_index for result in alone] == [0, 1]


def test_what_the_chains_did_not_see_is_the_same_for_all(chains):
    _, _, merged, (first, second) = chains
    np.testing.assert_array_equal(first.held_out, second.held_out)
    assert merged.held_out.shape == (40, 36, 3)
    # a hundredth of the pixels, all channels of each
    assert merged.held_out.any(axis=-1).sum() == 14
    assert merged.held_out.sum() == 3 * 14


def test_chains_go_on_bit_for_bit_also_when_one_was_finished_already(chains, tmp_path):
    case, config, merged, _ = chains
    results, told = [], []
    for stops in (4, 2, 100):
        left = [stops]

        def stop(left=left):
            left[0] -= 1
            return left[0] <= 0

        store = CheckpointStore(tmp_path / "ck", every_minutes=0, keep=2, on_message=told.append)
        results = list(restore_many([case], config, store=store, should_stop=stop))
        store.close()
    (result,) = results
    assert result.status == "done"
    assert "a: going on from step 30" in told
    assert any(text.startswith("a, network 2: going on from step") for text in told)
    np.testing.assert_array_equal(result.image, merged.image)
    np.testing.assert_array_equal(result.posterior.std, merged.posterior.std)
    np.testing.assert_array_equal(result.posterior.traces, merged.posterior.traces)


def test_an_answer_unlike_the_others_is_found_without_a_reference():
    rng = np.random.default_rng(0)
    estimates = 0.5 + 0.01 * rng.standard_normal((5, 8, 8, 3))
    assert outliers(estimates) == []
    estimates[3] += 0.1
    assert outliers(estimates) == [3]
    assert outliers(estimates[2:4]) == []


def test_seeds_are_averaged_and_outliers_named(chains):
    case, _, _, alone = chains
    config = build_config(overrides=[*TINY, "fit.num_seeds=4"])
    images = [0.5 + 0.01 * np.random.default_rng(m).random(case.shape) for m in range(4)]
    images[2] = images[2] + 0.2
    results = [
        alone[0]._replace(network_index=m, raw=images[m].astype(np.float32), posterior=None)
        for m in range(4)
    ]
    merged = merge(case, results, config)
    np.testing.assert_allclose(merged.raw, np.mean([images[m] for m in (0, 1, 3)], axis=0), 1e-5)
    assert merged.notes == ("network 3 is unlike the others and is left out of the mean",)
    spread = np.std([images[m] for m in (0, 1, 3)], axis=0, ddof=1)
    np.testing.assert_allclose(merged.posterior.std, spread, rtol=1e-3, atol=1e-6)
    diverged = [*results[:2], results[2]._replace(status="diverged"), results[3]]
    assert merge(case, diverged, config).notes == ("network 3 diverged and is left out",)
    cut = [results[0], results[1]._replace(status="interrupted", raw=0 * results[1].raw)]
    kept = merge(case, cut, config)
    assert kept.status == "interrupted"
    np.testing.assert_array_equal(kept.raw, results[0].raw)
    failed = [*results[:3], results[3]._replace(status="failed", error=ValueError("no"))]
    assert merge(case, failed, config).status == "failed"


def test_chains_of_unequal_length_are_weighted_by_their_samples(chains):
    case, config, _, (first, second) = chains
    short = second.posterior._replace(
        num_samples=5,
        traces=second.posterior.traces[:, :5],
        mean=second.posterior.traces[0, :5, 0].mean() + 0 * second.posterior.mean,
        chain_means=second.posterior.traces[0, :5, 0].mean() + 0 * second.posterior.chain_means,
        std=second.posterior.traces[0, :5, 0].std(ddof=1) + 0 * second.posterior.std,
    )
    merged = merge(case, [first, second._replace(posterior=short)], config)
    row, column, channel = (int(n) for n in merged.posterior.trace_names[0][2:-1].split(","))
    values = np.concatenate([first.posterior.traces[0, :, 0], short.traces[0, :, 0]])
    here = row, column, channel
    np.testing.assert_allclose(merged.posterior.mean[here], values.mean(), rtol=1e-5)
    np.testing.assert_allclose(merged.posterior.std[here], values.std(ddof=1), rtol=1e-3)


def test_sampling_needs_a_noise_level_and_estimates_it_where_it_can(picture):
    config = build_config(overrides=[*SAMPLES])
    case = make(picture, config)
    assert with_noise(case, config) is case
    unknown = case._replace(problem=case.problem._replace(noise_std=np.float32(np.nan)))
    estimated = with_noise(unknown, config)
    assert abs(float(estimated.problem.noise_std) * 255 - 25) < 3
    assert any("noise" in note for note in estimated.notes)
    exact = with_noise(unknown._replace(problem=case.problem._replace(noise_std=0.0)), config)
    assert float(exact.problem.noise_std) == 0  # known pixels are still put back
    assert any("1 gray level" in note for note in exact.notes)
    ct = build_config("ct", overrides=["task.num_angles=8", *SAMPLES])
    blind = make(picture[:36, :36], ct)
    blind = blind._replace(problem=blind.problem._replace(noise_std=np.float32(np.nan)))
    with pytest.raises(InputError, match="noise level"):
        with_noise(blind, ct)


def test_the_command_samples_and_says_that_it_has_not_converged(run, picture, tmp_path):
    photo, out = tmp_path / "photo.png", tmp_path / "out"
    iio.imwrite(photo, np.rint(picture * 255).astype(np.uint8))
    # without the fit to compare with: it would compile another program
    fields = (*TINY, "run.chunk=15", "sgld.thin=1", "sgld.point_estimate=False")
    quick = [f"--set={value}" for value in fields]
    status, _, errors = run(
        f"--reference={photo}", f"--output={out}", "--method=sgld", "--num_steps=30", *quick
    )
    assert status == 0
    names = {path.name for path in (out / "photo").iterdir()}
    assert names >= {"restored.png", "std.png", "std.npy", "interval.npy", "traces.png"}
    assert names >= {"curve.png", "calibration.png"}
    summary = json.loads((out / "photo" / "summary.json").read_text())
    assert summary["method"] == "sgld"
    assert summary["num_chains"] == 2
    assert summary["rhat_max"] > 1.05
    assert not summary["converged"]
    assert "not converged" in errors
    assert summary["num_held_out"] == 42
    assert summary["held_out_z_rms"] > 0
    low, high = np.load(out / "photo" / "interval.npy")
    np.testing.assert_allclose(
        (high - low) / 2, 1.6449 * np.load(out / "photo" / "std.npy"), rtol=1e-3, atol=1e-7
    )
    assert np.load(out / "photo" / "std.npy").shape == (40, 36, 3)


@pytest.mark.slow
def test_the_command_averages_seeds(run, picture, tmp_path):
    photo, out = tmp_path / "photo.png", tmp_path / "out"
    iio.imwrite(photo, np.rint(picture * 255).astype(np.uint8))
    quick = [f"--set={value}" for value in (*TINY, "run.chunk=15")]
    status, *_ = run(
        f"--reference={photo}", f"--output={out}", "--num_seeds=3", "--num_steps=10", *quick
    )
    assert status == 0
    assert {path.name for path in (out / "photo").iterdir()} >= {"median.png", "std.png"}
    summary = json.loads((out / "photo" / "summary.json").read_text())
    assert len(summary["psnr_seeds"]) == 3
    assert summary["psnr"] > np.mean(summary["psnr_seeds"])


def test_flags_of_samples_and_seeds_are_not_mixed(run, tmp_path):
    for flags, words in (
        (["--num_chains=3"], "--method=sgld"),
        (["--num_seeds=3", "--method=sgld"], "--num_chains"),
        (["--method=sgld", "--num_steps=20", "--set=sgld.burn_in=30"], "sgld.burn_in"),
        (["--method=sgld", "--stop=wmv"], "--stop"),
        (["--method=sgld", "--set=sgld.sampler=csgld", "--set=sgld.explore_fraction=1"], "csgld"),
        (["--method=sgld", "--set=sgld.gamma=True"], "sgld.freeze"),
    ):
        status, _, errors = run("--input=x.png", f"--output={tmp_path}", *flags)
        assert status == 2
        assert words in errors
