"""R-hat and effective sample sizes, against scipy and closed forms."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dip_jax.posterior.convergence import ESS_PER_CHAIN, RHAT_LIMIT, diagnose, nested_rhat

# One shape for all traces, so that they are compiled once.
CHAINS, SAMPLES, NUM = 4, 300, 12
NAMES = (*(f"x[{i},{i + 1},{i % 3}]" for i in range(NUM - 1)), "misfit")


def independent():
    return np.random.default_rng(0).normal(0.5, 0.01, (CHAINS, SAMPLES, NUM))


def autoregressive(a, shape):
    """Chains x_t = a x_(t-1) + (1 - a^2)^(1/2) e_t, normal with variance 1."""
    noise = np.random.default_rng(1).normal(size=shape)
    traces = noise.copy()
    for t in range(1, shape[1]):
        traces[:, t] = a * traces[:, t - 1] + math.sqrt(1 - a**2) * noise[:, t]
    return traces


def textbook_rhat(trace):
    """Vehtari et al. 2021, section 4, of one quantity `[M, S]`."""
    half = trace.shape[1] // 2
    halves = np.concatenate([trace[:, :half], trace[:, half : 2 * half]])

    def rhat(values):
        ranks = stats.rankdata(values.ravel()).reshape(values.shape)
        z = stats.norm.ppf((ranks - 3 / 8) / (values.size + 1 / 4))
        within = z.var(axis=1, ddof=1).mean()
        between = half * z.mean(axis=1).var(ddof=1)
        return math.sqrt(((half - 1) / half * within + between / half) / within)

    return max(rhat(halves), rhat(np.abs(halves - np.median(halves))))


def test_independent_samples_have_converged():
    found = diagnose(independent(), NAMES)
    assert found.converged
    # The largest of twelve quantities; the usual limit for one is 1.01.
    assert found.rhat_max < 1.02
    # An estimate of 1200 from 1200 samples has an error of a tenth; k = 5 for the mean of twelve.
    assert found.ess_bulk.mean() == pytest.approx(CHAINS * SAMPLES, rel=0.15)
    assert found.ess_min == min(found.ess_bulk.min(), found.ess_tail.min())
    assert found.message.startswith("converged: R-hat is at most 1.0")


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
        f"got {found.rhat_max:.2f} (row {worst}, column {worst + 1}, channel {worst % 3})"
        in found.message
    )
    assert f"expected an R-hat of at most {RHAT_LIMIT}, got" in found.message


def test_a_spread_below_a_step_of_float32_is_resolved():
    traces = independent()
    traces[..., -1] = 1 + 1e-8 * (traces[..., -1] - 0.5) / 0.01
    traces[0, :, -1] += 2e-8
    found = diagnose(traces, NAMES)
    assert found.rhat[-1] == pytest.approx(textbook_rhat(traces[..., -1]), rel=2e-4)
    assert found.rhat[-1] > 1.1


@pytest.mark.parametrize("a", [0.5, -0.3])
def test_the_effective_sample_size_of_an_autoregressive_chain_is_its_closed_form(a):
    traces = autoregressive(a, (CHAINS, SAMPLES, NUM))
    found = diagnose(traces, NAMES)
    # The relative error of the estimate is about (4 lag / n)^(1/2) = 0.2 with 10 lags, a quarter of
    # that for the mean of twelve, and halves of 150 samples make it a few percent too small.
    expected = CHAINS * SAMPLES * (1 - a) / (1 + a)
    assert found.ess_bulk.mean() == pytest.approx(expected, rel=0.2)


def test_slow_chains_that_agree_are_called_too_short():
    traces = autoregressive(0.7, (CHAINS, SAMPLES, NUM))
    found = diagnose(traces, NAMES)
    assert found.rhat_max <= RHAT_LIMIT
    assert not found.converged
    assert found.message.startswith("too short: expected an effective sample size of")
    assert f"at least {CHAINS * ESS_PER_CHAIN}, got" in found.message


def test_a_constant_chain_is_named():
    traces = independent()
    traces[1] = traces[1, :1]
    found = diagnose(traces, NAMES)
    assert not found.converged
    assert found.rhat_max == math.inf
    assert found.ess_min == 0
    assert found.message.startswith("not converged: chain 2 of 4 is constant;")
    traces[3] = traces[3, :1]
    assert "chains 2 and 4 of 4 are constant;" in diagnose(traces, NAMES).message


def test_a_constant_quantity_is_named_and_does_not_affect_the_others():
    traces = independent()
    traces[0, :, 4] = 0.25
    found = diagnose(traces, NAMES)
    assert "chain 1 of 4 is constant at row 4, column 5, channel 1" in found.message
    assert np.isinf(found.rhat).tolist() == [q == 4 for q in range(NUM)]
    assert found.ess_bulk[4] == found.ess_tail[4] == 0
    others = np.delete(np.arange(NUM), 4)
    clean = diagnose(independent(), NAMES)
    np.testing.assert_array_equal(found.rhat[others], clean.rhat[others])


def test_a_quantity_with_one_value_in_all_chains_does_not_hide_that_the_others_have_converged():
    traces = independent()
    traces[..., 4] = 1.0  # a saturated pixel
    found = diagnose(traces, NAMES)
    assert found.converged
    assert found.rhat[4] == 1
    assert found.ess_bulk[4] == found.ess_tail[4] == CHAINS * SAMPLES
    traces[:] = 1.0
    assert "constant" in diagnose(traces, NAMES).message


def test_the_advice_states_how_much_longer_the_chains_would_take():
    traces = autoregressive(0.7, (CHAINS, SAMPLES, NUM))
    found = diagnose(traces, NAMES)
    factor = math.ceil(CHAINS * ESS_PER_CHAIN / found.ess_min)
    assert f"sample longer (at least {factor} times --num_steps)" in found.message
    slow = diagnose(autoregressive(0.99, (CHAINS, SAMPLES, NUM)), NAMES)
    assert "take the standard deviation for a lower bound" in slow.message


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named_and_does_not_affect_the_others(value):
    traces = independent()
    traces[2, 100, NUM - 1] = value
    found = diagnose(traces, NAMES)
    assert not found.converged
    assert "chain 3 of 4 is not finite at misfit" in found.message
    assert np.isinf(found.rhat).tolist() == [q == NUM - 1 for q in range(NUM)]
    assert found.ess_min == 0


def test_a_single_chain_is_compared_with_itself_with_a_warning():
    found = diagnose(independent()[:1], NAMES)
    assert found.converged is None
    assert found.message.endswith("a single chain cannot show whether others would agree")
    # A chain that rises steadily: its halves disagree.
    drifting = independent()[:1] + np.linspace(0, 0.1, SAMPLES)[:, np.newaxis]
    assert diagnose(drifting, NAMES).rhat_max > 1.5
    constant = np.broadcast_to(independent()[:1, :1], (1, SAMPLES, NUM))
    assert "the only chain is constant" in diagnose(constant, NAMES).message


def test_too_few_samples_give_no_diagnosis():
    found = diagnose(independent()[:, :3], NAMES)
    assert not found.converged
    assert math.isnan(found.rhat_max)
    assert "too few samples to assess convergence" in found.message
    found = diagnose(independent()[..., :0], ())
    assert not found.converged
    assert "no quantity was traced" in found.message


def test_traces_with_missing_names_are_rejected():
    with pytest.raises(ValueError, match="names"):
        diagnose(independent(), NAMES[1:])


def looped_nested_rhat(traces, chains_per_start):
    """Margossian et al. 2024, section 2, of each quantity of `[M, S, Q]`."""
    found = []
    for q in range(traces.shape[2]):
        means, withins = [], []
        for first in range(0, len(traces), chains_per_start):
            chains = [traces[m, :, q] for m in range(first, first + chains_per_start)]
            centers = [sum(chain) / len(chain) for chain in chains]
            center = sum(centers) / len(centers)
            between = sum((c - center) ** 2 for c in centers) / max(len(chains) - 1, 1)
            inner = [
                sum((x - c) ** 2 for x in chain) / max(len(chain) - 1, 1)
                for chain, c in zip(chains, centers, strict=True)
            ]
            means.append(center)
            withins.append(between + sum(inner) / len(inner))
        overall = sum(means) / len(means)
        spread = sum((mean - overall) ** 2 for mean in means) / (len(means) - 1)
        found.append(math.sqrt(1 + spread / (sum(withins) / len(withins))))
    return found


@pytest.mark.parametrize(
    ("shape", "chains_per_start"), [((6, 7, 3), 2), ((6, 7, 3), 3), ((4, 7, 3), 1), ((6, 1, 3), 2)]
)
def test_the_nested_r_hat_is_that_of_a_loop_over_superchains(shape, chains_per_start):
    traces = np.random.default_rng(0).normal(size=shape) + np.arange(shape[0])[:, None, None]
    expected = looped_nested_rhat(traces, chains_per_start)
    np.testing.assert_allclose(nested_rhat(traces, chains_per_start), expected, rtol=1e-12)
    assert min(expected) > 1.2


def test_the_nested_r_hat_of_single_samples_is_that_of_blackjax():
    from blackjax.diagnostics import splitR

    traces = np.random.default_rng(0).normal(size=(8, 1, 3)) + np.arange(8)[:, None, None]
    expected = splitR(jnp.asarray(traces[:, 0]), 8, 4, func_for_splitR=lambda x: x)
    np.testing.assert_allclose(nested_rhat(traces, 4), expected, rtol=1e-5)


def test_chains_that_have_not_left_their_starts_are_seen_by_the_nested_r_hat():
    traces = independent()
    traces[:2, :, 3] += 0.01  # the start of two chains, by one deviation
    found = diagnose(traces, NAMES, chains_per_start=2)
    np.testing.assert_allclose(found.rhat, looped_nested_rhat(traces, 2), rtol=1e-9)
    # The means of the superchains have the variance 1 / 2, the chains about 1.
    assert found.rhat[3] == pytest.approx(math.sqrt(1.5), rel=0.05)
    assert not found.converged
    assert "expected a nested R-hat of at most 1.05, got 1.2" in found.message
    np.testing.assert_array_equal(found.ess_bulk, diagnose(traces, NAMES).ess_bulk)
    mixed = diagnose(independent(), NAMES, chains_per_start=2)
    assert mixed.converged
    assert mixed.message.startswith("converged: nested R-hat is at most 1.0")


def test_chains_of_a_single_start_cannot_tell():
    found = diagnose(independent(), NAMES, chains_per_start=CHAINS)
    assert found.converged is None
    assert found.message.endswith("chains of a single start cannot show whether others would agree")
    np.testing.assert_array_equal(found.rhat, diagnose(independent(), NAMES).rhat)
    assert np.isnan(nested_rhat(independent(), CHAINS)).all()


def test_constant_quantities_are_judged_as_before_also_in_superchains():
    traces = independent()
    traces[..., 4] = 1.0  # a saturated pixel
    assert diagnose(traces, NAMES, chains_per_start=2).rhat[4] == 1
    traces[0, :, 4] = 0.5
    assert "constant" in diagnose(traces, NAMES, chains_per_start=2).message


def test_superchains_of_unequal_size_are_rejected():
    with pytest.raises(ValueError, match="divide the number of chains"):
        diagnose(independent(), NAMES, chains_per_start=3)
    with pytest.raises(ValueError, match="divide the number of chains"):
        nested_rhat(independent(), 0)
