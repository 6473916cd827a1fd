"""Several networks of one image: chains and seeds."""

import json

import imageio.v3 as iio
import jax.numpy as jnp
import numpy as np
import pytest

from dip_jax.base import Case, Problem, Status
from dip_jax.engine.checkpoint import CheckpointStore
from dip_jax.engine.from_config import estimator_from_config
from dip_jax.engine.merge import merge
from dip_jax.engine.restore import restore, restore_many
from dip_jax.engine.scheduler import restore_each
from dip_jax.errors import InputError
from dip_jax.operators.basic import Identity
from dip_jax.presets import build_config
from tests.conftest import TINY, smooth_image
from tests.engine.cases import assert_same_bits, simulate, stop_after, tiny_config

# Several tests check the same chains. One worker runs all these tests, so that they are sampled once.
pytestmark = [pytest.mark.xdist_group("chains"), pytest.mark.usefixtures("shared_programs")]

NUM_STEPS = 30
SAMPLING = (
    *TINY,
    "run.chunk=10",
    "sgld.burn_in=10",
    "sgld.thin=1",
    "sgld.keep_samples=3",
    "sgld.point_estimate=False",
)


def sampling_config(*overrides):
    fields = ("fit.method=sgld", f"fit.num_steps={NUM_STEPS}")
    return build_config(overrides=[*SAMPLING, *fields, *overrides])


@pytest.fixture(scope="module")
def chains(shared_programs):
    """A case, its settings, its result by two chains, and the result of each chain."""
    config = sampling_config()
    case = simulate(smooth_image(), config)
    networks = (case._replace(network_index=m) for m in range(2))
    alone = list(restore_each(networks, estimator_from_config(config), config.run))
    return case, config, merge(case, alone), alone


def test_chains_differ_and_the_first_is_that_of_a_single_chain(chains):
    case, _, merged, (first, second) = chains
    assert np.abs(first.raw - second.raw).max() > 1e-3
    (single,) = restore([case], sampling_config("sgld.num_chains=1"))
    np.testing.assert_array_equal(single.raw, first.raw)
    np.testing.assert_array_equal(single.posterior.std, first.posterior.std)
    assert merged.posterior.chain_means.shape == (2, *case.shape)


