"""Merged results, built by hand: no network is fitted."""

import numpy as np
import pytest

from dip_jax.base import Case, Posterior, Problem, Result, Status
from dip_jax.engine.merge import merge
from dip_jax.operators.basic import Identity, Mask
from dip_jax.posterior.convergence import diagnose

SHAPE = (8, 6, 3)
CASE = Case("a", Problem(Identity(), np.full(SHAPE, 0.5, np.float32), 0.1), SHAPE)


def build_result(estimate, index=0, **fields):
    estimate = np.asarray(estimate, np.float32)
    result = Result(
        name="a",
        status=Status.DONE,
        image=estimate,
        raw=estimate,
        num_steps=100,
        stop_step=99,
        num_rollbacks=0,
        num_params=7,
        curve={"loss": np.full(3, index, np.float32)},
        seconds=1.0,
        compile_seconds=1.0,
        network_index=index,
    )
    return result._replace(**fields)


def build_seeds(offsets, **fields):
    """Results whose estimates differ by noise and by the given offsets."""
    rng = np.random.default_rng(0)
    return [
        build_result(0.5 + offset + 0.01 * rng.standard_normal(SHAPE), index, **fields)
        for index, offset in enumerate(offsets)
    ]


def build_chain(samples, index=0, **fields):
    """The result of a chain with the given samples `[S, H, W, C]`."""
    samples = np.asarray(samples, np.float32)
    mean = samples.mean(axis=0) if len(samples) else np.zeros(SHAPE, np.float32)
    posterior = Posterior(
        mean=mean,
        std=samples.std(axis=0, ddof=1) if len(samples) else np.zeros(SHAPE, np.float32),
        chain_means=mean[None],
        num_samples=len(samples),
        traces=samples[None, :, 0, 0, :2],
        trace_names=("x[0,0,0]", "x[0,0,1]"),
        samples=samples[:2],
    )
    return build_result(mean, index, posterior=posterior, **fields)


def draw_samples(count, seed):
    return np.random.default_rng(seed).random((count, *SHAPE))


def mean_of(results):
    return np.mean([result.raw for result in results], axis=0)


@pytest.mark.parametrize("counts", [(19, 19), (19, 5), (2, 7, 4)])
def test_chains_are_weighted_by_their_numbers_of_samples(counts):
    samples = [draw_samples(count, seed) for seed, count in enumerate(counts)]
    merged = merge(CASE, [build_chain(s, index) for index, s in enumerate(samples)])
    posterior, together = merged.posterior, np.concatenate(samples)
    np.testing.assert_allclose(posterior.mean, together.mean(axis=0), rtol=1e-5)
    shares = np.array(counts)[:, None, None, None] / sum(counts)
    within = sum((len(s) - 1) * s.var(axis=0, ddof=1) for s in samples) / sum(counts)
    means = np.stack([s.mean(axis=0) for s in samples])
    between = np.sum(shares * (means - together.mean(axis=0)) ** 2, axis=0)
    between *= len(counts) / (len(counts) - 1)
    np.testing.assert_allclose(posterior.std**2, within + between, rtol=1e-4)
    assert posterior.num_samples == sum(counts)
    assert posterior.traces.shape == (len(counts), min(counts), 2)
    assert posterior.chain_means.shape == (len(counts), *SHAPE)
    assert posterior.samples.shape == (2 * len(counts), *SHAPE)
    np.testing.assert_array_equal(merged.image, posterior.mean)
    diagnosis = diagnose(posterior.traces, posterior.trace_names)
    assert merged.notes == (() if diagnosis.converged else (diagnosis.message,))
    assert posterior.converged == diagnosis.converged
    np.testing.assert_equal(
        (posterior.rhat_max, posterior.ess_min), (diagnosis.rhat_max, diagnosis.ess_min)
    )


def test_shared_starts_are_stated_unless_a_chain_is_left_out():
    chains = [build_chain(draw_samples(5, index), index) for index in range(4)]
    assert merge(CASE, chains).posterior.chains_per_start == 1
    assert merge(CASE, chains, chains_per_start=2).posterior.chains_per_start == 2
    chains[1] = chains[1]._replace(status=Status.DIVERGED)
    assert merge(CASE, chains, chains_per_start=2).posterior.chains_per_start == 1


def test_chains_without_samples_are_merged_to_the_mean_of_their_estimates():
    estimates = draw_samples(2, 0).astype(np.float32)
    chains = [
        build_chain(np.zeros((0, *SHAPE)), index, raw=raw, status=Status.INTERRUPTED)
        for index, raw in enumerate(estimates)
    ]
    merged = merge(CASE, chains)
    np.testing.assert_allclose(merged.raw, estimates.mean(axis=0), rtol=1e-6)
    assert merged.posterior.num_samples == 0
    assert merged.status == Status.INTERRUPTED


