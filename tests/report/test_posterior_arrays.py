"""The numbers of a posterior, as they are stored."""

import numpy as np
import pytest

from dip_jax.base import PosteriorKind
from dip_jax.report.manifest import Manifest
from dip_jax.report.posterior_arrays import read_posterior, samples_by_chain, write_posterior

NAMES = ("mean", "std", "low", "high", "level", "kind", "state", "traces", "trace_names", "samples")


def stored(folder, posterior, state="") -> dict[str, np.ndarray]:
    write_posterior(Manifest(folder), posterior, state)
    found = read_posterior(folder / "posterior.npz", NAMES)
    with np.load(folder / "posterior.npz") as archive:
        assert set(archive) == set(found)
    return found


def test_samples_of_chains_are_stored_as_single_floats(tmp_path, sampled):
    posterior = sampled.posterior._replace(num_kept=(1, 2))
    found = stored(tmp_path, posterior, "too short")
    assert {
        found[name].dtype for name in found if name not in ("kind", "state", "trace_names")
    } == {np.dtype(np.float32)}
    np.testing.assert_array_equal(found["mean"], posterior.mean)
    np.testing.assert_array_equal(found["std"], posterior.std)
    np.testing.assert_allclose(found["high"] - found["low"], 3.289707 * posterior.std, rtol=1e-4)
    assert (str(found["kind"]), str(found["state"])) == ("samples", "too short")
    assert found["level"] == np.float32(0.9)
    assert found["samples"].shape == (2, 2, *posterior.mean.shape)
    np.testing.assert_array_equal(found["samples"][0, 0], posterior.samples[0])
    np.testing.assert_array_equal(found["samples"][1], posterior.samples[1:])
    assert np.isnan(found["samples"][0, 1]).all()


def test_a_quantity_that_was_traced_twice_is_stored_once(tmp_path, sampled):
    names = ("x[1,0,0]", "x[0,0,0]", "x[1,0,0]", "misfit")
    traces = sampled.posterior.traces.copy()
    traces[..., 2] = traces[..., 0]
    found = stored(tmp_path, sampled.posterior._replace(trace_names=names, traces=traces))
    assert found["trace_names"].tolist() == ["x[1,0,0]", "x[0,0,0]", "misfit"]
    np.testing.assert_array_equal(found["traces"], traces[..., [0, 1, 3]])


@pytest.mark.parametrize("kind", [PosteriorKind.SEEDS, PosteriorKind.BOOTSTRAP])
def test_other_estimates_have_neither_traces_nor_samples(tmp_path, sampled, kind):
    found = stored(tmp_path, sampled.posterior._replace(kind=kind))
    ends = set() if kind == PosteriorKind.SEEDS else {"low", "high", "level"}
    assert set(found) == {"mean", "std", "kind", "state"} | ends


def test_chains_that_kept_equally_many_need_no_numbers(sampled):
    posterior = sampled.posterior
    samples = np.arange(6 * posterior.mean.size, dtype=np.float32).reshape(6, *posterior.mean.shape)
    found = samples_by_chain(posterior._replace(samples=samples, num_kept=()))
    np.testing.assert_array_equal(found.reshape(samples.shape), samples)
    assert found.shape[:2] == (2, 3)
    np.testing.assert_array_equal(
        samples_by_chain(posterior._replace(num_kept=())), posterior.samples[None]
    )