def test_merged_chains_have_the_moments_of_all_their_samples(chains):
    case, _, merged, alone = chains
    posterior = merged.posterior
    # The traces hold every sample of some pixels, so NumPy's moments of them are those of the image.
    assert posterior.traces.shape[:2] == (2, 19)
    assert posterior.num_samples == 38
    traces = posterior.traces.transpose(2, 0, 1)
    for name, values in zip(posterior.trace_names[:-3], traces, strict=False):
        pixel = tuple(int(part) for part in name[2:-1].split(","))
        np.testing.assert_allclose(posterior.mean[pixel], values.mean(), rtol=1e-5, atol=1e-6)
        within = values.var(axis=1, ddof=1).mean()
        variance = 18 / 19 * within + values.mean(axis=1).var(ddof=1)
        np.testing.assert_allclose(posterior.std[pixel], np.sqrt(variance), rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(merged.image, posterior.mean)
    assert posterior.samples.shape == (6, *case.shape)
    assert np.isfinite(merged.curve["psnr_mean"]).all()
    assert len(merged.network_curves) == 2
    assert [result.network_index for result in alone] == [0, 1]


def test_all_chains_hold_out_the_same_measurements(chains):
    _, _, merged, (first, second) = chains
    np.testing.assert_array_equal(first.held_out, second.held_out)
    assert merged.held_out.shape == (40, 36, 3)
    # A hundredth of the pixels, each with all of its channels.
    assert merged.held_out.any(axis=-1).sum() == 14
    assert merged.held_out.sum() == 3 * 14


def test_interrupted_chains_are_resumed_with_the_same_bits_even_if_one_has_finished(
    chains, tmp_path
):
    case, config, merged, _ = chains
    statuses, messages = [], []
    for num_chunks in (4, 2, 100):
        store = CheckpointStore(
            tmp_path / "checkpoints", every_minutes=0, keep=2, on_message=messages.append
        )
        (result,) = restore_many([case], config, store=store, **stop_after(num_chunks))
        statuses.append(result.status)
    assert statuses == ["interrupted", "interrupted", "done"]
    assert "a: resumed from step 30" in messages
    assert any(text.startswith("a, network 2: resumed from step") for text in messages)
    np.testing.assert_array_equal(result.image, merged.image)
    np.testing.assert_array_equal(result.posterior.std, merged.posterior.std)
    np.testing.assert_array_equal(result.posterior.traces, merged.posterior.traces)


def test_chains_of_half_as_many_steps_are_continued_to_the_same_bits(chains):
    case, config, merged, _ = chains
    half = sampling_config("fit.num_steps=15")
    (first,) = restore([case], half)
    assert first.posterior.num_samples == 2 * 4
    assert [network.name for network in first.networks] == ["a", "a, network 2"]
    (continued,) = restore([case], config, start=[first])
    assert_same_bits((continued.image, continued.curve), (merged.image, merged.curve))
    assert_same_bits(continued.network_curves, merged.network_curves)
    assert continued.posterior.num_samples == merged.posterior.num_samples == 38
    for name in ("mean", "std", "chain_means", "traces", "samples"):
        assert_same_bits(getattr(continued.posterior, name), getattr(merged.posterior, name))
    np.testing.assert_array_equal(continued.held_out, merged.held_out)
    # The network of a merged result is the first one, after its last step.
    output = first.net.apply(first.params, first.code)
    shape = (40, 36, 3)
    assert output.shape == shape
    target = np.where(merged.held_out, output, case.problem.measurement)
    # The loss of the next step, on the measurements that are not held out; without a perturbation.
    misfit = np.sum((output - target) ** 2) / (np.prod(shape) - merged.held_out.sum())
    np.testing.assert_allclose(merged.curve["loss"][15], misfit, rtol=1e-4)


SUPERCHAINS = ("sgld.num_chains=4", "sgld.chains_per_start=2")


def test_chains_of_one_start_have_the_same_first_output_and_other_samples(chains):
    case, config, _, (first, second) = chains
    (shared,) = restore([case], sampling_config(*SUPERCHAINS))
    assert shared.posterior.chains_per_start == 2
    losses = np.stack([curve["loss"] for curve in shared.network_curves])
    # The warm-up has two steps without noise, and the third only changes norms.
    assert (losses[0, :3] == losses[1, :3]).all()
    assert (losses[2, :3] == losses[3, :3]).all()
    assert losses[0, 0] != losses[2, 0]
    codes = [network.slot.state.fit.frozen["code"] for network in shared.networks]
    assert [np.array_equal(codes[0], code) for code in codes] == [True, True, False, False]
    means = shared.posterior.chain_means
    apart = np.abs(means[:, np.newaxis] - means).max(axis=(2, 3, 4))
    assert (apart[~np.eye(4, dtype=bool)] > 1e-3).all()
    # The first chain of each start is the network of its index.
    assert_same_bits(shared.network_curves[0], first.curve)
    assert_same_bits(means[0], first.posterior.mean)
    alone = case._replace(network_index=2)
    (third,) = restore_each([alone], estimator_from_config(config), config.run)
    assert_same_bits(shared.network_curves[2], third.curve)
    assert np.abs(means[1] - second.posterior.mean).max() > 1e-3


@pytest.mark.slow
def test_chains_of_one_start_are_resumed_with_the_same_bits(chains, tmp_path):
    case, *_ = chains
    config = sampling_config(*SUPERCHAINS)
    (expected,) = restore([case], config)
    statuses = []
    for num_chunks in (4, 100):
        store = CheckpointStore(tmp_path / "checkpoints", every_minutes=0, keep=2)
        (result,) = restore_many([case], config, store=store, **stop_after(num_chunks))
        statuses.append(result.status)
    assert statuses == ["interrupted", "done"]
    for name in ("mean", "std", "chain_means", "traces", "samples"):
        assert_same_bits(getattr(result.posterior, name), getattr(expected.posterior, name))
    (half,) = restore([case], sampling_config(*SUPERCHAINS, "fit.num_steps=15"))
    (continued,) = restore([case], config, start=[half])
    assert_same_bits(continued.posterior.traces, expected.posterior.traces)


def test_chains_are_not_continued_by_a_fit(chains):
    case, *_ = chains
    (first,) = restore([case], sampling_config("fit.num_steps=15"))
    with pytest.raises(InputError, match="another network, optimizer or sampler"):
        restore([case], tiny_config(), start=[first])


def test_sampling_without_a_noise_level_is_refused():
    coefficients = Problem(Identity(), jnp.ones(108), np.float32(np.nan))
    with pytest.raises(InputError, match="noise level"):
        restore([Case("a", coefficients, (6, 6, 3))], sampling_config())


def test_two_cases_of_one_name_are_refused(image):
    config = tiny_config()
    with pytest.raises(InputError, match="Expected unique names of cases"):
        restore([simulate(image, config)] * 2, config)


def test_an_error_of_a_case_is_raised_by_restore_and_returned_by_restore_many(image, monkeypatch):
    def fail(*_):
        raise RuntimeError("no memory")

    monkeypatch.setattr("dip_jax.engine.slots.slots_per_device", fail)
    config = tiny_config("fit.num_seeds=2")
    cases = [simulate(image, config, name) for name in "ab"]
    results = list(restore_many(cases, config))
    assert [(result.name, result.status) for result in results] == [
        ("a", Status.FAILED),
        ("b", Status.FAILED),
    ]
    assert all("no memory" in str(result.error) for result in results)
    with pytest.raises(RuntimeError, match="no memory"):
        restore(cases, config)


def quick_flags(num_steps, overrides):
    return [f"--num_steps={num_steps}", *(f"--set={value}" for value in overrides)]


def test_the_command_samples_and_reports_that_the_chains_have_not_converged(run, image, tmp_path):
    photo, out = tmp_path / "photo.png", tmp_path / "out"
    iio.imwrite(photo, np.rint(image * 255).astype(np.uint8))
    # These settings are those of `chains`, so that the program is compiled once.
    status, _, errors = run(
        f"--reference={photo}",
        f"--output={out}",
        "--method=sgld",
        *quick_flags(NUM_STEPS, SAMPLING),
    )
    assert status == 0
    names = {path.name for path in (out / "photo").iterdir()}
    assert names >= {"restored.png", "std.png", "posterior.npz", "traces.png", "degraded.png"}
    assert names >= {"curve.png", "calibration.png"}
    summary = json.loads((out / "photo" / "summary.json").read_text())
    assert summary["method"] == "sgld"
    assert summary["num_chains"] == 2
    assert summary["rhat_max"] > 1.05
    assert not summary["converged"]
    assert "not converged" in errors
    assert summary["num_held_out"] == 42
    assert summary["held_out_z_rms"] > 0
    posterior = np.load(out / "photo" / "posterior.npz")
    std, low, high = posterior["std"], posterior["low"], posterior["high"]
    assert "not converged" in str(posterior["state"])
    np.testing.assert_allclose((high - low) / 2, 1.6449 * std, rtol=1e-3, atol=1e-7)
    assert std.shape == (40, 36, 3)


@pytest.mark.slow
def test_the_command_averages_seeds(run, image, tmp_path):
    photo, out = tmp_path / "photo.png", tmp_path / "out"
    iio.imwrite(photo, np.rint(image * 255).astype(np.uint8))
    status, *_ = run(
        f"--reference={photo}",
        f"--output={out}",
        "--num_seeds=3",
        *quick_flags(10, (*TINY, "run.chunk=15")),
    )
    assert status == 0
    assert {path.name for path in (out / "photo").iterdir()} >= {"median.png", "std.png"}
    summary = json.loads((out / "photo" / "summary.json").read_text())
    assert len(summary["psnr_seeds"]) == 3
    assert summary["psnr"] > np.mean(summary["psnr_seeds"])


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["--num_chains=3"], "--method=sgld"),
        (["--num_seeds=3", "--method=sgld"], "--num_chains"),
        (["--method=sgld", "--num_steps=20", "--set=sgld.burn_in=30"], "sgld.burn_in"),
        (["--method=sgld", "--stop=wmv"], "--stop"),
        (["--method=sgld", "--set=sgld.sampler=csgld", "--set=sgld.explore_fraction=1"], "csgld"),
    ],
)
def test_flags_of_chains_and_of_seeds_cannot_be_mixed(run, tmp_path, flags, name):
    status, _, errors = run("--input=x.png", f"--output={tmp_path}", *flags)
    assert status == 2
    assert name in errors
