"""The law of the samplers' samples, tested by simulation.

Weights w are drawn from the prior, and a measurement y from the likelihood of w. Then w is one draw of the posterior of y,
as are the samples of a chain. So the true value of any function of (w, y) has a uniform rank among those of independent
samples, if the sampler has the right law (simulation-based calibration). The same holds for its rank in the order of the
distances from a random point whose law depends on y alone (TARP).

The network has one hidden layer and 16 weights. Its posterior is not normal, and 300 steps separate independent samples.

References:
  Talts, Betancourt, Simpson, Vehtari and Gelman, Validating Bayesian Inference Algorithms with Simulation-Based
    Calibration, 2018.
  Lemos, Coogan, Hezaveh and Perreault-Levasseur, Sampling-Based Accuracy Testing of Posterior Estimators for General
    Inference (TARP), 2023.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dip_jax import losses
from dip_jax.base import Net, Problem
from dip_jax.fit import Guard, build_fit
from dip_jax.operators.basic import Mask
from dip_jax.preconditioners import frozen_rms
from dip_jax.sample_schedule import every_nth
from dip_jax.schedules import decaying
from dip_jax.sgld import build_sgld, psgld, sampler_args, sgld, underdamped
from dip_jax.underdamped import DEFAULT_STEP_SIZE

# One worker runs all tests, because they share chains.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("sampler_law")]

SHAPE = (1, 12, 1)
POSITIONS = np.linspace(-1, 1, 12, dtype=np.float32)
MISSING = [3, 4, 8, 11]
KNOWN = np.delete(np.arange(12), MISSING)
PIXELS = {"known": 2, "missing inside": 4, "missing at the edge": 11}
NOISE_STD = 0.5
"""0.3 of the spread of the pixels, 1.7. With less noise, chains need more steps between independent samples."""
NUM_SAMPLES, NUM_BINS = 63, 16
"""With 63 samples there are 64 ranks, four in each bin."""
NUM_REPLICATES, BATCH = 512, 64
"""Replicates that run side by side; with more, a step leaves the cache and takes longer for each."""


class Case(NamedTuple):
    """A sampler, and the steps it needs to draw independent samples of the network."""

    sampler: str
    step_size: float
    thin: int = 300
    """Steps between samples; a divisor of the burn-in."""


WARM_UP, BURN_IN = 200, 3000

DEFAULT = Case("underdamped", DEFAULT_STEP_SIZE)
HALF = Case("underdamped", DEFAULT_STEP_SIZE / 2, thin=600)
PSGLD = Case("psgld", 0.01 / 4, thin=1000)
"""The step size that `psgld` has by default after a warm-up at 0.01; see `engine.from_config`."""
SGLD = Case("sgld", 1e-3, thin=1000)


def draw_weights(key):
    shapes = {"kernel": (5,), "bias": (5,), "output": (5,), "offset": ()}
    keys = jax.random.split(key, len(shapes))
    return {
        name: jax.random.normal(key, shape)
        for (name, shape), key in zip(shapes.items(), keys, strict=True)
    }


def image_of(w, code=None):
    hidden = jnp.tanh(jnp.outer(POSITIONS, w["kernel"]) + w["bias"][None])
    return (hidden @ w["output"] + w["offset"]).reshape(SHAPE)


def build_sampler(case):
    schedule = functools.partial(decaying, case.step_size, burn_in=BURN_IN, warm_up=WARM_UP)
    if case.sampler == "sgld":
        return sgld(schedule(), prior_precision=1.0)
    if case.sampler == "psgld":
        rms = frozen_rms(BURN_IN)
        return psgld(schedule(warm_up_step_size=0.01), rms, prior_precision=1.0)
    return underdamped(case.step_size, warm_up=WARM_UP, burn_in=BURN_IN, prior_precision=1.0)


class Chains(NamedTuple):
    """What the tests rank, as dictionaries of `image`, `misfit` and `squared_bias`."""

    truth: dict
    """Of the drawn weights, `[replicates, ...]`."""
    samples: dict
    """Of the samples, `[replicates, samples, ...]`."""
    measurement: np.ndarray
    """`[replicates, 12]`."""


@functools.cache
def run_chains(case):
    """Draws weights and a measurement for each replicate, and runs one chain."""
    chunks = BURN_IN // case.thin + 1 + NUM_SAMPLES
    fit = build_fit(
        Net(draw_weights, image_of, (1, 1, 1), SHAPE),
        optimizer=build_sampler(case),
        extra_args=sampler_args(losses.gaussian),
        perturbation=0.0,
        guard=Guard(num_steps=WARM_UP),
    )
    schedule = every_nth(case.thin, burn_in=BURN_IN, num_steps=chunks * case.thin)
    algorithm = build_sgld(fit, samples=schedule)
    mask = jnp.zeros((1, 12, 1)).at[0, KNOWN, 0].set(1)

    def run_replicate(key):
        weights_key, noise_key, chain_key = jax.random.split(key, 3)
        weights = draw_weights(weights_key)
        y = mask * (image_of(weights) + NOISE_STD * jax.random.normal(noise_key, SHAPE))
        problem = Problem(Mask(mask), y, jnp.float32(NOISE_STD))

        def values(w):
            image = image_of(w)
            misfit = jnp.sum((mask * image - y) ** 2)
            squared_bias = jnp.sum(w["bias"] ** 2)
            return {"image": image.ravel(), "misfit": misfit, "squared_bias": squared_bias}

        # The weights are not in the moments of `build_sgld`, so they are read before the step that gives the sample.
        def run_chunk(state, _):
            step = lambda _, state: algorithm.step(problem, state)[0]  # noqa: E731
            return jax.lax.fori_loop(0, case.thin, step, state), values(state.params["net"])

        start = algorithm.init(chain_key, problem, SHAPE)
        state, path = jax.lax.scan(run_chunk, start, length=chunks)
        samples = jax.tree.map(lambda x: x[-NUM_SAMPLES:], path)
        mean = state.moments.mean.ravel()
        return Chains(values(weights), samples, y.ravel()), mean, state.moments.num_samples

    run = jax.jit(lambda keys: jax.lax.map(run_replicate, keys, batch_size=BATCH))
    keys = jax.random.split(jax.random.key(0), NUM_REPLICATES)
    chains, mean, num_samples = jax.tree.map(np.asarray, run(keys))
    assert (num_samples == NUM_SAMPLES).all()
    np.testing.assert_allclose(chains.samples["image"].mean(axis=1), mean, atol=1e-3)
    return chains


def ranks(truth, samples):
    return np.sum(samples < truth[:, None], axis=1)


def uniformity(ranks):
    """The p value of chi^2 for uniform ranks."""
    counts = np.bincount(ranks * NUM_BINS // (NUM_SAMPLES + 1), minlength=NUM_BINS)
    return stats.chisquare(counts).pvalue


def deviation(ranks):
    """The mean rank minus that of uniform ranks, in standard errors."""
    variance = ((NUM_SAMPLES + 1) ** 2 - 1) / 12
    return (ranks.mean() - NUM_SAMPLES / 2) / np.sqrt(variance / len(ranks))


def pixel_ranks(truth, images):
    return {name: ranks(truth[:, i], images[:, :, i]) for name, i in PIXELS.items()}


def coverage_test(chains, images):
    """TARP: the p value of Kolmogorov and Smirnov for the credibility of the region that the truth bounds.

    Its statistic is the largest deviation of the expected coverage probability from the credibility. The reference points
    lie near the interpolated measurement, because the dispersion of samples hardly changes their order seen from afar.
    """
    rng = np.random.default_rng(0)
    interpolated = np.stack(
        [np.interp(POSITIONS, POSITIONS[KNOWN], y[KNOWN]) for y in chains.measurement]
    )
    points = interpolated + rng.normal(0, NOISE_STD, interpolated.shape)
    own = np.linalg.norm(chains.truth["image"] - points, axis=1)
    distances = np.linalg.norm(images - points[:, None], axis=2)
    # A uniform number in each rank makes the fractions continuous, as the test expects.
    fractions = (ranks(own, distances) + rng.random(len(own))) / (NUM_SAMPLES + 1)
    return stats.kstest(fractions, "uniform").pvalue


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(DEFAULT, id="underdamped"),
        pytest.param(HALF, id="half"),
        pytest.param(PSGLD, id="psgld"),
        pytest.param(SGLD, id="sgld"),
    ],
)
def test_the_true_values_have_uniform_ranks_among_the_samples(case):
    truth, samples, _ = run_chains(case)
    p = {name: uniformity(r) for name, r in pixel_ranks(truth["image"], samples["image"]).items()}
    misfits = ranks(truth["misfit"], samples["misfit"])
    z = {
        "misfit": deviation(misfits),
        "squared bias": deviation(ranks(truth["squared_bias"], samples["squared_bias"])),
    }
    covered = np.mean((misfits >= 3) & (misfits <= 60))  # 58 of 64 ranks, 5 to 95 %
    print(case, p, z, f"coverage {covered:.3f}")
    assert min(p.values()) > 1e-3
    assert max(map(abs, z.values())) < 3
    exact = 58 / 64
    assert abs(covered - exact) < 4 * np.sqrt(exact * (1 - exact) / NUM_REPLICATES)


def test_regions_around_random_points_cover_the_truth_as_often_as_they_state():
    chains = run_chains(DEFAULT)
    p = coverage_test(chains, chains.samples["image"])
    print(p)
    assert p > 1e-3


def test_samples_that_are_too_close_to_their_mean_are_found():
    chains = run_chains(DEFAULT)
    images = chains.samples["image"]
    mean = images.mean(axis=1, keepdims=True)
    narrow = mean + 0.7 * (images - mean)
    p = {name: uniformity(r) for name, r in pixel_ranks(chains.truth["image"], narrow).items()}
    p["TARP"] = coverage_test(chains, narrow)
    print(p)
    assert max(p.values()) < 1e-4