def test_seeds_are_averaged_without_outliers_which_a_note_names():
    results = build_seeds([0, 0, 0.2, 0])
    merged = merge(CASE, results)
    kept = [results[i] for i in (0, 1, 3)]
    np.testing.assert_allclose(merged.raw, mean_of(kept), rtol=1e-5)
    assert merged.notes == ("network 3 differs from the others and is left out of the mean",)
    spread = np.std([result.raw for result in kept], axis=0, ddof=1)
    np.testing.assert_allclose(merged.posterior.std, spread, rtol=1e-3, atol=1e-6)
    assert merged.posterior.num_samples == 3
    assert merged.posterior.samples.shape == (4, *SHAPE)


@pytest.mark.parametrize("offsets", [(0, 0, 0, 0, 0), (0, 0.1)])
def test_similar_estimates_and_two_different_ones_have_no_outliers(offsets):
    results = build_seeds(offsets)
    merged = merge(CASE, results)
    assert merged.notes == ()
    np.testing.assert_allclose(merged.raw, mean_of(results), rtol=1e-5)


def test_diverged_networks_are_left_out():
    results = build_seeds([0, 0, 0])
    results[1] = results[1]._replace(status=Status.DIVERGED)
    merged = merge(CASE, results)
    assert merged.notes == ("network 2 diverged and is left out",)
    assert merged.status == Status.DONE
    np.testing.assert_allclose(merged.raw, mean_of([results[0], results[2]]), rtol=1e-5)


def test_if_all_networks_diverged_all_are_merged():
    results = build_seeds([0, 0], status=Status.DIVERGED)
    merged = merge(CASE, results)
    assert merged.status == Status.DIVERGED
    assert merged.notes == ()
    np.testing.assert_allclose(merged.raw, mean_of(results), rtol=1e-5)


def test_interrupted_networks_are_left_out_if_others_have_finished():
    results = build_seeds([0, 0, 0])
    results[1:] = [result._replace(status=Status.INTERRUPTED) for result in results[1:]]
    merged = merge(CASE, results)
    assert merged.status == Status.INTERRUPTED
    assert merged.notes == ("2 networks were interrupted and left out",)
    np.testing.assert_array_equal(merged.raw, results[0].raw)


def test_if_no_network_has_finished_all_interrupted_ones_are_merged():
    results = build_seeds([0, 0, 0], status=Status.INTERRUPTED)
    results[2] = results[2]._replace(status=Status.DIVERGED)
    merged = merge(CASE, results)
    assert merged.status == Status.INTERRUPTED
    assert merged.notes == ("network 3 diverged and is left out",)
    np.testing.assert_allclose(merged.raw, mean_of(results[:2]), rtol=1e-5)


def test_the_first_failed_result_is_returned():
    results = build_seeds([0, 0, 0])
    results[1:] = [
        result._replace(status=Status.FAILED, error=ValueError("no")) for result in results[1:]
    ]
    assert merge(CASE, results[::-1]) is results[1]


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [("stopped stopped", "stopped"), ("stopped done", "done"), ("diverged stopped", "stopped")],
)
def test_the_status_is_done_if_any_network_made_all_steps(statuses, expected):
    results = [
        result._replace(status=Status(status))
        for result, status in zip(build_seeds([0, 0]), statuses.split(), strict=True)
    ]
    assert merge(CASE, results).status == expected


def test_the_order_in_which_networks_finish_does_not_matter():
    chains = [build_chain(draw_samples(4, index), index) for index in range(3)]
    chains = [c._replace(num_steps=100 - c.network_index, num_rollbacks=2) for c in chains]
    chains[1] = chains[1]._replace(stop_step=9)
    merged = merge(CASE, [chains[i] for i in (1, 2, 0)])
    np.testing.assert_array_equal(merged.posterior.chain_means, [c.raw for c in chains])
    assert [curve["loss"][0] for curve in merged.network_curves] == [0, 1, 2]
    assert merged.curve is chains[0].curve
    assert merged.network_index == 0
    assert merged.num_steps == 100
    assert merged.stop_step == 99
    assert merged.num_rollbacks == 6
    assert merged.seconds == 3


def test_known_pixels_are_restored_in_the_image_and_not_in_the_raw_estimate():
    rng = np.random.default_rng(0)
    is_known = rng.random(SHAPE[:2]) < 0.5
    mask = is_known[..., None].astype(np.float32)
    clean = rng.random(SHAPE, np.float32)
    case = Case("a", Problem(Mask(mask), clean * mask, np.float32(0)), SHAPE)
    results = build_seeds([0, 0])
    merged = merge(case, results)
    np.testing.assert_array_equal(merged.image[is_known], clean[is_known])
    np.testing.assert_array_equal(merged.image[~is_known], merged.raw[~is_known])
    np.testing.assert_allclose(merged.raw, mean_of(results), rtol=1e-5)
    unpasted = merge(case._replace(paste_known=False), results)
    np.testing.assert_array_equal(unpasted.image, merged.raw)


def test_the_networks_of_all_results_are_kept_in_their_order():
    results = build_seeds([0, 0, 0.5])
    # also those of networks that are left out of the mean
    results = [r._replace(networks=(f"network {r.network_index}",), net="net") for r in results]
    merged = merge(CASE, results[::-1])
    assert merged.networks == ("network 0", "network 1", "network 2")
    assert merged.net == "net"
    assert merge(CASE, build_seeds([0, 0])).networks == ()
